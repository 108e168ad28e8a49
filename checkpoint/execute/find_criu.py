"""A criu that works on this host: the host's own, or one brought here before, or one still to be brought. Shipped."""

from __future__ import annotations

import os

from checkpoint.execute import criu, selftest
from checkpoint.value import Value
from checkpoint.wire import criu_bundle, elf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class FoundCriu(Value):
    """A criu that works here.

    bundle    its directory
    version   criu's
    """

    __slots__ = ("bundle", "version")
    bundle: str
    version: tuple[int, ...]

    def __init__(self, bundle: str, version: tuple[int, ...]) -> None:
        self._set(bundle=bundle, version=version)


def own() -> str:
    """Find the host's own criu: its path, or ""."""
    places = [*os.environ.get("PATH", "").split(":"), "/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin"]
    return next((os.path.realpath(d + "/criu") for d in places if d and os.access(d + "/criu", os.X_OK)), "")


def own_bundle(program: str, cache: str) -> str:
    """Make a bundle of the host's own criu; anew only when the program has changed. Raises BundleError, ElfError."""
    st = os.stat(program)
    key = f"{program} {st.st_ino} {st.st_size} {st.st_mtime_ns}"
    record = os.path.join(cache, "criu-own")
    try:
        with open(record, errors="replace") as f:
            known, _, bundle = f.read().partition("\n")
        if known == key and os.path.isdir(bundle):
            return bundle
    except FileNotFoundError:
        pass  # the first time
    bundle = criu_bundle.adopt(program, cache)
    criu_bundle.record(record, key + "\n" + bundle)
    return bundle


def version(bundle: str) -> tuple[int, ...]:
    """Ask criu for its version. Raises CriuError."""
    base = bundle + "/"
    path = ":".join(base + d for d in criu_bundle.LIBRARY_DIRS)
    read, write = os.pipe()
    command = [base + criu_bundle.LOADER, "--library-path", path, base + criu_bundle.PROGRAM, "--version"]
    actions = [(os.POSIX_SPAWN_DUP2, write, 1), (os.POSIX_SPAWN_DUP2, write, 2)]
    pid = os.posix_spawn(command[0], command, criu.environment(), file_actions=actions)
    os.close(write)
    with open(read, "rb") as f:
        said = f.read().decode(errors="replace")
    os.waitpid(pid, 0)
    return criu.parse_version(said)


def fault(bundle: str, cache: str, apart: bool, pulse: Callable[[], None]) -> str:
    """Say why the criu of that bundle does not work on this host, or ""."""
    kernel = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2] if part.isdigit())
    try:
        old = criu.too_old(version(bundle), kernel)
    except (criu.CriuError, OSError) as e:
        return str(e)
    # one record for each: a host's own that fails must not displace the result of the one brought
    return old or selftest.cached(bundle, os.path.join(cache, "tested-" + os.path.basename(bundle)), apart, pulse)


def find(cache: str, wanted: str, apart: bool, pulse: Callable[[], None]) -> tuple[FoundCriu | None, str]:
    """Find a criu that works here without anything being sent, or None; and why the ones looked at do not work.

    `wanted`: hash of the bundle that the submit side can send, or "". `apart`: it is to work in a user namespace.
    `pulse` is called once a second while one is tested.
    """
    whys = []
    program = own()
    if program:
        try:
            os.makedirs(cache, mode=0o700, exist_ok=True)
            bundle = own_bundle(program, cache)
        except (criu_bundle.BundleError, elf.ElfError, OSError) as e:
            whys.append(f"{program}: {e}")
        else:
            why = fault(bundle, cache, apart, pulse)
            if not why:
                return FoundCriu(bundle, version(bundle)), ""
            whys.append(f"{program}: {why}")
    else:
        whys.append("it has no criu")
    if wanted and criu_bundle.present(cache, wanted):
        return brought(cache, wanted, apart, pulse)
    return None, "; ".join(whys)


def brought(cache: str, wanted: str, apart: bool, pulse: Callable[[], None]) -> tuple[FoundCriu | None, str]:
    """Take the bundle that was sent, unpacked; None and why, if it does not work here."""
    bundle = criu_bundle.directory(cache, wanted)
    why = fault(bundle, cache, apart, pulse)
    return (None, f"the criu sent there: {why}") if why else (FoundCriu(bundle, version(bundle)), "")
