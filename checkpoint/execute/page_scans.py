"""criu's question which pages a process has, answered by us: seccomp_unotify(2). Shipped. x86-64 only.

criu itself would leave out pages by the kernel's soft-dirty bits alone, which few kernels have. But it asks the kernel
which pages there are (PAGEMAP_SCAN, since criu 4.0), and dumps those: so what it is not told of, it neither reads nor
writes. A filter that criu is started with has that one call wait for the agent's answer, and allows all others. Where
the filter cannot be made, or the agent fails at an answer, the kernel answers as ever, and criu dumps all pages.

::

    init's child, about to be criu          the agent
    install, offer: the listener  ─socket─► taken
    criu: ioctl(PAGEMAP_SCAN) ──listener──► Answers: asks the kernel the same, leaves out what is unchanged
          goes on                 ◄───────  regions, in criu's memory

Sources: linux/seccomp.h, Documentation/userspace-api/seccomp_filter.rst; criu/pagemap-cache.c.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import select
import socket
import struct
import threading

from checkpoint.execute import written_pages
from checkpoint.execute.page_ranges import Ranges, joined, within, without
from checkpoint.execute.syscalls import copied, read_memory, syscall, write_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    # What is asked of a process, by its number in the job: its pagemap, the pages that there are, and the first and
    # the last address that was looked at; which of those pages criu need not hear of.
    LeftOut = Callable[[int, int, Ranges, int, int], Ranges]
    # Whether all from the first to the last address of a process, by its number, is private anonymous memory.
    Anonymous = Callable[[int, int, int], bool]

_SECCOMP, _IOCTL = 317, 16  # asm/unistd_64.h
_X86_64 = 0xC000003E  # linux/audit.h
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
_ASK, _ALLOW = 0x7FC00000, 0x7FFF0000
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # linux/bpf_common.h
_NUMBER, _ARCHITECTURE, _SECOND = 0, 4, 24  # in struct seccomp_data; little-endian
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_NOTICE = struct.Struct("=QIIiIQ6Q")  # id pid flags; number architecture instruction arguments
_REPLY = struct.Struct("=QqiI")  # id, value, error, flags
_KERNEL_ANSWERS = 1
_GUARD = 1 << 8  # PAGE_IS_GUARD: a category, of pages that criu leaves out by itself
_FILE = 1 << 2  # PAGE_IS_FILE
_INVERTED, _MASK = 8, 9  # fields of written_pages.SCAN
_PAGEMAP = re.compile(r"/(\d+)/pagemap$")
_OFFER_S, _END_S = 30.0, 5.0  # for init to fork; for the last answer
_MOST = 1 << 20  # regions that criu may ask for at once


def install() -> int:
    """Have this process, and what it becomes, ask for the answer to PAGEMAP_SCAN; who listens there gives it.

    Raises OSError, above all without CAP_SYS_ADMIN in its user namespace.
    """
    ask = [
        (_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 0, 5, _X86_64),
        (_LOAD, 0, 0, _NUMBER), (_EQUAL, 0, 3, _IOCTL),
        (_LOAD, 0, 0, _SECOND), (_EQUAL, 0, 1, written_pages.PAGEMAP_SCAN),
        (_RETURN, 0, 0, _ASK), (_RETURN, 0, 0, _ALLOW),
    ]  # fmt: skip
    code = b"".join(struct.pack("=HBBI", *line) for line in ask)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(ask), ctypes.addressof(buffer))  # struct sock_fprog
    return syscall("seccomp", _SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER, program)


def offer(fd: int) -> None:
    """Install the filter, and send the listener over the socket `fd`; without one, if there can be none."""
    with socket.socket(fileno=os.dup(fd)) as to:
        try:
            listener = install()
        except OSError:
            to.send(b"-")
            return
        try:
            socket.send_fds(to, [b"+"], [listener])
        finally:
            os.close(listener)


class Answers:
    """Answers one criu, until it has ended.

    Threads: one of its own asks `left_out`, and ends with criu; `end` waits for it.
    """

    def __init__(self, left_out: LeftOut, anonymous: Anonymous) -> None:
        self._left_out, self._anonymous = left_out, anonymous
        self._over = False
        self._thread: threading.Thread | None = None

    def begin(self, sock: socket.socket) -> None:
        """Receive what `offer` sends over the socket's other end, and begin, if it is a listener. Raises OSError."""
        sock.settimeout(_OFFER_S)
        _, fds, _, _ = socket.recv_fds(sock, 1, 1, socket.MSG_CMSG_CLOEXEC)
        if fds:
            self._thread = threading.Thread(target=self._run, args=(fds[0],), daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Wait until nobody asks any more, as criu has ended; should it hang, the kernel answers it from now on."""
        self._over = True
        if self._thread is not None:
            self._thread.join(_END_S)

    def _run(self, listener: int) -> None:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        try:
            while poll.poll()[0][1] & select.POLLIN:
                self._answer(listener)
        finally:
            os.close(listener)

    def _answer(self, listener: int) -> None:
        notice = bytearray(_NOTICE.size)
        try:
            fcntl.ioctl(listener, _RECEIVE, notice)
        except OSError as e:
            if e.errno not in (errno.ENOENT, errno.EINTR):
                raise
            return  # who asked was killed meanwhile
        number, pid, _, _, _, _, fd, _, place, *_ = _NOTICE.unpack(notice)
        try:
            count = None if self._over else self._regions(pid, fd, place)
        except Exception:  # the boundary: whatever fails here, criu gets an answer, and saves all pages
            count = None
        reply = _REPLY.pack(number, count or 0, 0, _KERNEL_ANSWERS if count is None else 0)
        try:
            fcntl.ioctl(listener, _SEND, bytearray(reply))
        except OSError as e:
            if e.errno != errno.ENOENT:
                raise

    def _regions(self, pid: int, fd: int, place: int) -> int | None:
        """Put the regions where criu wants them, in its memory; how many; None: the kernel is to do it."""
        fields = written_pages.SCAN.unpack(read_memory(pid, place, written_pages.SCAN.size))
        room = fields[written_pages.VEC_LEN]
        if fields[0] != written_pages.SCAN.size or fields[1] or not 0 < room <= _MOST:
            return None
        pagemap = copied(pid, fd)
        try:
            found = _PAGEMAP.search(os.readlink("/proc/self/fd/%d" % pagemap))
            if found is None:
                return None
            number = int(found[1])
            rows, end = ask_kernel(pagemap, fields, self._anonymous(number, *fields[2:4]))
            present = joined((start, stop) for start, stop, what in rows if not what & _GUARD)
            left_out = self._left_out(number, pagemap, present, fields[2], end)
        finally:
            os.close(pagemap)
        rows = _cut(rows, left_out)
        if len(rows) > room:
            end = rows[room][0]
            rows = rows[:room]
        regions = b"".join(written_pages.REGION.pack(*row) for row in rows)
        write_memory(pid, fields[written_pages.VEC], regions)
        write_memory(pid, place + 8 * written_pages.WALK_END, end.to_bytes(8, "little"))
        return len(rows)


def ask_kernel(pagemap: int, fields: tuple[int, ...], anonymous: bool) -> tuple[list[tuple[int, int, int]], int]:
    """Ask the same of the kernel: the regions, and up to where it has looked. Raises OSError.

    anonymous: it is about private anonymous memory, where no page is a file's. criu wants none of those: not to have
    the kernel look that up, page by page, takes a tenth of the time, and the tree stands still for it.
    """
    room = fields[written_pages.VEC_LEN]
    regions = ctypes.create_string_buffer(room * written_pages.REGION.size)
    asked = list(fields)
    if anonymous and asked[_INVERTED] & asked[_MASK] & _FILE:
        asked[_INVERTED] ^= _FILE
        asked[_MASK] ^= _FILE
    asked[written_pages.VEC] = ctypes.addressof(regions)
    raw = bytearray(written_pages.SCAN.pack(*asked))
    count = fcntl.ioctl(pagemap, written_pages.PAGEMAP_SCAN, raw)
    rows = [written_pages.REGION.unpack_from(regions, i * written_pages.REGION.size) for i in range(count)]
    return rows, written_pages.SCAN.unpack(raw)[written_pages.WALK_END]


def _cut(rows: list[tuple[int, int, int]], left_out: Ranges) -> list[tuple[int, int, int]]:
    """Cut what is left out from regions, which keep their categories."""
    return [
        (first, last, categories)
        for start, end, categories in rows
        for first, last in without([(start, end)], within(left_out, start, end))
    ]
