"""The one base class of every failure a user may read."""

from __future__ import annotations


class RexecError(Exception):
    """A failure in one sentence: what failed, why, what to do. Shown as ``rexec: <text>``."""
