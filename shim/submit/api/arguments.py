"""Checks what a caller hands in, at once, so that a mistake is told where it was made and not by a host."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from typing import TypedDict

from shim.submit.api.errors import ArgumentError
from shim.submit.forwarding import ForwardError, forwards
from shim.submit.scope import HOME, PROJECT, TRUSTS, Scope, asked
from shim.wire.owner_policy import PolicyError

Text = str | bytes | os.PathLike[str]


def command_words(command: object) -> list[bytes]:
    """Return the words of a command, as execve(2) takes them."""
    if isinstance(command, (str, bytes)):
        raise ArgumentError(
            f"the command is one text, {command!r:.80}: give its words in a list, or have a shell read it, "
            "['sh', '-c', TEXT]"
        )
    if not isinstance(command, Sequence) or not command:
        raise ArgumentError(f"the command is {command!r:.80}: give a list of words, a program in front")
    return [text(each, f"word {number} of the command") for number, each in enumerate(command)]


def text(given: object, what: str) -> bytes:
    """Return a text that the kernel is to be given."""
    if not isinstance(given, (str, bytes, os.PathLike)):
        raise ArgumentError(f"{what} is {given!r:.80}: give a str, bytes or a path")
    encoded = os.fsencode(given)
    if b"\0" in encoded:
        raise ArgumentError(f"{what} is {given!r:.80}: no program can be given a NUL")
    return encoded


def texts(given: object, what: str) -> list[bytes]:
    """Read several of them."""
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        raise ArgumentError(f"{what} is {given!r:.80}: give a list")
    return [text(each, what) for each in given]


def variables(env: object) -> list[bytes]:
    """Read environment variables, as NAME=VALUE each."""
    if env is None:
        return []
    if not isinstance(env, Mapping):
        raise ArgumentError(f"env is {env!r:.80}: give a dict of names and values")
    found = [(text(name, "a name in env"), text(value, f"env[{name!r:.40}]")) for name, value in env.items()]
    for name, _ in found:
        if not name or b"=" in name:
            raise ArgumentError(f"env has the name {os.fsdecode(name)!r:.40}: a name is not empty and has no =")
    return [name + b"=" + value for name, value in found]


def host(given: object, what: str) -> str | None:
    """Read one host, as --on names it; None stays None."""
    if given is None:
        return None
    if not isinstance(given, str) or not given or "," in given or given == "any":
        raise ArgumentError(f"{what} is {given!r:.80}: give the name of one host, as for ssh, or 'local'")
    return given


def hosts(given: object) -> str | None:
    """Hosts that a job may run on, as --on has them."""
    if given is None or (isinstance(given, str) and given):
        return given
    if isinstance(given, Sequence) and given and all(isinstance(name, str) and name for name in given):
        return ",".join(given)
    raise ArgumentError(f"hosts is {given!r:.80}: give a list of names of hosts, or 'any'")


class ScopeOptions(TypedDict, total=False):
    """What a command or job is given of the files here, and how much it may add to them: docs/security.md.

    only   nothing but the system's files, the directory it works in, and what is named
    read   paths that it may read, whatever is kept from jobs, and not change
    write  paths that it may change, whatever is kept from jobs
    hide   paths that it does not see
    trust  how much a host is trusted of which hosts.toml says nothing: "full", "home" or "project", which is `only`
    disk   what it may add: bytes, a size such as "10G", or "all"
    """

    only: bool
    read: Sequence[Text]
    write: Sequence[Text]
    hide: Sequence[Text]
    trust: str
    disk: str | int


def scope(options: Mapping[str, object]) -> Scope:
    """Read ScopeOptions, of paths as from this process's directory. Raises TypeError for an option that is none."""
    for name in options.keys() - ScopeOptions.__annotations__.keys():
        raise TypeError(f"{name!r} is no keyword argument here")
    only, trust, disk = options.get("only", False), options.get("trust", HOME), options.get("disk")
    if not isinstance(only, bool):
        raise ArgumentError(f"only is {only!r:.80}: give True or False")
    if trust not in TRUSTS or (only and "trust" in options and trust != PROJECT):
        raise ArgumentError(f"trust is {trust!r:.80}: give one of {', '.join(TRUSTS)}, and with only=True none")
    named = [list(map(os.fsdecode, texts(options.get(name, ()), name))) for name in ("read", "write", "hide")]
    try:
        found = asked(only, named[0], named[1], named[2], disk if isinstance(disk, (str, int)) else None)
    except PolicyError as error:
        raise ArgumentError(f"disk is {disk!r:.80}: give bytes, a size such as '10G', or 'all'") from error
    if disk is not None and found.disk is None:
        raise ArgumentError(f"disk is {disk!r:.80}: give bytes, a size such as '10G', or 'all'")
    return found if only else found._replace(trust=trust)


def ports(given: object) -> list[str]:
    """Read what --forward would be given."""
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence) or not all(isinstance(e, str) for e in given):
        raise ArgumentError(f"forward is {given!r:.80}: give a list of texts, as --forward has them")
    try:
        forwards(given)
    except ForwardError as error:
        raise ArgumentError(str(error)) from error
    return list(given)


def policy(given: object) -> str:
    """Read the name of an owner's policy."""
    if not isinstance(given, str):
        raise ArgumentError(f"owner is {given!r:.80}: give the name of a policy")
    return given


def whole(given: object, what: str, least: int) -> int:
    """Return a whole number."""
    if not isinstance(given, int) or isinstance(given, bool) or given < least:
        raise ArgumentError(f"{what} is {given!r:.80}: give a whole number, {least} or more")
    return given


def seconds(given: object, what: str) -> float:
    """Return a length of time."""
    if not isinstance(given, (int, float)) or isinstance(given, bool) or not given >= 0:
        raise ArgumentError(f"{what} is {given!r:.80}: give seconds, 0 or more")
    return float(given)


def descriptor(file: object, what: str) -> int:
    """Return the descriptor of an open file; what was written to it before stands before what comes."""
    if isinstance(file, int) and not isinstance(file, bool):
        number = file
    else:
        try:
            if hasattr(file, "flush"):
                file.flush()
            number = file.fileno()  # type: ignore[attr-defined]
        except (AttributeError, io.UnsupportedOperation, ValueError) as error:
            raise ArgumentError(f"{what} is {file!r:.80}: give an open file of this machine's") from error
    try:
        os.fstat(number)
    except OSError as error:
        raise ArgumentError(f"{what} is {file!r:.80}, which is not open") from error
    return number
