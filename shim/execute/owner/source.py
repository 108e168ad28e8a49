"""What every teller of the owner's input offers. Shipped: bare python3 >= 3.9.

Times are monotonic seconds (CLOCK_MONOTONIC, 0 at boot), handed in by the caller.
"""

from __future__ import annotations

# Seconds between looks at what cannot be waited for. One figure, so that all are looked at in one wake-up.
LOOK = 0.09
# Seconds between looks for new terminals, devices, displays.
RESCAN = 5.0


class Source:
    """One thing that tells of the owner's input.

    name      the source's name, as `rexec hosts --why` shows it
    seat      it tells of the machine's own keyboard and mouse (terminals alone do not)
    history   it knows of input before it was opened
    interval  seconds between two calls of poll() even if fileno() stays silent; None: only when readable
    """

    name = "source"
    seat = False
    history = True
    interval: float | None = None

    def absent(self) -> str | None:
        """Why this source cannot tell anything on this machine, as a clause, or None if it can."""
        raise NotImplementedError

    def fileno(self) -> int | None:
        """A descriptor that is readable when poll() has news, or None."""
        return None

    def poll(self, now: float) -> str | None:
        """Takes in what there is, without waiting; what was touched since the last call, or None."""
        raise NotImplementedError

    def last_input(self, now: float) -> float | None:
        """When the newest input known was; None if none is known."""
        raise NotImplementedError

    def close(self) -> None:
        """Gives back its descriptors."""
        raise NotImplementedError
