"""The word of this machine's owner, owner.toml: who may run jobs here, when, how many and how low. Shipped.

It holds over whatever the one who submits says. It binds rexec: who has a login here can run things without it.
"""

from __future__ import annotations

import os
import pwd
import stat

from checkpoint.value import Value
from remoteio.errors import RexecError
from shim.execute.owner import flat_toml, places
from shim.wire.conditions import Surroundings, broken_condition
from shim.wire.owner_policy import KEYS, OwnerPolicy, PolicyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

NICE = 10
_BYTES = 1 << 16
_MOST_SLOTS = 1 << 16
_IO = {"idle": 3 << 13, "normal": 0}  # ioprio_set(2): the class is in the upper three bits


class WordError(RexecError):
    """An owner.toml that cannot be used: which line or key of which file, and what is right. No job begins by it."""


class OwnerWord(Value):
    """What the owner of this machine says.

    file    where it is said
    policy  when a job may begin and stay, as of hosts.toml
    users   the logins that may run jobs; None: any
    slots   how many jobs may be here at a time; None: any number
    rank    the logins whose jobs are preferred, those first that are most: a job of one takes the slot of a job of a
            later one, or of one who is not named, if that can leave; each entry may be several that are alike
    nice    how low they run at least
    io      their I/O priority, at least as low: class and level as the kernel has them; 0: as they wish
    """

    __slots__ = ("file", "io", "nice", "policy", "rank", "slots", "users")
    file: str
    policy: OwnerPolicy
    users: tuple[str, ...] | None
    slots: int | None
    rank: tuple[tuple[str, ...], ...]
    nice: int
    io: int

    def __init__(
        self, file: str, policy: OwnerPolicy, users: tuple[str, ...] | None = None, slots: int | None = None,
        nice: int = NICE, io: int = _IO["idle"], rank: tuple[tuple[str, ...], ...] = (),
    ) -> None:  # fmt: skip
        self._set(file=file, policy=policy, users=users, slots=slots, rank=rank, nice=nice, io=io)

    def tier(self, login: str) -> int:
        """Tell how much a job of that login is preferred: more is more, 0 is that of one who is not named."""
        return max((len(self.rank) - place for place, names in enumerate(self.rank) if login in names), default=0)

    def broken(self, login: str, around: Surroundings) -> str | None:
        """Say what of it does not hold for a job of that login, as a clause after the host's name, or None."""
        if self.users is not None and login not in self.users:
            return f"{self.file} does not let {login} run jobs"
        return broken_condition(self.policy, around)

    def refuses(self, login: str, around: Surroundings, idle: float | None, unknown: str | None) -> str | None:
        """Say why no job of that login may begin now, or None. `idle`, `unknown`: as of sources.owner_facts."""
        policy = self.policy
        why = self.broken(login, around)
        if why is not None or not policy.watched:
            return why
        if idle is None:
            return f"{unknown}: its owner says keyboard = false in {self.file} if nobody sits there"
        if idle < policy.start_idle:
            return f"its owner was there {idle:.0f} s ago, and {self.file} waits {policy.start_idle:.0f} s"
        return None

    def lowered(self, wanted: Sequence[int]) -> list[int]:
        """Return how a job is scheduled here that is to be scheduled so elsewhere: see scheduling.own."""
        nice, io, policy, priority, *cpus = wanted or (0, 0, os.SCHED_OTHER, 0)
        if policy & ~os.SCHED_RESET_ON_FORK in (os.SCHED_FIFO, os.SCHED_RR):
            policy = priority = 0  # they come before all that is nice
        return [max(nice, self.nice), self.io or io, policy, priority, *cpus]


def _users(value: object, key: str) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(each, str) and each for each in value):
        return tuple(value)
    raise PolicyError(f'{key} = {value!r} is no list of logins; write for example ["ann", "bob"].')


def _rank(value: object, key: str) -> tuple[tuple[str, ...], ...]:
    tiers = [tuple(each.split()) if isinstance(each, str) else () for each in value] if isinstance(value, list) else []
    names = [name for tier in tiers for name in tier]
    if not all(tiers) or not tiers or len(set(names)) < len(names):
        raise PolicyError(
            f'{key} = {value!r} is no list of logins, each named once; write for example ["ann", "bob carl"].'
        )
    return tuple(tiers)


def _whole(least: int, most: int) -> Callable[[object, str], int]:
    def read(value: object, key: str) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        raise PolicyError(f"{key} = {value!r} is no whole number from {least} to {most}.")

    return read


def _flag(value: object, key: str) -> bool:
    if isinstance(value, bool):
        return value
    raise PolicyError(f"{key} = {value!r} is neither true nor false.")


def _io(value: object, key: str) -> int:
    if isinstance(value, str) and value in _IO:
        return _IO[value]
    raise PolicyError(f'{key} = {value!r} is neither "idle" nor "normal".')


_OWN: dict[str, Callable[[object, str], Any]] = {
    "users": _users, "slots": _whole(1, _MOST_SLOTS), "rank": _rank, "nice": _whole(0, 19),
    "io": _io,
}  # fmt: skip


def parse(text: str, file: str) -> OwnerWord:
    """Read an owner.toml. Raises WordError."""
    try:
        table = flat_toml.parse(text)
        keyboard = _flag(table.pop("keyboard", True), "keyboard")
        unknown = [key for key in table if key not in KEYS and key not in _OWN]
        if unknown:
            known = ", ".join((*KEYS, *_OWN, "keyboard"))
            raise PolicyError(f"the key {unknown[0]} is unknown; the keys are {known}.")
        policy = {key: KEYS[key](value, key) for key, value in table.items() if key in KEYS}
        own = {key: _OWN[key](value, key) for key, value in table.items() if key in _OWN}
        if "rank" in own and "slots" not in own:
            raise PolicyError("rank says whose job takes whose slot, and needs slots; write for example slots = 2.")
    except (flat_toml.TomlError, PolicyError) as e:
        raise WordError("its owner's %s cannot be used: %s" % (file, str(e).rstrip("."))) from None
    return OwnerWord(file, OwnerPolicy(file, watched=keyboard, **policy), **own)


def find() -> OwnerWord | None:
    """Read the owner's word: the machine's, or else this login's own; None: nothing is said. Raises WordError."""
    for path in places.places():
        text = _read(path)
        if text is not None:
            return parse(text, path)
    return None


def _read(path: str) -> str | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as e:
        raise WordError("its owner's %s cannot be read: %s" % (path, e.strerror)) from e
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise WordError("its owner's %s cannot be used: it is no file" % path)
        data = os.read(fd, _BYTES + 1)
        if len(data) > _BYTES:
            raise WordError("its owner's %s cannot be used: it has more than %d bytes" % (path, _BYTES))
        return data.decode()
    except UnicodeDecodeError:
        raise WordError("its owner's %s cannot be used: it is no UTF-8" % path) from None
    finally:
        os.close(fd)


def login(uid: int | None = None) -> str:
    """Name the login of that number, or the one that this process has."""
    number = os.geteuid() if uid is None else uid
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
