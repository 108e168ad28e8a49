"""The kernel settings that keep ordinary users from making namespaces, or a job waiting. Shipped, and read at home."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# Name, the value that forbids it, one that allows it. The first is sysctl's own, the others are Debian's and Ubuntu's.
FORBIDDING = (
    ("user.max_user_namespaces", "0", "15000"),
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
)


# Seconds after which the kernel ends a mount of FUSE that has waited so long for an answer; 0: never (Linux 6.15,
# Documentation/admin-guide/sysctl/fs.rst). Without one of the user's own the first holds.
FUSE_WAITS = ("fs.fuse.default_request_timeout", "fs.fuse.max_request_timeout")


def value(name: str) -> str | None:
    """Read a setting of this kernel, as /proc/sys shows it; None if the kernel has none of that name."""
    try:
        with open("/proc/sys/" + name.replace(".", "/")) as file:
            return file.read().strip()
    except OSError:
        return None


def fuse_waits(value_of: Callable[[str], str | None]) -> int:
    """Return for how many seconds a mount may wait for home, by the values that settings have; 0: for ever."""
    told = [value_of(name) or "" for name in FUSE_WAITS]
    return min((int(seconds) for seconds in told if seconds.isdigit() and int(seconds)), default=0)


def forbidden_by(value_of: Callable[[str], str | None]) -> tuple[str, str, str] | None:
    """Find the row of FORBIDDING that is in force, by the values that settings have; None if none is."""
    return next((row for row in FORBIDDING if value_of(row[0]) == row[1]), None)
