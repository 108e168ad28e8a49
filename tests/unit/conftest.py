"""Fixtures of the unit tests alone: a supervised job and where it is kept, a tree that is exported, and a spool."""

from __future__ import annotations

from tests.export_tree import tree
from tests.spools import image
from tests.supervised import job_place, run

__all__ = ["image", "job_place", "run", "tree"]
