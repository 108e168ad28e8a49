"""A tree of mounts is made read-only whole, also where some of them are covered by others."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from remoteio.execute import mount
from shim.execute.init import namespaces


def test_mounts_beneath_one_that_another_covers(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            namespaces.unshare(namespaces.CLONE_NEWNS)
            mount.make_private()
            for name in ("", "a", "a/gone", "a/plain"):
                (top / name).mkdir(exist_ok=True)
                mount.mount("x", str(top / name), "tmpfs")
            mount.mount("x", str(top / "a"), "tmpfs")
            (top / "a/plain").mkdir()
            mount.read_only(str(top))
            status = 0
            for name in ("new", "a/new", "a/plain/new"):
                try:
                    (top / name).touch()
                    status = 2
                except OSError as e:
                    status = status if e.errno == errno.EROFS else 3
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
