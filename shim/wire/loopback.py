"""Tells whose a connection over the loopback interface is, and resets one. Shipped; used at both ends.

A port of 127.0.0.1 is open to all users of a machine. Who has connected is in /proc/net/tcp (proc_net_tcp.txt of the
kernel), for as long as he has it open: of one who has gone by then nothing is known, and so it is nobody's.
"""

from __future__ import annotations

import socket
import struct

_LOCAL, _REMOTE, _UID, _INODE = 1, 2, 7, 9
_ABORT = struct.pack("ii", 1, 0)  # struct linger: who closes so sends a reset
_MAPPED = b"\0" * 10 + b"\xff\xff"


def owner(connected: tuple[str, int], to: tuple[str, int]) -> int | None:
    """Return the user whose socket at `connected` is one end of a connection `to` here; None: nobody's any more."""
    for name, packed in (("/proc/net/tcp", b""), ("/proc/net/tcp6", _MAPPED)):
        wanted = [_written(packed, connected), _written(packed, to)]
        try:
            with open(name, encoding="ascii") as rows:
                for row in rows:
                    words = row.split()
                    if words[_LOCAL : _REMOTE + 1] == wanted and words[_INODE] != "0":
                        return int(words[_UID])
        except FileNotFoundError:
            continue  # there is no IPv6
    return None


def _written(before: bytes, address: tuple[str, int]) -> str:
    """Write it as those tables do: 32 bits at a time, as the machine has them."""
    packed = before + socket.inet_aton(address[0])
    return "%s:%04X" % ("".join("%08X" % n for (n,) in struct.iter_unpack("=I", packed)), address[1])


def abort(sock: socket.socket) -> None:
    """Close it so that the other side has a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    sock.close()
