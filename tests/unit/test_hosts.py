"""hosts.toml and --on."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from shim.submit.hosts.config import Host, Hosts, HostsError, hosts_file, load, parse, resolve

FILE = """
[host.big]
ssh = "alice@big.example"
options = ["-p", "2222"]
python = "/usr/bin/python3.11"
owner = "night"

[host.small]

[owner.night]
start_idle = "15m"
hours = "22:00-07:00"
"""


def test_hosts_come_in_their_order_with_what_is_not_said_filled_in() -> None:
    known = parse(FILE.encode(), "f")
    assert known.hosts == (
        Host("big", "alice@big.example", ("-p", "2222"), "/usr/bin/python3.11", "night"),
        Host("small", "small", (), None, "keyboard"),
    )
    assert known.owners == {"night": {"start_idle": "15m", "hours": "22:00-07:00"}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[hosts.a]", r"f: the key hosts is unknown \(did you mean host\?\); allowed there: host, owner$"),
        ("[nothing.a]", "f: the key nothing is unknown; allowed there: host, owner$"),
        (
            "[host.a]\nssg = 'b'",
            r"f: the key host.a.ssg is unknown \(did you mean ssh\?\); allowed there: ssh, options, ",
        ),
        ("[host.a]\ntrust = 'some'", 'f: host.a.trust = \'some\' is none; write "full", "home" or "project"'),
        ("[owner.a]\nidle = 1", "f: the key owner.a.idle is unknown; allowed there: start_idle, linger"),
        ("[owner.a]\nstart_idle = '5 minutes'", r'f: \[owner.a\]: start_idle = "5 minutes" is not a duration; write '),
        ("[owner.a]\nhours = '25:00-07:00'", r'f: \[owner.a\]: hours = "25:00-07:00" is not a span of the day'),
        ("[owner.a]\nmax_load = 'x'", r'f: \[owner.a\]: max_load = "x" is not a number'),
        ("[owner.a]\nbattery = 'no'", r'f: \[owner.a\]: battery = "no" is neither true nor false$'),
        ("[owner.a]\nmin_free_memory = 'x'", r'f: \[owner.a\]: min_free_memory = "x" is not a size'),
        ("[host.a]\nssh = 7", "f: host.a.ssh = 7 is wrong"),
        ("[host.a]\nssh = ''", "f: host.a.ssh = '' is wrong"),
        ("[host.a]\nssh = '-oProxyCommand=x'", "is wrong; write an ssh destination"),
        ("[host.a]\noptions = '-v'", "f: host.a.options = '-v' is wrong"),
        ("[host.a]\noptions = [1]", r"f: host.a.options = \[1\] is wrong"),
        ("[host.a]\nowner = 'nobody'", "f: host.a.owner = 'nobody' names no policy"),
        ("[host.local]", "always this machine"),
        ("[owner.none]", "nobody owns the host"),
        ("host = 1", r"f: host has to be tables, each headed \[host.NAME\]"),
        ("[host", "f is not TOML"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_key(text: str, said: str) -> None:
    with pytest.raises(HostsError, match=said):
        parse(text.encode(), "f")


def test_bytes_that_are_no_text_are_named_too() -> None:
    with pytest.raises(HostsError, match="is not TOML"):
        parse(b"\xff", "f")


def test_the_file_is_found_where_xdg_says(tmp_path: Path) -> None:
    assert hosts_file({"XDG_CONFIG_HOME": "/x"}) == Path("/x/rexec/hosts.toml")
    assert hosts_file({"XDG_CONFIG_HOME": "relative"}) == Path.home() / ".config/rexec/hosts.toml"
    assert load({"XDG_CONFIG_HOME": str(tmp_path)}) == Hosts()
    (tmp_path / "rexec").mkdir()
    (tmp_path / "rexec/hosts.toml").write_text(FILE)
    assert [host.name for host in load({"XDG_CONFIG_HOME": str(tmp_path)}).hosts] == ["big", "small"]


def test_on_names_local_a_known_host_or_a_destination() -> None:
    known = parse(FILE.encode(), "f")
    assert resolve("local", known) == Host("local", None)
    assert resolve("big", known).ssh == "alice@big.example"
    assert resolve("bob@else", known) == Host("bob@else", "bob@else")
    for bad in ("", "-oProxyCommand=x", "two words"):
        with pytest.raises(HostsError, match="is no host"):
            resolve(bad, known)


def test_the_example_of_the_docs_is_right() -> None:
    page = (Path(__file__).parents[2] / "docs/hosts.md").read_text()
    example = page.split("```toml\n")[1].split("```")[0]
    known = parse(example.encode(), "docs/hosts.md")
    assert known.hosts and known.owners
    assert tomllib.loads(example)["host"].keys() == {host.name for host in known.hosts}
