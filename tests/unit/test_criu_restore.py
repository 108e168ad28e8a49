"""What criu is told of an image's files before it restores it."""

from __future__ import annotations

import struct

import pytest

from checkpoint.execute import criu, restore
from checkpoint.execute.spool import Spool
from checkpoint.wire.protobuf import encode

HEAD = struct.pack("<II", 0x54564319, 0x56303138)  # criu/include/magic.h: IMG_COMMON_MAGIC, FILES_MAGIC
CORE = struct.pack("<II", 0x54564319, 0x55053847)
REGULAR, PIPE, UNIX, TIMER = 1, 3, 5, 17


def entry(*fields: tuple[int, int | bytes]) -> bytes:
    raw = encode(list(fields))
    return struct.pack("<I", len(raw)) + raw


def regular(name: bytes, size: int) -> bytes:
    """A file_entry of images/fdinfo.proto around a reg_file_entry; without a size: negative."""
    fown = encode([(1, 0), (2, 0), (3, 0), (4, 0), (5, 0)])
    sized: list[tuple[int, int | bytes | str | bool]] = [(8, size)] if size >= 0 else []
    reg = encode([(1, 7), (2, 0o2), (3, 12), (5, fown), (6, name), (7, 1), *sized, (17, 0o100644)])
    return entry((1, REGULAR), (2, 7), (3, reg))


def test_sizes_are_not_compared_but_for_files_that_were_replaced() -> None:
    pipe = entry((1, PIPE), (2, 8), (18, encode([(1, 8), (2, 9), (3, 0)])))
    names = [b"/log", b"/lib", b"/lib (deleted)", "/\udc80".encode("utf-8", "surrogateescape"), b"/other"]
    checked = frozenset(("/lib", "/\udc80"))
    before = HEAD + pipe + b"".join(regular(name, 300 + n) for n, name in enumerate(names))
    sizes = [-1, 301, 302, 303, -1]
    after = HEAD + pipe + b"".join(regular(name, size) for name, size in zip(names, sizes))
    assert restore.loosened(before, checked, {}) == after
    assert restore.loosened(after, checked, {}) == after


def test_a_file_whose_name_was_removed_is_opened_by_another() -> None:
    names = [b"/gone (deleted)", b"/gone", b"/other (deleted)", "/\udc80 (deleted)".encode("utf-8", "surrogateescape")]
    now = [b"/there", b"/gone", b"/other (deleted)", b"/is"]
    before, after = (HEAD + b"".join(regular(name, 7) for name in each) for each in (names, now))
    called = {"/gone": "/there", "/\udc80": "/is"}
    assert restore.loosened(before, frozenset(("/there", "/gone", "/other", "/is")), called) == after


def test_a_sockets_file_that_criu_has_not_seen_is_given_to_nobody() -> None:
    def bound(*perms: tuple[int, int | bytes]) -> bytes:
        head = [(1, 7), (11, b"/s"), *perms, (15, 1)]
        return entry((1, UNIX), (2, 7), (16, encode(head)))

    known = bound((13, encode([(1, 0o140755), (2, 1600), (3, 1600)])))
    unknown = bound((13, encode([(1, 0), (2, 0), (3, 0)])))
    assert restore.loosened(HEAD + known + unknown, frozenset(), {}) == HEAD + known + bound()


def test_a_timer_fires_when_what_remained_of_its_time_is_over() -> None:
    def timer(flags: int) -> bytes:
        """A file_entry around a timerfd_entry of images/timerfd.proto: 2.7 s of CLOCK_MONOTONIC remain."""
        fields = [(1, 7), (2, 2), (3, b""), (4, 1), (5, 0), (6, flags), (7, 2), (8, 700_000_000), (9, 0), (10, 0)]
        return entry((1, TIMER), (2, 7), (12, encode(fields)))

    # criu would add them to the whole seconds of its clock
    assert restore.loosened(HEAD + timer(1), frozenset(), {}) == HEAD + timer(0)


def test_the_clocks_of_an_image(image: Spool) -> None:
    assert restore.clocks_shown(image) is None
    magic = struct.pack("<II", 0x54564319, 0x43114433)  # criu/include/magic.h: TIMENS_MAGIC
    shown = entry((1, encode([(1, 29_000), (2, 5)])), (2, encode([(1, 30_000), (2, 999_999_999)])))
    image.write("timens-0.img", magic + shown)
    assert restore.clocks_shown(image) == (29_000_000_000_005, 30_000_999_999_999)
    image.write("timens-0.img", magic[:6])
    with pytest.raises(restore.RestartError, match="clocks"):
        restore.clocks_shown(image)


@pytest.mark.parametrize("raw", [b"", HEAD[:4], b"x" * 8, HEAD + b"\x09\0\0\0abc", HEAD + b"\x02\0\0\0\x1a\x7f"])
def test_what_is_no_list_of_files_is_named(raw: bytes) -> None:
    with pytest.raises(criu.CriuError):
        restore.loosened(raw, frozenset(), {})


def test_threads_have_the_groups_that_the_login_has_there(image: Spool) -> None:
    """Whatever they had: without subordinate ids nobody may set them, and criu fails where they are others."""

    def core(*groups: int) -> bytes:
        """A core_entry of images/core.proto, and what follows it."""
        creds = encode([(1, 1600), (2, 1600), (13, 0), *((14, group) for group in groups), (18, 0)])
        return CORE + entry((1, 1), (5, encode([(1, 7), (10, creds), (13, b"name")]))) + b"more"

    for name, groups in (("core-1000.img", (1600, 65534)), ("core-1001.img", ())):
        image.write(name, core(*groups))
    image.write("pages-1.img", b"pages")
    restore.set_groups(image, [65534, 1600, 65534])
    for name in ("core-1000.img", "core-1001.img"):
        creds = encode([(1, 1600), (2, 1600), (13, 0), (18, 0), (14, 65534), (14, 1600), (14, 65534)])
        expected = CORE + entry((1, 1), (5, encode([(1, 7), (10, creds), (13, b"name")]))) + b"more"
        assert image.read(name) == expected
    assert image.read("pages-1.img") == b"pages"
    image.write("core-1000.img", CORE + b"\xff")
    with pytest.raises(restore.RestartError, match=r"core-1000\.img of the image cannot be used"):
        restore.set_groups(image, [])


def test_the_directories_above_what_was_removed() -> None:
    removed = [b"/a/b/c/file", b"/a/b/c", b"/x/y", b"/top"]
    assert restore.above(removed) == ["/a/b", "/a", "/x"]
