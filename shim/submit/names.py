"""Names that are right here only: what a job finds in their place in /etc, for it runs in another machine's network.

* resolv.conf: the job asks for names in the host's network, so as the host does. Here it may name 127.0.0.53, where
  only this machine's systemd-resolved listens, or a server that only this network has.
* hosts: the job has this machine's name, and programs listen at the address of their own name; so the name is given one
  that every machine has.
* passwd, group: the user and its groups where they are kept elsewhere (LDAP, sssd, systemd-homed). The programs that
  know them are asked by a socket, which leads out of a job to nobody; so they are asked here, when it starts.
"""

from __future__ import annotations

import grp
import ipaddress
import os
import pwd
from pathlib import Path

from shim.wire import network
from shim.wire.job_spec import JobSpec

_OWN_ADDRESS = b"127.0.1.1"  # as Debian's installer gives it
_PAGE = 4096  # bytes


def of_network(spec: JobSpec, host: bytes, resolver: bytes | None) -> dict[bytes, bytes]:
    """Return contents by their name in /etc, for a host whose network is named `host`, and its resolv.conf, if any."""
    if host and host == network.name():
        return {}
    found = {}
    if resolver is not None and resolver != network.resolver():
        # of a length that other hosts' have too: a program that has it open is restored only where it is as long
        lines = resolver if resolver.endswith(b"\n") else resolver + b"\n"
        found[b"resolv.conf"] = lines + b"\n" * (-len(lines) % _PAGE)
    before = _read("hosts")
    after = hosts(before, spec.hostname)
    if after != before:
        found[b"hosts"] = after
    return found


def hosts(text: bytes, own: bytes) -> bytes:
    """Return that hosts(5) with the name `own` at an address of whatever machine looks."""
    lines, there = [], False
    for line in text.splitlines(keepends=True):
        words = line.partition(b"#")[0].split()
        if own.lower() in (word.lower() for word in words[1:]):
            there = True
            if not _loopback(words[0]):
                line = b" ".join((_OWN_ADDRESS, *words[1:])) + b"\n"
        lines.append(line)
    if own and not there:
        lines.append(_OWN_ADDRESS + b" " + own + b"\n")
    return b"".join(_ended(line) for line in lines)


def _loopback(address: bytes) -> bool:
    try:
        return ipaddress.ip_address(address.decode("ascii", "replace")).is_loopback
    except ValueError:
        return True  # no address: nobody is sent there


def of_users(spec: JobSpec) -> dict[bytes, bytes]:
    """Return contents by their name in /etc: of those that lack the job's user, or one of its groups, with what is
    known of them here."""
    found = {}
    users, groups = _read("passwd"), _read("group")
    try:
        user = None if _has(users, spec.uid) else pwd.getpwuid(spec.uid)
    except KeyError:
        user = None  # nobody here knows it
    if user is not None:
        fields = (user.pw_name, "x", user.pw_uid, user.pw_gid, user.pw_gecos, user.pw_dir, user.pw_shell)
        found[b"passwd"] = _ended(users) + _line(*fields)
    more = b""
    for gid in dict.fromkeys((spec.gid, *spec.groups)):
        try:
            group = None if _has(groups, gid) else grp.getgrgid(gid)
        except KeyError:
            continue
        if group is not None:
            more += _line(group.gr_name, "x", group.gr_gid, ",".join(group.gr_mem))
    if more:
        found[b"group"] = _ended(groups) + more
    return found


def _has(text: bytes, number: int) -> bool:
    """Is there a line for that id in a passwd(5) or group(5)?"""
    return any(line.split(b":")[2:3] == [b"%d" % number] for line in text.splitlines())


def _line(*fields: str | int) -> bytes:
    return b":".join(os.fsencode(str(field)).replace(b"\n", b" ") for field in fields) + b"\n"


def _ended(text: bytes) -> bytes:
    return text if not text or text.endswith(b"\n") else text + b"\n"


def _read(name: str) -> bytes:
    """Read a file of /etc; one that is not there is empty."""
    try:
        return Path("/etc", name).read_bytes()
    except OSError:
        return b""
