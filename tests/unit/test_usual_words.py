"""The words of usual runs, which are read without click: as click reads them, or left to it."""

from __future__ import annotations

import inspect
import subprocess
import sys

import click
from hypothesis import example, given
from hypothesis import strategies as st

from shim.cli import main, plain

OPTIONS = sorted({each for param in main.run_command.params for each in (*param.opts, *param.secondary_opts)})
WORDS = st.one_of(
    st.sampled_from([word for word in OPTIONS if word.startswith("-")]),
    st.sampled_from(
        [
            "--",
            "-",
            "-vq",
            "-v1",
            "--on=",
            "--on=a=b",
            "--env=A=1",
            "--only=1",
            "--onl",
            "",
            "true",
            "hosts",
            "3",
            "-2",
            "07",
            "--cpus=2",
            "--cpus=0",
            "--cpus=1_0",
            "--priority=-3",
            "--priority=--3",
            "--priority=\u0663",
        ]
    ),
)


@given(st.lists(WORDS, max_size=6))
@example(["--on", "--", "true"])
@example(["--env", "A", "--env=B=1", "--", "-v", "--on"])
@example(["-v", "--no-sync", "--sync", "sh", "-c", "--", "-q"])
@example(["--cpus", "3", "--priority=-07", "true"])
def test_they_are_read_as_by_click_or_not_at_all(words: list[str]) -> None:
    found = plain.usual(words)
    if found is None:
        return
    context = main.run_command.make_context("rexec", list(words), resilient_parsing=False)
    read = dict(context.params)
    assert found[0] == read.pop("command")
    defaults = {
        name: each.default
        for name, each in inspect.signature(plain.begin).parameters.items()
        if name not in ("command", "serve")
    }
    assert {**defaults, **found[1]} == {name: read.pop(name) for name in defaults}
    assert not any(read.values()), "what is for --checkpoint is left to click"


def test_usual_words_are_read() -> None:
    assert plain.usual(["--on", "a", "-v", "--env=B=1", "--", "gcc", "-v"]) == (
        ("gcc", "-v"),
        {"on": "a", "verbose": True, "env": ("B=1",)},
    )
    assert plain.usual(["--cpus", "2", "--priority=-1", "true"]) == (("true",), {"cpus": 2, "priority": -1})
    for option in main.run_command.params:
        name = isinstance(option.type, click.types.StringParamType) or getattr(option, "is_flag", False)
        if (
            isinstance(option, click.Option)
            and name
            and "With --checkpoint" not in (option.help or "")
            and not option.is_eager
        ):
            value = [] if option.is_flag else ["1"]
            if option.name not in ("checkpoint", "batch"):
                assert plain.usual([option.opts[0], *value, "true"]) is not None, option


def test_a_usual_run_imports_no_click() -> None:
    script = (
        "import sys; from shim.cli import program; import shim.submit.foreground.run; print('click' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
