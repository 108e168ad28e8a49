"""Check the head of an image, as the host that made it describes it (shim/wire/job_messages.py). Pure."""

from __future__ import annotations

from typing import Any

from shim.submit.hosts.facts import COMPAT
from shim.submit.shapes import ShapeError, decoded, digits, flag, listed, mapping, maybe, table, text, tuple_of, whole

_PID = whole(0, 1 << 22)  # PID_MAX_LIMIT, linux/threads.h
_FD = whole(0, (1 << 31) - 1)
_COUNT = whole()
_MOST = 100_000  # processes, descriptors
_CPUS = 8192  # CONFIG_NR_CPUS
_STREAMS = table({"stdout": _COUNT, "stderr": _COUNT, "stdin": _COUNT, "stdin_unread": text(16 << 20)})
_HEAD = table(
    {
        "streams": _STREAMS, "facts": table(COMPAT), "stdin_ended": flag, "pipes": mapping(digits(2), _COUNT, 3),
        "terminal": maybe(tuple_of(_COUNT, _COUNT)), "frozen": flag, "stopped": listed(_PID, _MOST), "last_pid": _PID,
        "frozen_us": _COUNT, "keep_tcp": flag, "root": _PID,
    },
    {
        "mapped": listed(text(4096), _MOST), "private": listed(text(4096), _MOST),
        "controlling": listed(tuple_of(_COUNT, _COUNT), 64), "criu": mapping(text(64), _COUNT, 64),
        "kinds": listed(text(64), 256), "handles": listed(tuple_of(_PID, _FD, _COUNT), _MOST),
        "threads": listed(tuple_of(_PID, whole(0, (1 << 16) - 1), listed(whole(0, _CPUS), _CPUS)), _MOST),
        "numbers": mapping(digits(1 << 22), _PID, _MOST),
    },
)  # fmt: skip


def parsed(head: bytes) -> dict[str, Any]:
    """Return the head as plain data, `stdin_unread` as bytes. Raises ShapeError for what no host of ours says."""
    said: dict[str, Any] = _HEAD(decoded(head, "the head of its image"), "the head of its image")
    streams = said["streams"]
    try:
        streams["stdin_unread"] = bytes.fromhex(streams["stdin_unread"])
    except ValueError:
        raise ShapeError("the unread input of its image is not hexadecimal") from None
    return said
