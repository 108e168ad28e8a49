"""A bundle of criu that somebody else could have written is not run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from checkpoint import unbundle
from checkpoint.unbundle import BundleError

ARCHIVE, HASH = unbundle.pack({"criu": b"program", "ld.so": b"loader", "lib/libc.so.6": b"library"})


def test_unpacked_once(tmp_path: Path) -> None:
    assert not unbundle.present(str(tmp_path), HASH)
    at = unbundle.unpack(ARCHIVE, HASH, str(tmp_path))
    assert unbundle.present(str(tmp_path), HASH)
    assert unbundle.unpack(ARCHIVE, HASH, str(tmp_path)) == at
    assert Path(at, "lib/libc.so.6").read_bytes() == b"library"
    assert [path.name for path in tmp_path.iterdir()] == [os.path.basename(at)]


@pytest.mark.parametrize("how", ["another's", "open to all", "a link"])
def test_not_that_of_others(tmp_path: Path, how: str) -> None:
    at = Path(unbundle.unpack(ARCHIVE, HASH, str(tmp_path)))
    if how == "another's":
        os.chown(at, 65534, 65534)
    elif how == "open to all":
        at.chmod(0o777)
    else:
        at.rename(tmp_path / "moved")
        at.symlink_to("moved")
    assert not unbundle.present(str(tmp_path), HASH)
    with pytest.raises(BundleError, match="remove it"):
        unbundle.unpack(ARCHIVE, HASH, str(tmp_path))
