"""What rexec needs of a host, held against what it says of itself: a verdict a line, and what mends it. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shim.submit.hosts.survey import Report
from shim.submit.units import size
from shim.wire.sysctl import FUSE_WAITS, forbidden_by, fuse_waits

OK, NOTE, BAD = "ok", "note", "bad"
# FUSE 7.31, the oldest that the export speaks, came with it.
_OLDEST_KERNEL = (5, 4)
_CLOCK_SECONDS = 2.0
_CACHE_BYTES = 16 << 20
_MEMORY_BYTES = 256 << 20
_IDS = 65536
KEEP_RUNTIME = "make ~/.cache/rexec yours and writable, or set XDG_CACHE_HOME"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor: ``state`` is OK, NOTE (works, but) or BAD; ``mend`` the command or deed that helps."""

    state: str
    what: str
    text: str
    mend: str = ""


def checks(report: Report) -> list[Check]:
    """Check everything rexec needs of a host, in the order in which a run would meet it. Pure."""
    if report.error or report.started is None:
        return [Check(BAD, "reach", report.error)]
    facts = report.facts
    user = bool(facts["uid"])
    found = [
        Check(OK, "reach", f"as {facts['login']} in {report.connected:.2f} s, round trip {latency(report.latency)}"),
        Check(OK, "python", ".".join(map(str, report.started.python))),
        _runtime(report),
        _kernel(facts),
        _fuse(facts["fuse"]),
        _namespaces(facts["namespaces"], facts["settings"]),
    ]
    if user:
        found.append(_ids(facts))
    if not facts["encrypts"]:
        text = "Python there has no libcrypto: while a job is saved or restored, its memory lies on the disk as it is"
        found.append(Check(NOTE, "images", text, "there: apt-get install libssl3, or set TMPDIR=/dev/shm"))
    return [*found, *_staying(facts), _memory(facts), _clock(report.clock)]


def _runtime(report: Report) -> Check:
    started, free = report.started, report.facts["cache_free"]
    if started is not None and started.runtime == "memory":
        return Check(
            NOTE,
            "runtime",
            f"sent anew for each run, since it could not be kept there ({started.note})",
            f"there: {KEEP_RUNTIME}",
        )
    if free is not None and free < _CACHE_BYTES:
        return Check(NOTE, "runtime", f"only {known_size(free)} are free for its cache", "there: rm -r ~/.cache/rexec")
    return Check(OK, "runtime", "kept there")


def _kernel(facts: Mapping[str, Any]) -> Check:
    text = f"{facts['kernel']} {facts['arch']}"
    numbers = tuple(int(part) for part in facts["kernel"].replace("-", ".").split(".")[:2] if part.isdecimal())
    if numbers < _OLDEST_KERNEL:
        return Check(BAD, "kernel", f"{text} is too old; Linux 5.4 is needed", "there: upgrade the kernel")
    return Check(OK, "kernel", text)


def _fuse(fuse: Mapping[str, Any]) -> Check:
    if not fuse["error"]:
        return Check(OK, "/dev/fuse", "opens")
    if not fuse["mode"]:
        return Check(BAD, "/dev/fuse", "is not there", "there, as root: modprobe fuse")
    mend = "there, as root: chmod 666 /dev/fuse"
    if fuse["error"] != "Permission denied":
        mend = "there, as root: modprobe fuse; in a container, allow it the device /dev/fuse"
    return Check(BAD, "/dev/fuse", f"does not open: {fuse['error']} (mode {fuse['mode'][2:]})", mend)


def _namespaces(tried: Mapping[str, str], settings: Mapping[str, str | None]) -> Check:
    if not tried["step"]:
        return Check(OK, "namespaces", "made, with proc and FUSE mounted within")
    text = f"{tried['step']} failed: {tried['error']}"
    found = forbidden_by(settings.get)
    if found is not None:
        name, bad, good = found
        mend = f"there, as root: sysctl -w {name}={good}  (and a line in /etc/sysctl.d to keep it)"
        return Check(BAD, "namespaces", f"{tried['step']} is forbidden, since {name} is {bad}", mend)
    if tried["step"] == "mount fuse":
        return Check(BAD, "namespaces", text, "mend /dev/fuse; in a container, allow it the device and mount(2)")
    return Check(BAD, "namespaces", text, "there: a container or security module forbids it; let it allow namespaces")


def _ids(facts: Mapping[str, Any]) -> Check:
    login = facts["login"]
    ranges = all(any(count >= _IDS for _, count in facts[name]) for name in ("subuid", "subgid"))
    if facts["id_tools"] and ranges:
        return Check(OK, "ids", "newuidmap and 65536 subordinate ids: a job has the ids that it has here")
    mends = [] if facts["id_tools"] else ["apt-get install uidmap"]
    if not ranges:
        free = f"{facts['subordinate_end']}-{facts['subordinate_end'] + _IDS - 1}"  # nobody else's
        mends.append(f"usermod --add-subuids {free} --add-subgids {free} {shlex.quote(login)}")
    text = "one user id is mapped there: files of others look like nobody's, root's like yours"
    return Check(NOTE, "ids", text, f"there, as root: {' && '.join(mends)}")


def _staying(facts: Mapping[str, Any]) -> list[Check]:
    """Check what keeps a job from outliving its connection; nothing to say where nothing does."""
    found = []
    if facts["logout"]:
        text = "its system ends your processes when a connection ends, so a job ends with its connection"
        setting = f"KillExcludeUsers=root {shlex.quote(facts['login'])}"
        mend = f"there, as root: a line {setting} in /etc/systemd/logind.conf, and restart systemd-logind"
        found.append(Check(NOTE, "staying", text, mend))
    seconds = fuse_waits(facts["settings"].get)
    if seconds:
        text = f"its kernel ends what has waited {seconds} s for a file, so a job is out of touch no longer than that"
        mend = " ".join(f"{name}=0" for name in FUSE_WAITS)
        found.append(Check(NOTE, "staying", text, f"there, as root: sysctl -w {mend}"))
    return found


def _memory(facts: Mapping[str, Any]) -> Check:
    free, total = facts["memory_available"], facts["memory_total"]
    text = f"{known_size(free)} of {known_size(total)} available, {facts['cores']} cores, load {facts['load']:.2f}"
    state = NOTE if free is not None and free < _MEMORY_BYTES else OK
    return Check(state, "room", text)


def _clock(offset: float) -> Check:
    if abs(offset) < _CLOCK_SECONDS:
        return Check(OK, "clock", f"{round(offset, 3) + 0.0:+.3f} s")  # never -0.000
    text = f"{offset:+.0f} s off this machine's; programs that compare times may wonder"
    return Check(NOTE, "clock", text, "there, as root: timedatectl set-ntp true")


def latency(seconds: float) -> str:
    """Say a round trip in milliseconds."""
    return f"{seconds * 1000:.1f} ms"


def known_size(count: int | None) -> str:
    """Say a number of bytes, which a host may not have told."""
    return "?" if count is None else size(count)
