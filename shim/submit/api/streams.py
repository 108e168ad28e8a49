"""Finds the descriptors for a command's streams: of the caller's files, or of memory of our own."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import IO

from shim.submit.api import arguments

File = IO[bytes] | IO[str] | int


def given_input(stdin: object, held: ExitStack) -> int:
    """Return a descriptor of what the command is to read, which `held` closes if it is ours."""
    if stdin is None:
        fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    elif isinstance(stdin, (bytes, bytearray, memoryview)):
        fd = _memory(held)
        with open(os.dup(fd), "wb") as file:
            file.write(stdin)
        os.lseek(fd, 0, os.SEEK_SET)
        return fd
    else:
        return arguments.descriptor(stdin, "stdin")
    held.callback(os.close, fd)
    return fd


def output(file: object, what: str, held: ExitStack) -> int:
    """Return a descriptor for what the command writes."""
    return _memory(held) if file is None else arguments.descriptor(file, what)


def _memory(held: ExitStack) -> int:
    fd = os.memfd_create("rexec-stream", os.MFD_CLOEXEC)
    held.callback(os.close, fd)
    return fd


def written(fd: int) -> bytes:
    """Read all that was written to memory."""
    with open(os.dup(fd), "rb") as file:
        file.seek(0)
        return file.read()
