"""The table of all targets: every parser of rexec, on both sides, and what it may raise."""

from __future__ import annotations

from tests.fuzz import criu_files, export, guesses, host, images, link, owner, records
from tests.fuzz.target import Target

TARGETS: tuple[Target, ...] = (
    *link.TARGETS, *host.TARGETS, *export.TARGETS, *images.TARGETS, *criu_files.TARGETS, *owner.TARGETS,
    *records.TARGETS, *guesses.TARGETS,
)  # fmt: skip
BY_NAME = {target.name: target for target in TARGETS}
