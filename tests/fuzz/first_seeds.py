"""`python -m tests.fuzz.first_seeds`: writes the seeds to begin with, `first-…`, from what both ends really say."""

from __future__ import annotations

import json
import os
import struct
import tempfile
import zlib
from dataclasses import asdict
from pathlib import Path

import zstandard
from jeepney import DBusAddress, MatchRule, message_bus, new_method_call, new_method_return, new_signal

from checkpoint.execute import criu, criu_images
from checkpoint.execute.sender import Sender
from checkpoint.submit import packs
from checkpoint.wire import compat, criu_bundle
from checkpoint.wire import image_wire as wire
from checkpoint.wire.chunks import chunk_hash
from checkpoint.wire.manifest import ENTRY, ZERO, ImageFile, Manifest, WrittenFile
from checkpoint.wire.protobuf import encode
from remoteio.wire import frames, leases, makes
from remoteio.wire import fuse_abi as abi
from remoteio.wire.known import VERSION
from shim.execute import probe
from shim.execute.owner import x11_wire
from shim.submit.job import events, image_manifest, record
from shim.wire import forwards, job_messages
from shim.wire.descriptors import FILE, READ, Descriptor
from shim.wire.job_spec import CheckpointSpec, JobSpec
from tests.fuzz import host
from tests.fuzz.images import _SEEN
from tests.fuzz.target import SEEDS, joined
from tests.spools import spool

ATTR = abi.ATTR.pack(9, 5, 8, 1, 2, 3, 0, 0, 0, 0o100644, 1, 0, 0, 0, 4096, 0)
ENTRY_OUT = abi.ENTRY.pack(5, 0, 1, 1, 0, 0) + ATTR
FACTS = compat.host_facts((4, 1), "root").plain()
HEAD = {
    "streams": {"stdout": 1, "stderr": 2, "stdin": 3, "stdin_unread": "00ff"}, "facts": FACTS, "stdin_ended": False,
    "pipes": {"1": 4711}, "terminal": [34816, 30], "frozen": True, "stopped": [101], "handles": [[1, 3, 7]],
    "numbers": {"4711": 101}, "last_pid": 102, "frozen_us": 10, "keep_tcp": False, "root": 2, "criu": {"frozen_us": 9},
    "threads": [[101, 0, [0, 1]]], "mapped": ["/bin/true"], "controlling": [[1, 2]],
}  # fmt: skip


def _link() -> dict[str, list[bytes]]:
    spec = JobSpec(
        [b"cmd"], [b"A=b"], b"/", 1, 1, [1], 18, b"here", [(7, 1, 2)], [b"/tmp"], [0, 1, 2], [],
        CheckpointSpec("1", 2, '["keyboard", {"linger": "10s"}]', True, b"manifest", "abc"), [1, 2], b"far",
        [Descriptor(3, READ), Descriptor(4, FILE, True, 2, 5, b"/a b")],
    )  # fmt: skip
    entry = ENTRY_OUT + abi.DIRENT.pack(9, 1, 4, 8) + b"name\0\0\0\0"
    listing = b"\1" + entry
    replies = [
        b"k" + abi.reply(abi.LOOKUP, ENTRY_OUT) + ATTR + listing,
        b"k" + abi.reply(abi.OPENDIR, abi.OPEN_OUT.pack(2, 0, 0)) + ATTR + listing,
        b"k" + abi.reply(abi.OPEN, abi.OPEN_OUT.pack(3, 0, 0)) + ATTR + b"contents",
        b"r" + abi.reply(abi.CREATE, ENTRY_OUT + abi.OPEN_OUT.pack(3, 0, 0)),
        b"r" + abi.reply(60 + abi.CREATE, ENTRY_OUT + abi.OPEN_OUT.pack(3, 0, 0)),
        b"r" + abi.failure(abi.GETXATTR, 61),
        b"o" + abi.inval_inode(3) + abi.reply(abi.SETLK),
        b"l" + leases.pack(frames.FUSE, leases.NAME | leases.ATTR, b"name", abi.reply(abi.LOOKUP, ENTRY_OUT)),
        b"l"
        + leases.pack(
            frames.KNOWN, leases.ATTR | leases.LISTED, b"", abi.reply(abi.OPENDIR, bytes(16)) + ATTR + listing
        ),
        b"l"
        + leases.pack(
            frames.KNOWN,
            leases.ATTR | leases.CONTENTS | leases.KEPT,
            b"",
            abi.reply(abi.OPEN, abi.OPEN_OUT.pack(3, 0, 0)) + ATTR + b"v" * VERSION,
        ),
        b"g"
        + makes.pack(
            frames.KNOWN, makes.Granted(makes.MORE | makes.EMPTY, 1, (b"git*",)), abi.reply(abi.MKDIR, ENTRY_OUT) + ATTR
        ),
        b"b" + leases.pack_break(abi.LOOKUP, b"name") + leases.pack_break(9, b"") + leases.pack_break(0, b""),
    ]
    stream = b"".join([frames.frame(frames.PING), frames.frame(frames.STDOUT, b"said"), frames.frame(frames.EXTRA[0])])
    return {
        "frames": [b"\5" + stream, b"\0" + frames.HEADER.pack(1 << 17, frames.IMAGE, 0, 0, 0) + b"part"],
        "fields": [frames.pack_fields({"a": [b"1", b""], "b": []})],
        "start": [host.SPEC.pack(), spec.pack()],
        "order": [job_messages.order(job_messages.THAW, 3, why="no room"), job_messages.order(job_messages.GO, 1)],
        "known": [bytes([abi.LOOKUP]) + replies[0][1:], bytes([abi.OPEN]) + replies[2][1:]],
        "replies": [joined(replies), *(joined([each]) for each in replies)],
    }


def _host() -> dict[str, list[bytes]]:
    hello = frames.pack_fields(
        {
            "host": [b"far"], "time": [b"1700000000000000000"], "uids": [b"0 1", b"1 65535"], "gids": [],
            "shown": [b"0", b"0"], "network": [b"id net:[1]"], "resolver": [b"nameserver 10.0.0.1\n"],
        }
    )  # fmt: skip
    said = [
        job_messages.news(job_messages.FROZEN, why="\x1b[2J", source="keyboard", at=1.5),
        job_messages.news(job_messages.DUMPED, serial=1, frozen_us=5, bytes=7),
        job_messages.news(job_messages.LEAVING, serial=1 << 31, why="it is wanted"),
        job_messages.news(job_messages.CRIU, need="abc"), job_messages.news(job_messages.RESTORED, seconds=0.5),
    ]  # fmt: skip
    way = [b"c", b"C", b"B", *(b"n" + each for each in said), b"i", b"z\1", b"t", b"c", b"C", b"x\0\1\0\0"]
    asked = [b"c", b"C", b"B", b"a\0", b"i", b"a\2", b"i", b"n" + job_messages.news(job_messages.MOVED, serial=1), b"z"]
    return {
        "host_frame": [
            bytes([frames.HELLO, 0]) + hello, bytes([frames.EXIT, 1, 9, 0, 0, 0]), bytes([frames.FAIL, 1, 125, 0, 0, 0])
            + b"no \x1b room", bytes([frames.CREDIT, 1, frames.STDIN, 1, 0, 0, 0]),
            *(bytes([frames.NEWS, 1]) + each for each in said),
        ],
        "forwarded": [joined(_forwarded()), joined(_forwarded()[:3])],
        "stage_answer": [b"3.11.2\tkept\t", b"3.9.1\tmemory\tno room"],
        "clock_answer": [b"1700000000.25\n"],
        "facts_answer": [json.dumps(_facts()).encode()],
        "image_head_said": [json.dumps(HEAD).encode()],
        "shown_text": ["a\x1b[2J\x9b\udc80\u2028".encode("utf-8", "surrogatepass")],
        "placement_news": [joined(way), joined(asked), joined([b"c", b"U", b"0", b"a\4", b"q"])],
    }  # fmt: skip


def _forwarded() -> list[bytes]:
    """A connection of each end's, from its beginning to its end."""
    say = forwards.message
    there = [say(forwards.OPEN, 2), say(forwards.DATA, 2) + b"asked", say(forwards.END, 2)]
    here = [b"", say(forwards.DATA, 3) + b"said", say(forwards.RESET, 3)]
    return [*there, *here, say(forwards.OPEN, 4), say(forwards.TAKEN, 2) + forwards.COUNT.pack(0)]


def _facts() -> dict[str, object]:
    """The facts of this machine, without its name and its many flags."""
    found = probe.facts()
    found.update({"hostname": "far", "login": "someone", "cpu_flags": "fpu sse"})
    found["compat"] = {**FACTS, "flags": ["fpu", "sse"]}
    return found


def _requests() -> dict[str, list[bytes]]:
    def handle(number: int) -> bytes:
        return number.to_bytes(8, "little")

    def ask(op: int, node: int, *more: bytes) -> bytes:
        return bytes([op, node]) + b"".join(more)

    read = abi.READ_IN.pack(0, 0, 4096, 0, 0, 0, 0)
    names = [ask(abi.LOOKUP, 1, name + b"\0") for name in (b"hidden", b"kept", b"dir", b"file", b"link", b"up", b"new")]
    lock = abi.LK_IN.pack(0, 7, 0, 9, 1, 5, 0, 0)
    files = [
        *names, ask(abi.OPEN, 4, abi.OPEN_IN.pack(os.O_RDWR, 0)), ask(abi.READ, 4, read),
        ask(abi.WRITE, 4, abi.WRITE_IN.pack(0, 0, 3, 0, 0, 0, 0), b"new"), ask(abi.FLUSH, 4, handle(0), bytes(16)),
        ask(abi.SETLK, 4, lock), ask(abi.GETLK, 4, lock),
        ask(abi.FALLOCATE, 4, abi.FALLOCATE_IN.pack(0, 0, 99, 0, 0)),
        ask(abi.LSEEK, 4, abi.LSEEK_IN.pack(0, 0, 3, 0)),
        ask(abi.COPY_FILE_RANGE, 4, abi.COPY_IN.pack(0, 0, 4, 0, 0, 9, 0)),
        ask(abi.FSYNC, 4, abi.FSYNC_IN.pack(0, 0, 0)), ask(abi.RELEASE, 4, handle(0), bytes(16)),
    ]  # fmt: skip
    lists = [
        *names, ask(abi.OPENDIR, 1, abi.OPEN_IN.pack(0, 0)), ask(abi.READDIRPLUS, 1, read), ask(abi.READDIR, 1, read),
        ask(abi.RELEASEDIR, 1, handle(0), bytes(16)), ask(abi.READLINK, 5), ask(abi.STATFS, 1),
        ask(abi.STATX_OP, 1, abi.STATX_IN.pack(0, 0, 0, 0, 0xFFF)), ask(abi.ACCESS, 1, abi.ACCESS_IN.pack(4, 0)),
    ]  # fmt: skip
    makes = [
        *names, ask(abi.MKDIR, 1, abi.MKDIR_IN.pack(0o755, 0), b"d\0"),
        ask(abi.MKNOD, 1, abi.MKNOD_IN.pack(0o100644, 0, 0, 0), b"n\0"), ask(abi.SYMLINK, 1, b"s\0../outside\0"),
        ask(abi.CREATE, 1, abi.CREATE_IN.pack(os.O_RDWR, 0o644, 0, 0), b"c\0"),
        ask(abi.LINK, 1, abi.LINK_IN.pack(4), b"l\0"), ask(abi.RENAME, 1, abi.RENAME_IN.pack(3), b"file\0moved\0"),
        ask(abi.RENAME2, 1, abi.RENAME2_IN.pack(1, 2, 0), b"kept\0dir\0"), ask(abi.UNLINK, 1, b"n\0"),
        ask(abi.RMDIR, 1, b"d\0"), ask(abi.TMPFILE, 1, abi.CREATE_IN.pack(os.O_RDWR, 0o600, 0, 0), b"/\0"),
        ask(abi.SETXATTR, 4, abi.SETXATTR_IN.pack(1, 0), b"user.a\0", b"1"),
        ask(abi.GETXATTR, 4, abi.GETXATTR_IN.pack(99, 0), b"user.a\0"),
        ask(abi.LISTXATTR, 4, abi.GETXATTR_IN.pack(99, 0)),
        ask(abi.SETATTR, 4, abi.SETATTR_IN.pack(8 | 1 | 32, 0, 0, 3, 0, 0, 5, 0, 0, 6, 0, 0o600, 0, 0, 0, 0)),
    ]  # fmt: skip
    init = abi.request(abi.INIT, 0, abi.INIT_IN.pack(7, 38, 1 << 17, 0xFFFFFFFF, 0xFFFFFFFF) + bytes(44), 1)
    return {"requests": [joined(each) for each in (files, lists, makes, [b"\xff" + init, *names])]}


def _images() -> dict[str, list[bytes]]:
    offered = _saved()
    chunk = b"c" * 5000
    lines = [wire.held(len(chunk), chunk_hash(chunk)), wire.held(300, ZERO)]
    delivered = [
        *wire.files_messages([("core-1.img", "core-1.img", 5300), ("empty.img", "empty.img", 0)]),
        wire.chunks_head(lines) + chunk, wire.digest_message(wire.END, bytes(32)),
    ]  # fmt: skip
    answers = [
        b"", b"", b"", wire.batch_message(wire.ANSWER, 0, bytes([1, 2, 1])), b"", b"",
        wire.batch_message(wire.MASKS, 0, b"\1\0"), b"", b"", b"", wire.STORED,
        wire.digest_message(wire.COMMITTED, bytes(32)),
    ]  # fmt: skip
    run = image_manifest.Run("1", 1, 1, "far", host.SPEC)
    made = image_manifest.manifest(run, json.dumps({**HEAD, "facts": {**FACTS, "flags": ["fpu"]}}).encode(), (), _SEEN)
    table = ENTRY.pack(0, 4096, bytes(32))
    fields = {name: getattr(made, name) for name in _FIELDS}
    full = Manifest(
        **{**fields, "files": (ImageFile("a.img", "a.img", 4096, table),), "written": (WrittenFile("/a", 1, -2, 3),)}
    )
    raw = packs.Record.make(packs.RAW, 5, chunk_hash(b"chunk"), b"chunk")
    patch = packs.patch_payload([bytes(32)], [(0, 1), (packs.OWN, 0)], b"p" * 4096, b"p" * 4096)
    patched = packs.Record.make(packs.PATCH_RAW, 8192, b"h" * 32, patch)
    squeezed = packs.Record.make(packs.ZSTD, 4096, b"z" * 32, zstandard.compress(b"z" * 4096))
    archive, _ = criu_bundle.pack({"criu": b"program", "ld.so": b"loader", "lib/libc.so.6": b"library"})
    return {
        "image_offered": [offered],
        "image_delivered": [joined(delivered)],
        "image_answers": [joined(answers)],
        "manifest": [made.to_bytes(), full.to_bytes()],
        "pack_record": [each.head + bytes(each.payload) for each in (raw, patched, squeezed)],
        "pack_file": [_pack([raw, squeezed])],
        "elf_headers": [_elf()],
        "bundle": [archive.rstrip(b"\0") + bytes(1024)],
        "image_facts": [json.dumps({**FACTS, "flags": ["fpu"]}).encode()],
    }


_FIELDS = (
    "job", "number", "generation", "time_ns", "host", "argv", "cwd", "env", "uid", "gid", "tty", "streams", "files",
    "written", "facts", "stats",
)  # fmt: skip


def _saved() -> bytes:
    """What a sender says that has two small files, to a store that wants all of them."""
    with spool({"a.img": b"a" * 700, "b.img": bytes(300)}) as out:
        sender = Sender(
            out, json.dumps({**HEAD, "facts": {**FACTS, "flags": ["fpu"]}, "handles": []}).encode(), threads=1
        )
        said: list[bytes] = []
        while (message := sender.next_message()) is not None:
            said.append(b"".join(message))
            if said[-1][:1] == wire.OFFER:
                sender.receive(wire.batch_message(wire.ANSWER, 0, bytes([wire.SEND, wire.HAVE])))
        sender.close()
    return joined(said)


def _pack(records: list[packs.Record]) -> bytes:
    with tempfile.TemporaryDirectory() as place:
        fd = os.open(place, os.O_RDONLY)
        writer = packs.PackWriter(fd, 1)
        writer.append(records)
        writer.seal()
        os.close(fd)
        return Path(place, "00000001.pack").read_bytes()


def _elf() -> bytes:
    """A file with a loader, a needed library and a run path."""
    strings = b"\0libc.so.6\0$ORIGIN/lib\0"
    loader = b"/lib64/ld.so\0"
    base = 64 + 3 * 56
    tags = b"".join(struct.pack("<qQ", *tag) for tag in ((1, 1), (29, 11), (5, base + 64 + len(loader)), (0, 0)))
    head = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 3, 0, 0, 0)
    rows = [
        (1, 5, 0, 0, 0, 4096, 4096, 4096), (3, 4, base + 64, 0, 0, len(loader), 0, 1), (2, 6, base, base, 0, 64, 64, 8)
    ]  # fmt: skip
    return head + b"".join(struct.pack("<IIQQQQQQ", *row) for row in rows) + tags + loader + strings


def _criu() -> dict[str, list[bytes]]:
    inet = encode([(1, 7), (2, 1), (3, 2), (4, 1), (5, 6), (6, 10), (7, 0), (8, 0), (11, 0x0100007F), (15, 0)])
    tcp = encode(
        [(1, 8), (2, 1), (3, 2), (4, 1), (5, 6), (6, 1), (7, 4000), (8, 80), (11, 0x0100007F), (12, 0x0100007F)]
    )
    udp = encode(
        [(1, 9), (2, 2), (3, 2), (4, 2), (5, 17), (6, 1), (7, 4001), (8, 53), (11, 0x0100007F), (12, 0x08080808)]
    )
    regular = encode([(1, 1), (6, b"/a"), (8, 5)])
    unix = encode([(1, 2), (13, encode([(1, 0), (2, 0)]))])
    entries = [
        encode([(1, 1), (2, 1), (3, regular)]), encode([(1, 2), (2, 7), (4, inet)]), encode([(1, 2), (2, 8), (4, tcp)]),
        encode([(1, 2), (2, 9), (4, udp)]), encode([(1, 3), (2, 2), (16, unix)]),
        encode([(1, 4), (2, 3), (12, encode([(6, 1)]))]),
    ]  # fmt: skip
    files = criu_images.head(criu_images.FILES) + b"".join(map(criu_images.entry, entries))
    stream = criu_images.head(criu_images.TCP_STREAM) + criu_images.entry(encode([(1, 1), (2, 5), (12, 3)])) + b"queue"
    remaps = criu_images.head(criu_images.REMAPS) + b"".join(
        criu_images.entry(encode([(1, number), (2, 1)])) for number in (1, 2)
    )
    clock = criu_images.head(criu_images.TIME_NAMESPACE) + criu_images.entry(
        encode([(1, encode([(1, 5), (2, 6)])), (2, encode([(1, 7)]))])
    )
    answer = encode([(1, criu.NOTIFY), (2, True), (5, encode([(1, "post-restore"), (2, 7)])), (9, "no")])
    statistics = struct.pack("<III", criu_images.COMMON, 0x57093306, 6) + encode([(1, encode([(1, 9), (2, 8)]))])
    pages = struct.pack("<II", criu_images.COMMON, 0x56084025) + b"".join(
        criu_images.entry(encode(row)) for row in ([(1, 1)], [(1, 0x10000), (2, 3), (4, 4)], [(1, 0x30000), (5, 40)])
    )
    log = "(00.1) Error (criu/files.c:1): Can't dump file 3 of that type [8612] (unknown /dev/x)\n"
    task = "(00.0) Dumping task (pid: 12 comm: sh)\n(00.0) 12 fdinfo 3: pos: 0\n"
    return {
        "protobuf": [encode([(1, 5), (2, b"text"), (300, 1 << 63)]) + b"\x0d\0\0\0\0"],
        "criu_answer": [answer],
        "criu_statistics": [statistics],
        "criu_version": [b"Version: 4.1.1\nGitID: v4\n", b"6.1.0-18-amd64"],
        "criu_log": [(task + log).encode()],
        "pagemap": [pages],
        "image_files": [joined([files, stream, remaps, clock])],
    }


def _owner() -> dict[str, list[bytes]]:
    call = message_bus.Hello()
    asked = new_method_call(DBusAddress("/a", "a.b", "a.b"), "C")
    hello = new_method_return(call, "s", (":1.1",))
    hello.header.fields[5] = 1
    sessions = new_method_return(asked, "a(susso)", ([("1", 1000, "me", "seat0", "/s")],))
    sessions.header.fields[5] = 2
    signal = new_signal(DBusAddress("/a", interface="a.b"), "Changed", "sa{sv}as", ("x", {"Idle": ("b", True)}, ["y"]))
    said = [hello.serialise(1), signal.serialise(2), sessions.serialise(3)]
    rule = message_bus.AddMatch(MatchRule(type="signal", sender="a.b")).serialise(4)
    cookie = b"".join(
        struct.pack(">H", len(field)) + field for field in (b"host", b"0", b"MIT-MAGIC-COOKIE-1", b"c" * 16)
    )
    setup = struct.pack("<IIIIHHBBBBBBBBI", 1, 2, 3, 4, 4, 65535, 1, 1, 0, 0, 32, 32, 8, 255, 0) + b"Xorg" + bytes(8)
    setup += struct.pack("<I", 0x123) + bytes(36)
    display = struct.pack("<BBHHH", 1, 0, 11, 0, len(setup) // 4) + setup
    extension = struct.pack("<BxHIBB22x", 1, 1, 0, 1, 144)
    none = struct.pack("<BxHIBB22x", 1, 2, 0, 0, 0)
    idle = struct.pack("<BBHIIIII8x", 1, 0, 3, 0, 0x123, 0, 5000, 0)
    assert x11_wire.root_window(setup) == 0x123
    return {
        "dbus_messages": [b"".join([*said, rule])],
        "bus_address": [b"unix:abstract=/tmp/x,guid=1", b"tcp:host=a;unix:path=/run/bus,guid=2"],
        "bus": [joined([b"OK 1234deadbeef\r\n", said[0], said[1] + said[2]]), joined([b"REJECTED EXTERNAL\r\n"])],
        "x11_cookies": [b"\1\0" + cookie + b"\xff\xff" + cookie],
        "x11_answers": [setup, idle, extension],
        "x11_display": [display + extension + none + idle, struct.pack("<BBHHH", 0, 4, 11, 0, 1) + b"No!\n"],
        "policy": [b'["keyboard", {"linger": "10s", "hours": ["22:00-07:00"], "max_load": 0.3}]', b'["none", null]'],
        "owner_toml": [
            b'linger = "3s"  # soon\nhours = ["22:00-07:00", \'12:00-13:00\']\nmax_load = 0.5\nslots = 2\nnice = 15\n'
            b'users = ["ann", "\\"b\\\\"]\nkeyboard = false\nio = "normal"',
        ],
    }


def _library_cache() -> bytes:
    """ld.so.cache with one library."""
    strings = b"libc.so.6\0/lib/libc.so.6\0"
    head = b"glibc-ld.so.cache1.1" + struct.pack("<II", 1, len(strings)) + bytes(20)
    return head + struct.pack("<iIIIQ", 0x303, 72, 82, 0, 0) + strings


def _records() -> dict[str, list[bytes]]:
    toml = (
        b'[host.far]\nssh = "me@far"\noptions = ["-p", "22"]\nowner = "lazy"\ntrust = "project"\n'
        b'[owner.lazy]\nstart_idle = "15m"\nhours = "22:00-07:00"\nmin_free_memory = "2G"\nmax_load = 0.5\n'
    )
    kept = record.Record(
        1, ("true",), "/", 1.5, ("any",), "", 600.0, 2, True, False, record.packed(host.SPEC),
        after=(7, [1, 2, 3, 4, 5, 6, 7, True, False, True]), status=0,
    )  # fmt: skip
    said = [
        events.Event(1.5, kind, host="far", reason="why", command="true", image="1", size=3, processes=2, status=0)
        for kind in events.Kind
    ]
    return {
        "hosts_toml": [toml],
        "job_record": [json.dumps(asdict(kept)).encode()],
        "event_log": ["".join(event.to_json() for event in said).encode() + b'{"torn'],
        "control_request": [b'{"do": "vacate", "host": "far"}'],
        "guessed_program": [
            _elf(),
            b"#!/python3.12 -S\n",
            b"import a\nfrom . import b\n",
            b'#include "a.c"\n',
        ],
        "guessed_libraries": [_library_cache()],
        "guessed_repository": [
            b"ref: refs/x\n",
            b"ab" * 20 + b"\n",
            zlib.compress(b"commit 100\0tree " + b"cd" * 20 + b"\nauthor x"),
        ],
        "guessed_imports": [
            b"import a, b.c\nfrom . import (\n  d,  # so\n)\nclass X:\n  import e\nif f:\n  import h\n"
        ],
        "etc_hosts": [b"127.0.0.1 localhost\n10.0.0.1 me.example me # own\n::1 ip6"],
    }


def main() -> None:
    """Write them."""
    for part in (_link(), _host(), _requests(), _images(), _criu(), _owner(), _records()):
        for name, inputs in part.items():
            (SEEDS / name).mkdir(exist_ok=True, parents=True)
            for number, data in enumerate(inputs):
                (SEEDS / name / f"first-{number}").write_bytes(data)


if __name__ == "__main__":
    main()
