"""What a command used as it started the last time, sent before it asks: it is used without asking, and is true."""

from __future__ import annotations

import json
import math
import mmap
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remoteio.submit.export.first_names import Uses
from remoteio.submit.export.learned_walks import ATTRIBUTES, CONTENTS, NAMES, use_of
from tests.desk_hosts import SUBMIT_USER
from tests.mounted import mounted
from tests.named_versions import until_named
from tests.program import Rexec

LARGE = random.Random(3).randbytes(1 << 20)
USES: Uses = {
    b"/lib": None,
    b"/lib/gone": None,
    b"/link": None,
    b"/lib/small": [],
    b"/lib/other": [],
    b"/lib/large": [(0, len(LARGE))],
}
ASKS = {"lookup", "open", "read", "readlink"}  # and for the attributes of the root, which nothing leads to


class Served:
    """A tree here, where it is mounted, and what home was asked."""

    def __init__(self, here: Path, there: Path, asked: Path) -> None:
        self.here, self.there, self._asked = here, there, asked

    def asks_home(self) -> None:
        """Have home asked for what nobody but it knows: all that it had to say comes ahead of the answer."""
        assert os.statvfs(self.there).f_blocks

    def asked(self, does: Callable[[], object], of: set[str] = ASKS) -> set[str]:
        """What of that home is asked when that is done."""
        self.asks_home()
        self._asked.write_text("")
        does()
        return of & set(self._asked.read_text().split())


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    if os.geteuid() != 0:
        pytest.skip("mounts as root")
    here, there, asked = tmp_path / "here", tmp_path / "there", tmp_path / "asked"
    (here / "lib").mkdir(parents=True)
    there.mkdir()
    for name in ("small", "other"):
        (here / "lib" / name).write_text(name)
    (here / "lib/large").write_bytes(LARGE)
    (here / "link").symlink_to("lib/small")
    with mounted(here, there, uses=USES, asked=asked):
        yield Served(here, there, asked)


def test_home_is_asked_for_nothing_of_it(served: Served) -> None:
    def reads() -> None:
        assert (served.there / "link").read_text() == "small"
        assert not (served.there / "lib/gone").exists()
        with (served.there / "lib/large").open("rb") as file:
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as seen:
                assert seen[500_000:500_100] == LARGE[500_000:500_100]
            assert file.read() == LARGE

    assert served.asked(reads) == set()
    assert served.asked(lambda: (served.there / "lib/large").read_bytes()) == set(), "the kernel has its pages"


@pytest.mark.parametrize("how", ["written", "appended", "replaced", "removed", "cut"])
def test_what_others_change_is_seen_by_who_has_heard_of_it(served: Served, how: str) -> None:
    at = served.here / "lib/large"
    if how == "replaced":
        (served.here / "new").write_text(how)
        (served.here / "new").rename(at)
    elif how == "removed":
        at.unlink()
    elif how == "cut":
        os.truncate(at, 100_000)
    else:
        with at.open("ab" if how == "appended" else "r+b") as file:
            file.write(how.encode())
    served.asks_home()
    seen = served.there / "lib/large"
    assert (seen.read_bytes() if seen.exists() else None) == (at.read_bytes() if at.exists() else None)


def test_what_is_changed_while_it_is_read_is_not_read_as_it_was(served: Served) -> None:
    with (served.there / "lib/large").open("rb", buffering=0) as file:
        assert file.read(4096) == LARGE[:4096]
        with (served.here / "lib/large").open("r+b") as other:
            other.seek(900_000)
            other.write(b"another")
        served.asks_home()
        file.seek(900_000)
        assert file.read(7) == b"another"


def test_what_the_job_changes_is_seen_by_it(served: Served) -> None:
    small, other, large = (served.there / "lib" / name for name in ("small", "other", "large"))
    small.write_text("of its own")
    assert small.read_text() == (served.here / "lib/small").read_text() == "of its own"
    other.chmod(0o600)
    with other.open("a") as file:
        file.write(", and more")
    assert other.read_text() == "other, and more"
    with large.open("r+b") as both:
        both.seek(100)
        both.write(b"x")
        assert both.read(10) == LARGE[101:111]
    assert large.read_bytes() == LARGE[:100] + b"x" + LARGE[101:]
    large.unlink()
    assert not large.exists() and not (served.here / "lib/large").exists()


def test_over_a_connection_that_was_kept_hardly_anything_is_asked_for(
    rexec: Rexec, place: Callable[[str], Path]
) -> None:
    directory = place(SUBMIT_USER)
    log, env = directory / "log", {"XDG_CACHE_HOME": str(directory / "cache"), "REXEC_KEEP": "1h"}

    def trips() -> float:
        log.unlink(missing_ok=True)
        done = rexec(
            ["true"], on="alpha-far20", as_user=SUBMIT_USER, options=["--json-log", log], env=env, cwd=directory
        )
        assert done.returncode == 0, done.stderr
        events = {event["event"]: event for event in map(json.loads, log.read_text().splitlines())}
        return events["ended"]["trips"] if events["reached"]["runtime"] == "waits" else math.inf  # type: ignore[no-any-return]

    try:
        least = math.inf
        for _ in range(20):
            if (least := min(least, trips())) <= 3:
                break
        assert least <= 3, "more is asked for than it takes to start"
    finally:
        with rexec.start(["disconnect"], as_user=SUBMIT_USER, env=env) as ending:
            assert not ending.wait(60)


def test_a_far_host_runs_a_command_again_as_the_files_are_then(rexec: Rexec, place: Callable[[str], Path]) -> None:
    directory = place(SUBMIT_USER)
    for name in ("a", "c"):
        (directory / name).write_text(name * 1000)
    (directory / "large").write_bytes(LARGE)
    for text, left in (("first", b"c" * 1000), ("second", b"")):
        (directory / "b").write_text(text)
        if not left:
            (directory / "c").unlink()
        job = rexec(["cat", "a", "b", "large", "c"], on="alpha-far20", as_user=SUBMIT_USER, cwd=directory)
        assert job.stdout == b"a" * 1000 + text.encode() + LARGE + left, job.stderr
        assert (job.returncode == 0) == bool(left)


def test_a_tree_that_is_walked_far_away_for_the_first_time_is_sent_meanwhile(
    rexec: Rexec, place: Callable[[str], Path]
) -> None:
    """Of 40 directories and 160 files home is asked for a few, in a command's first run; and in its next."""
    directory, tries = place(SUBMIT_USER), 8
    names = [f"tree/{k:02d}/{name}" for k in range(40) for name in "abcd"]
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(name * 100)

    def trips(argv: list[str], attempt: int) -> tuple[float, str]:
        log, env = directory / "log", {"XDG_CACHE_HOME": str(directory / f"cache{attempt}")}
        log.unlink(missing_ok=True)
        options = ["--keep", "0", "--json-log", log]
        job = rexec(argv, on="alpha-far20", as_user=SUBMIT_USER, options=options, env=env, cwd=directory)
        assert job.returncode == 0, job.stderr
        (ended,) = [each for each in map(json.loads, log.read_text().splitlines()) if each["event"] == "ended"]
        return ended["trips"], job.stdout.decode()

    for argv, most in ((["find", "tree", "-type", "f"], 20), (["grep", "-rl", "tree", "tree"], 30)):
        least = [math.inf, math.inf]
        for attempt in range(tries):
            for run in range(2):
                made, said = trips(argv, attempt)
                assert sorted(said.split()) == names
                least[run] = min(least[run], made)
            if max(least) <= most:
                break
        assert max(least) <= most, f"{argv} asks {least} times at the least"


WALKS = {"names": NAMES, "attributes": ATTRIBUTES, "contents": CONTENTS}


@pytest.fixture
def tree(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Served]:
    """A tree of 4 x 4 directories with two files in each, which a command has walked for what the test wants."""
    if os.geteuid() != 0:
        pytest.skip("mounts as root")
    here, there, asked = tmp_path / "here", tmp_path / "there", tmp_path / "asked"
    there.mkdir()
    for name in (f"tree/{a}/{b}" for a in "abcd" for b in "efgh"):
        (here / name).mkdir(parents=True)
        for file in ("one", "two"):
            (here / name / file).write_text(f"{name}/{file}")
    with mounted(here, there, uses={b"/tree": use_of(WALKS[request.param])}, asked=asked):
        yield Served(here, there, asked)


def seen(top: Path) -> list[tuple[str, list[str], list[str]]]:
    return sorted((os.path.relpath(at, top), sorted(dirs), sorted(files)) for at, dirs, files in os.walk(top))


def read(top: Path) -> dict[str, str]:
    return {str(each.relative_to(top)): each.read_text() for each in sorted(top.rglob("*")) if each.is_file()}


WALKED = {*ASKS, "opendir", "readdirplus", "list", "fetch"}


@pytest.mark.parametrize("tree", WALKS, indirect=True)
def test_a_tree_that_was_walked_is_walked_again_without_asking(tree: Served, request: pytest.FixtureRequest) -> None:
    here, there = tree.here / "tree", tree.there / "tree"
    asked = tree.asked(lambda: seen(there), WALKED)
    assert asked == set() and seen(there) == seen(here)
    if "contents" in request.node.name:
        assert tree.asked(lambda: read(there), WALKED) == set()
    assert read(there) == read(here)


@pytest.mark.parametrize("tree", WALKS, indirect=True)
def test_a_tree_that_has_changed_since_is_walked_as_it_is(tree: Served) -> None:
    here, there = tree.here / "tree", tree.there / "tree"
    (here / "a/e/three").write_text("of others")
    (here / "a/f/one").unlink()
    (here / "b").rename(here / "z")
    (here / "c/e/one").write_text("changed, and longer")
    (here / "c/g").rename(tree.here / "away")
    (here / "d/new/er").mkdir(parents=True)
    tree.asks_home()
    assert seen(there) == seen(here)
    assert read(there) == read(here)


@pytest.mark.parametrize("tree", WALKS, indirect=True)
def test_what_the_job_changes_in_a_tree_is_in_it(tree: Served) -> None:
    here, there = tree.here / "tree", tree.there / "tree"
    (there / "a/e/three").write_text("its own")
    (there / "a/f/one").unlink()
    (there / "b").rename(there / "z")
    with (there / "c/e/one").open("a") as file:
        file.write(", and more")
    (there / "d/new").mkdir()
    assert seen(there) == seen(here)
    assert read(there) == read(here)


def test_what_a_far_host_has_kept_is_not_sent_again(rexec: Rexec, place: Callable[[str], Path]) -> None:
    directory = place(SUBMIT_USER)
    large, log, env = directory / "large", directory / "log", {"XDG_CACHE_HOME": str(directory / "cache")}

    (directory / "small").touch()

    def sent(name: str) -> float:
        log.unlink(missing_ok=True)
        options = ["--keep", "0", "--json-log", log]
        job = rexec(["cat", name], on="alpha-far20", as_user=SUBMIT_USER, options=options, env=env, cwd=directory)
        assert job.stdout == (directory / name).read_bytes(), job.stderr
        (ended,) = [each for each in map(json.loads, log.read_text().splitlines()) if each["event"] == "ended"]
        return ended["sent"]  # type: ignore[no-any-return]

    def more() -> float:
        """The bytes that it takes; what cat and its libraries are is sent each time if it was just installed."""
        return sent("large") - sent("small")

    def made(seed: int) -> None:
        large.unlink(missing_ok=True)
        large.write_bytes(random.Random(seed).randbytes(len(LARGE) // 2))
        until_named(large)
        shutil.chown(large, SUBMIT_USER)  # what is another's has a name after an hour alone

    made(1)
    times = [more()]
    while times[-1] > len(LARGE) // 4:
        assert len(times) < 8, f"it is sent each time: {times}"
        times.append(more())
    made(2)
    assert more() > len(LARGE) // 4, "it is another version"


def test_git_status_far_away_asks_for_hardly_anything_in_its_first_run(
    rexec: Rexec, place: Callable[[str], Path]
) -> None:
    """Of 40 directories and 160 files, and of the repository's own; without what is guessed it is asked for some 80."""
    directory, tries = place(SUBMIT_USER), 8
    for k in range(160):
        (directory / f"tree/{k // 4:02d}/{k}").parent.mkdir(parents=True, exist_ok=True)
        (directory / f"tree/{k // 4:02d}/{k}").write_text(f"{k}" * 100)
    git = ["git", "-C", "tree", "-c", "user.name=x", "-c", "user.email=x@localhost"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], cwd=directory, check=True)
    subprocess.run(["chown", "-R", SUBMIT_USER, "tree"], cwd=directory, check=True)

    def trips(attempt: int) -> float:
        log, env = directory / "log", {"XDG_CACHE_HOME": str(directory / f"cache{attempt}")}
        log.unlink(missing_ok=True)
        options, argv = ["--keep", "0", "--json-log", log], ["git", "-C", "tree", "status", "-s"]
        job = rexec(argv, on="alpha-far20", as_user=SUBMIT_USER, options=options, env=env, cwd=directory)
        assert (job.returncode, job.stdout) == (0, b""), job.stderr
        (ended,) = [each for each in map(json.loads, log.read_text().splitlines()) if each["event"] == "ended"]
        return ended["trips"]  # type: ignore[no-any-return]

    made = []
    while len(made) < tries and min(made, default=math.inf) > 20:
        made.append(trips(len(made)))
    assert min(made) <= 20, f"it asks {made} times"
