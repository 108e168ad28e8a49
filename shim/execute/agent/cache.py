"""Names what is kept on this host for later jobs: it lies beside the runtime (shim/execute/stage.py). Shipped."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from remoteio.execute.kept_contents import Apply


def kept(what: str) -> str:
    """Name the directory of what is kept of that kind."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):
        base = os.path.expanduser("~") + "/.cache"
    return base + "/rexec/" + what


def encrypting() -> Callable[[bytes], Apply] | None:
    """Find what makes of a key what encrypts by it; None: Python here has no libcrypto."""
    from checkpoint.execute import cipher  # most runs need none

    library = cipher.available()
    return None if library is None else lambda key: cipher.Cipher(library, key).apply
