"""Fixtures of the unit tests alone: a supervised job and where it is kept, and a tree that is exported."""

from __future__ import annotations

from tests.export_tree import tree
from tests.supervised import job_place, run

__all__ = ["job_place", "run", "tree"]
