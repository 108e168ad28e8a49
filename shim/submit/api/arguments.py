"""Checks what a caller hands in, at once, so that a mistake is told where it was made and not by a host."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence

from shim.submit.api.errors import ArgumentError

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
