"""`rexec owner`: how long this machine's owner has been away, as people and as HTCondor's startd read it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from shim.execute import owner_ad
from tests.until import HANG

REXEC = [sys.executable, "-c", "from shim.cli.program import main; main()", "owner"]


def test_what_is_known_is_written_as_attributes() -> None:
    assert owner_ad.condor(61.7, None, []).splitlines() == [
        "RexecOwnerKnown = true", "RexecOwnerIdle = 61", "RexecOwnerWhy = undefined", "-",
    ]  # fmt: skip


def test_what_is_not_known_is_undefined_and_the_name_of_a_device_ends_no_string() -> None:
    assert owner_ad.condor(None, 'a "mouse\\" \n\x1bé is plugged in', []).splitlines() == [
        "RexecOwnerKnown = false", "RexecOwnerIdle = undefined", 'RexecOwnerWhy = "a ?mouse?? ??? is plugged in"', "-",
    ]  # fmt: skip


def test_each_source_is_a_line() -> None:
    rows = [
        {"source": "terminals", "present": True, "why": None, "idle": 5.2},
        {"source": "evdev", "present": True, "why": None, "idle": None},
        {"source": "x11", "present": False, "why": "no display", "idle": None},
    ]
    assert owner_ad.table(5.2, None, rows).splitlines() == [
        "nobody has typed here for 5 s", "  terminals  5 s", "  evdev      as long as is known",
        "  x11        not there: no display",
    ]  # fmt: skip
    assert owner_ad.table(None, "no source tells", []) == "not known: no source tells"


def test_it_is_asked_once() -> None:
    told = json.loads(subprocess.run([*REXEC, "--json"], check=True, capture_output=True, timeout=HANG).stdout)
    assert (told["idle"] is None) == (told["unknown"] is not None)
    assert "terminals" in {row["source"] for row in told["sources"]}


def test_it_is_told_again_as_soon_as_somebody_types() -> None:
    master, slave = os.openpty()
    process = subprocess.Popen([*REXEC, "--condor", "--every", "1h"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None

    def ads() -> Iterator[list[str]]:
        assert process.stdout is not None
        ad: list[str] = []
        for line in process.stdout:
            ad.append(line.rstrip())
            if line == "-\n":
                yield ad
                ad = []

    with process:
        try:
            told = ads()
            next(told)
            os.write(master, b"key\n")
            os.read(slave, 4)
            (idle,) = (line.partition(" = ")[2] for line in next(told) if line.startswith("RexecOwnerIdle"))
            assert idle != "undefined" and int(idle) < HANG
        finally:
            process.kill()
            os.close(master)
            os.close(slave)


@pytest.mark.parametrize(
    "words, why",
    [
        (["--json", "--condor"], "name one"),
        (["--every", "0"], "would never wait"),
        (["--every", "soon"], "is not a duration"),
        (["bench"], "`rexec hosts --why bench`"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], why: str) -> None:
    done = subprocess.run([*REXEC, *words], capture_output=True, text=True, timeout=HANG, check=False)
    assert done.returncode and why in done.stderr
