"""Going on from an image: its files into the spool, then criu's restore up to the gate. Shipped; no shim."""

from __future__ import annotations

import os
import socket

from checkpoint.errors import CheckpointError
from checkpoint.execute import clocks, criu, criu_images, image_sockets, protection_keys
from checkpoint.execute.collector import Collector
from checkpoint.execute.dump import failure
from checkpoint.execute.spool import Spool
from checkpoint.wire import protobuf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_FL_POSIX, _FL_FLOCK = 1, 2
_LOCKS, _REMOVED_FILES = "filelocks.img", "remap-fpath.img"
_FILE_ID, _FILE_REG, _REG_NAME, _REG_SIZE = 2, 3, 6, 8  # the numbers of their fields
_REMAP_ORIGINAL = 1
_REMOVED = b" (deleted)"  # how the kernel ends a name that is gone
_FILE_TIMER, _TIMER_FLAGS = 12, 6
_FILE_UNIX, _UNIX_PERMS, _PERMS_MODE = 16, 13, 1
_CORE_THREAD, _THREAD_CREDS, _CREDS_GROUPS = 5, 10, 14
MOST_ABOVE = 500  # of them fit into what init is asked
CONVERSE_S = 600  # for a hung criu, and for the permission to go on


class RestartError(CheckpointError):
    """One sentence: why the image could not be restored here; nothing of it runs."""


class SpooledImage:
    """The spool as the image's files come."""

    def __init__(self, spool: Spool) -> None:
        self._collector = Collector(spool)
        self.complete = False

    def receive(self, payload: bytes | memoryview) -> None:
        """Take one payload of the store. Raises ImageWireError, OSError."""
        self._collector.receive(payload)
        if self._collector.complete:
            self.complete = True


def keys(pipes: dict[int, int], tty: tuple[int, int] | None) -> dict[int, str]:
    """Name what the tree held from outside as criu does: {number the job knew it under (-1: its terminal): key}.

    `pipes`: {number: inode of the old pipe}; `tty`: st_rdev and st_dev of the old terminal.
    """
    found = {number: criu.pipe_key(inode) for number, inode in pipes.items()}
    if tty is not None:
        found[-1] = criu.tty_key(*tty)
    return found


def put_locks(spool: Spool, rows: object) -> None:
    """Have criu ask for file locks that it could not see: [pid, descriptor, flock, kind, start, length] each.

    Format: criu/include/magic.h and images/file-lock.proto of CRIU. Raises OSError.
    """
    if not isinstance(rows, list) or not rows:
        return
    image = spool.read(_LOCKS) if _LOCKS in spool.names() else criu_images.head(criu_images.FILE_LOCKS)
    for pid, number, flock, kind, start, length in rows:
        fields = [(1, _FL_FLOCK if flock else _FL_POSIX), (2, kind), (3, pid), (4, number), (5, start), (6, length)]
        image += criu_images.entry(protobuf.encode(fields))
    spool.write(_LOCKS, image)


def loosen_files(spool: Spool, checked: frozenset[str], called: Mapping[str, str]) -> None:
    """Have criu restore regular files whatever their size is now, but for those of these names, unix sockets whose
    file it has not seen without giving that to uid 0, and timers for what remains of their time. Raises RestartError.

    `called`: for names that are gone, one that the file still has.

    Home has looked at the files: what others have done to them since is theirs, and the job goes on with it.
    """
    try:
        spool.write(criu_images.FILES_NAME, loosened(spool.read(criu_images.FILES_NAME), checked, called))
    except (criu.CriuError, OSError) as e:
        raise RestartError(f"the restart failed: the image's list of files cannot be used: {e}") from e


def order_removed(spool: Spool) -> list[str]:
    """Have criu take away again what it makes of removed files before the removed directories they were in.

    It does so in the order of the image, where a directory comes first if it is, say, who ran there that is dumped
    first. Returns the directories above them, the deepest first, MOST_ABOVE at most. Raises RestartError.
    """
    if _REMOVED_FILES not in spool.names():
        return []
    try:
        names = dict(map(_named, criu_images.entries(spool.read(criu_images.FILES_NAME), criu_images.FILES)))
        remaps = criu_images.entries(spool.read(_REMOVED_FILES), criu_images.REMAPS)
        found = [(names.get(protobuf.integer(protobuf.decode(raw), _REMAP_ORIGINAL) or 0, b""), raw) for raw in remaps]
        found.sort(key=lambda pair: -pair[0].count(b"/"))
        head = criu_images.head(criu_images.REMAPS)
        spool.write(_REMOVED_FILES, head + b"".join(criu_images.entry(raw) for _, raw in found))
    except (criu.CriuError, protobuf.ProtobufError, OSError) as e:
        raise RestartError(f"the restart failed: the image's list of removed files cannot be used: {e}") from e
    return above([name for name, _ in found if name.startswith(b"/") and b"\0" not in name])[:MOST_ABOVE]


def above(removed: list[bytes]) -> list[str]:
    """List the directories above these absolute paths, the deepest first, without these themselves."""
    out = set()
    for path in removed:
        while (path := os.path.dirname(path)).strip(b"/"):
            out.add(path)
    deepest = sorted(out - set(removed), key=lambda path: (-path.count(b"/"), path))
    return [path.decode("utf-8", "surrogateescape") for path in deepest]


def _named(file: bytes) -> tuple[int, bytes]:
    """criu's id of a file_entry, and its name if it is a regular file or a directory. Raises ProtobufError."""
    fields = protobuf.decode(file)
    return protobuf.integer(fields, _FILE_ID) or 0, protobuf.content(
        protobuf.decode(protobuf.content(fields, _FILE_REG)), _REG_NAME
    )


def set_groups(spool: Spool, groups: list[int]) -> None:
    """Have criu restore every thread with these further groups, which it can have here. Raises RestartError.

    Where a login can map but its own id nobody may set groups, and each is a number that stands for any
    (user_namespaces(7)): how many there are is the login's own affair.
    """
    for name in spool.names():
        if not (name.startswith("core-") and name.endswith(".img")):
            continue
        try:
            raw = spool.read(name)
            entry, end = criu_images.first(raw, criu_images.CORE)
            new = _in(entry, _CORE_THREAD, lambda t: _in(t, _THREAD_CREDS, lambda c: _with_groups(c, groups)))
            spool.write(name, criu_images.head(criu_images.CORE) + criu_images.entry(new) + raw[end:])
        except (criu.CriuError, protobuf.ProtobufError, OSError) as e:
            raise RestartError(f"the restart failed: {name} of the image cannot be used: {e}") from e


def _in(message: bytes, field: int, change: Callable[[bytes], bytes]) -> bytes:
    """Change the content of one field of a message. Raises ProtobufError."""
    return b"".join(
        protobuf.encode([(number, change(value))]) if number == field and isinstance(value, bytes) else whole
        for number, value, whole in protobuf.records(message)
    )


def _with_groups(creds: bytes, groups: list[int]) -> bytes:
    """A creds_entry. Raises ProtobufError."""
    kept = b"".join(whole for number, _, whole in protobuf.records(creds) if number != _CREDS_GROUPS)
    return kept + protobuf.encode([(_CREDS_GROUPS, group) for group in groups])


def fit_sockets(spool: Spool, keep_tcp: bool, alone: bool = False) -> list[str]:
    """Have criu make only internet sockets that this host can have (image_sockets.fit). Raises RestartError.

    Returns what the job loses, a sentence's rest each.
    """
    try:
        return image_sockets.fit(spool, keep_tcp, alone)
    except image_sockets.PortError as e:
        raise RestartError(f"the restart failed: {e}") from e
    except (criu.CriuError, protobuf.ProtobufError, OSError) as e:
        raise RestartError(f"the restart failed: the image's list of sockets cannot be used: {e}") from e


def protection_keys_of(spool: Spool) -> protection_keys.Image:
    """Read which memory protection keys the image's threads hold. Raises RestartError."""
    try:
        return protection_keys.Image(spool)
    except (criu.CriuError, OSError) as e:
        raise RestartError(f"the restart failed: the image's threads cannot be read: {e}") from e


def clocks_shown(spool: Spool) -> tuple[int, int] | None:
    """Read what the image's clocks show (clocks.py), for a tree whose criu cannot do so. Raises RestartError."""
    try:
        return clocks.shown(spool)
    except (criu.CriuError, OSError) as e:
        raise RestartError(f"the restart failed: the image's clocks cannot be read: {e}") from e


def loosened(raw: bytes, checked: frozenset[str], called: Mapping[str, str]) -> bytes:
    """Rewrite files.img without the sizes of regular files, but for those of the names `checked`, without the
    permissions of sockets' files that have none, and without the flags with which timers were set; with the names
    that files still have in place of those that are gone. Raises CriuError.

    Format: criu/include/magic.h, images/fdinfo.proto, images/regfile.proto, images/sk-unix.proto and
    images/timerfd.proto of CRIU.
    """
    out = [criu_images.head(criu_images.FILES)]
    for entry in criu_images.entries(raw, criu_images.FILES):
        try:
            new = b"".join(
                protobuf.encode([(_FILE_REG, _regular(value, checked, called))]) if number == _FILE_REG
                else protobuf.encode([(_FILE_UNIX, _without_owner(value))]) if number == _FILE_UNIX
                else protobuf.encode([(_FILE_TIMER, _from_now(value))]) if number == _FILE_TIMER
                else whole
                for number, value, whole in protobuf.records(entry)
            )  # fmt: skip
        except protobuf.ProtobufError as e:
            raise criu.CriuError(f"an entry of it {e}") from e
        out.append(criu_images.entry(new))
    return b"".join(out)


def _regular(reg: int | bytes, checked: frozenset[str], called: Mapping[str, str]) -> bytes:
    """A reg_file_entry. Raises ProtobufError."""
    out = b""
    for number, name, whole in protobuf.records(reg if isinstance(reg, bytes) else b""):
        if number == _REG_NAME and isinstance(name, bytes) and name.endswith(_REMOVED):
            now = called.get(name[: -len(_REMOVED)].decode("utf-8", "surrogateescape"))
            whole = protobuf.encode([(_REG_NAME, now.encode("utf-8", "surrogateescape"))]) if now else whole
        out += whole
    return _without_size(out, checked)


def _without_size(reg: bytes, checked: frozenset[str]) -> bytes:
    """A reg_file_entry. Its name may have the ending of remoteio/execute/false_deleted.py. Raises ProtobufError."""
    fields = list(protobuf.records(reg))
    for number, name, _ in fields:
        if number == _REG_NAME and isinstance(name, bytes):
            text = name.decode("utf-8", "surrogateescape")
            if text in checked or text.removesuffix(" (deleted)") in checked:
                return b"".join(whole for _, _, whole in fields)
    return b"".join(whole for number, _, whole in fields if number != _REG_SIZE)


def _without_owner(unix: int | bytes) -> bytes:
    """A unix_sk_entry. Raises ProtobufError.

    Of a file whose name was removed, and which it may not ask the kernel for, criu writes down mode, owner and group 0:
    what it makes at the restore, and removes again, it would give to uid 0, which only root may.
    """
    fields = protobuf.records(unix if isinstance(unix, bytes) else b"")
    return b"".join(whole for number, value, whole in fields if number != _UNIX_PERMS or _mode(value))


def _from_now(timer: int | bytes) -> bytes:
    """A timerfd_entry. Raises ProtobufError.

    Its time is what remains. Of one that was set for a moment criu adds that to the clock's whole seconds only, and it
    fires up to a second early.
    """
    fields = protobuf.records(timer if isinstance(timer, bytes) else b"")
    return b"".join(
        protobuf.encode([(_TIMER_FLAGS, 0)]) if number == _TIMER_FLAGS else whole for number, _, whole in fields
    )


def _mode(perms: int | bytes) -> bool:
    """Whether a file_perms_entry has a mode, which is never 0 of a file that there is. Raises ProtobufError."""
    return isinstance(perms, bytes) and protobuf.decode(perms).get(_PERMS_MODE, [0])[-1] != 0


def restore(
    sock: socket.socket, request: bytes, work: str, kept: str, gate: Callable[[], bool], ready: Callable[[], None]
) -> int:
    """Run criu's restore and return the root's pid. `gate` decides, when all is built and nothing runs; `ready` comes
    after it, when criu has removed what it had made for itself, and nothing runs yet.

    `work`: the directory of criu's log; `kept`: where that goes if it fails. Raises RestartError.
    """
    open_gate: list[bool] = []

    def notified(told: criu.Answer) -> bool:
        if told.script == "pre-resume":
            ready()
        if told.script != "post-restore":
            return True
        open_gate.append(gate())
        return open_gate[0]

    sock.settimeout(CONVERSE_S)
    try:
        answer = criu.converse(sock, request, notified)
    except (criu.CriuError, OSError) as e:
        raise RestartError(failure("the restart", work, kept)) from e
    if open_gate == [False]:
        raise RestartError("the job may not go on here: it goes on elsewhere")
    if not answer.success:
        raise RestartError(failure("the restart", work, kept))
    return answer.pid
