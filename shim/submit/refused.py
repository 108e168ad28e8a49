"""Says what a job was refused of the files here, and which option would have allowed it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from remoteio.printable import printable
from remoteio.submit.export.refusals import Refusal
from remoteio.submit.export.rights import ALWAYS, FIXED, FREE, HIDDEN, KEPT, READ, Glob, Rule
from remoteio.submit.export.room import FULL
from shim.submit import kept_places
from shim.submit.refusals_told import Told

DISK = "--disk SIZE"


def told(counted: Mapping[Refusal, int]) -> Told:
    """Say what was refused."""
    return Told(list(rows(counted)), sentences(counted))


_NAMED = 3  # refusals that are named in a sentence


def sentences(counted: Mapping[Refusal, int]) -> list[str]:
    """Say in at most two sentences what was refused, and in one that there was no room; [] where nothing was.

    That a program looked for its history, and found none, is told by --json-log alone.
    """
    full = [each for each in counted if _is_room(each.rule)]
    wanted = [each for each in counted if not _is_room(each.rule) and each.rule.name != kept_places.HISTORIES]
    return [*(_rules(wanted) if wanted else ()), *([_room(full)] if full else ())]


def _is_room(rule: Rule) -> bool:
    return rule.level == FREE and not rule.words


def _room(full: list[Refusal]) -> str:
    first = full[0]
    more = f" and {len(full) - 1} more" if len(full) > 1 else ""
    what = f"the job was kept from {first.rule.name} ({_shown(first.path)}{more}): "
    if first.rule == FULL:
        return what + f"make room, or say {DISK}, or `--disk all`, to let it have that too"
    return what + f'a larger {DISK} lets it, and disk = "SIZE" of its host in hosts.toml, where that is less'


def _rules(wanted: list[Refusal]) -> list[str]:
    named = [f"{_shown(each.path)} ({each.rule.name})" for each in wanted[:_NAMED]]
    more = f" and {len(wanted) - _NAMED} more" if len(wanted) > _NAMED else ""
    said = [f"kept from the job: {', '.join(named)}{more}"]
    options = dict.fromkeys(filter(None, (option(each.rule, each.path, each.reading) for each in wanted[:_NAMED])))
    if options:
        said.append(f"what would let it: {' '.join(options)}  (--json-log FILE has all, docs/security.md says why)")
    return said


def rows(counted: Mapping[Refusal, int]) -> Iterator[dict[str, Any]]:
    """What was refused, as --json-log has it: one object each."""
    for each, count in counted.items():
        to = "add" if _is_room(each.rule) else "see" if each.reading else "change"
        yield {
            "path": os.fsdecode(each.path), "rule": each.rule.name, "to": to,
            "option": option(each.rule, each.path, each.reading), "count": count,
        }  # fmt: skip


def option(rule: Rule, path: bytes, reading: bool) -> str:
    """Name the option of a run by which that rule would have let a job read a path, or change it; "": none does."""
    if _is_room(rule):
        return DISK
    if rule.kind == ALWAYS or rule.level not in (HIDDEN, READ, KEPT, FIXED):
        return ""
    return f"{'--read' if reading else '--write'} {shlex.quote(_shown(_named_by(rule, path)))}"


def _named_by(rule: Rule, path: bytes) -> bytes:
    """Of the path, as much as the rule speaks of: who may read ~/.aws/config may read ~/.aws."""
    if b"**" in rule.words or not rule.words:
        return path
    return b"/" + b"/".join(path.strip(b"/").split(b"/")[: len(rule.words)])


def pattern(rule: Rule) -> str:
    """Write the pattern of a rule, as of the root."""
    words = (word.head + b"*" + word.tail if isinstance(word, Glob) else word for word in rule.words)
    text = os.fsdecode(b"/".join(words))
    return text if text.startswith("**") else "/" + text


def _shown(path: bytes) -> str:
    return printable(os.fsdecode(path))
