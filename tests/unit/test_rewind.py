"""A job's files beside what its image recorded: what has grown is cut, all else that differs is named, in a clause."""

from __future__ import annotations

import os
from pathlib import Path

from checkpoint.manifest import WrittenFile
from shim import rewind


def written(path: Path) -> WrittenFile:
    st = os.stat(path)
    return WrittenFile(os.fspath(path), st.st_size, st.st_mtime_ns, st.st_ino)


def test_what_is_named_and_what_is_cut(tmp_path: Path) -> None:
    paths = {
        name: tmp_path / name for name in ("same", "grown", "shorter", "touched", "removed", "replaced", "settled")
    }
    for path in paths.values():
        path.write_bytes(bytes(100))
    files = [written(path) for path in paths.values()]
    with paths["grown"].open("ab") as file:
        file.write(b"more")
    os.truncate(paths["shorter"], 50)
    for name in ("touched", "settled"):
        os.utime(paths[name], (1, 1))
    paths["removed"].unlink()
    paths["replaced"].rename(tmp_path / "old")
    paths["replaced"].write_bytes(bytes(100))
    found = rewind.look(files, [written(paths["settled"])])
    assert found.cut == ((files[1].path, 100, files[1].mtime_ns),)
    assert found.changed == (
        f"{tmp_path}/shorter has been cut from 100 to 50 bytes",
        f"{tmp_path}/touched has been changed",
        f"{tmp_path}/removed has been removed",
        f"{tmp_path}/replaced has been replaced by another file",
    )
    rewind.cut_back(found.cut)
    assert rewind.look(files[:2]) == rewind.Look((), ()), "looked at again, because the host chosen would not do"
