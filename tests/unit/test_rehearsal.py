"""What a rehearsal needs to know, and what it is refused: the kinds of an image, the memory there is, the files."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint.execute import criu, image_sockets
from checkpoint.execute import criu_images as images
from checkpoint.wire.protobuf import encode
from remoteio.submit.export.fence import ReadOnly
from remoteio.wire import frames
from remoteio.wire import fuse_abi as abi
from shim.execute.agent.rehearsal_room import available
from shim.submit.job.phase import Phase
from shim.submit.job.placement_actions import Order, Rehearse
from shim.submit.job.placement_events import Ask, Committed, News, Rehearsed, State, Wants
from shim.wire import job_messages
from tests.export_tree import Tree
from tests.placement_play import Play
from tests.unit.test_dispatch import CHANGING
from tests.unit.test_fence import UNIQUE, looks, request
from tests.unit.test_image_sockets import tcp

REG, PIPE = 1, 3  # images/fdinfo.proto


def files(*entries: bytes) -> bytes:
    return images.head(images.FILES) + b"".join(map(images.entry, entries))


def test_kinds_are_those_of_files_and_image_files_however_many_there_are() -> None:
    regular = encode([(1, REG), (2, 1), (3, encode([(6, b"/a")]))])
    names = ["core-1.img", "core-2.img", "tcp-stream-ab1.img", "ipcns-shm-9.img", "pages-1.img", "stats-dump"]
    found = images.kinds(names, files(regular, encode([(1, PIPE), (2, 2)])))
    assert found == ["core", "file 1", "file 3", "ipcns-shm", "pages", "tcp-stream"]
    more = [*names, "core-3.img", "tcp-stream-abc.img"]
    assert images.kinds(more, files(regular, regular, encode([(1, PIPE), (2, 2)]))) == found
    removed = encode([(1, REG), (2, 1), (3, encode([(6, b"/a (deleted)")]))])
    assert set(images.kinds(names, files(removed))) - set(found) == {"removed"}
    with pytest.raises(criu.CriuError):
        images.kinds(names, files(b"\xff"))


def test_memory_that_can_be_had() -> None:
    assert available("MemTotal:  8 kB\nMemFree:  1 kB\nMemAvailable:    3 kB\n") == 3072
    assert available("MemTotal:  8 kB\n") == 0


def test_ports_of_a_network_of_its_own_are_free_and_its_addresses_few() -> None:
    names = image_sockets.Names.__new__(image_sockets.Names)
    names.alone = True
    assert [names.has(bytes(each)) for each in ([0] * 4, [127, 0, 0, 9], [0] * 15 + [1], [192, 0, 2, 1])] == [
        True, True, True, False,
    ]  # fmt: skip
    held = tcp(1, image_sockets.LISTENS, 1, 0)
    assert image_sockets.fitted([held], True, names) == {}


@pytest.mark.parametrize("op", CHANGING, ids=lambda op: abi.OPERATIONS[op][0])
def test_nothing_is_changed_by_a_copy_that_never_runs(tree: Callable[..., Tree], tmp_path: Path, op: int) -> None:
    made = tree()
    handle = made.host.open(made.node, os.O_RDWR)
    export, before = made.host.export, looks(tmp_path)
    fence = export.fence = ReadOnly()
    answer = export.answer(request(made, op, handle))
    locks = op in (abi.SETLK, abi.SETLKW)
    assert answer == (frames.FUSE, abi.failure(UNIQUE, 0 if locks else errno.EROFS))
    assert fence.refused != locks and looks(tmp_path) == before
    opened = abi.Request(abi.request(abi.OPEN, made.node, abi.OPEN_IN.pack(os.O_RDWR, 0), UNIQUE))
    assert export.answer(opened) != (frames.FUSE, abi.failure(UNIQUE, errno.EROFS))


KINDS, OTHERS = frozenset({"core"}), frozenset({"core", "pipe"})


def begun() -> Play:
    """A job that runs, of which images are rehearsed, and has one of KINDS."""
    play = Play(State(wants=Wants(every=10.0, rehearse=True))).run()
    play.tick()
    play.feed(Committed(1, 1, 1, 0, KINDS))
    assert play.of(Rehearse) == [Rehearse(1, "alpha", 1)]
    return play


def image(play: Play, number: int, kinds: frozenset[str]) -> bool:
    """The clock wants an image, and it is made. Is it rehearsed?"""
    while not play.of(Order):
        play.tick()
    play.feed(Committed(1, number, number, 0, kinds))
    return bool(play.of(Rehearse))


def test_only_the_first_image_and_one_of_other_kinds_are_rehearsed() -> None:
    play = begun()
    play.feed(Rehearsed(1, 1, True))
    assert play.state.images.restored == 1 and play.state.images.movable
    assert not image(play, 2, KINDS)
    assert play.state.images.movable and play.state.images.restored == 1, "that one was, and not the newer"
    assert image(play, 3, OTHERS)
    assert not play.state.images.movable and play.state.images.obstacle == ""
    play.feed(Rehearsed(1, 2, False, "late"))
    assert play.state.images.obstacle == "", "it was of an image before"
    play.feed(Rehearsed(1, 3, None))
    assert image(play, 4, OTHERS), "it was dropped"
    assert not image(play, 5, OTHERS), "one is under way, which is not to be begun again and again"
    play.feed(Rehearsed(1, 4, False, "it holds what no criu restores"))
    assert play.state.images.obstacle == "it holds what no criu restores"
    assert not image(play, 6, OTHERS) and play.state.images.obstacle
    assert image(play, 7, KINDS) and not play.state.images.obstacle
    play.feed(Rehearsed(1, 7, None, "its file is another"))
    assert not image(play, 8, KINDS), "it would come to the same"


@pytest.mark.parametrize("what", ["vacate", "hold"])
@pytest.mark.parametrize("at_once", [False, True])
def test_what_is_not_movable_is_not_killed_for_its_image(what: str, at_once: bool) -> None:
    play = begun()
    play.feed(Rehearsed(1, 1, False, "no criu restores it"))
    play.feed(Ask(what, 7))
    serial = play.state.images.serial
    play.feed(News(1, job_messages.LEAVING, serial, "the owner is back", at_once=at_once)) if at_once else None
    play.feed(Committed(1, serial, 2, 0, KINDS), News(1, job_messages.HELD, serial))
    assert [order.what for order in play.of(Order)] == ([] if what == "vacate" else [job_messages.THAW])
    assert (play.state.source is not None) == (what == "vacate")
    if what == "hold":
        play.feed(News(1, job_messages.REFUSED, serial, "as told"))
        assert play.state.phase == Phase.RUNNING and not play.state.wants.held
