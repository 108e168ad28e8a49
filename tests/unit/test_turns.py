"""No more connections to one host are under way at once than sshd lets in; and what is tried again."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from remoteio.errors import RexecError
from remoteio.submit.transport.ssh import ProcessStream
from remoteio.submit.transport.stream import Cut, Dropped, TransportError
from shim.submit.hosts import connect, turns
from shim.submit.hosts.config import Host


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rexec"


def test_those_to_one_host_take_turns() -> None:
    most, inside, lock, full = [0], [0], threading.Lock(), threading.Barrier(turns.AT_ONCE)

    def go() -> None:
        with turns.turn("alice@box", 30):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            full.wait(60)  # so many are in at once; were it fewer, none would go on
            with lock:
                inside[0] -= 1

    with ThreadPoolExecutor(3 * turns.AT_ONCE) as pool:
        for each in [pool.submit(go) for _ in range(3 * turns.AT_ONCE)]:
            each.result()
    assert most == [turns.AT_ONCE]


class Clock:
    """Time that goes on when somebody sleeps, and only then, however busy the machine."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_whoever_finds_no_place_goes_on_after_its_patience_and_another_host_has_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken = [turns.turn("box", 0) for _ in range(turns.AT_ONCE)]
    for turn in taken:
        turn.__enter__()
    clock = Clock()
    monkeypatch.setattr(turns, "time", clock)
    with turns.turn("other", 60):
        assert clock.now == 1000
    with turns.turn("box", 2):
        assert 1002 <= clock.now < 1003
    for turn in taken:
        turn.__exit__(None, None, None)


def test_without_a_file_for_it_one_goes_on(cache: Path) -> None:
    cache.parent.write_text("no directory")
    with turns.turn("box", 60):
        pass
    cache.parent.unlink()
    with turns.turn("box", 60):
        assert os.stat(cache / "connecting").st_mode & 0o077 == 0


def ssh_here(directory: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `ssh` of our own, which notes each time that it is run; that note."""
    program, count = directory / "ssh", directory / "count"
    program.write_text(f'#!/bin/sh\necho "$*" >> {count}\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return count


def test_an_ssh_that_is_older_than_our_options_is_not_given_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSH 8.7 made StdinNull and the others settings; an older one's configuration has none of them."""
    monkeypatch.setattr("remoteio.submit.transport.ssh._ssh_is_old", threading.Event())
    words = "command-line: line 0: Bad configuration option: stdinnull"
    old = f'case "$*" in *StdinNull*) echo "{words}" >&2; exit 255;; esac'
    count = ssh_here(tmp_path, f"{old}\nexit 3", monkeypatch)
    for tries in (2, 3):
        with pytest.raises(RexecError, match="status 3"):
            connect.connect(Host("box", "box"), "shim.execute.probe:main", batch=True, deadline=10)
        assert len(count.read_text().splitlines()) == tries


def test_who_is_dropped_for_ever_is_told_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drops = "echo kex_exchange_identification: Connection closed by remote host >&2; exit 255"
    count, clock = ssh_here(tmp_path, drops, monkeypatch), Clock()
    monkeypatch.setattr(connect, "time", clock)
    with pytest.raises(Dropped, match=r"closed the connection before the login, at each try.*MaxStartups"):
        connect.connect(Host("box", "box"), "shim.execute.probe:main", batch=True)
    assert 1020 < clock.now < 1025  # sshd's penalty is over then
    assert 6 < len(count.read_text().splitlines()) < 25


CUTS = 'while [ "$1" != -E ]; do shift; done; echo Connection to box closed by remote host. >"$2"; exit 255'


@pytest.mark.parametrize("cut", [CUTS, "exit 255"])
def test_a_start_that_is_cut_is_made_again(cut: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    third = f"[ $(wc -l < {tmp_path}/count) = 3 ]"
    count = ssh_here(tmp_path, f'{third} || {{ {cut}; }}\nfor last; do :; done; exec sh -c "$last"', monkeypatch)
    stream, _ = connect.connect(Host("box", "box"), "shim.execute.probe:main", batch=True)
    stream.close(done=True)
    assert len(count.read_text().splitlines()) == 3


def test_a_host_that_hangs_up_on_each_is_left_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = ssh_here(tmp_path, CUTS, monkeypatch)
    with pytest.raises(Cut, match="box closed the connection; try"):
        connect.connect(Host("box", "box"), "shim.execute.probe:main", batch=True)
    assert len(count.read_text().splitlines()) == 3


def test_who_was_asked_for_a_password_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = ssh_here(tmp_path, CUTS, monkeypatch)
    monkeypatch.setattr(ProcessStream, "asked", lambda _: True)
    with pytest.raises(TransportError, match="box closed the connection; try"):
        connect.connect(Host("box", "box"), "shim.execute.probe:main", batch=True)
    assert len(count.read_text().splitlines()) == 1
