"""What of a DAG is rexec's, what DAGMan is given around it, and what its log tells of the nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from remoteio.errors import RexecError
from shim.submit.batch import story
from shim.submit.batch.dag import Dag
from shim.submit.batch.record import Batch
from shim.submit.batch.story import DONE, WAITING, Item
from shim.submit.engines import condor, dagman
from shim.submit.engines import told as engine
from shim.submit.engines.dagman import Node
from shim.submit.engines.told import Told

FILE = r"""
# a diamond
JOB A rexec
job B rexec DIR sub dir
JOB plain plain.sub
SUBMIT-DESCRIPTION other {
    JOB no rexec
}
JOB inline {
    executable = /bin/true
}
FINAL Z rexec
VARS A cmd="echo \"$(date)\" \\o/" memory="2G"
Vars ALL_NODES cpus="2" CMD = "default {}"
VARS plain cmd="none of ours"
PARENT A CHILD B
"""
SUBMITTED = """\
000 (%03d.000.000) 2026-11-28 03:56:48 Job submitted from host: <10.80.1.1:9618>
    DAG Node: %s
...
"""
EVENT = "%s (%03d.000.000) 2026-11-28 03:56:55 Something\n\t%s\n...\n"
STATUS = 'Node = "%s";\n  NodeStatus = %d; /* "" */\n  StatusDetails = "%s";\n]\n'


def test_the_nodes_that_are_rexec_s_are_found_with_their_commands() -> None:
    assert dagman.parse(FILE, "w.dag") == [
        Node("A", 'echo "$(date)" \\o/'),
        Node("B", "cd -- sub || exit\ndefault {}"),
        Node("Z", "default {}"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("JOB A rexec", 'w.dag: node A has no command: write `VARS A cmd="…"`'),
        ("JOB A a.sub", "w.dag has no node of rexec's"),
        ("\nSPLICE S s.dag", "w.dag, line 2: SPLICE is not for rexec dag"),
        ("include s.dag", "w.dag, line 1: INCLUDE is not for rexec dag"),
        ("NODE_STATUS_FILE mine", "w.dag, line 1: NODE_STATUS_FILE"),
        ("SUBMIT-DESCRIPTION rexec {\n}", "w.dag, line 1: the description 'rexec'"),
        ("JOB", "no node of rexec's"),
    ],
)
def test_what_a_file_lacks_is_said_with_its_line(text: str, said: str) -> None:
    with pytest.raises(RexecError) as error:
        dagman.parse(text, "w.dag")
    assert said in str(error.value)


def test_a_node_that_runs_nothing_needs_no_command() -> None:
    assert dagman.parse("JOB A rexec NOOP\nJOB B rexec DONE", "w.dag") == [Node("A", ""), Node("B", "")]


def test_dagman_is_given_the_description_of_a_node_and_the_file() -> None:
    text = dagman.around("w.dag", "/b/7")
    assert text.startswith("SUBMIT-DESCRIPTION rexec {\n") and text.endswith("\nINCLUDE w.dag\n")
    assert "    executable = /b/7/rexec-pilot\n" in text and "    log = /b/7/condor.log\n" in text
    assert "    request_memory = $(memory:512M)\n" in text and "queue" not in text and "batch_name" not in text


@pytest.fixture
def nodes(tmp_path: Path) -> Batch:
    (tmp_path / "w.dag.rexec.dagman.log").write_text(SUBMITTED % (9, "none"))
    lines, names = ("echo",) * 3, ("A", "B", "C")
    return Batch(
        ("dag", "w.dag"), 3, lines, "condor", "", (), "{}.out", "{}.err", str(tmp_path), (), 0o22, 0.0,
        dag="w.dag.rexec", names=names,
    )  # fmt: skip


def add(directory: Path, text: str, file: str = condor.LOG) -> None:
    with open(directory / file, "a") as log:
        log.write(text)


def test_a_node_that_is_tried_again_is_another_job_and_waits_again(tmp_path: Path, nodes: Batch) -> None:
    dag = Dag(tmp_path, "9", nodes)
    assert dag.changes() == []  # there is no log yet
    add(tmp_path, SUBMITTED % (10, "B") + EVENT % ("001", 10, "SlotName: slot1@p2"))
    assert dag.changes() == [Told(1, engine.RUNNING, "p2", cluster="10")]
    assert list(dag.placed()) == [1] and dag.on(1) == "condor:10.0" and dag.cluster(1) == "10"
    add(tmp_path, EVENT % ("005", 10, "(1) Normal termination (return value 3)"))
    assert [(told.state, told.status) for told in dag.changes()] == [(engine.GONE, 3)]
    assert not dag.settled()  # DAGMan may try it again
    add(tmp_path, SUBMITTED % (11, "B") + EVENT % ("010", 10, "of the one before") + EVENT % ("001", 12, "of nobody"))
    assert dag.changes() == [Told(1, engine.WAITING, cluster="11")]
    assert Dag(tmp_path, "9", nodes).changes() == [Told(1, engine.WAITING, cluster="11")]


def test_what_dagman_did_not_run_is_told_of_when_it_was_done_before_or_dagman_has_ended(
    tmp_path: Path, nodes: Batch
) -> None:
    dag = Dag(tmp_path, "9", nodes)
    add(tmp_path, STATUS % ("A", 5, "") + STATUS % ("B", 3, ""), dagman.STATUS)
    assert dag.changes() == [Told(0, engine.DONE, why="it was done before")]
    assert dag.changes() == [] and not dag.settled()
    add(tmp_path, STATUS % ("C", 7, "Had an ancestor node fail"), dagman.STATUS)
    add(tmp_path, SUBMITTED % (10, "B") + EVENT % ("009", 10, "via condor_rm"))
    add(tmp_path, EVENT % ("005", 9, "(1) Normal termination (return value 1)"), "w.dag.rexec.dagman.log")
    assert dag.changes() == [
        Told(1, engine.GONE, why="via condor_rm", cluster="10"),
        Told(2, engine.GONE, why="Had an ancestor node fail"),
    ]
    assert dag.settled()


def test_what_is_asked_of_all_is_asked_of_dagman(tmp_path: Path, nodes: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(condor, "act", lambda verb, job: asked.append((verb, job)))
    dag = Dag(tmp_path, "9", nodes)
    add(tmp_path, SUBMITTED % (10, "A") + EVENT % ("001", 10, "SlotName: slot1@p2") + SUBMITTED % (11, "B"))
    dag.changes()
    dag.act(story.KILL, None)
    dag.act(story.VACATE, None)
    dag.act(story.HOLD, None)
    dag.act(story.RELEASE, None)
    assert asked == [
        ("remove", "9"), ("vacate", "10.0"), ("hold", "9"), ("hold", "10.0"), ("hold", "11.0"), ("release", "9"),
    ]  # fmt: skip
    dag.act(story.KILL, [1])
    assert asked[-1] == ("remove", "11.0")
    with pytest.raises(RexecError, match="DAGMan has not given it"):
        dag.act(story.KILL, [2])


def test_the_output_of_a_node_has_its_name_and_its_command_is_a_shell_s(nodes: Batch) -> None:
    assert nodes.outputs(1) == (f"{nodes.directory}/B.out", f"{nodes.directory}/B.err")
    assert nodes.words(1) == ["sh", "-c", "echo"]


def test_a_journal_tells_in_which_place_a_job_has_ended() -> None:
    told = story.told(1, b'{"job": 0, "is": "done", "status": 3, "cluster": "10"}\n')
    assert told.item(0) == Item(DONE, "", 3, "", "10")
    told.take({"job": 0, "is": WAITING, "cluster": "11"}, 0)
    assert not told.over()
