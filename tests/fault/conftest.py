"""Fixtures of the fault tests: see mover_as_user."""

from __future__ import annotations

from tests.mover_as_user import caches, run, uid

__all__ = ["caches", "run", "uid"]
