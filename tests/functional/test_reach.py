"""Hosts reached over a real ssh: through the ssh program and through paramiko."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from remoteio.submit.transport.paramiko_stream import open_paramiko
from remoteio.submit.transport.ssh import open_ssh
from remoteio.submit.transport.stream import Stream, TransportError
from shim.cli.doctor import doctor_command
from shim.cli.hosts import hosts_command
from shim.submit.hosts import bootstrap, config, survey
from shim.submit.hosts.checks import BAD, NOTE, checks
from shim.submit.hosts.config import Host
from shim.submit.hosts.connect import connect
from tests.until import until

Opener = Callable[..., Stream]
OPENERS = pytest.mark.parametrize("opener", [open_ssh, open_paramiko], ids=["ssh", "paramiko"])
ROOT = Path(__file__).parents[2]


@pytest.fixture
def opened() -> Iterator[list[Stream]]:
    streams: list[Stream] = []
    yield streams
    for stream in streams:
        stream.close()


def ping(stream: Stream) -> float:
    os.write(stream.write_fd, b"t")
    return float(os.read(stream.read_fd, 100))


@OPENERS
@pytest.mark.parametrize("name", ["alpha", "alpha-alice", "alpha-noisy", "alpha-fishy", "alpha-cshy"])
def test_any_login_shell_will_do(desk: ModuleType, opened: list[Stream], opener: Opener, name: str) -> None:
    opened.append(opener(name, bootstrap.command(), batch=True))
    facts = bootstrap.start(opened[0], "shim.execute.probe:main", deadline=60)
    assert facts.python >= (3, 9)
    assert abs(ping(opened[0]) - time.time()) < 30


@OPENERS
def test_a_host_behind_others(desk: ModuleType, opened: list[Stream], opener: Opener) -> None:
    options = ["-o", "ProxyJump=alpha-alice,alpha"]
    opened.append(opener("alpha-noisy", bootstrap.command(), options, batch=True))
    bootstrap.start(opened[0], "shim.execute.probe:main", deadline=60)
    assert ping(opened[0]) > 0


def test_the_second_start_sends_no_runtime(desk: ModuleType) -> None:
    host = Host("alpha-alice", "alpha-alice")
    for wanted in (("have", "kept"), ("have",)):
        stream, facts = connect(host, "shim.execute.probe:main", batch=True)
        stream.close()
        assert facts.runtime in wanted


def failure(opener: Opener, opened: list[Stream], destination: str, options: Sequence[str]) -> str:
    with pytest.raises(TransportError) as caught:
        opened.append(opener(destination, bootstrap.command(), options, batch=True))
        bootstrap.start(opened[0], "shim.execute.probe:main", deadline=60)
    assert destination in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


@OPENERS
def test_an_unknown_name(opened: list[Stream], opener: Opener) -> None:
    assert "nowhere.invalid is unknown" in failure(opener, opened, "nowhere.invalid", [])


@OPENERS
def test_a_port_where_nobody_listens(desk: ModuleType, opened: list[Stream], opener: Opener) -> None:
    said = failure(opener, opened, "alpha", ["-p", "1"])
    assert "refused the connection; start sshd" in said


@OPENERS
def test_a_refused_key(desk: ModuleType, opened: list[Stream], opener: Opener, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    known = known_hosts(desk, tmp_path)
    options = [
        "-F",
        "none",
        "-i",
        str(tmp_path / "key"),
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        f"UserKnownHostsFile={known}",
    ]
    said = failure(opener, opened, f"root@{desk.HOSTS['alpha'].address}", options)
    assert "refused the login: no key or password of yours was accepted" in said


@OPENERS
def test_a_host_key_that_is_not_known(desk: ModuleType, opened: list[Stream], opener: Opener, tmp_path: Path) -> None:
    options = ["-F", "none", "-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={tmp_path / 'none'}"]
    said = failure(opener, opened, f"root@{desk.HOSTS['alpha'].address}", options)
    assert "its host key is not known yet" in said


@OPENERS
def test_a_host_key_that_has_changed(desk: ModuleType, opened: list[Stream], opener: Opener, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    address = desk.HOSTS["alpha"].address
    (tmp_path / "known").write_text(f"{address} {(tmp_path / 'other.pub').read_text()}")
    options = ["-F", "none", "-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={tmp_path / 'known'}"]
    assert "what an attack looks like" in failure(opener, opened, f"root@{address}", options)


@OPENERS
def test_a_host_that_does_not_answer(desk: ModuleType, opened: list[Stream], opener: Opener) -> None:
    # In the hosts' network, and nobody's address: the kernel gives up on ARP after about 3 s.
    address = desk.HOSTS["alpha"].address.rpartition(".")[0] + ".77"
    said = failure(opener, opened, f"root@{address}", ["-F", "none", "-o", "ConnectTimeout=8"])
    assert "no route to it" in said or "did not answer in time" in said


def test_an_option_that_ssh_does_not_know_is_told_in_its_words(opened: list[Stream]) -> None:
    assert "bad configuration option" in failure(open_ssh, opened, "alpha", ["-o", "Nonsense=1"]).lower()


def test_one_run_is_one_connection(desk: ModuleType) -> None:
    def logins() -> int:
        return sum("sshd" in line and "notty" in line for line in desk.processes("beta").values())

    before = logins()
    stream, _ = connect(Host("beta", "beta"), "shim.execute.probe:main", batch=True)
    during = logins()
    stream.close()
    assert (before, during) == (0, 1)
    until(lambda: logins() == 0, "the login is gone")


HOLDER = """
import sys
from shim.submit.hosts.config import Host
from shim.submit.hosts.connect import connect
stream, facts = connect(Host("alpha", "alpha"), "shim.execute.probe:main", batch=True)
print(stream._process.pid, flush=True)
while not sys.stdin.readline().startswith("go"):
    pass
import os
import re
os.write(stream.write_fd, b"t")
print(os.read(stream.read_fd, 100).decode(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(desk: ModuleType) -> Iterator[subprocess.Popen[str]]:
    """A process, in a group of its own as a shell starts it, that holds a stream and has said its ssh's pid."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        process_group=0,
    )
    with process:
        yield process
        process.kill()


def test_ssh_dies_with_rexec(holder: subprocess.Popen[str]) -> None:
    assert holder.stdout is not None
    ssh = os.pidfd_open(int(holder.stdout.readline()))
    try:
        holder.kill()
        until(lambda: ended(ssh), "ssh has ended")
    finally:
        os.close(ssh)


def ended(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])


def test_a_shutdown_s_signals_leave_ssh_alone(holder: subprocess.Popen[str]) -> None:
    assert holder.stdout is not None and holder.stdin is not None
    ssh = int(holder.stdout.readline())
    for number in (signal.SIGTERM, signal.SIGHUP):
        os.kill(ssh, number)
    holder.stdin.write("go\n")
    holder.stdin.flush()
    assert float(holder.stdout.readline()) > 0


ASKER = """
import sys
from shim.submit.hosts.config import Host
from shim.submit.hosts.connect import connect
stream, facts = connect(Host("alpha", sys.argv[1], tuple(sys.argv[2:])), "shim.execute.probe:main")
print("STARTED", facts.runtime, flush=True)
stream.close()
"""


def test_ssh_can_ask_for_a_passphrase_on_the_terminal(desk: ModuleType, tmp_path: Path) -> None:
    key = tmp_path / "key"
    shutil.copy(desk.STATE / "keys" / "root", key)
    key.chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "a secret", "-f", key], check=True)
    options = ["-F", "none", "-i", str(key), "-o", "IdentitiesOnly=yes"]
    options += ["-o", f"UserKnownHostsFile={known_hosts(desk, tmp_path)}"]
    argv = [sys.executable, "-c", ASKER, f"root@{desk.HOSTS['alpha'].address}", *options]
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, argv)
    said = b""
    try:
        while b"Enter passphrase" not in said:
            said += os.read(terminal, 1000)
        os.write(terminal, b"a secret\n")
        while b"STARTED" not in said:
            said += os.read(terminal, 1000)
    finally:
        os.close(terminal)
        os.waitpid(child, 0)


def take(stream: Stream, size: int) -> None:
    got = 0
    while got < size:
        piece = os.read(stream.read_fd, 1 << 20)
        assert piece, f"the stream ended after {got} bytes"
        got += len(piece)
    assert os.read(stream.read_fd, 1) == b""


@pytest.mark.long(lambda **_: True)  # the next test changes keys too
def test_paramiko_carries_more_than_its_keys_are_good_for(desk: ModuleType, opened: list[Stream]) -> None:
    # paramiko exchanges keys anew after 512 MiB.
    size = 3 << 29
    stream = open_paramiko("alpha", f"exec head -c {size} /dev/zero", batch=True)
    opened.append(stream)
    take(stream, size)
    assert stream.wait(60) == 0


def test_paramiko_survives_a_channel_that_closes_amid_a_key_exchange(
    desk: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of itself it would wait 30 s for an answer that can no longer come ("Key-exchange timed out"), and lose the end.
    monkeypatch.setattr("paramiko.packet.Packetizer.REKEY_BYTES", 1 << 20)
    for extra in range(0, 1 << 17, 1 << 13):
        size = (4 << 20) - (1 << 16) + extra
        stream = open_paramiko("alpha", f"exec head -c {size} /dev/zero", batch=True)
        began = time.monotonic()
        take(stream, size)
        stream.close()
        assert time.monotonic() - began < 20


def test_paramiko_carries_both_directions_to_their_ends(desk: ModuleType, opened: list[Stream]) -> None:
    command = "exec sh -c 'dd bs=64k count=64 iflag=fullblock status=none | md5sum; echo oops >&2; exit 5'"
    stream = open_paramiko("alpha", command, batch=True)
    opened.append(stream)
    data = bytes(64 << 16)
    while data:
        data = data[os.write(stream.write_fd, data) :]
    assert os.read(stream.read_fd, 100) == b"b5cfa9d6c8febd618f91ac2843d50a1c  -\n"
    assert os.read(stream.read_fd, 1) == b""
    assert stream.wait(60) == 5
    until(lambda: stream.stderr_tail() == "oops\n", "stderr has come")
    assert "oops" in str(stream.failure())


def test_the_survey_names_what_is_missing(desk: ModuleType) -> None:
    names = ("alpha", "alpha-alice", "alpha-nouserns")
    root, alice, nouserns = survey.ask_all([Host(name, name) for name in names], deadline=60)
    assert BAD not in {check.state for host in (root, alice) for check in checks(host)}
    assert root.facts["hostname"] == "alpha" and root.facts["uid"] == 0 and alice.facts["login"] == "alice"
    assert 0 < root.latency < 5 and abs(root.clock) < 5
    (bad,) = [check for check in checks(nouserns) if check.state == BAD]
    assert bad.what == "namespaces" and "user.max_user_namespaces is 0" in bad.text
    assert "sysctl -w user.max_user_namespaces=" in bad.mend
    assert [check.what for check in checks(alice) if check.state == NOTE] in (["ids"], [])


def test_dev_fuse_missing_or_closed_is_named(desk_alone: ModuleType) -> None:
    host = Host("beta-alice", "beta-alice")
    desk_alone.run("beta", ["chmod", "600", "/dev/fuse"])
    try:
        closed = survey.ask(host, batch=True, deadline=60)
        desk_alone.dev_fuse("beta", present=False)
        missing = survey.ask(host, batch=True, deadline=60)
    finally:
        desk_alone.dev_fuse("beta", present=True)
    said = {check.what: check for check in checks(closed)}
    assert "Permission denied (mode 600)" in said["/dev/fuse"].text and "chmod 666" in said["/dev/fuse"].mend
    said = {check.what: check for check in checks(missing)}
    assert said["/dev/fuse"].text == "is not there" and "modprobe fuse" in said["/dev/fuse"].mend


def test_the_commands_show_all_hosts_known(desk: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rexec").mkdir()
    (tmp_path / "rexec/hosts.toml").write_text('[host.alpha]\n[host.gone]\nssh = "nowhere.invalid"\nowner = "none"\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    shown = CliRunner().invoke(hosts_command, ["--json"])
    alpha, gone, local = json.loads(shown.output)
    assert (alpha["name"], alpha["usable"], gone["name"], gone["usable"]) == ("alpha", True, "gone", False)
    assert local["name"] == config.LOCAL and gone["owner"] == "none"
    text = CliRunner().invoke(hosts_command).output.splitlines()
    assert text[0].startswith("HOST") and re.fullmatch("alpha .* ok(; `--on any` leaves it out: .*)?", text[1])
    assert "nowhere.invalid is unknown" in text[2]
    one = CliRunner().invoke(doctor_command, ["alpha"])
    assert one.exit_code == 0 and "ok    namespaces: made" in one.output
    assert CliRunner().invoke(doctor_command, ["gone"]).exit_code == 1


def known_hosts(desk: ModuleType, tmp_path: Path) -> Path:
    """A known_hosts that has alpha's key, as alpha shows it."""
    address = desk.HOSTS["alpha"].address
    scanned = subprocess.run(["ssh-keyscan", "-t", "ed25519", address], capture_output=True, text=True, check=True)
    assert scanned.stdout
    (tmp_path / "known").write_text(scanned.stdout)
    return tmp_path / "known"
