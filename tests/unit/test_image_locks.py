"""Which process of an image asks for which lock again."""

from __future__ import annotations

import fcntl

import pytest

from checkpoint.wire.manifest import ManifestError
from remoteio.submit.export.carried_locks import Held
from shim.submit.job.image_locks import rows

FLOCK = Held(True, 7, 0, fcntl.F_WRLCK, 0, 0)
RECORD = Held(False, 7, 501, fcntl.F_RDLCK, 10, 5)
NUMBERS = {"500": 1001, "501": 1002}


def test_a_flock_is_anybodys_who_has_that_description() -> None:
    assert rows([FLOCK], [[1001, 3, 6], [1002, 9, 7]], NUMBERS) == [[1002, 9, 1, fcntl.F_WRLCK, 0, 0]]


def test_a_record_lock_is_the_processs_that_asked_for_it() -> None:
    handles = [[1001, 3, 7], [1002, 4, 7]]
    assert rows([RECORD], handles, NUMBERS) == [[1002, 4, 0, fcntl.F_RDLCK, 10, 5]]
    assert rows([RECORD], handles[:1], NUMBERS) == [[1001, 3, 0, fcntl.F_RDLCK, 10, 5]]


def test_a_lock_on_no_open_file_cannot_be_carried_but_for_a_mapped_one() -> None:
    with pytest.raises(ManifestError, match="none of its processes has open"):
        rows([RECORD], [[1001, 3, 6]], NUMBERS)
    assert rows([FLOCK], [[1001, 3, 6]], NUMBERS) == []
