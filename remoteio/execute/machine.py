"""What this machine is called in what is said of it: as its user at home calls it. Shipped.

Its own name may be another (an alias of ssh's, a name of hosts.toml), and localhost on many. Set once, by the thread
that reads what is to be done, before any other or any child begins.
"""

from __future__ import annotations

import os

_called: list[str] = []


def call(name: str) -> None:
    """Call this machine `name` from now on."""
    _called[:] = [name] if name else []


def name() -> str:
    """Return what the user calls this machine; its own name, where nobody has said."""
    return _called[0] if _called else os.uname().nodename
