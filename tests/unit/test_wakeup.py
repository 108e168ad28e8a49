"""Waiting for descriptors: shim/wire/wakeup.py."""

from __future__ import annotations

import fcntl
import os
import resource

from shim.wire.wakeup import await_any


def test_a_descriptor_of_any_number_is_waited_for() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(2100, hard)), hard))
    ours, theirs = os.pipe()
    try:
        high = fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, 2000)
        assert not await_any([high], 0)
        os.write(theirs, b"x")
        assert await_any([high], 0)
        os.close(high)
    finally:
        os.close(ours)
        os.close(theirs)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
