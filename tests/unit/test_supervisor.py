"""One job over many hosts, with scripted agents at the other ends of real links, a real store and control socket."""

from __future__ import annotations

import gc
import json
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from checkpoint.submit.store import Store
from remoteio.wire import frames
from shim.submit.api.errors import RequestRefused
from shim.submit.api.job_handle import job as api_job
from shim.submit.job import control_socket, events, placement, placement_steps, replayed_streams
from shim.submit.job.events import Kind
from shim.submit.job.placement_events import Phase, Result
from shim.submit.job.record import Record, create, packed
from shim.submit.job.replayed_streams import OutputOnce, ReplayedInput
from shim.submit.job.submission import SubmitError
from shim.submit.job.supervisor import JobSupervisor
from shim.wire import lease
from shim.wire.job_spec import JobSpec
from tests.agents import Agent, Country
from tests.until import until


class Run:
    """A supervised job."""

    def __init__(
        self,
        directory: Path,
        hosts: tuple[str, ...] = ("alpha", "beta"),
        every: float = 0.0,
        prepare: Callable[[Agent], None] = lambda agent: None,
        make: bool = False,
    ) -> None:
        """`make`: the directory is not there yet."""
        if make:
            directory.mkdir()
        self.country = Country(directory)
        self.country.prepare = prepare
        spec = JobSpec(
            argv=[b"count"], env=[b"A=1"], cwd=b"/", uid=os.geteuid(), gid=os.getegid(), groups=[], umask=0o22,
            hostname=b"here", limits=[], scratch=[], stdio=[0, 1], tty=[],
        )  # fmt: skip
        record = Record(
            id=0, command=("count",), cwd="/", created=time.time(), hosts=hosts, owner="none", every=every, keep=2,
            detached=True, tty=False, spec=packed(spec),
        )  # fmt: skip
        self.job = create(record)
        assert self.job.lock()
        self.out = directory / "out"
        self.typed_read, self.typed = os.pipe()
        self.begin(None)

    def begin(self, taken: int | None, force: bool = False) -> None:
        fd = os.open(self.out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.output = OutputOnce(frames.STDOUT, fd, taken=taken or 0)
        self.input = ReplayedInput(self.job.path, os.dup(self.typed_read))
        self.supervisor = JobSupervisor(
            self.job, {frames.STDOUT: self.output}, self.input, patient=True, force=force, say=lambda text: None,
            reach=self.country.reach,
        )  # fmt: skip
        self.result: list[Result | BaseException] = []
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.result.append(self.supervisor.run())
        except BaseException as error:
            self.result.append(error)

    def forget(self) -> None:
        """Close what this test has open for it."""
        os.close(self.typed)
        os.close(self.typed_read)
        os.close(self.job._lock)
        for agent in self.country.agents:
            agent.die()
            assert agent.broken.wait(5)

    def ask(self, what: str, **more: object) -> str:
        for answer in control_socket.ask(self.job.control, do=what, **more):
            if answer.get("done") is not None:
                return f"{answer['done']}: {answer['text']}"
        raise AssertionError("no answer")

    def close(self) -> None:
        """Have all agents gone, and the job with them."""
        for agent in self.country.agents:
            agent.die()
        if self.thread.is_alive():
            self.ask("kill")
        self.thread.join(5)

    def end(self, within: float = 10.0) -> Result:
        self.thread.join(within)
        assert self.result, f"the job has not ended but is {self.supervisor.state}"
        result = self.result[0]
        assert isinstance(result, Result), result
        return result

    def kinds(self) -> list[Kind]:
        return [event.kind for event in events.read_events(self.job.log)[0]]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the job is kept, and a placement that does not wait long."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(lease, "LOST", 0.3)
    monkeypatch.setattr(placement_steps, "RETRY", 0.5)


@pytest.fixture
def run(tmp_path: Path, place: None) -> Iterator[Run]:
    made = Run(tmp_path)
    yield made
    made.close()


def test_a_job_that_never_moves(run: Run) -> None:
    agent = run.country.running(0)
    agent.say()
    agent.end(3 << 8)
    assert run.end() == Result(3 << 8)
    assert run.out.read_text() == "1\n"
    assert run.kinds() == [Kind.SUBMIT, Kind.EXECUTE, Kind.END]
    assert run.job.read().phase == "ended"


def test_a_vacate_goes_on_elsewhere_with_every_line_once(run: Run) -> None:
    for number in range(6):
        agent = run.country.running(number)
        assert agent.name == ("alpha", "beta")[number % 2]
        agent.say()
        agent.say()
        assert run.ask("vacate") == f"True: the job goes on on {('beta', 'alpha')[number % 2]}"
    run.country.running(6).end(0)
    assert run.end() == Result(0)
    assert run.out.read_text() == "".join(f"{n}\n" for n in range(1, 13))
    assert run.job.read().moves == 6
    assert [
        agent.spec.checkpoint.generation for agent in run.country.agents if agent.spec and agent.spec.checkpoint
    ] == [*range(1, 8)]


def descriptors(country: Country) -> int:
    """How many this process has open, but for the agents' own ends of their links."""
    ends = {agent._end.fileno() for agent in country.agents}
    return len({int(name) for name in os.listdir("/proc/self/fd")} - ends)


def test_a_generation_that_is_over_leaves_no_descriptor_open(run: Run) -> None:
    open_before = 0
    for number in range(5):
        run.country.running(number)
        until(run.supervisor.generation, "it is known to run")
        open_before = open_before or descriptors(run.country)
        run.ask("vacate")
    run.country.running(5)
    until(lambda: descriptors(run.country) <= open_before + 2, "what each of five opened is closed")
    run.country.agents[5].end(0)
    run.end()


def test_a_generation_that_is_over_is_not_kept(run: Run) -> None:
    """Its export knows of every file that the job has used."""
    run.country.running(0)
    until(run.supervisor.generation, "it is known to run")
    generation = run.supervisor.generation()
    assert generation is not None and generation._session.export is not None
    before = weakref.ref(generation), weakref.ref(generation._session.export)
    del generation
    for number in range(2):
        run.country.running(number)
        assert run.ask("vacate").startswith("True: ")
    run.country.running(2)

    def gone() -> bool:
        gc.collect()
        return before[0]() is None and before[1]() is None

    until(gone, "nothing holds it")


def test_jobs_side_by_side_in_one_process_leave_nothing_behind(tmp_path: Path, place: None) -> None:
    """Whoever supervises several has a thread for each, and neither thread nor descriptor of one that has ended."""
    first = Run(tmp_path / "0", make=True)
    first.country.running(0)
    until(first.supervisor.generation, "it is known to run")
    open_before, running_before = descriptors(first.country), threading.active_count()
    others = [Run(tmp_path / str(number), make=True) for number in (1, 2)]
    for run in others:
        run.country.running(0).say()
        assert run.ask("vacate") == "True: the job goes on on beta"
    for run in others:
        run.country.running(1).say()
        run.country.agents[1].end(0)
        assert run.end() == Result(0)
        assert run.out.read_text() == "1\n2\n"
        run.forget()
    until(lambda: descriptors(first.country) <= open_before, "their descriptors are closed")
    until(lambda: threading.active_count() <= running_before, "their threads have ended")
    first.country.agents[0].end(0)
    assert first.end() == Result(0)


def test_a_fresh_job_that_speaks_before_its_host_says_that_it_runs(tmp_path: Path, place: None) -> None:
    def prepare(agent: Agent) -> None:
        agent.hasty = True

    run = Run(tmp_path, prepare=prepare)
    run.country.running(0).end(0)
    assert run.end() == Result(0)
    assert run.out.read_text() == "1\n"


def test_a_restored_job_that_speaks_before_its_host_says_that_it_runs(run: Run) -> None:
    def prepare(agent: Agent) -> None:
        agent.hasty = agent.name == "beta"

    run.country.prepare = prepare
    run.country.running(0).say()
    run.ask("vacate")
    run.country.running(1).say()
    run.country.agents[1].end(0)
    run.end()
    assert run.out.read_text() == "1\n2\n3\n"


def test_a_checkpoint_leaves_it_running_and_a_lost_host_goes_back_to_it(run: Run) -> None:
    alpha = run.country.running(0)
    alpha.say()
    assert run.ask("checkpoint") == "True: image 1 is committed"
    assert alpha.running.is_set()
    alpha.say()
    alpha.say()
    until(lambda: run.out.read_text() == "1\n2\n3\n", "the output")
    alpha.die()
    again = run.country.running(1)
    assert again.count == 1
    for _ in range(3):
        again.say()  # 2 and 3 for the second time
    again.end(0)
    assert run.end() == Result(0)
    assert run.out.read_text() == "1\n2\n3\n4\n"
    assert Kind.DISCONNECT in run.kinds() and Kind.LOST in run.kinds()


def test_nothing_starts_before_the_lease_of_a_lost_host_is_over(run: Run) -> None:
    alpha = run.country.running(0)
    run.ask("checkpoint")
    lost = time.monotonic()
    alpha.die()
    run.country.running(1)
    assert time.monotonic() - lost >= 0.3


def test_input_is_given_again_from_where_the_image_had_it(run: Run) -> None:
    alpha = run.country.running(0)
    os.write(run.typed, b"one two ")
    alpha.wait(lambda: alpha.given == b"one two ")
    run.ask("checkpoint")
    os.write(run.typed, b"three ")
    alpha.wait(lambda: alpha.given == b"one two three ")
    alpha.die()
    again = run.country.running(1)
    again.wait(lambda: again.given == b"three ")
    os.write(run.typed, b"four")
    again.wait(lambda: again.given == b"three four")
    os.close(run.typed)
    again.wait(lambda: again.eof)
    again.end(0)
    run.end()


def test_much_input_is_not_kept_before_there_is_an_image(run: Run) -> None:
    alpha = run.country.running(0)
    block = bytes(1 << 16)
    for _ in range(300):
        os.write(run.typed, block)
    alpha.wait(lambda: len(alpha.given) == 300 << 16, within=30)
    assert run.input.size - run.input.kept < 9 << 20
    alpha.end(0)
    run.end()


def test_a_host_lost_after_the_commit_but_before_it_said_so(run: Run) -> None:
    alpha = run.country.running(0)
    alpha.say()
    alpha.mute = True
    assert run.ask("vacate") == "True: the job goes on on alpha"
    again = run.country.running(1)
    assert again.count == 1
    again.end(0)
    run.end()
    assert run.out.read_text() == "1\n"


def test_a_refused_vacate_leaves_it_running(run: Run) -> None:
    alpha = run.country.running(0)
    alpha.refuse = "process 101 (job.py) holds an io_uring, descriptor 5"
    assert run.ask("vacate") == "False: process 101 (job.py) holds an io_uring, descriptor 5"
    alpha.say()
    alpha.end(0)
    assert run.end() == Result(0)


def test_hold_and_release(run: Run) -> None:
    run.country.running(0).say()
    assert run.ask("hold").startswith("True: the job is parked")
    assert run.ask("checkpoint").startswith("False: the job is parked")
    assert run.job.read().held
    assert placement.deadline(run.supervisor.state) is None, "it stays, however long that is"
    assert len(run.country.agents) == 1
    assert run.ask("release") == "True: the job goes on on alpha"
    run.country.running(1).end(0)
    run.end()
    assert run.kinds()[-4:] == [Kind.HOLD, Kind.RELEASE, Kind.EXECUTE, Kind.END]


def test_parked_until_a_host_is_up(run: Run) -> None:
    run.country.running(0).say()
    run.country.down |= {"alpha", "beta"}
    assert run.ask("vacate").startswith("True: the job is parked: no host will do (")
    assert "cannot reach beta: it is down" in run.job.read().why
    run.country.down.clear()
    run.country.running(1).end(0)
    run.end()


def test_the_owner_comes_back(run: Run) -> None:
    alpha = run.country.running(0)
    alpha.news("frozen", why="input seen by terminals: /dev/pts/3", source="terminals", at=1.0)
    until(lambda: run.supervisor.state.phase == "frozen", "frozen")
    alpha.news("leaving", why="further input seen", serial=1 << 20)
    alpha.dump(1 << 20, True)
    beta = run.country.running(1)
    assert beta.name == "beta"
    assert run.supervisor.state.search.driven == {"alpha"}
    beta.end(0)
    run.end()
    assert run.kinds() == [
        Kind.SUBMIT, Kind.EXECUTE, Kind.SUSPEND, Kind.CHECKPOINT, Kind.EVICT, Kind.EXECUTE, Kind.END
    ]  # fmt: skip


def test_kill(run: Run) -> None:
    run.country.running(0)
    assert run.ask("kill") == "True: the job is being killed"
    assert run.end() == Result(9)


def test_lost_without_an_image(run: Run) -> None:
    run.country.running(0).die()
    result = run.end()
    assert result.code == 125 and "no checkpoint yet" in result.reason


def test_a_restore_that_fails_goes_to_the_next_host(run: Run) -> None:
    alpha = run.country.running(0)
    alpha.say()

    def prepare(agent: Agent) -> None:
        agent.refuse = "criu restore failed there" if agent.name == "beta" else ""

    run.country.prepare = prepare
    assert run.ask("vacate").startswith("True: the job is parked")
    assert "beta: criu restore failed there" in run.job.read().why
    run.country.prepare = lambda agent: None
    run.country.running(2).end(0)
    run.end()


def test_checkpoints_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    run = Run(tmp_path, every=0.2)
    agent = run.country.running(0)
    until(lambda: run.supervisor.state.images.newest >= 4, "four images")
    until(lambda: len(Store().images(str(run.job.id))) == 2, "only the last two are kept")
    agent.end(0)
    run.end()


def test_attached_one_sees_and_types(run: Run) -> None:
    alpha = run.country.running(0)
    with control_socket.connect(run.job.control) as sock:
        sock.sendall(json.dumps({"do": "attach"}).encode() + b"\n")
        assert json.loads(control_socket.read_line(sock))["done"] is True
        sock.sendall(frames.frame(frames.STDIN, b"typed"))
        alpha.wait(lambda: alpha.given == b"typed")
        alpha.say()
        reader = frames.FrameReader()
        got = reader.feed(sock.recv(1000))
        alpha.end(7 << 8)
        while data := sock.recv(1000):
            got += reader.feed(data)
    assert [(kind, bytes(payload)) for kind, payload in got] == [
        (frames.STDOUT, b"1\n"),
        (frames.EXIT, (7 << 8).to_bytes(4, "little")),
    ]
    run.end()


def test_a_full_store_leaves_it_running(run: Run) -> None:
    alpha = run.country.running(0)
    (run.job.path.parent.parent / "images").write_text("no directory")
    assert run.ask("vacate").startswith("False: ")
    alpha.say()
    alpha.end(0)
    assert run.end() == Result(0)


def test_a_host_lost_before_anybody_asked_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STATE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name))
    monkeypatch.setattr(lease, "LOST", 0.3)
    monkeypatch.setattr(placement_steps, "FIRST", 0.2)
    run = Run(tmp_path)
    alpha = run.country.running(0)
    until(lambda: run.supervisor.state.images.newest == 1, "the first image")
    alpha.say()
    until(lambda: run.out.read_text() == "1\n", "the output")
    alpha.die()
    again = run.country.running(1)
    again.say()  # for the second time
    again.say()
    again.end(0)
    assert run.end() == Result(0)
    assert run.out.read_text() == "1\n2\n"
    assert Store().jobs() == [], "nobody had asked for an image"


def test_input_is_let_go_where_no_image_could_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replayed_streams, "HEAVY", 1 << 20)
    heavy: list[int] = []
    given = ReplayedInput(tmp_path, -1)
    given.heavy = lambda: heavy.append(given.size)
    given.keep()
    for _ in range(5):
        given.feed(bytes(1 << 19))
    assert heavy == [3 << 19]
    given.unkeep()
    given.feed(bytes(1 << 21))
    assert heavy == [3 << 19]
    given.given = given.size  # a generation has got all of it
    given.saved(1 << 20)
    given.unkeep()  # of a later one: there is one
    given.feed(bytes(1 << 21))
    assert len(heavy) == 2
    assert given.kept == 1 << 20
    given.close()


def test_told_to_end_it_leaves_a_saved_job(run: Run) -> None:
    run.country.running(0).say()
    run.supervisor.quit()
    result = run.end()
    assert result.status is None and "the job is saved" in result.reason
    assert (run.job.read().phase, run.job.read().image) == ("parked", 1)
    assert "the job is saved" in events.read_events(run.job.log)[0][-1].reason
    run.begin(len("1\n"))
    again = run.country.running(1)
    again.say()
    again.end(0)
    assert run.end() == Result(0)
    assert run.out.read_text() == "1\n2\n"


def test_a_host_that_does_nothing_it_is_told_is_cut_off(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    alpha = run.country.running(0)
    alpha.say()
    run.ask("checkpoint")
    monkeypatch.setattr(placement_steps, "ANSWER", 0.2)
    monkeypatch.setattr(placement_steps, "DOUBT", 0.1)
    alpha.deaf = True
    alpha.say()
    why = "alpha gives signs of life, but does not do what it was told"
    assert run.ask("checkpoint") == f"False: {why}"
    alpha.say()
    assert run.ask("vacate") == f"False: alpha was lost: {why}"
    assert alpha.broken.wait(5)
    again = run.country.running(1)
    assert again.count == 1
    for _ in range(3):
        again.say()
    again.end(0)
    assert run.end() == Result(0)
    assert run.out.read_text() == "1\n2\n3\n4\n"


def test_a_vacate_mends_what_is_damaged_on_the_disk(run: Run) -> None:
    alpha = run.country.running(0)
    alpha.pages = os.urandom(1 << 20)
    alpha.say()
    run.ask("checkpoint")
    name = str(run.job.id)
    pack = Store().root / name / "00000001.pack"
    spoilt = bytearray(pack.read_bytes())
    spoilt[500_000] ^= 1
    pack.write_bytes(spoilt)
    assert run.ask("vacate") == "True: the job goes on on beta"
    assert alpha.offers_again == 1
    again = run.country.running(1)
    assert (again.count, (again.directory / "pages").read_bytes()) == (1, alpha.pages)
    again.end(0)
    assert run.end() == Result(0)
    with Store().open(name, 1) as image:
        assert not image.damaged()


def test_sent_to_a_host_that_is_down(run: Run) -> None:
    """It has left all the same, and who sent it hears where it went instead, and why."""
    run.country.running(0)
    run.country.down.add("gamma")
    said = run.ask("vacate", host="gamma")
    assert said == "False: the job goes on on beta and not on gamma: cannot reach gamma: it is down"
    run.country.running(1).end(0)
    run.end()
    notes = [event for event in events.read_events(run.job.log)[0] if event.kind == Kind.NOTE]
    assert [(note.host, note.reason) for note in notes] == [("gamma", "passed over: cannot reach gamma: it is down")]


def test_sent_to_a_host_that_nobody_knows_and_that_is_not_there(run: Run) -> None:
    """A slip of the pen moves nothing: the job has not even been stopped."""
    run.country.running(0)
    with pytest.raises(RequestRefused, match=r"^job 1 stays where it is: cannot reach nohost\.invalid"):
        api_job(1).vacate(to="nohost.invalid")
    assert run.supervisor.state.place.host == "alpha" and run.supervisor.state.images.serial == 0
    assert api_job(1).vacate(to="beta") == "the job goes on on beta"  # its own list has it: it is not asked
    run.country.running(1).end(0)
    run.end()


@pytest.mark.parametrize("ran", [False, True])
def test_told_to_end_without_an_image_it_says_what_is_left(run: Run, ran: bool) -> None:
    if ran:
        run.country.running(0).refuse = "it holds an io_uring"
    else:
        run.country.running(0)
        run.ask("kill")
        run.end()
        run.country.down |= {"alpha", "beta"}
        fresh = replace(run.job.read(), phase=Phase.CHOOSING, status=None, ran=0.0, since=0.0, generation=0)
        run.job.write(fresh)
        run.begin(None)
        until(lambda: run.supervisor.state.phase == Phase.PARKED, "it is parked")
    run.supervisor.quit()
    left = "it had no checkpoint" if ran else "it never ran: submit it again"
    why = run.end().reason
    assert why == f"its supervisor was told to end before the job could be saved: {left}"
    os.close(run.job._lock)  # as the end of its process does
    run.job._lock = -1
    with pytest.raises(SubmitError, match=f"^job 1 has no image to go on from: {left}$"):
        api_job(1).restart()
    assert api_job(1).report().why.endswith(left)


def test_parked_is_logged_once(run: Run) -> None:
    run.country.running(0)
    run.country.down |= {"alpha", "beta"}
    run.ask("vacate")
    turn = run.supervisor.state.search.turn
    until(lambda: run.supervisor.state.search.turn >= turn + 2, "two more looks for a host")
    notes = [event.reason for event in events.read_events(run.job.log)[0] if event.kind == Kind.NOTE]
    assert len(notes) == 1 and notes[0].startswith("parked: no host will do (")
    run.ask("kill")
    run.end()
