"""Fixtures of the functional tests alone: who has a job that moves and how, and a bus with its logind."""

from __future__ import annotations

from tests.job_commands import mover
from tests.mover_as_user import caches, run, uid
from tests.stand_in_bus import bus, logind

__all__ = ["bus", "caches", "logind", "mover", "run", "uid"]
