"""Execute side: files that the job has made are opened again without asking home. Pure. Shipped.

A compiler writes into files that its driver has made, and the assembler reads them. Where all that such a file holds is
known (``written``), and so home's last word on it is no older than coherence.TTL,

* it is opened for reading as a file under a lease is (``opened``): home opens it when more is wanted of it;
* it is opened to be written to, or cut (O_TRUNC), as a change that is answered before home has done it, with a handle
  of the change's own number.

Home keeps the last files that the job has made: so it is that file which is opened there, whoever has its name by then.
"""

from __future__ import annotations

from remoteio.execute.known_left import KnownLeft
from remoteio.execute.leases import only_reads
from remoteio.execute.making import Made
from remoteio.wire import fuse_abi as abi
from remoteio.wire.behind import MAY_WRITE
from remoteio.wire.coherence import SILENCE
from remoteio.wire.makes import MADE, NUMBERS

_O_ACCMODE, _O_WRONLY, _O_RDWR, O_TRUNC, O_APPEND = 0o3, 0o1, 0o2, 0o1000, 0o2000  # asm-generic/fcntl.h
# what may stand beside these: O_CREAT, O_EXCL, O_NOCTTY, O_NONBLOCK, O_LARGEFILE, O_NOFOLLOW and
# O_CLOEXEC of x86-64 and arm64 alike
_BESIDE = 0o100 | 0o200 | 0o400 | 0o4000 | 0o100000 | 0o400000 | 0o2000000
_READ, _WRITE, _SPECIAL = 0o400, 0o200, 0o7000
_NS = 1000000000


class KnownOwn(KnownLeft):
    """Opens what the job has made."""

    def open_own(self, unique: int, nodeid: int, raw: bytes | memoryview, now: float) -> bytes | None:
        """Return the reply to an OPEN for reading of such a file, if it may be read by whose it is."""
        flags = abi.OPEN_IN.unpack_from(raw, abi.ARGS)[0]
        if not only_reads(flags) or not self.leases.holds(now + SILENCE / 2) or not self._is_own(nodeid, _READ, now):
            return None
        fh = self.opened.open(nodeid, flags, now)
        self._met = 0  # who opens it here needs no lease
        return abi.reply(unique, abi.OPEN_OUT.pack(fh, 0, 0)) if fh else None

    def write_own(self, unique: int, nodeid: int, raw: bytes | memoryview, number: int, now: float) -> Made | None:
        """Return what such a file is from the change of that number on, an OPEN to write to it; None: home is to be
        asked."""
        flags = abi.OPEN_IN.unpack_from(raw, abi.ARGS)[0]
        how = {_O_WRONLY: _WRITE, _O_RDWR: _READ | _WRITE}.get(flags & _O_ACCMODE, 0)
        if not how or flags & ~(_O_ACCMODE | O_TRUNC | O_APPEND | _BESIDE) or number >= NUMBERS:
            return None
        if not self.making.may_go_on or not self.leases.holds(now) or not self._is_own(nodeid, how, now):
            return None
        attr = list(abi.ATTR.unpack(self.written.attributes(nodeid, now)))
        seconds, ns = divmod(self.making.time(now), _NS)
        if flags & O_TRUNC:
            attr[1], attr[2] = 0, 0
            attr[4:6], attr[7:9] = (seconds, seconds), (ns, ns)
        pages = abi.FOPEN_DIRECT_IO if flags & O_APPEND else 0  # as home has it: the kernel has none of an append
        answer = abi.reply(unique, abi.OPEN_OUT.pack(MADE + number, pages, 0))
        return Made(nodeid, MADE + number, MAY_WRITE, abi.ATTR.pack(*attr), answer)

    def wrote_own(self, made: Made, flags: int, now: float) -> int:
        """Take note that the kernel is told that a file is opened by these flags; return the stamp of that."""
        if not flags & O_TRUNC:
            return self.asked(abi.OPEN, made.nodeid)
        stamp = self.removes(made.nodeid)
        self.written.begin(made.nodeid, made.attr, stamp, now, told=stamp - 1)
        return stamp

    def _is_own(self, nodeid: int, how: int, now: float) -> bool:
        mode = self.written.mode(nodeid, now) if self.making.is_own(nodeid) else 0
        return mode & how == how and not mode & _SPECIAL
