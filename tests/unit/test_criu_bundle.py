"""A bundle of criu that somebody else could have written is not run."""

from __future__ import annotations

import os
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
