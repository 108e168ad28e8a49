"""Every limit is declared in shim/submit/limits.py, and holds; those that other tests show are named there."""

from __future__ import annotations

import errno
import os
import re
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from checkpoint.submit.receiver import Receiver
from checkpoint.submit.store import Store
from checkpoint.wire import image_wire
from checkpoint.wire.image_wire import ImageWireError
from checkpoint.wire.manifest import ENTRY, PAGE
from remoteio.submit.export import confine, fence, inodes
from remoteio.submit.export.dispatch import Export
from remoteio.submit.export.rights import ANY, READ, RULE, Rule, RuleSet
from remoteio.submit.export.shown_ids import ShownIds
from remoteio.wire import fuse_abi as abi
from shim.submit import host_frames, limits
from shim.submit.job import attached_client, image_head, image_intake
from shim.submit.shapes import ShapeError
from tests.hostile import Host, Refused
from tests.supervised import Run

ROOT = Path(__file__).parents[2]
ROWS = [row for rows in limits.TABLES.values() for row in rows]
_NAMED_LIKE_ONE = re.compile(
    r"^(_?(?:(?:MOST|MAX|LARGEST|LONGEST)(?:_[A-Z_]+)?"
    r"|[A-Z_]+_(?:LIMIT|BYTES)))\b.*? = ",
    re.M,
)
# What is called like a limit, and is none of what a host or a job may have of this machine.
OTHERS = {
    "remoteio.submit.export.numbers:_MOST": "devices, of which this machine decides",
    "remoteio.submit.export.positions:_MOST": "the last position there is",
    "remoteio.submit.export.rights:_MOST_KNOWN": "names whose rights are remembered in a cache",
    "remoteio.submit.export.seen:_MOST_DIRECTORIES": "open at a time, and opened again",
    "shim.submit.guessed.compilers:_MOST_TEXT": "of one of MOST_HEADERS",
    "shim.submit.guessed.elf:_MOST_HEADERS": "of one file",
    "shim.submit.guessed.libraries:_MOST_CACHE": "of one file",
    "shim.submit.guessed.modules:_MOST_IMPORTED": "of one module",
    "shim.submit.guessed.python:_MOST_SAID": "of one file",
    "shim.submit.guessed.programs:_MOST_LINES": "of the user's own scripts",
    "shim.submit.guessed.python:_MOST_ADDED": "of one directory",
    "remoteio.submit.transport.paramiko_stream:_WINDOW_BYTES": "speed",
    "remoteio.wire.left:MOST": "of one request, which is a request as others are",
    "remoteio.submit.transport.paramiko_stream:_CHUNK_BYTES": "speed",
    "remoteio.submit.transport.ssh:_SOCKET_BYTES": "speed",
    "shim.wire.dbus:_MAX_SIGNATURE": "the specification's: a byte says how long one is",
    "remoteio.submit.transport.stream:TAIL_BYTES": "what ssh has said last",
    "checkpoint.submit.packs:MAX_SOURCES": "a shape of the store",
    "checkpoint.submit.packs:_LARGEST": "a shape of the store",
    "checkpoint.wire.manifest:_NAME_BYTES": "letters",
    "shim.cli.run:_MOST_UNASKED": "speed",
    "shim.submit.batch.record:MOST_JOBS": "what the user asks for",
    "shim.submit.engines.condor:MOST_IDLE": "what is in a queue of HTCondor at a time",
    "shim.submit.host_frames:_MOST_ID": "the last id there is",
    "shim.submit.host_frames:_MOST_CREDIT": "the windows of the link",
    "shim.submit.hosts.bootstrap:_LINE_BYTES": "part of NOISE_BYTES",
    "shim.submit.hosts.checks:_CACHE_BYTES": "of a host's disk",
    "shim.submit.hosts.checks:_MEMORY_BYTES": "of a host's memory",
    "shim.submit.hosts.connect:_LONGEST_PAUSE": "time",
    "shim.submit.hosts.turns:_LONGEST_WAIT": "time",
    "shim.submit.hosts.survey:_LINE_BYTES": "one line of an answer that is read for a time",
    "shim.submit.job.placement_steps:MOST_MISSES": "time",
    "shim.submit.personal:_MOST": "of the user's own files",
    "shim.wire.descriptors:MOST_STREAMS": "of the user's own command line",
    "shim.wire.dbus:_MAX_MESSAGE": "at the host",
    "shim.wire.rendezvous:_MOST": "the last position there is",
    "shim.wire.network:LARGEST": "at the host",
}


def named_like_limits() -> set[str]:
    """Constants of what runs here that are called like a limit."""
    found = set()
    for package in ("remoteio", "checkpoint", "shim"):
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if ".execute." not in name:
                found |= {f"{name}:{each}" for each in _NAMED_LIKE_ONE.findall(path.read_text())}
    return found


def test_every_limit_is_declared_and_has_a_test() -> None:
    declared = {row.where for row in ROWS}
    assert named_like_limits() - declared == OTHERS.keys()
    for row in ROWS:
        assert (ROOT / row.by).is_file() and row.value(), row
        file, _, test = row.test.partition("::")
        assert re.search(rf"^def {test}\(", (ROOT / file).read_text(), re.M), row


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(Export(ShownIds(os.geteuid(), os.getegid(), frozenset()), str(tmp_path)))


def refuses(host: Host, number: int, op: int, node: int, arguments: bytes) -> None:
    with pytest.raises(Refused) as caught:
        host.ask(op, node, arguments)
    assert caught.value.errno == number


def test_files_that_a_kernel_knows(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond that others are not looked up, nor made; what it knows goes on, and when it forgets there is room."""
    for name in "abcd":
        (tmp_path / name).touch()
    monkeypatch.setattr(inodes, "MOST_NODES", 3)
    known = host.lookup(1, b"a")
    host.lookup(1, b"b")
    refuses(host, errno.ENFILE, abi.LOOKUP, 1, b"c\0")
    refuses(host, errno.ENFILE, abi.CREATE, 1, abi.CREATE_IN.pack(os.O_RDWR, 0o644, 0, 0) + b"new\0")
    assert host.names(1) >= {b"a", b"b", b"c", b"d"}
    assert host.lookup(1, b"a") == known and host.read(known) == b""
    (count,) = {host.export.inodes.nodes[known].lookups}
    host.ask(abi.FORGET, known, abi.FORGET_IN.pack(count))
    host.lookup(1, b"c")


def test_names_of_one_file(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inodes, "MOST_LINKS", 3)
    (tmp_path / "0").touch()
    for k in range(1, 9):
        os.link(tmp_path / "0", tmp_path / str(k))
    nodes = {host.lookup(1, b"%d" % k) for k in range(9)}
    (node,) = nodes
    assert [name for _, name in host.export.inodes.nodes[node].names()] == [b"8", b"7", b"6", b"5"]


def test_directories_of_the_job_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confine, "MOST_MADE", 2)
    confinement = confine.Confinement(rules=RuleSet([Rule((ANY, b".git", b"hooks"), READ, "hooks", RULE)]))
    host = Host.of(tmp_path, confinement)
    for name in "abc":
        host.ask(abi.MKDIR, 1, abi.MKDIR_IN.pack(0o755, 0) + name.encode() + b"\0")
    assert len(confinement.made) == 2
    for name in "ac":
        node = host.lookup(1, name.encode())
        host.ask(abi.MKDIR, node, abi.MKDIR_IN.pack(0o755, 0) + b".git\0")
    hooks = abi.MKDIR_IN.pack(0o755, 0) + b"hooks\0"
    host.ask(abi.MKDIR, host.lookup(host.lookup(1, b"a"), b".git"), hooks)
    refuses(host, errno.EROFS, abi.MKDIR, host.lookup(host.lookup(1, b"c"), b".git"), hooks)


def test_changes_of_a_job_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    request = abi.Request(abi.request(abi.WRITE, 1, abi.WRITE_IN.pack(0, 0, 500, 0, 0, 0, 0) + bytes(500), 9))
    for name, most in (("MOST", 2), ("MOST_BYTES", 1500)):
        with monkeypatch.context() as patch:
            patch.setattr(fence, name, most)
            stands = fence.Fence()
            stands.keep()
            assert [stands.passes(request), stands.passes(request)] == [-1, -1]
            with pytest.raises(abi.FuseError, match="stands still"):
                stands.passes(request)


def test_news() -> None:
    with pytest.raises(ShapeError, match="more than 65536"):
        host_frames.news(b" " * 65537, True)


def test_one_that_is_attached_and_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cut off; what is said to it is not kept."""
    monkeypatch.setattr(attached_client, "MOST", 1 << 20)
    ours, theirs = socket.socketpair()
    client = attached_client.Attached(SimpleNamespace(sock=ours), {}, None, lambda kind, payload: None)  # type: ignore[arg-type]
    for _ in range(3):
        client._put(bytes(1 << 19))
    assert [len(each or b"") for each in (client._queue.get(), client._queue.get(), client._queue.get())] == [
        1 << 19, 1 << 19, 0,
    ]  # fmt: skip
    ours.close()
    theirs.close()


def test_an_image_of_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_wire, "MAX_FILES", 2)
    with Store(tmp_path).begin("job") as transaction:
        receiver = Receiver(transaction)
        (message,) = image_wire.files_messages([(f"pages-{k}.img", f"pages-{k}.img", 0) for k in range(3)])
        with pytest.raises(ImageWireError, match="over"):
            receiver.receive(message)
    with Store(tmp_path).begin("job") as transaction:
        receiver = Receiver(transaction)
        (message,) = image_wire.files_messages([("pages-1.img", "pages-1.img", 1 << 20)])
        receiver.receive(message)
        offers = [
            image_wire.batch_message(image_wire.OFFER, k, ENTRY.pack(k, PAGE, bytes((k + 1,)) * 32))
            for k in range(image_wire.MAX_BATCHES + 1)
        ]
        for offer in offers[:-1]:
            assert receiver.receive(offer)
        with pytest.raises(ImageWireError, match="out of turn"):
            receiver.receive(offers[-1])
    with pytest.raises(ImageWireError):
        image_wire.parse_digest(image_wire.END + bytes(33 + image_wire.MAX_HEAD))
    with pytest.raises(ImageWireError):
        image_wire.check_size(bytes(image_wire.MAX_MESSAGE + 1))
    with pytest.raises(ShapeError, match="a list of 0 to 100000 items"):
        image_head.listed(image_head._PID, image_head._MOST)([1] * (image_head._MOST + 1), "it")


def test_an_image_leaves_the_last_free_space(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    alpha = run.country.running(0)
    monkeypatch.setattr(image_intake, "left_free", lambda fd: 100)
    told = run.ask("checkpoint")
    assert told.startswith("False: the image of job 1 was not saved, because it would take the last free space"), told
    monkeypatch.setattr(image_intake, "left_free", lambda fd: 1 << 30)
    assert run.ask("checkpoint") == "True: image 1 is committed"
    alpha.end(0)
    run.end()
