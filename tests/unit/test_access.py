"""Who may do what to a path, and what was refused: said with the rule, and the option that would change it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from remoteio.submit.export.refusals import MOST, Refusal, Refusals
from remoteio.submit.export.rights import ALWAYS, HIDDEN, READ, RULE, Rule, pattern
from remoteio.submit.sandbox import landlock
from shim.cli import run
from shim.cli.doctor import doctor_command
from shim.submit import access, own_code, protect, refused, scope
from shim.submit.kept_places import HISTORIES
from shim.submit.scope import FULL, PROJECT, Scope
from shim.submit.shapes import ShapeError

KEYS = Rule((b"h", *pattern(".aws")), HIDDEN, "credentials", RULE)
GIT = Rule(pattern("**/.git/config"), READ, "git", RULE)
OWN = Rule((b"h", b".ssh"), HIDDEN, "ssh's own", ALWAYS)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CONFIG", "STATE", "CACHE", "DATA"):
        monkeypatch.delenv(f"XDG_{name}_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(own_code, "program", lambda: ())
    (tmp_path / ".config/rexec").mkdir(parents=True)
    (tmp_path / ".config/rexec/hosts.toml").write_text(
        '[host.own]\ntrust = "full"\n[host.other]\n[host.strange]\ntrust = "project"\n'
    )
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".bashrc").touch()
    (tmp_path / "notes").touch()
    (tmp_path / ".bash_aliases").symlink_to("notes")
    return tmp_path


def doctor(*arguments: str) -> str:
    done = CliRunner().invoke(doctor_command, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_sentence_for_each_host(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    lines = doctor("--access", ".aws/credentials").splitlines()
    assert lines == [
        f"a job on own (trust: full) may do to {home}/.aws/credentials what you may: no rule is about it",
        f"a job on other (trust: home) does not see {home}/.aws/credentials, and makes nothing of that name: rule "
        f"“credentials”, {home}/.aws; --read {home}/.aws is how to let it",
        lines[2],
        f"a job on local (trust: home) does not see {home}/.aws/credentials, and makes nothing of that name: rule "
        f"“credentials”, {home}/.aws; --read {home}/.aws is how to let it",
    ]
    assert lines[2].startswith("a job on strange (trust: project) does not see")


@pytest.mark.parametrize(
    ("host", "path", "level", "rule", "option"),
    [
        ("other", ".bashrc", "read", "start-up files", "--write {}/.bashrc"),
        ("other", ".bash_aliases", "read", "start-up files", "--write {}/.bash_aliases"),
        ("other", "notes", "read", "start-up files", "--write {}/notes"),  # to which the alias leads
        ("other", "p/.git/config", "read", "git", "--write {}/p/.git/config"),
        ("other", ".config", "fixed", None, ""),
        ("other", ".config/rexec/hosts.toml", "hidden", protect.OWN, ""),
        ("own", ".config/rexec/hosts.toml", "hidden", protect.OWN, ""),
        ("own", ".bashrc", "free", None, ""),
        ("strange", "notes", "hidden", protect.ONLY, "--read {}/notes"),
        ("other", "project/main.c", "free", None, ""),
    ],
)
def test_what_a_program_is_told(
    home: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, host: str, path: str,
    level: str, rule: str | None, option: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    told = json.loads(doctor(host, "--json", "--access", str(home / path)))
    assert (told["level"], told["option"]) == (level, option.format(home))
    if rule is not None:
        assert told["rule"]["name"] == rule
    assert told["sees"] == (level != "hidden")


def refusals(*more: Refusal) -> dict[Refusal, int]:
    found = Refusals()
    for each in more:
        found._counts[each] = found._counts.get(each, 0) + 1
    return found.counted()


def test_what_was_refused_is_said_in_two_lines() -> None:
    counted = refusals(
        Refusal(b"/h/.aws/credentials", KEYS, True), Refusal(b"/h/.aws/config", KEYS, True),
        Refusal(b"/h/p/.git/config", GIT, False), Refusal(b"/h/.ssh/id", OWN, True),
        Refusal(b"/h/.bash_history", KEYS._replace(name=HISTORIES), True),
    )  # fmt: skip
    assert refused.sentences(counted) == [
        "kept from the job: /h/.aws/credentials (credentials), /h/.aws/config (credentials), /h/p/.git/config (git) "
        "and 1 more",
        "what would let it: --read /h/.aws --write /h/p/.git/config  (--json-log FILE has all, docs/security.md "
        "says why)",
    ]
    assert refused.sentences(refusals(Refusal(b"/h/.ssh/x\x1b", OWN, True))) == [
        "kept from the job: /h/.ssh/x\\x1b (ssh's own)"
    ]
    assert refused.sentences(refusals(Refusal(b"/h/.bash_history", KEYS._replace(name=HISTORIES), True))) == []
    rows = list(refused.rows(counted))
    assert rows[0] == {
        "path": "/h/.aws/credentials", "rule": "credentials", "to": "see", "option": "--read /h/.aws", "count": 1,
    }  # fmt: skip
    assert len(rows) == 5


def test_a_host_that_asks_for_ever_fills_no_memory() -> None:
    found = Refusals()

    class Top:
        parent, name = None, b""

    for k in range(MOST + 5):
        found.note(Top(), b"%d" % k, KEYS, reading=True)  # type: ignore[arg-type]
    found.note(Top(), b"1", KEYS._replace(name=""), reading=True)  # type: ignore[arg-type]
    assert (len(found.counted()), found.others) == (MOST, 5)


def test_where_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    logged: list[tuple[str, object]] = []

    def log(event: str, **fields: object) -> None:
        logged.append((event, fields["path"]))

    run._tell_refused(refused.told({Refusal(b"/h/.aws", KEYS, True): 2}), said.append, log)
    assert logged == [("refused", "/h/.aws")]
    assert said == refused.sentences({Refusal(b"/h/.aws", KEYS, True): 2})


def test_scopes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/h")
    asked = scope.asked(True, ["a"], ["~/b"], [])
    assert asked == Scope("project", (str(tmp_path / "a"),), ("/h/b",))
    assert scope.of_row(json.loads(json.dumps(asked.row()))) == asked
    assert scope.of_row({}) == Scope("home")
    with pytest.raises(ShapeError):
        scope.of_row({"trust": "much"})
    assert scope.with_tmp(Scope("project"), [b"/s"], b"/") == [b"/s", b"/tmp"]
    assert scope.with_tmp(Scope("project"), [b"/tmp"], b"/") == [b"/tmp"]
    assert scope.with_tmp(Scope("home"), [b"/s"], b"/") == [b"/s"]
    assert scope.with_tmp(Scope("project", read=("/tmp/x",)), [], b"/") == []
    assert asked.on("full") == asked.on("home") == asked.on(None) == asked, "who asks for less has less everywhere"
    assert Scope().on("full").trust == "full"
    assert Scope(read=("/a",)).on("project") == Scope("project", ("/a",))


def test_where_threads_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories as they are; of what is none, the one that it is in; everywhere but where --only is said."""
    for name in ("STATE", "DATA", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / "own"))
    for name in ("project", "named", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "other/file").touch()
    (tmp_path / "link").symlink_to("project")
    where = os.fsencode(tmp_path / "link")

    def of(*write: str, trust: str = PROJECT) -> set[str]:
        scope = Scope(trust, write=tuple(str(tmp_path / each) for each in write))
        found = {os.fsdecode(each) for each in protect.writable(scope, where)}
        return {os.path.relpath(each, tmp_path) for each in found if not each.startswith(str(tmp_path / "own"))}

    assert of() == {"project"}
    assert of("named", "other/file", "named/new/file") == {"project", "named", "other"}
    assert protect.writable(Scope(PROJECT), b"/") == landlock.everywhere() == protect.writable(Scope(), where)
    assert not of("named", trust=FULL) & {"project", "named"}


def test_a_path_that_leads_through_links(home: Path) -> None:
    (home / "there").symlink_to(".aws")
    assert access.look("h", None, os.fspath(home / "there/x")).path == os.fspath(home / ".aws/x")
