"""Fixtures of the functional tests alone: who has a job that moves, and how."""

from __future__ import annotations

from tests.job_commands import mover
from tests.mover_as_user import caches, run, uid

__all__ = ["caches", "mover", "run", "uid"]
