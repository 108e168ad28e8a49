"""Where the owner of this machine may say who may run jobs here: most starts ask only whether it is there. Shipped."""

from __future__ import annotations

import os

from remoteio.errors import RexecError

ETC = "/etc/rexec/owner.toml"


class NotNow(RexecError):
    """The owner lets no such job begin here now; the text is a clause that follows the host's name."""


def places() -> list[str]:
    """List where it may stand: for the machine, and for this login; the first that is there counts."""
    home = os.environ.get("HOME", "")
    own = home + "/.config/rexec/owner.toml"
    # a directory that this login may not look into is not its own
    return [ETC, own] if home.startswith("/") and os.access(os.path.dirname(own), os.X_OK) else [ETC]


def said() -> bool:
    """Tell whether anything is said."""
    closed = os.path.exists(os.path.dirname(ETC)) and not os.access(os.path.dirname(ETC), os.X_OK)
    return closed or any(map(os.path.lexists, places()))
