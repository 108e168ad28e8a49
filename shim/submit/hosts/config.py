"""hosts.toml: the machines that may be used, and what ``--on`` means. See docs/hosts.md."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from remoteio.errors import RexecError
from shim.submit.scope import TRUSTS, parse_disk

LOCAL = "local"
ANY = "any"

_TOP = ("host", "owner")
# key: (its type, what is to be written)
_HOST_KEYS: dict[str, tuple[type, str]] = {
    "ssh": (str, 'an ssh destination, such as "alice@box"'),
    "options": (list, 'further arguments of ssh, such as ["-p", "2222"]'),
    "python": (str, 'a python >= 3.9 there, such as "/usr/bin/python3.11"'),
    "owner": (str, '"keyboard", "none", or the NAME of an [owner.NAME] table'),
    "trust": (str, '"full", "home" or "project"'),
    "disk": (str, 'a size, such as "10G", or "all"'),
    "slots": (int, "a whole number from 1 on, such as 4"),
    "tags": (dict, 'names and what they are, such as {site = "home", fast = true}'),
}


class HostsError(RexecError):
    """hosts.toml cannot be used: which key of which file, why, what is allowed."""


class Host(NamedTuple):
    """A machine to run on: ``ssh`` is None for this one.

    ``owner`` names the policy that says when its owner comes first: "keyboard", "none" or a table of hosts.toml.
    ``trust`` says how much of the files here its jobs may have: one of scope.TRUSTS; None: as the job asks.
    ``disk`` is how many bytes each of them may add to those; None: as the job asks.
    ``slots`` is how many runs of ``--on any`` may be there at a time; None: as many as it has processors.
    ``tags`` are further attributes of its ad, for --require and --rank.
    """

    name: str
    ssh: str | None
    options: tuple[str, ...] = ()
    python: str | None = None
    owner: str = "keyboard"
    trust: str | None = None
    disk: int | None = None
    slots: int | None = None
    tags: tuple[tuple[str, str | int | float | bool], ...] = ()


class Hosts(NamedTuple):
    """hosts.toml as read: the hosts in their order there, and the owner tables as they stand."""

    hosts: tuple[Host, ...] = ()
    owners: Mapping[str, Mapping[str, object]] = MappingProxyType({})


def hosts_file(environ: Mapping[str, str]) -> Path:
    """Find hosts.toml: beneath $XDG_CONFIG_HOME, or ~/.config where that is unset or relative."""
    base = environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path(os.path.expanduser("~/.config"))) / "rexec" / "hosts.toml"


def load(environ: Mapping[str, str] = os.environ) -> Hosts:
    """Read hosts.toml; no file is an empty one. Raises HostsError."""
    path = hosts_file(environ)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Hosts()
    except OSError as error:
        raise HostsError(f"cannot read {path}: {error.strerror}; correct its permissions") from error
    return parse(data, str(path))


def known() -> list[Host]:
    """List the hosts that are known by name: those of hosts.toml, then this machine. Raises HostsError."""
    return [*load().hosts, Host(LOCAL, None)]


def parse(data: bytes, file: str) -> Hosts:
    """Read the hosts and owner tables in the bytes of ``file``. Raises HostsError, which names file and key."""
    import tomllib  # takes 3 ms, and a run without hosts.toml needs none

    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise HostsError(f"{file} is not TOML: {error}; correct it there") from error
    _only(document, _TOP, file, "")
    owners = _tables(document, "owner", file)
    if owners:
        _check_owners(owners, file)
    hosts = tuple(_host(name, table, owners, file) for name, table in _tables(document, "host", file).items())
    return Hosts(hosts, owners)


def _check_owners(owners: Mapping[str, Mapping[str, object]], file: str) -> None:
    # Here, because every run reads hosts.toml, and few have a policy of their own in it.
    from shim.wire.owner_policy import KEYS, PolicyError, parse_owner_policy

    for name, table in owners.items():
        _only(table, tuple(KEYS), file, f"owner.{name}.")
        if name == "none":
            raise HostsError(
                f"{file}: [owner.none] cannot be set: it means that nobody owns the host; name it otherwise"
            )
        try:
            parse_owner_policy(name, table)  # for what it raises: a value is read again where a job goes by it
        except PolicyError as error:
            raise HostsError(f"{file}: {str(error).rstrip('.')}") from None


def resolve(on: str, known: Hosts) -> Host:
    """Find the host that ``--on`` names: local, one of hosts.toml, or else an ssh destination. Raises HostsError."""
    if on == LOCAL:
        return Host(LOCAL, None)
    for host in known.hosts:
        if host.name == on:
            return host
    if not on or on.startswith("-") or any(character.isspace() for character in on):
        raise HostsError(f"{on!r} is no host; name one as for ssh, [user@]host, or `local`")
    return Host(on, on)


def meant(on: str, known: Hosts) -> str:
    """Ask whether another host was meant, whose name is much like that which nobody knows; "" where none is. Pure."""
    names = [host.name for host in known.hosts]
    return "" if on in names else _alike(on.rpartition("@")[2], [*names, LOCAL, ANY])


def several(on: str | None) -> tuple[str, ...]:
    """Return the names in an ``--on`` of several hosts, ("any",) for all of hosts.toml; (): it names one, or none.

    "alpha," is a list too, of one.
    """
    if on is None or (on != ANY and "," not in on):
        return ()
    return tuple(name for word in on.split(",") if (name := word.strip()))


def _host(name: str, table: Mapping[str, object], owners: Mapping[str, object], file: str) -> Host:
    where = f"host.{name}."
    _only(table, tuple(_HOST_KEYS), file, where)
    if name == LOCAL:
        raise HostsError(f"{file}: [host.local] cannot be set: `local` is always this machine; name the host otherwise")
    for key, value in table.items():
        kind, example = _HOST_KEYS[key]
        if (
            type(value) is not kind
            or (isinstance(value, list) and not all(isinstance(word, str) for word in value))
            or (isinstance(value, int) and value < 1)
            or (isinstance(value, dict) and not all(map(_is_tag, value.items())))
        ):
            raise HostsError(f"{file}: {where}{key} = {value!r} is wrong; write {example}")
    ssh, python, owner, options, trust = (table.get(key) for key in ("ssh", "python", "owner", "options", "trust"))
    slots, tags = table.get("slots"), table.get("tags")
    if ssh is not None and (not ssh or str(ssh).startswith("-")):
        raise HostsError(f"{file}: {where}ssh = {ssh!r} is wrong; write {_HOST_KEYS['ssh'][1]}")
    if owner is not None and owner not in ("keyboard", "none", *owners):
        raise HostsError(f"{file}: {where}owner = {owner!r} names no policy; write {_HOST_KEYS['owner'][1]}")
    if trust is not None and trust not in TRUSTS:
        raise HostsError(f"{file}: {where}trust = {trust!r} is none; write {_HOST_KEYS['trust'][1]}")
    return Host(
        name,
        str(ssh or name),
        tuple(map(str, options)) if isinstance(options, list) else (),
        None if python is None else str(python),
        "keyboard" if owner is None else str(owner),
        None if trust is None else str(trust),
        _disk(table.get("disk"), f"{file}: {where}disk"),
        slots if isinstance(slots, int) else None,
        tuple(tags.items()) if isinstance(tags, dict) else (),
    )


def _is_tag(pair: tuple[str, object]) -> bool:
    name, value = pair
    return name.isascii() and name.isidentifier() and isinstance(value, (str, int, float)) and value == value


def _disk(text: object, key: str) -> int | None:
    if text is None:
        return None
    from shim.wire.owner_policy import PolicyError  # see _check_owners

    try:
        return parse_disk(text, key)
    except PolicyError as error:
        raise HostsError(str(error).rstrip(".")) from None


def _tables(document: Mapping[str, object], key: str, file: str) -> dict[str, Mapping[str, object]]:
    tables = document.get(key, {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise HostsError(f"{file}: {key} has to be tables, each headed [{key}.NAME]")
    return tables


def _only(table: Mapping[str, object], allowed: tuple[str, ...], file: str, where: str) -> None:
    for key in table:
        if key not in allowed:
            perhaps = _alike(key, allowed)
            raise HostsError(f"{file}: the key {where}{key} is unknown{perhaps}; allowed there: {', '.join(allowed)}")


def _alike(word: str, words: Iterable[str]) -> str:
    """Ask whether one of these was meant that is much like the word; "" where none is. Pure."""
    from difflib import get_close_matches  # takes 3 ms

    found = get_close_matches(word, list(words), 1)
    return f" (did you mean {found[0]}?)" if found else ""
