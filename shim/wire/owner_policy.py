"""A table `[owner.NAME]` of hosts.toml, and its values: durations, hours of the day, sizes.

Shipped: the agent reads the same table again on the execute host, so this runs on a bare python3 >= 3.9.
"""

from __future__ import annotations

import re

from checkpoint.value import Value
from remoteio.errors import RexecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_HOURS = re.compile(r"(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})")
DAY_MINUTES = 24 * 60
AT_ONCE, LATER = "at once", "later"


class PolicyError(RexecError):
    """A value of an owner policy is not one; the text is a sentence that names the key and shows what is right."""


def parse_duration(text: object, key: str = "duration") -> float:
    """Return the seconds of "15m", "10s", "1h30m", "250ms" or "0"; PolicyError for anything else."""
    if isinstance(text, str):
        compact = text.replace(" ", "")
        if compact == "0":
            return 0.0
        parts = _DURATION_PART.findall(compact)
        if parts and "".join(number + unit for number, unit in parts) == compact:
            return float(sum(float(number) * _DURATION_UNITS[unit] for number, unit in parts))
    raise PolicyError(f'{key} = {_shown(text)} is not a duration; write for example "15m", "10s" or "1h30m".')


def parse_size(text: object, key: str = "size") -> int:
    """Read the bytes of "512M", "2G", "1.5GiB" (powers of 1024) or of a whole number; PolicyError for anything else."""
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    match = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise PolicyError(f'{key} = {_shown(text)} is not a size; write for example "512M" or "2G".')
    return int(float(match.group(1)) * _SIZE_UNITS[match.group(2).upper()])


def parse_hours(value: object, key: str = "hours") -> tuple[tuple[int, int], ...]:
    """Read spans of the day as (first minute, minute after the last), from "22:00-07:00" or a list of such.

    A span whose end is before its start runs over midnight; the times are the execute host's own.
    PolicyError for a time that no clock shows, or a span of no length.
    """
    texts = value if isinstance(value, list) else [value]
    if not texts:
        raise PolicyError(f'{key} = [] leaves no hour; write for example "22:00-07:00", or leave the line out.')
    return tuple(_parse_span(text, key) for text in texts)


def _parse_span(text: object, key: str) -> tuple[int, int]:
    match = _HOURS.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is not None:
        first_hour, first_minute, last_hour, last_minute = (int(group) for group in match.groups())
        first, last = first_hour * 60 + first_minute, last_hour * 60 + last_minute
        if max(first_minute, last_minute) < 60 and max(first, last) <= DAY_MINUTES and first != last:
            return first, last
    raise PolicyError(f'{key} = {_shown(text)} is not a span of the day; write for example "22:00-07:00".')


def within_hours(spans: tuple[tuple[int, int], ...], minute: int) -> bool:
    """Tell whether this minute of the day (0 to 1439) is in one of the spans; no spans: always."""
    return not spans or any(
        first <= minute < last if first < last else (minute >= first or minute < last) for first, last in spans
    )


def show_hours(spans: tuple[tuple[int, int], ...]) -> str:
    """Return the spans as parse_hours reads them, joined by ", "."""
    return ", ".join(_span_text(span) for span in spans)


def _span_text(span: tuple[int, int]) -> str:
    return "-".join(f"{minute // 60:02d}:{minute % 60:02d}" for minute in span)


def _shown(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


class OwnerPolicy(Value):
    """When a machine may be used beside its owner.

    name              what the table is called, for messages
    watched           False: nobody to look out for (`owner = none`): input neither delays nor ends a job
    start_idle        seconds without input before a job may start there (unless the user named the host)
    linger            seconds without further input before a frozen job goes on; 0: leave at the first input
    max_load          cores that others than our job keep busy, at most; None: no limit
    hours             spans of the day, as parse_hours gives; (): always
    battery           True: may also run on battery
    min_free_memory   bytes that must stay available (MemAvailable)
    memory            when that of a job which leaves is free: AT_ONCE, with its image committed, or LATER, when it runs
                      elsewhere
    """

    __slots__ = ("battery", "hours", "linger", "max_load", "memory", "min_free_memory", "name", "start_idle", "watched")
    name: str
    watched: bool
    start_idle: float
    linger: float
    max_load: float | None
    hours: tuple[tuple[int, int], ...]
    battery: bool
    min_free_memory: int
    memory: str

    def __init__(
        self,
        name: str = "keyboard",
        *,
        watched: bool = True,
        start_idle: float = 900.0,
        linger: float = 10.0,
        max_load: float | None = None,
        hours: tuple[tuple[int, int], ...] = (),
        battery: bool = False,
        min_free_memory: int = 0,
        memory: str = LATER,
    ) -> None:
        self._set(
            name=name, watched=watched, start_idle=start_idle, linger=linger, max_load=max_load, hours=hours,
            battery=battery, min_free_memory=min_free_memory, memory=memory,
        )  # fmt: skip

    def table(self) -> dict[str, object]:
        """Write the policy as a table that parse_owner_policy reads back to an equal one: what is sent to the agent."""
        table: dict[str, object] = {
            "start_idle": _duration_text(self.start_idle),
            "linger": _duration_text(self.linger),
            "battery": self.battery,
            "min_free_memory": self.min_free_memory,
            "memory": self.memory,
        }
        if self.max_load is not None:
            table["max_load"] = self.max_load
        if self.hours:
            table["hours"] = [_span_text(span) for span in self.hours]
        return table


def _duration_text(seconds: float) -> str:
    # Fixed point: repr() would write 1e-05, which no person writes and the parser refuses.
    return f"{seconds:.17f}".rstrip("0").rstrip(".") + "s"


KEYBOARD = OwnerPolicy("keyboard")
NOBODY = OwnerPolicy("none", watched=False, start_idle=0.0, battery=True)
BUILTIN = {"keyboard": KEYBOARD, "none": NOBODY}


def _parse_load(value: object, key: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return float(value)
    raise PolicyError(f"{key} = {_shown(value)} is not a number of busy cores; write for example 0.3.")


def _parse_bool(value: object, key: str) -> bool:
    if isinstance(value, bool):
        return value
    raise PolicyError(f"{key} = {_shown(value)} is neither true nor false.")


def _parse_memory(value: object, key: str) -> str:
    if value in (AT_ONCE, LATER):
        return str(value)
    raise PolicyError(f'{key} = {_shown(value)} is neither "{AT_ONCE}" nor "{LATER}".')


# key of the table, and field of OwnerPolicy -> what reads its value, given the key to name it
KEYS: dict[str, Callable[[object, str], Any]] = {
    "start_idle": parse_duration,
    "linger": parse_duration,
    "max_load": _parse_load,
    "hours": parse_hours,
    "battery": _parse_bool,
    "min_free_memory": parse_size,
    "memory": _parse_memory,
}


def parse_owner_policy(name: str, table: object) -> OwnerPolicy:
    """Return the policy that `[owner.NAME]` describes; PolicyError names the first key that is wrong or unknown.

    `keyboard` may be redefined, `none` may not: a host marked `owner = none` must mean that everywhere.
    """
    where = f"[owner.{name}]"
    if name == "none":
        raise PolicyError(
            f"{where} cannot be redefined: it means that the host has no owner; give the table another name."
        )
    if not isinstance(table, dict):
        raise PolicyError(f"{where} is not a table; write its keys below a line {where}.")
    for key in table:
        if key not in KEYS:
            raise PolicyError(f"{where} has an unknown key {key}; the keys are {', '.join(KEYS)}.")
    try:
        return OwnerPolicy(name, **{key: read(table[key], key) for key, read in KEYS.items() if key in table})
    except PolicyError as error:
        raise PolicyError(f"{where}: {error}") from None


def named_policy(name: str, tables: dict[str, object]) -> OwnerPolicy:
    """Return the policy that `--owner NAME` or a host's `owner = "NAME"` means.

    `tables` is what stands under `owner` in hosts.toml: name → table. PolicyError if the name is nowhere.
    """
    if name in tables:
        return parse_owner_policy(name, tables[name])
    if name in BUILTIN:
        return BUILTIN[name]
    names = sorted({*tables, *BUILTIN})
    raise PolicyError(
        f"There is no owner policy {name}; known are {', '.join(names)}: add a table [owner.{name}] to hosts.toml."
    )
