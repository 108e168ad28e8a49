"""A journal of which a part is missing, as a kill or a power cut may leave it, is not taken for one of few changes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from remoteio.submit.undo import journal as journals
from remoteio.submit.undo.journal import Journal
from shim.submit.job import undo_plan


def begun(directory: Path) -> Journal:
    journal = Journal(str(directory))
    journal.mark(1)
    journal.bind(1, 1)
    return journal


def test_the_files_of_a_segment_are_on_the_disk_before_it_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk: set[str] = set()
    monkeypatch.setattr(journals, "synced", lambda directory: on_disk.update(os.listdir(directory)))
    journal = begun(tmp_path / "undo")
    assert {"00000001.undo", "00000001.data", "00000001.slots"} <= on_disk
    journal.close()


@pytest.mark.parametrize("part", ("undo", "slots"))
def test_a_segment_of_which_a_part_is_gone_is_not_one_in_which_nothing_was_done(tmp_path: Path, part: str) -> None:
    journal = begun(tmp_path / "undo")
    journal.close()
    assert undo_plan.plan(journal, 1) is not None
    (tmp_path / "undo" / f"00000001.{part}").unlink()
    with pytest.raises(FileNotFoundError):
        undo_plan.plan(journal, 1)


def test_killed_as_a_lost_journal_is_removed_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[str] = []
    journal = Journal(str(tmp_path / "undo"), limit=10, lost=lost.append)
    journal.mark(1)
    journal.bind(1, 1)
    monkeypatch.setattr(shutil, "rmtree", lambda *what, **how: None)  # the kill comes here
    with open(__file__, "rb") as file:
        journal.save(journal.slot(), file.fileno(), [(0, 100)])
    assert lost and (tmp_path / "undo" / "00000001.undo").exists()
    assert Journal(str(tmp_path / "undo")).since(1) is None
