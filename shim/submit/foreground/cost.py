"""Says what a job has cost: processor time, how long it waited for its files, and for what of them. Pure."""

from __future__ import annotations

from shim.submit.spent import RoundTrips, Spent
from shim.submit.units import size

_LONG = 10.0  # seconds: what took less needs no word


def sentence(spent: Spent, seconds: float) -> str:
    """Say all of it, of a job that took so long."""
    files = spent.files
    text = f"the job took {seconds:.1f} s, {spent.cpu:.1f} s of processor time"
    if not files.shares:
        return f"{text}; it asked for no files"
    shares = sorted(files.shares.items(), key=lambda item: -item[1].seconds)
    told = ", ".join(f"{each.trips} for {kind} ({each.seconds:.1f} s, {size(each.carried)})" for kind, each in shares)
    waited = f"for files it waited {files.seconds:.1f} s in {files.trips} round trips"
    return f"{text}; {waited}: {told}; {files.saved} were saved{_guesses(files)}"


def _guesses(files: RoundTrips) -> str:
    if not files.ahead:
        return ""
    used = f", and {files.right} of the {files.guessed} files and listings among it were used" if files.guessed else ""
    return f"; {size(files.ahead)} came ahead of it{used}"


def mostly_waited(spent: Spent, seconds: float) -> str:
    """Say on what a job waited that did little else and took long; "" of any other.

    Locks do not count: another had them. Threads that waited at once may have waited longer than the job took.
    """
    kind, most = _longest(spent.files)
    waited = sum(share.seconds for name, share in spent.files.shares.items() if name != "locks")
    if seconds < _LONG or waited < seconds / 2 or waited < spent.cpu:
        return ""
    for_files = f"waited {waited:.0f} s for files of this machine, most of it for {kind} ({most:.0f} s)"
    return f"the job took {seconds:.0f} s, and {for_files}"


def _longest(files: RoundTrips) -> tuple[str, float]:
    return max(
        ((kind, share.seconds) for kind, share in files.shares.items() if kind != "locks"),
        key=lambda found: found[1],
        default=("nothing", 0.0),
    )
