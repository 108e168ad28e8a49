"""Spools made of the files of a directory, and directories of what is in a spool."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from checkpoint.execute import cipher
from checkpoint.execute.spool import Spool


@contextmanager
def spool(files: Mapping[str, bytes] | None = None) -> Iterator[Spool]:
    """A spool with these files, encrypted."""
    library = cipher.available()
    assert library is not None, "there is no libcrypto here"
    made = Spool(tempfile.gettempdir(), cipher.Cipher(library))
    try:
        for name, data in (files or {}).items():
            made.write(name, data)
        yield made
    finally:
        made.close()


@contextmanager
def spooled(directory: Path) -> Iterator[Spool]:
    """A spool with the files of a directory."""
    with spool({path.name: path.read_bytes() for path in directory.iterdir()}) as made:
        yield made


def unspool(made: Spool, directory: Path) -> None:
    """Write the files of a spool to a directory."""
    for name in made.names():
        (directory / name).write_bytes(made.read(name))


@pytest.fixture
def image() -> Iterator[Spool]:
    """An empty spool."""
    with spool() as made:
        yield made
