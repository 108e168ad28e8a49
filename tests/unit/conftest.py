"""Fixtures of the unit tests alone: a supervised job and where it is kept."""

from __future__ import annotations

from tests.supervised import job_place, run

__all__ = ["job_place", "run"]
