"""A bundle of criu that somebody else could have written is not run."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from checkpoint.wire import criu_bundle
from checkpoint.wire.criu_bundle import BundleError

ARCHIVE, HASH = criu_bundle.pack({"criu": b"program", "ld.so": b"loader", "lib/libc.so.6": b"library"})


def test_unpacked_once(tmp_path: Path) -> None:
    assert not criu_bundle.present(str(tmp_path), HASH)
    at = criu_bundle.unpack(ARCHIVE, HASH, str(tmp_path))
    assert criu_bundle.present(str(tmp_path), HASH)
    assert criu_bundle.unpack(ARCHIVE, HASH, str(tmp_path)) == at
    assert Path(at, "lib/libc.so.6").read_bytes() == b"library"
    assert [path.name for path in tmp_path.iterdir()] == [os.path.basename(at)]


@pytest.mark.parametrize("how", ["another's", "open to all", "a link"])
def test_not_that_of_others(tmp_path: Path, how: str) -> None:
    at = Path(criu_bundle.unpack(ARCHIVE, HASH, str(tmp_path)))
    if how == "another's":
        os.chown(at, 65534, 65534)
    elif how == "open to all":
        at.chmod(0o777)
    else:
        at.rename(tmp_path / "moved")
        at.symlink_to("moved")
    assert not criu_bundle.present(str(tmp_path), HASH)
    with pytest.raises(BundleError, match="remove it"):
        criu_bundle.unpack(ARCHIVE, HASH, str(tmp_path))


@pytest.mark.parametrize("name, kind", [("lib/../a", b"0"), ("lib", b"0"), ("a", b"0"), ("criu", b"S"), ("criu", b"2")])
def test_nothing_but_plain_files_of_known_names_is_unpacked(tmp_path: Path, name: str, kind: bytes) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    archive = out.getvalue()
    with pytest.raises(BundleError, match="unexpected member"):
        criu_bundle.unpack(archive, criu_bundle.digest(archive), str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_damaged_archive_is_told_in_a_sentence(tmp_path: Path) -> None:
    for archive in (b"", ARCHIVE[:600], b"x" * 1024):
        with pytest.raises(BundleError, match="is damaged"):
            criu_bundle.unpack(archive, criu_bundle.digest(archive), str(tmp_path))
