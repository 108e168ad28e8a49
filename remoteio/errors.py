"""The base of every failure a user can meet. It lies below everything else in this package."""

from __future__ import annotations


class RexecError(Exception):
    """One sentence for the user: what failed, why, and what to do. It is shown as ``rexec: <text>``."""
