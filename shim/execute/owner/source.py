"""What every teller of the owner's input offers. Shipped: bare python3 >= 3.9.

Times are monotonic seconds (CLOCK_MONOTONIC, 0 at boot), handed in by the caller.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

# Seconds between looks at what cannot be waited for. One figure, so that all are looked at in one wake-up.
LOOK = 0.09
# Seconds between looks for new terminals, devices, displays.
RESCAN = 5.0


class Source(ABC):
    """Tells of the owner's input, as far as it comes one way: terminals, devices, a desktop, displays.

    name      the source's name, as `rexec hosts --why` shows it
    seat      it tells of the machine's own keyboard and mouse (terminals alone do not)
    history   it knows of input before it was opened
    interval  seconds between two calls of poll() even if fileno() stays silent; None: only when readable
    """

    name = "source"
    seat = False
    history = True
    interval: float | None = None

    @abstractmethod
    def absent(self) -> str | None:
        """Say why this source cannot tell anything on this machine, as a clause, or None if it can."""

    def fileno(self) -> int | None:
        """Return a descriptor that is readable when poll() has news, or None."""
        return None

    @abstractmethod
    def poll(self, now: float) -> str | None:
        """Take in what there is, without waiting; return what was touched since the last call, or None."""

    @abstractmethod
    def last_input(self, now: float) -> float | None:
        """Tell when the newest input known was; None if none is known."""

    @abstractmethod
    def close(self) -> None:
        """Give back its descriptors."""
