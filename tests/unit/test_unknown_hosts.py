"""A host that nobody knows: it is said at once, and which one may have been meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from remoteio.errors import RexecError
from remoteio.submit.transport import paramiko_stream, ssh
from remoteio.submit.transport.stream import NameUnknown, Stream, explain_ssh
from shim.cli.disconnect import disconnect_command
from shim.cli.submit import submit_command
from shim.submit.hosts import kept
from shim.submit.hosts.config import Host
from shim.submit.hosts.connect import AGENT, connect

_SAID = "ssh: Could not resolve hostname alhpa: Name or service not known"


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    for name in ("CONFIG", "STATE", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))

    def write(text: str) -> None:
        (tmp_path / "config" / "rexec").mkdir(parents=True)
        (tmp_path / "config" / "rexec" / "hosts.toml").write_text(text)

    return write


def _failure(command: object, *words: str) -> str:
    result = CliRunner().invoke(command, words)  # type: ignore[arg-type]
    assert isinstance(result.exception, RexecError), result.output
    return str(result.exception)


def test_a_name_that_ssh_does_not_know_may_be_a_known_one_misspelt(
    hosts: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts('[host.alpha]\n[host.omega]\nssh = "gone"\n')

    def unknown(destination: str, *_: object, **__: object) -> Stream:
        raise explain_ssh(destination, 255, _SAID)

    monkeypatch.setattr(ssh, "open_host", unknown)
    for name in ("alhpa", "alice@alhpa"):
        with pytest.raises(NameUnknown, match=rf"^cannot reach {name}: .*~/.ssh/config \(did you mean alpha\?\)$"):
            connect(Host(name, name), AGENT)
    for host in (
        Host("zeta", "zeta"),
        Host("omega", "gone"),
        Host("alpha", "alpha"),
    ):  # like none; one of hosts.toml is meant as it stands
        with pytest.raises(NameUnknown, match=r"name it in ~/.ssh/config$"):
            connect(host, AGENT)


def test_so_where_paramiko_does_not() -> None:
    assert isinstance(paramiko_stream.explain("alhpa", paramiko_stream.socket.gaierror()), NameUnknown)


def test_a_batch_is_not_taken_where_no_host_is_known(hosts: Callable[[str], None], tmp_path: Path) -> None:
    for on in ((), ("--on", "any")):
        said = _failure(submit_command, *on, "true")
        assert said.startswith(f"no host is known, as {tmp_path}/config/rexec/hosts.toml names none: name one there ")
    assert "'-x' is no host" in _failure(submit_command, "--on", "alpha,-x", "true")
    assert not (tmp_path / "state").exists(), "nothing waits anywhere"


def test_what_was_not_connected_is_said(hosts: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    hosts("[host.alpha]\n[host.beta]\n")
    said = CliRunner().invoke(disconnect_command, [])
    assert (said.output, said.exit_code) == ("rexec: no connection is kept\n", 0)
    monkeypatch.setattr(kept, "end", lambda destinations: iter(["alpha", "elsewhere"]))
    said = CliRunner().invoke(disconnect_command, ["alpha", "beta", "elsewhere"])
    assert (said.stdout, said.stderr) == ("alpha\nelsewhere\n", "rexec: no connection to beta is kept\n")
    why = "no connection to alhpa is kept, and hosts.toml names no such host (did you mean alpha?)"
    assert _failure(disconnect_command, "alpha", "alhpa") == why
