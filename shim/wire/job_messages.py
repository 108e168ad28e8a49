"""What the two ends of a job that can be checkpointed say to each other: JSON in ORDER and NEWS frames. Shipped.

Orders (submit to execute), each with the serial number of the dump it is about, or the generation for GO:

    CHECKPOINT  dump, and let the job go on at once
    VACATE      dump, and when the image is committed keep the job frozen until END or THAW
    THAW        the dump cannot be kept, or no host could go on from it (`why`): the job goes on here
    END         after HELD: kill the job here, it goes on elsewhere or later; MOVED follows
    GO          the restored job may run: it is the newest generation
    KILL        kill the job; EXIT follows
    AGAIN       stdout, stderr: home has taken the job up, and has written so much of each: TOLD, and what is missing

News (execute to submit):

    FROZEN      why, source, at: the owner is back, and the job stands still
    THAWED      why
    LEAVING     why, serial, at_once: a vacate has begun by itself; at_once: this host's owner wants the memory back
    DUMPING     serial
    DUMPED      serial, frozen_us, bytes: the tree stands still and what it wrote is all sent; the image follows
    UNABLE      why: no image can be made here; the job was not started, or, told to start it anyway, it runs without
    CLOSES      why: the connections that the job loses by leaving
    REFUSED     serial, why: it could not be dumped; the job goes on
    HELD        serial: the image is committed, and the job stands still until END or THAW, whatever happens here
    MOVED       serial: the image is committed and the job has been killed here
    DEAD        why: its first process was killed, and the job with it; nothing of it is left there
    RESTORED    seconds: the job stands ready for GO
    CRIU        need: hash of the bundle to send as BUNDLE frames
    TOLD        what the job says comes from here on, from where AGAIN has said

The head of an image (the sender's own bytes in checkpoint/execute/sender.py) is a JSON object: `facts`, the table of
checkpoint/wire/compat.py; `streams`, with `stdout`, `stderr`: bytes sent, `stdin`: bytes the job has read,
`stdin_unread`: those it was given and has not, hexadecimal; `kinds` of resources (criu_images.kinds); `handles` and
`numbers`, if it ever asked for a file lock: see shim/submit/job/image_locks.py, which makes `locks` of them; all else
comes back to the agent in the manifest's `stats`.
"""

from __future__ import annotations

from remoteio.errors import ProtocolError

CHECKPOINT, VACATE, THAW, END, GO, KILL, AGAIN = "checkpoint", "vacate", "thaw", "end", "go", "kill", "again"
FROZEN, THAWED, LEAVING, DUMPING, DUMPED, REFUSED, HELD, MOVED, DEAD, RESTORED, CRIU, CLOSES, UNABLE, TOLD = (
    "frozen", "thawed", "leaving", "dumping", "dumped", "refused", "held", "moved", "dead", "restored", "criu",
    "closes", "unable", "told",
)  # fmt: skip

WHY = 4000


def order(what: str, serial: int, **more: object) -> bytes:
    """Return the payload of an ORDER frame."""
    import json  # a plain run has neither: it would wait for this

    return json.dumps({"order": what, "serial": serial, **more}).encode()


def news(what: str, **more: object) -> bytes:
    """Return the payload of a NEWS frame. A `why` is cut to WHY characters: a frame that is too long ends the link."""
    import json

    if "why" in more:
        more["why"] = str(more["why"])[:WHY]
    return json.dumps({"news": what, **more}).encode()


def parse_again(payload: bytes | memoryview) -> tuple[int, int]:
    """Read of an order AGAIN how much home has of standard output and of standard error. Raises ProtocolError."""
    import json

    said = json.loads(bytes(payload))
    counts = said.get("stdout"), said.get("stderr")
    if not all(type(count) is int and count >= 0 for count in counts):
        raise ProtocolError("an order says not how much is written")
    return counts


def parse_order(payload: bytes | memoryview) -> tuple[str, int, str]:
    """Read an ORDER frame: what is ordered, the serial number, and why, "" if it does not say. Raises ProtocolError."""
    import json

    try:
        said = json.loads(bytes(payload))
    except (ValueError, RecursionError) as e:
        raise ProtocolError("an order is no JSON (%s)" % e) from None
    if isinstance(said, dict):
        what, serial, why = said.get("order"), said.get("serial"), said.get("why", "")
        if isinstance(what, str) and type(serial) is int and isinstance(why, str):
            return what, serial, why
    raise ProtocolError("an order says not what it is and of which number")
