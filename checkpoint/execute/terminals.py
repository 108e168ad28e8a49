"""Which terminal it is that somebody has open as /dev/tty; the image is given that one's own name. Shipped.

/dev/tty is whichever terminal controls who opens it, and stays that one in whoever has the descriptor then. CRIU
would open the name anew, or takes it as handed in: right for the job's own terminal. One that the job has made, within
script(1) or tmux(1), is open by its own name too, as a slave of the job's devpts, and CRIU makes as many descriptors of
that as there were: so what was open as /dev/tty becomes one more.
"""

from __future__ import annotations

import fcntl
import os
import struct

from checkpoint.execute import criu_images as images
from checkpoint.execute.criu import CriuError
from checkpoint.execute.spool import Spool
from checkpoint.execute.syscalls import copied
from checkpoint.wire import protobuf

CONTROLLING = (5, 0)  # st_rdev of /dev/tty, (major, minor)
_ASK_DEVICE = 0x80045432  # TIOCGDEV of asm-generic/ioctls.h: its own number, whatever name it was opened by
# images/fdinfo.proto, images/tty.proto: the numbers of their fields
_FILE_TTY, _ID, _INFO, _REGULAR = 19, 1, 2, 6
_INFO_ID, _INFO_DEVICE = 1, 8
_FILE = "tty-info.img"


def leads_to(pid: int, number: int) -> tuple[int, int] | None:
    """Ask which terminal that descriptor is: (major, minor); None: none any more, or it may not be asked."""
    try:
        fd = copied(pid, number)
    except OSError:
        return None
    try:
        device = struct.unpack("I", fcntl.ioctl(fd, _ASK_DEVICE, bytes(4)))[0]
    except OSError:
        return None
    finally:
        os.close(fd)
    return os.major(device), os.minor(device)


def by_their_names(spool: Spool, numbers: dict[str, int], own: tuple[int, int] | None) -> None:
    """Write the image in the spool so that a terminal which the job has made is restored by its own name.

    The tree stands still. `numbers`: pid here, as text → as criu has it; `own`: the terminal that is handed in.
    Raises CriuError, OSError.
    """
    if _FILE not in spool.names():
        return
    try:
        infos = [protobuf.decode(raw) for raw in images.entries(spool.read(_FILE), images.TERMINALS)]
        devices = {protobuf.integer(info, _INFO_ID) or 0: protobuf.integer(info, _INFO_DEVICE) or 0 for info in infos}
        prompts = {info for info, device in devices.items() if device == os.makedev(*CONTROLLING)}
        if prompts:
            _rewrite(spool, numbers, own, devices, prompts)
    except protobuf.ProtobufError as e:
        raise CriuError("the image's terminals: an entry %s" % e) from e


def _rewrite(
    spool: Spool, numbers: dict[str, int], own: tuple[int, int] | None, devices: dict[int, int], prompts: set[int]
) -> None:
    here = {number: int(pid) for pid, number in numbers.items()}
    holders = {id: (here.get(pid, 0), pid, number) for id, pid, number in images.holders(spool)}
    files = images.entries(spool.read(images.FILES_NAME), images.FILES)
    terminals = [(raw, _terminal(raw)) for raw in files]
    names = {protobuf.integer(fields, _INFO): fields for _, fields in terminals if fields and _REGULAR in fields}
    kept, changed = [], []
    for raw, fields in terminals:
        if protobuf.integer(fields, _INFO) not in prompts:
            kept.append(raw)
            continue
        pid, theirs, number = holders.get(protobuf.integer(fields, _ID) or 0, (0, 0, -1))
        device = leads_to(pid, number) if pid else None
        if device is not None and device == own:
            kept.append(raw)
            continue
        wanted = os.makedev(*device) if device is not None else 0
        info = next((info for info, other in devices.items() if other == wanted and info in names), None)
        if info is None:
            raise CriuError(
                "process %d has descriptor %d (/dev/tty), of a terminal that nobody in the job has open by its own "
                "name: CRIU cannot save that" % (theirs, number)
            )
        changed.append(_by_name(raw, info, protobuf.integer(names[info], _REGULAR) or 0))
    # last: criu pairs the master with the slave that comes first, and gives that one what is under way
    spool.write(images.FILES_NAME, images.head(images.FILES) + b"".join(images.entry(raw) for raw in kept + changed))


def _terminal(file: bytes) -> protobuf.Fields:
    """The tty_file_entry of a file_entry; {} if it is something else. Raises ProtobufError."""
    return protobuf.decode(protobuf.content(protobuf.decode(file), _FILE_TTY))


def _by_name(file: bytes, info: int, name: int) -> bytes:
    """Write a file_entry anew for the terminal `info`, to be opened as the regular file `name`."""
    out = b""
    for number, value, whole in protobuf.records(file):
        if number == _FILE_TTY and isinstance(value, bytes):
            rest = b"".join(record for field, _, record in protobuf.records(value) if field not in (_INFO, _REGULAR))
            whole = protobuf.encode([(_FILE_TTY, rest + protobuf.encode([(_INFO, info), (_REGULAR, name)]))])
        out += whole
    return out
