"""What the tests share: the desk, the installed `rexec` run as a user runs it, and a look at what it left behind."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

from checkpoint.submit import obtain_criu
from checkpoint.wire import criu_bundle
from tests import apart, c_project, desk_root, reachable
from tests import desk as the_desk
from tests.desk_hosts import SUBMIT_UID, SUBMIT_USER
from tests.leftovers import Left, nothing_left_on
from tests.program import Combo, Rexec, newuidmap

# Who runs rexec here -> as whom on which host. `local` is rexec's own loopback host.
COMBOS = {
    "root-root": ("root", "alpha"),
    "user-alice": (SUBMIT_USER, "alpha-alice"),
    "user-root": (SUBMIT_USER, "alpha"),
    "local-root": ("root", "local"),
    "local-user": (SUBMIT_USER, "local"),
}
# They are tried always; the others, of the same tests, by --all.
ORDINARY = ("user-alice", "local-user", "user", SUBMIT_UID)  # of COMBOS, job_commands.py, mover_as_user.py
# For tests that look at ids: as local-user, on a machine that has no newuidmap.
NO_NEWUIDMAP = "local-user-no-newuidmap"
_FAILED = pytest.StashKey[bool]()


# A shell has what it starts in the background ignore the first two, and nohup the third: so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# What a test starts is to be gone at its end; what keeps a connection is tried where it is asked for.
os.environ["REXEC_KEEP"] = "0"


# How fast an example is made or tried says something of what else this machine does, and nothing of the code.
settings.register_profile("rexec", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("rexec")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a test that skips itself fails; `make test` says this")
    parser.addoption("--all", action="store_true", help="the long matrix too, see the marker `long`; `make test-all`")
    parser.addoption(
        "--long",
        action="store_true",
        help="what is `long` but not `longest`, and what needs no host; `make test-long`",
    )


def pytest_report_header(config: pytest.Config) -> list[str]:
    every = config.getoption("--all") or config.getoption("--long")
    return [] if every else ["left out: tests marked `long`, see `make test-all` and --all"]


def pytest_xdist_auto_num_workers() -> int:
    """`-n auto`: more than there are cores, for most tests wait most of the time: for a connection, for an end."""
    return 2 * len(os.sched_getaffinity(0))


class _ToldAtOnce:
    """Prints a failure when it happens: who cuts a long run off has read what failed before."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and reporter is not None:
            reporter.write_line(f"\nfailed in {report.when}: {report.nodeid}")
            reporter.write_line(report.longreprtext)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_ToldAtOnce(config))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep what `where` leaves, and without --all what is not long; pytest's closing line counts the others.

    Long is what `long` says, and a test as anybody else where an ordinary user tries it too. `longest` is --all's.
    """
    every = config.getoption("--all")
    meant = [
        item for item in items
        if all(mark.args[0](**_params(item)) for mark in item.iter_markers("where"))
        and (every or item.get_closest_marker("longest") is None)
    ]  # fmt: skip
    left = set(map(id, _quick(meant)))
    if every:
        left = set(map(id, meant))
    elif config.getoption("--long"):
        left = {id(item) for item in meant if id(item) not in left or item.path.parent.name in ("unit", "property")}
    config.hook.pytest_deselected(items=[item for item in items if id(item) not in left])
    items[:] = [item for item in items if id(item) in left]


def _quick(items: list[pytest.Item]) -> list[pytest.Item]:
    short = [item for item in items if not any(mark.args[0](**_params(item)) for mark in item.iter_markers("long"))]
    as_user = {_test(item) for item in short if _who(item) in ORDINARY}
    return [item for item in short if _test(item) not in as_user or _who(item) in ORDINARY]


def _params(item: pytest.Item) -> dict[str, object]:
    return dict(vars(item)["callspec"].params) if "callspec" in vars(item) else {}


def _who(item: pytest.Item) -> object:
    params = _params(item)
    return next((params[name] for name in ("combo", "mover", "uid", "name") if name in params), None)


def _test(item: pytest.Item) -> tuple[Path, str]:
    return item.path, item.name.partition("[")[0]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} skipped itself where all must run: {call.excinfo and call.excinfo.value}"
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or report.failed
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """What a test that failed has left open is laid to its own door.

    Its frames, and what they hold, live on in sys.last_value until another test fails: only then would Python find the
    processes and files that nobody closed, and blame the test that happens to run.
    """
    if item.stash[_FAILED]:
        for name in ("last_exc", "last_type", "last_value", "last_traceback"):
            vars(sys).pop(name, None)
        gc.collect()
    yield


@pytest.fixture(scope="session")
def own() -> Iterator[Path]:
    """A directory of this run's own, in namespaces with SUBMIT_USER and with /dev/fuse open to all (apart.py)."""
    if os.geteuid() != 0:
        pytest.fail("the functional tests make hosts of their own and need root; run `make test` as root or with sudo")
    with apart.entered() as directory:
        yield directory


@pytest.fixture(scope="session")
def desk(own: Path) -> ModuleType:
    """The module tests.desk, with both hosts up."""
    the_desk.up()
    return the_desk


@pytest.fixture(scope="session")
def reached(own: Path) -> reachable.Copy:
    """The project where SUBMIT_USER can read it, wherever the checkout is."""
    return reachable.make(own / "program")


@pytest.fixture(scope="session")
def as_user(reached: reachable.Copy) -> reachable.AsUser:
    """as_user(uid, body): body() in a fork of this process as that user, see Copy.as_user."""
    return reached.as_user


@pytest.fixture
def desk_alone(desk: ModuleType) -> Iterator[ModuleType]:
    """The desk, for a test that cuts, powers off or takes things away.

    Before and afterwards all is mended: hosts on, cables in, /dev/fuse there. What ran on the hosts before may be gone.
    """
    desk.up()
    yield desk
    desk.up()
    for name in desk.HOSTS:
        desk.dev_fuse(name, present=True)


@pytest.fixture(scope="session")
def rexec(desk: ModuleType, reached: reachable.Copy) -> Iterator[Rexec]:
    """Runs the installed `rexec` as a process of its own: see Rexec."""
    with closing(Rexec(reached.rexec)) as runner:
        yield runner


@pytest.fixture
def place(desk: ModuleType) -> Iterator[Callable[[str], Path]]:
    """place(user) makes an empty directory which that submit user owns and can reach; gone after the test."""
    made = []

    def make(user: str) -> Path:
        made.append(Path(tempfile.mkdtemp(prefix="desk-place-", dir="/var/tmp")))
        shutil.chown(made[-1], user, user)
        return made[-1]

    yield make
    for directory in made:
        shutil.rmtree(directory)


@pytest.fixture(params=COMBOS)
def combo(request: pytest.FixtureRequest, rexec: Rexec, place: Callable[[str], Path]) -> Iterator[Combo]:
    """One of COMBOS, with a working directory; what its runs leave behind on either machine fails the test."""
    as_user, on = COMBOS["local-user" if request.param == NO_NEWUIDMAP else request.param]
    hidden = apart.hidden(newuidmap()) if request.param == NO_NEWUIDMAP else nullcontext()
    with hidden, nothing_left_on(on):
        yield Combo(rexec, as_user=as_user, on=on, dir=place(as_user))


@pytest.fixture
def c_sources(desk: ModuleType, tmp_path: Path) -> Path:
    """The sources of a C program, unpacked: see c_project."""
    return c_project.unpack(tmp_path)


@pytest.fixture
def nothing_left(desk: ModuleType) -> Callable[[str], AbstractContextManager[Left]]:
    """`with nothing_left("alpha"):` fails if what runs inside it leaves a process, mount or file on either machine."""
    return nothing_left_on


@pytest.fixture
def processes_end() -> Iterator[list[subprocess.Popen[bytes]]]:
    """A list for the processes a test starts; those still running when it ends are killed, with their group."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture(scope="session")
def kept() -> obtain_criu.Bundle:
    return desk_root.criu()


@pytest.fixture(scope="session")
def criu_dir(kept: obtain_criu.Bundle) -> Iterator[str]:
    """The directory of a criu that works, readable by all."""
    with tempfile.TemporaryDirectory(prefix="rexec-criu-test-") as name:
        os.chmod(name, 0o755)
        at = criu_bundle.unpack(kept.read(), kept.hash, name + "/cache")
        os.chmod(name + "/cache", 0o755)
        yield at


@pytest.fixture
def disk() -> Iterator[Path]:
    """An empty directory on a disk: where `tmp_path` lies there may be a tmpfs."""
    with tempfile.TemporaryDirectory(prefix="rexec-test-", dir="/var/tmp") as name:
        yield Path(name)
