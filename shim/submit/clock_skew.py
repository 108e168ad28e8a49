"""How far a host's clock is off, by what it says of it."""

from __future__ import annotations

import time

from shim.submit import host_frames

SKEW = 2.0  # seconds a host's clock may differ before it is said


def clock_skew(hello: host_frames.Hello, since_ns: int) -> float:
    """Compare the host's clock with ours: seconds that it is ahead at least. It was said between `since_ns` and now."""
    return max(hello.time_ns - time.time_ns(), min(hello.time_ns - since_ns, 0)) / 1e9


def skew_told(hello: host_frames.Hello, since_ns: int) -> str:
    """Say in a sentence that the host's clock is off; "" where it is not by more than SKEW seconds."""
    skew = clock_skew(hello, since_ns)
    if abs(skew) <= SKEW:
        return ""
    return f"the clock of {hello.host} is {skew:+.0f} s off; programs that compare times may wonder: set it there"
