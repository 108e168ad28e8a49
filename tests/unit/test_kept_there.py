"""What a host has kept of files that were sent to it is not sent again, but for what it asks for all the same."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from remoteio.submit.export import pushed_files
from remoteio.submit.export.first_names import FirstNames, Uses
from remoteio.submit.export.kept_there import ALWAYS, KeptThere, Marks
from remoteio.submit.export.pushing import Pushing
from remoteio.submit.export.version_names import VersionNames
from remoteio.wire import fuse_abi as abi
from remoteio.wire import pushed
from shim.submit import kept_on_host
from shim.submit.kept_on_host import KeptOnHost
from tests.hostile import Host, leasing
from tests.named_versions import until_named

KEY = VersionNames(b"a key")
TEXT = random.Random(1).randbytes(300_000)
WHOLE: Uses = {b"/lib/large": [(0, 1 << 40)]}


@pytest.fixture
def host(disk: Path) -> Iterator[Host]:
    (disk / "lib").mkdir()
    (disk / "lib/large").write_bytes(TEXT)
    (disk / "lib/small").write_bytes(b"small")
    until_named(disk / "lib/large", KEY)
    with leasing(disk) as found:
        found.export.versions = KEY
        yield found


class Known:
    """What is known of one host from run to run."""

    def __init__(self) -> None:
        self.marks: Marks = {}

    def there(self) -> KeptThere:
        return KeptThere(lambda: self.marks, lambda new: self.marks.update(new))

    def sent(
        self, host: Host, uses: Uses = WHOLE, asks: tuple[int, int, int] | None = None, most: int = 1 << 30
    ) -> int:
        """How many bytes of files are sent at a start, after which the job `asks` (its handle, offset, size)."""
        there, size, named = self.there(), 0, 0
        sending = Pushing(uses.items(), guessed=True, there=there)
        sending.credited(most)
        for payload in sending.due(host.export):
            for what, _, version, _, rest in pushed.parse(payload):
                size += len(rest) if what == pushed.DATA else 0
                named += what == pushed.FILE and bool(version)
        assert named, "the host is told how it calls what it has kept"
        if asks is not None:
            args = abi.READ_IN.pack(asks[0], asks[1], asks[2], 0, 0, 0, 0)
            names = FirstNames({}, lambda uses: None, there=there)
            names.saw(host.export, abi.Request(abi.request(abi.READ, host.walk("/lib/large"), args)))
        there.end()
        sending.close()
        return size


OURS = abi.OWN_FILES + 1


def test_what_was_sent_is_not_sent_again(host: Host) -> None:
    known = Known()
    assert [known.sent(host) for _ in range(3)] == [len(TEXT), 0, 0]
    assert known.sent(host, {b"/lib/large": [(0, 4096)]}) == 4096, "other parts may not be there"
    assert Known().sent(host) == len(TEXT), "of another host that is not known"


def test_small_files_are_sent_each_time(host: Host, disk: Path) -> None:
    known = Known()
    (disk / "lib/large").write_bytes(TEXT[:20_000])
    until_named(disk / "lib/large", KEY)
    with leasing(disk) as anew:
        anew.export.versions = KEY
        both = {**WHOLE, b"/lib/small": [(0, 5)]}
        assert [known.sent(anew, both) for _ in range(2)] == [20_000 + 5, 5], "but for such as are not so small"


def test_another_version_is_sent(host: Host, disk: Path) -> None:
    known = Known()
    known.sent(host)
    (disk / "lib/large").write_bytes(TEXT[::-1])
    until_named(disk / "lib/large", KEY)
    with leasing(disk) as anew:
        anew.export.versions = KEY
        assert [known.sent(anew) for _ in range(2)] == [len(TEXT), 0]


def test_what_is_asked_for_all_the_same_is_sent_once_more_and_then_always(host: Host) -> None:
    known = Known()
    asks = (OURS, 4096, 8192)
    assert [known.sent(host, asks=asks) for _ in range(6)] == [len(TEXT), 0, len(TEXT), 0, len(TEXT), len(TEXT)]
    assert set(known.marks.values()) == {ALWAYS}


@pytest.mark.parametrize("asks", [(1, 0, 4096), (OURS, len(TEXT) - 4096, 8192)], ids=["before it knew", "more"])
def test_who_asks_for_something_else_has_not_lost_it(host: Host, asks: tuple[int, int, int]) -> None:
    known = Known()
    assert [known.sent(host, asks=asks) for _ in range(4)] == [len(TEXT), 0, 0, 0]


def test_what_was_not_sent_to_its_end_is_not_known(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Known()
    assert 0 < known.sent(host, most=100_000) < len(TEXT)
    assert not known.marks
    monkeypatch.setattr(pushed_files, "_FIRST", 128 << 10)  # what is behind that comes last of all
    assert 0 < known.sent(host, most=200_000) < len(TEXT)
    assert not known.marks
    assert [known.sent(host) for _ in range(2)] == [len(TEXT), 0]


def test_what_is_cut_while_it_is_sent_is_not_known(host: Host, disk: Path) -> None:
    known = Known()
    there = known.there()
    sending = Pushing(WHOLE.items(), guessed=True, there=there)
    sending.credited(100_000)
    assert list(sending.due(host.export))
    os.truncate(disk / "lib/large", 150_000)
    sending.credited(1 << 30)
    assert list(sending.due(host.export))
    there.end()
    assert not known.marks


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/rexec/sent"


def mark(k: int) -> bytes:
    return k.to_bytes(8, "little")


def test_it_is_kept_for_each_host(cache: Path) -> None:
    KeptOnHost(b"alpha").keep({mark(1): 0, mark(2): 3})
    KeptOnHost(b"alpha").keep({mark(1): 1, mark(3): 0})
    assert KeptOnHost(b"alpha").marks() == {mark(1): 1, mark(2): 3, mark(3): 0}
    assert next(iter(KeptOnHost(b"alpha").marks())) == mark(2), "what was used last stands last"
    assert KeptOnHost(b"beta").marks() == {}
    assert [each.stat().st_mode & 0o777 for each in cache.iterdir()] == [0o600]


def test_no_more_is_known_than_so_much(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_on_host, "MOST_MARKS", 3)
    monkeypatch.setattr(kept_on_host, "MOST_HOSTS", 2)
    host = KeptOnHost(b"alpha")
    for k in range(5):
        host.keep({mark(k): 0})
    assert list(host.marks()) == [mark(2), mark(3), mark(4)]
    for k in range(4):
        KeptOnHost(b"%d" % k).keep({mark(k): 0})
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("how", ["cut", "longer", "another head", "a count that is none", "old", "gone"])
def test_what_is_not_as_it_was_written_is_not_used(cache: Path, how: str) -> None:
    host = KeptOnHost(b"alpha")
    host.keep({mark(1): 0})
    (file,) = cache.iterdir()
    text = file.read_bytes()
    if how == "gone":
        file.unlink()
    elif how == "old":
        at = time.time() - kept_on_host.OLD_S - 10
        os.utime(file, (at, at))
    else:
        made = {"cut": text[:-1], "longer": text + b"x", "another head": b"R" + text[1:]}
        file.write_bytes(made.get(how, text[:-1] + b"\xff"))
    assert host.marks() == {}
    host.keep({mark(2): 0})
    assert host.marks() == {mark(2): 0}


def test_where_nothing_can_be_kept_nothing_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    host = KeptOnHost(b"alpha")
    host.keep({mark(1): 0})
    assert host.marks() == {}

    def none() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr("checkpoint.submit.xdg.cache", none)
    homeless = KeptOnHost(b"alpha")
    homeless.keep({mark(1): 0})
    assert homeless.marks() == {}
