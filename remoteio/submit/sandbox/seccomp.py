"""System calls that a thread may make no more, seccomp(2): of processes, sockets, mounts, others' memory, the kernel.

They fail with EPERM, as of a kernel that does not allow them. What is not named here is allowed: libc and Python take
what calls they like for their own ends, and a filter that must know them all breaks with the next version.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from remoteio.syscalls import check, libc

# linux/audit.h; then of each call its number in asm/unistd.h, -1: it has none.
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1), "riscv64": (0xC00000F3, 1)}
_CLONE, _TGKILL, _IOCTL, _PRCTL, _CLONE3 = (56, 220), (234, 131), (16, 29), (157, 167), 435
_REFUSED = {
    # programs and processes
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, -1), "vfork": (58, -1), "unshare": (272, 97),
    "setns": (308, 268), "kill": (62, 129), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424),
    # sockets; and a ring by which all is asked for beside the calls
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    # others' memory and descriptors
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "pidfd_getfd": (438, 438), "kcmp": (312, 272), "userfaultfd": (323, 282),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    # files by another way than their names
    "open_by_handle_at": (304, 265), "chroot": (161, 51), "pivot_root": (155, 41), "mount": (165, 40),
    "umount2": (166, 39), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    # the machine
    "bpf": (321, 280), "perf_event_open": (298, 241), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "iopl": (172, -1), "ioperm": (173, -1),
}  # fmt: skip
_TERMINAL = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: they type for the user
_CLONE_THREAD = 0x10000
_SET_DUMPABLE = 4  # of prctl(2)
_X32 = 0x40000000  # of x86_64: calls of another ABI

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # linux/filter.h, bpf_common.h
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24  # where struct seccomp_data has them; little-endian
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_SECCOMP_SET_MODE_FILTER, _PR_SET_SECCOMP = 2, 22


def known(machine: str) -> bool:
    """Tell whether the numbers of that architecture's calls are known here."""
    return machine in _ARCHITECTURES


def program(machine: str, pid: int) -> bytes:
    """Assemble the filter, of struct sock_filter each, for a thread of process `pid`. Pure."""
    architecture, column = _ARCHITECTURES[machine]
    refuse = [_op(_RETURN, _ERRNO | errno.EPERM)]
    absent = [_op(_RETURN, _ERRNO | errno.ENOSYS)]
    allow = [_op(_RETURN, _ALLOW)]
    code = [_op(_LOAD, _ARCHITECTURE), _op(_EQUAL, architecture, 1, 0), *refuse, _op(_LOAD, _NUMBER)]
    if machine == "x86_64":
        code += [_op(_AT_LEAST, _X32, 0, 1), *absent]
    for numbers in _REFUSED.values():
        if numbers[column] >= 0:
            code += [_op(_EQUAL, numbers[column], 0, 1), *refuse]
    # The kernel cannot look at what clone3 is given: libc takes clone where there is none.
    code += [_op(_EQUAL, _CLONE3, 0, 1), *absent]
    for number, at, test in (
        (_CLONE[column], _FIRST, [_op(_ANY_BIT, _CLONE_THREAD, 1, 0), *refuse]),
        (_TGKILL[column], _FIRST, [_op(_EQUAL, pid, 1, 0), *refuse]),
        (_IOCTL[column], _SECOND, [line for each in _TERMINAL for line in (_op(_EQUAL, each, 0, 1), *refuse)]),
        (_PRCTL[column], _FIRST, [_op(_EQUAL, _SET_DUMPABLE, 0, 1), *refuse]),
    ):
        of_this = [_op(_LOAD, at), *test, *allow]
        code += [_op(_EQUAL, number, 0, len(of_this)), *of_this]
    return b"".join(code + allow)


def _op(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, true, false, value)


def restrict() -> bool:
    """Have this thread make none of those calls any more. False: they are not known here. Raises OSError.

    It must have PR_SET_NO_NEW_PRIVS.
    """
    machine = os.uname().machine
    if not known(machine) or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    code = program(machine, os.getpid())
    buffer = ctypes.create_string_buffer(code, len(code))
    filter = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))  # struct sock_fprog
    check(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_SET_MODE_FILTER, filter, 0, 0), "prctl(PR_SET_SECCOMP)")
    return True
