"""A program `ssh` whose connection breaks, on purpose and by a plan: the host it reaches is this machine.

``python -m tests.fault.cut_ssh`` is what a program `ssh` of PATH starts. It runs the remote command here, with pipes as
sshd gives them, and carries bytes between it and rexec as long as the plan lets it. The plan follows from $RIG_SEED and
from the number of the connection, counted in the file $RIG_COUNT, whose first number is how many there have been, and
whose second how many are still to be cut. Nothing befalls the first one until the file $RIG_BEGUN is there. $RIG_FAULT
says all that is to happen instead: a cut of the first connection, as "host 1200" or "home 80".
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHUNK = 1 << 16
STALL = 2.0  # seconds, at most


@dataclass(frozen=True)
class Fault:
    """What happens once `after` bytes more have gone `towards` the host or home: a cut, or a stall of some seconds."""

    towards: str
    after: int
    stall: float  # 0: it is cut


def plan(seed: int, number: int) -> Iterator[Fault]:
    """Say what befalls the connection of that number, the first being 1, one after the other; a cut is the last."""
    chance = random.Random(f"{seed} {number}")
    stall = 1.0
    while stall:
        # From the first bytes of a start to the middle of large frames: by magnitude, so that each gets its share.
        towards, after = chance.choice(("host", "home")), int(10 ** chance.uniform(0, 6.3))
        stall = chance.uniform(0.1, STALL) if chance.random() < 0.15 else 0
        yield Fault(towards, after, stall)


def planned(number: int) -> Iterator[Fault]:
    """Say what befalls the connection of that number, by $RIG_FAULT or else by $RIG_SEED."""
    if "RIG_FAULT" not in os.environ:
        return plan(int(os.environ["RIG_SEED"]), number)
    towards, after = os.environ["RIG_FAULT"].split()
    return iter((Fault(towards, int(after), 0),) if number == 1 else ())


def counted(file: Path) -> tuple[int, bool]:
    """Count one connection more; return its number, and whether it is to be cut."""
    if file == Path(os.devnull):
        return 0, False
    with file.open("r+") as open_file:
        fcntl.flock(open_file, fcntl.LOCK_EX)
        number, left = map(int, open_file.read().split())
        number += 1
        open_file.seek(0)
        open_file.write(f"{number} {max(left - 1, 0)} ")
        open_file.truncate()
    return number, left > 0


class Carrier:
    """Carries bytes each way until one end is gone, or the plan has it cut: then neither end hears another byte.

    The plan counts from when the file `begun` is there.
    """

    def __init__(self, command: subprocess.Popen[bytes], faults: Iterator[Fault], begun: Path) -> None:
        assert command.stdin is not None and command.stdout is not None
        self._ways = {0: (command.stdin.fileno(), "host"), command.stdout.fileno(): (1, "home")}
        self._faults, self._begun = faults, begun

    def run(self) -> bool:
        """Carry. Returns whether it was cut, and was not merely over."""
        poll = select.poll()
        for end in self._ways:
            poll.register(end, select.POLLIN)
        fault, left = None, 0
        waits = True
        while True:
            ready = poll.poll()
            if waits and self._begun.exists():
                waits, fault = False, next(self._faults, None)
                left = fault.after if fault is not None else 0
            for end, _ in ready:
                into, towards = self._ways[end]
                data = os.read(end, CHUNK)
                if not data:
                    return False
                while fault is not None and fault.towards == towards and len(data) >= left:
                    _write(into, data[:left])
                    if not fault.stall:
                        return True
                    time.sleep(fault.stall)  # neither way: the fault itself
                    data, fault = data[left:], next(self._faults, None)
                    left = fault.after if fault is not None else 0
                if fault is not None and fault.towards == towards:
                    left -= len(data)
                _write(into, data)


def _write(into: int, data: bytes) -> None:
    while data:
        data = data[os.write(into, data) :]


def main() -> int:
    """Be `ssh`: its last argument is the remote command. Returns its exit status, 255 for a cut."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if "-G" in sys.argv:
        return 1  # it has no configuration to show
    number, faulty = counted(Path(os.environ["RIG_COUNT"]))
    faults = planned(number) if faulty else iter(())
    with subprocess.Popen(
        ["/bin/sh", "-c", sys.argv[-1]],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, bufsize=0,
    ) as command:  # fmt: skip
        if Carrier(command, faults, Path(os.environ["RIG_BEGUN"])).run():
            os._exit(255)  # the command lives on: its pipes are closed by this process's end
        assert command.stdin is not None
        command.stdin.close()
        return command.wait()


if __name__ == "__main__":
    sys.exit(main())
