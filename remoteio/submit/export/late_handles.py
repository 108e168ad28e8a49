"""Submit side: the table of what is open, in which a file may be opened when it is looked for. Data alone."""

from __future__ import annotations

from collections.abc import Callable

from remoteio.submit.export.nodes import Handle


class LateHandles(dict[int, Handle]):
    """Handles by their numbers; what ``[]`` does not find it asks `late` for. Raises what that does, or KeyError."""

    late: Callable[[int], Handle] | None = None

    def __missing__(self, fh: int) -> Handle:
        if self.late is None:
            raise KeyError(fh)
        return self.late(fh)
