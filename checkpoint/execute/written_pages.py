"""Which pages of another process were written since they were last looked at: userfaultfd(2), PAGEMAP_SCAN. Shipped.

A userfaultfd with UFFD_FEATURE_WP_ASYNC (Linux 6.7) has the kernel itself note the first write to each page that has
been write-protected by it: nobody is asked, and nobody waits. PAGEMAP_SCAN of /proc/PID/pagemap tells which pages were
written, and protects them again in the same step. It is seen whoever writes: the program, the kernel for it, ptrace.
A fresh mapping, a moved one (mremap), a forked child's and those of an executed program have no such userfaultfd, and
so no page of theirs is ever said not to be written.

A userfaultfd is of the process that makes it. So a process of the job is stopped for a moment, makes one and closes it
again; in between it is taken from it (pidfd_getfd, Linux 5.6): criu dumps no process that has one open. It is for
x86-64 only, as all that changes registers here.

Sources: linux/userfaultfd.h, linux/fs.h (struct pm_scan_arg), Documentation/admin-guide/mm/{userfaultfd,pagemap}.rst.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import struct
from contextlib import suppress

from checkpoint.execute import injected
from checkpoint.execute.page_ranges import Ranges, joined, shared, within
from checkpoint.execute.syscalls import copied, syscall

_USERFAULTFD, _CLOSE = 323, 3  # asm/unistd_64.h
_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK | 1  # UFFD_USER_MODE_ONLY: else it is root's; of a write it is told all the same
_WANTED = 1 << 15 | 1 << 13  # UFFD_FEATURE_WP_ASYNC, UFFD_FEATURE_WP_UNPOPULATED
_API, _VERSION, _API_FIELDS = 0xC018AA3F, 0xAA, struct.Struct("=3Q")
_REGISTER, _REGISTER_FIELDS, _MODE_WP = 0xC020AA00, struct.Struct("=4Q"), 2
_PROTECT, _PROTECT_FIELDS = 0xC018AA06, struct.Struct("=3Q")

PAGEMAP_SCAN = 0xC0606610
SCAN = struct.Struct("=12Q")  # size flags start end walk_end vec vec_len max_pages inverted mask anyof_mask return_mask
REGION = struct.Struct("=3Q")  # start, end, categories
WALK_END, VEC, VEC_LEN = 4, 5, 6  # fields of SCAN
_PROTECT_MATCHING, _MUST_BE_FOLLOWED = 1, 2
_FOLLOWED, _WRITTEN, _PRESENT, _SWAPPED = 1, 2, 8, 16
_AT_ONCE = 4096  # regions
_TOP = 0x7FFFFFFFF000  # TASK_SIZE_MAX
_VVAR = re.compile(r"\[(?:stack|vdso|vvar|vvar_vclock|vsyscall|uprobes)\]")


def supported() -> bool:
    """Tell whether the kernel here can say which pages were written, and this architecture's registers are known."""
    if os.uname().machine != "x86_64" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    try:
        fd = syscall("userfaultfd", _USERFAULTFD, _FLAGS)
    except OSError:
        return False  # a kernel without it, before Linux 5.11, or whoever confines us forbids it
    try:
        return _begin(fd)
    finally:
        os.close(fd)


def _begin(fd: int) -> bool:
    fields = bytearray(_API_FIELDS.pack(_VERSION, _WANTED, 0))
    try:
        fcntl.ioctl(fd, _API, fields)
    except OSError:
        return False  # a kernel without it, before Linux 6.7, or whoever confines us forbids it
    return True


# ------------------------------------------------------------------------------------------------ in the process


def obtain(pid: int) -> int | None:
    """Have a process make a userfaultfd, and take it from it; None: it does not let us, at this moment at least.

    Its threads stand still for it, some hundred microseconds. Raises OSError.
    """

    def work(call: injected.Call) -> int | None:
        made, taken = call(_USERFAULTFD, _FLAGS), None
        if made is not None and made >= 0:
            with suppress(OSError):  # then it goes without
                taken = copied(pid, made)
            call(_CLOSE, made)
        return taken

    found = injected.calls(pid, work)
    if found is not None and not _begin(found):
        os.close(found)
        return None
    return found


# ------------------------------------------------------------------------------------------------ its pages


def lives(uffd: int) -> bool:
    """Tell whether the memory that a userfaultfd is of is still there: not once its process has ended or executed."""
    try:
        fcntl.ioctl(uffd, _PROTECT, bytearray(_PROTECT_FIELDS.pack(1 << 16, 4096, 0)))
    except OSError as e:
        return e.errno != errno.ESRCH
    return True


def areas(pid: int) -> Ranges:
    """List the private anonymous mappings of a process; none if it has asynchronous I/O under way into them.

    The kernel writes what that brings where it was told to, whatever has been protected meanwhile. Raises OSError.
    """
    found = []
    with open("/proc/%d/maps" % pid) as f:
        for line in f:
            span, rights, _, _, inode, *name = line.split(None, 5)
            what = name[0].strip() if name else ""
            if what.startswith("/[aio]"):
                return []
            if rights[3] == "p" and inode == "0" and not _VVAR.match(what):
                start, end = span.split("-")
                found.append((int(start, 16), int(end, 16)))
    return found


def clean(pagemap: int) -> tuple[Ranges, Ranges]:
    """List the pages that were protected and have not been written since; and those that only look like that.

    Those are in mappings that are not followed: before Linux 6.13 a page keeps its mark when mremap(2) moves it, and
    what follows it may be closed, but it can be written without losing the mark. Raises OSError.
    """
    found = _scan(pagemap, (0, _TOP), 0, _WRITTEN, _WRITTEN, _FOLLOWED)
    unchanged, marked = ([row[:2] for row in found if row[2] == what] for what in (_FOLLOWED, 0))
    return joined(unchanged), joined(marked)


def protect(uffd: int, pagemap: int, ranges: Ranges, marked: Ranges) -> Ranges:
    """Protect the pages in these mappings; returns those that were not protected before, or written since.

    marked: those that lose their mark first. Raises OSError.
    """
    written: Ranges = []
    for start, end in ranges:
        fields = bytearray(_REGISTER_FIELDS.pack(start, end - start, _MODE_WP, 0))
        try:
            fcntl.ioctl(uffd, _REGISTER, fields)
            for first, last in shared(within(marked, start, end), [(start, end)]):
                fcntl.ioctl(uffd, _PROTECT, bytearray(_PROTECT_FIELDS.pack(first, last - first, 0)))
            flags = _PROTECT_MATCHING | _MUST_BE_FOLLOWED
            written += [row[:2] for row in _scan(pagemap, (start, end), flags, 0, _WRITTEN, _WRITTEN)]
        except OSError as e:
            if e.errno not in (errno.EINVAL, errno.EBUSY, errno.EPERM):
                raise
            written.append((start, end))  # a mapping of a kind that cannot be followed
    return joined(written)


def _scan(
    pagemap: int, span: tuple[int, int], flags: int, inverted: int, mask: int, told: int
) -> list[tuple[int, int, int]]:
    """List the pages in `span` that are there, or swapped out, and of those categories; each with those of `told`."""
    regions = ctypes.create_string_buffer(REGION.size * _AT_ONCE)
    found, (at, end) = [], span
    while at < end:
        what = (inverted, mask, _PRESENT | _SWAPPED, told)
        fields = bytearray(SCAN.pack(SCAN.size, flags, at, end, 0, ctypes.addressof(regions), _AT_ONCE, 0, *what))
        count = fcntl.ioctl(pagemap, PAGEMAP_SCAN, fields)
        found += [REGION.unpack_from(regions, i * REGION.size) for i in range(count)]
        at = SCAN.unpack(fields)[WALK_END]
    return found
