"""DAGMan, HTCondor's own: what is written for it around a user's file, and what it says of that file's nodes.

The file is DAGMan's, in its own language. Its nodes of which rexec is the submit description are rexec's: `VARS NODE
cmd="…"` is the command. All else in it is left to DAGMan. Sources: the manual's "DAG Input Files"; and what was seen.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from remoteio.errors import RexecError
from remoteio.printable import printable
from shim.submit.engines import condor
from shim.submit.engines.told import Told

WORD = "rexec"
"""The submit description of nodes that are rexec's."""

STATUS = "dag.status"
"""Where DAGMan says how its nodes are, in the batch's directory."""

_NODES = ("JOB", "FINAL", "PROVISIONER", "SERVICE")
_REFUSED = {
    "INCLUDE": "write its nodes here", "SPLICE": "write its nodes here",
    "NODE_STATUS_FILE": "rexec has DAGMan write one itself, and `rexec jobs` shows it",
}  # fmt: skip
_VARIABLE = re.compile(r'\s*(\w+)\s*=\s*"((?:[^"\\]|\\.)*)"')
_NOTE = re.compile(r"^    DAG Node: (\S+)$", re.M)
_NODE_STATUS = re.compile(r'Node = "([^"\n]*)";\s*NodeStatus = (\d+);(?:[^\]]*?StatusDetails = "([^"\n]*)";)?')
_DONE = 5
_OF_DAGMAN = ("batch_name", "priority")  # it gives its nodes their own


class Node(NamedTuple):
    """A node that is rexec's: its name, and its command line for a shell."""

    name: str
    command: str


def parse(text: str, file: str) -> list[Node]:
    """Read which nodes of a DAG are rexec's. Pure. Raises RexecError: what is wrong, and in which line of `file`."""
    found: dict[str, list[str]] = {}
    variables: dict[str, str] = {}
    inline = False
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if inline or not words or words[0].startswith("#"):
            inline = inline and words[:1] != ["}"]
            continue
        keyword = words[0].upper()
        inline = words[-1] == "{"
        if keyword in _REFUSED:
            raise RexecError(f"{file}, line {number}: {keyword} is not for rexec dag: {_REFUSED[keyword]}")
        if keyword == "SUBMIT-DESCRIPTION" and words[1:2] == [WORD]:
            raise RexecError(f"{file}, line {number}: the description {WORD!r} is made by rexec dag: leave it out")
        if keyword in _NODES and words[2:3] == [WORD]:
            found[words[1]] = words[3:]
        elif keyword == "VARS" and len(words) > 2:
            _take(variables, line.split(None, 2)[1:])
    nodes = [Node(name, _command(name, rest, variables, file)) for name, rest in found.items()]
    if not nodes:
        raise RexecError(f'{file} has no node of rexec\'s: write `JOB NAME {WORD}` and `VARS NAME cmd="…"`')
    return nodes


def _take(variables: dict[str, str], words: list[str]) -> None:
    """Take note of the command that a VARS gives a node; "" stands for all nodes."""
    name = "" if words[0].upper() == "ALL_NODES" else words[0]
    for key, value in _VARIABLE.findall(words[1]):
        if key.lower() == "cmd":
            variables[name] = re.sub(r'\\(["\\])', r"\1", value)


def _command(name: str, rest: list[str], variables: Mapping[str, str], file: str) -> str:
    options = [word.upper() for word in rest]
    command = variables.get(name, variables.get("", ""))
    if not command and "NOOP" not in options and "DONE" not in options:
        shown = printable(name, 100)
        raise RexecError(f'{file}: node {shown} has no command: write `VARS {shown} cmd="…"`')
    if "DIR" in options[:-1]:
        command = f"cd -- {shlex.quote(rest[options.index('DIR') + 1])} || exit\n{command}"
    return command


def around(file: str, directory: str) -> str:
    """Write what DAGMan is given: the description of a node, whose log lies in `directory`, and the user's file.

    Of the node's VARS, `cpus`, `memory`, `require` and `rank` are what rexec submit has as options. Pure.
    """
    told = condor.description(1, "", 1, 512, "$(require:TRUE)", "$(rank:0)", 0).splitlines()[:-1]  # but its `queue`
    lines = dict(line.split(" = ", 1) for line in told)
    lines |= {key: os.path.join(directory, lines[key]) for key in ("executable", "log", "error")}
    lines |= {"request_cpus": "$(cpus:1)", "request_memory": "$(memory:512M)"}
    description = "".join(f"    {key} = {value}\n" for key, value in lines.items() if key not in _OF_DAGMAN)
    status = os.path.join(directory, STATUS)
    return f"SUBMIT-DESCRIPTION {WORD} {{\n{description}}}\nNODE_STATUS_FILE {status} 1\nINCLUDE {file}\n"


def submit(file: str, directory: str) -> str:
    """Have DAGMan run `file`, of that directory. Returns its cluster. Raises RexecError."""
    condor.ask(["condor_submit_dag", "-no_submit", "-update_submit", file], directory)
    return condor.submit(directory, f"{file}.condor.sub")


def log_of(file: str) -> str:
    """Name the log of DAGMan's own job."""
    return f"{file}.dagman.log"


class Heard(NamedTuple):
    """An event of a node's job: its cluster; its node, where that is said; and what it tells."""

    cluster: str
    node: str
    told: Told


def events(text: str) -> tuple[list[Heard], int]:
    """Read what is whole of the log of nodes' jobs; also how many characters that was. Pure."""
    found, at = [], 0
    for event, stop in condor.whole_events(text):
        at = stop
        head = condor.headed(event)
        if head is not None:
            note = _NOTE.search(event)
            found.append(Heard(str(head[0]), note[1] if note else "", head[1]))
    return found, at


def statuses(text: str) -> Iterator[tuple[str, bool, str]]:
    """Read what DAGMan says of nodes: each one's name, whether it is done, and details. Pure."""
    for name, status, details in _NODE_STATUS.findall(text):
        yield name, int(status) == _DONE, printable(details, 300)
