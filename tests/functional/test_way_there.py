"""The way to a host, with what people have in their ssh_config, and when many go it at once."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from tests.desk_hosts import SSH_CONFIG
from tests.program import Rexec
from tests.until import until

SETTINGS = """\
StdinNull yes
SessionType none
ForkAfterAuthentication yes
PermitLocalCommand yes
LocalCommand cat
RemoteCommand echo not this
RequestTTY force
EscapeChar q
ControlMaster auto
ControlPersist 5
ControlPath /tmp/none-%C
LogLevel QUIET
RemoteForward 1 localhost:1
ExitOnForwardFailure yes
Include {desk}
"""
CROWDED = 2300  # the port of another sshd


@pytest.fixture
def named(desk: ModuleType, tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """named(options) is the environment in which the host `there` is beta, reached with those arguments of ssh."""

    def make(options: str) -> dict[str, str]:
        (tmp_path / "rexec").mkdir()
        (tmp_path / "rexec/hosts.toml").write_text(f'[host.there]\nssh = "beta"\noptions = {options}\n')
        return {"XDG_CONFIG_HOME": str(tmp_path)}

    return make


def test_what_an_ssh_config_says_of_other_uses_of_ssh_leaves_a_job_its_streams(
    rexec: Rexec, desk: ModuleType, named: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    (tmp_path / "config").write_text(SETTINGS.format(desk=SSH_CONFIG))
    data = b"q\n~.\nwords that a LocalCommand would have read\n" * 100
    done = rexec(["cat"], on="there", stdin=data, env=named(f'["-F", "{tmp_path}/config", "-tt"]'))
    assert done.stderr == b""
    assert (done.returncode, done.stdout) == (0, data)


def test_an_option_with_which_ssh_carries_no_streams_is_named(
    rexec: Rexec, named: Callable[[str], dict[str, str]]
) -> None:
    done = rexec(["true"], on="there", env=named('["-4nN"]'))
    assert done.returncode == 125
    assert done.stderr == (
        b"rexec: cannot reach beta with the option -4nN of ssh, which leaves a job no input or output; take it out of "
        b"`options` in hosts.toml\n"
    )


@contextmanager
def another_sshd(desk: ModuleType, *settings: str) -> Iterator[str]:
    """Run another sshd on beta, at the port CROWDED, with what it is delivered with and `settings`; yields its log."""
    config, pid, log = "/run/another.conf", "/run/another.pid", "/run/another.log"
    kept = [line for line in desk.SSHD_CONFIG.splitlines() if not line.startswith(("MaxSt", "PerSource", "PidFile"))]
    desk.run("beta", ["sh", "-c", f"cat > {config}"], stdin="\n".join([*settings, *kept]) + "\n")
    desk.run("beta", ["/usr/sbin/sshd", "-f", config, "-E", log, "-o", f"Port={CROWDED}", "-o", f"PidFile={pid}"])
    # it is there as long as sshd listens, who has gone into the background before that
    desk.run("beta", ["sh", "-c", f"until [ -e {pid} ]; do sleep .01; done"])
    try:
        yield log
    finally:
        desk.run("beta", ["sh", "-c", f"kill $(cat {pid}); while [ -e {pid} ]; do sleep .01; done; rm {config} {log}"])


def test_a_host_that_has_too_many_at_its_door_is_tried_again(
    rexec: Rexec, desk: ModuleType, named: Callable[[str], dict[str, str]]
) -> None:
    """sshd drops who comes while MaxStartups have not logged in yet, and these need not be ours."""
    with another_sshd(desk, "MaxStartups 1", "PerSourcePenalties no") as log:
        with socket.create_connection((desk.HOSTS["beta"].address, CROWDED)) as waits:
            assert waits.recv(4) == b"SSH-"
            process = rexec.popen(["echo", "here"], on="there", env=named(f'["-p", "{CROWDED}"]'))
            until(lambda: "drop connection" in desk.run("beta", ["cat", log]), "rexec has been dropped")
        with process:
            assert process.communicate(timeout=60) == (b"here\n", b"")
        assert process.returncode == 0


@pytest.mark.long(lambda **_: True)
def test_sixty_at_once(desk: ModuleType, rexec: Rexec, named: Callable[[str], dict[str, str]]) -> None:
    with another_sshd(desk):
        env = named(f'["-p", "{CROWDED}"]')
        started = [rexec.popen(["true"], on="there", env=env) for _ in range(60)]
        ended = [(process.communicate(timeout=100)[1], process.returncode) for process in started]
    assert set(ended) == {(b"", 0)}
