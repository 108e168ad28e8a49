"""A program in a process group of its own that may still ask a person: it is given the terminal when it wants it.

The terminal, and whoever ends a job, sends a signal to whole process groups. One that is for the job must not end what
carries the job's words, so that has a group of its own; but then it is in the terminal's background, where the kernel
stops it as soon as it asks for a password. What is here is what a shell does at `fg`. Sources: credentials(7),
tcsetpgrp(3), "Implementing a Shell" in the manual of the GNU C library, readpassphrase.c of OpenSSH.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

from remoteio.submit import programs

# What ends a program that was started by way of `apart`. Nobody sends it by habit, and an ssh that asks for a password
# puts the terminal's echo back at it first (readpassphrase.c).
_END = signal.SIGALRM
# In the group that has the terminal, it shows which key ended that group: the status of ssh does not tell. Once we are
# gone, however that came, and after us what we started, the terminal goes back to our group: a script is left there.
_WITNESS = """
import os, select, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
program, owner = map(int, sys.argv[1:])
gone = select.poll()
gone.register(program, select.POLLIN)
if not os.read(0, 1):
    gone.poll(2000)
    terminal = os.open("/dev/tty", os.O_RDWR)
    if os.tcgetpgrp(terminal) == os.getpgrp():
        os.tcsetpgrp(terminal, owner)
"""
_KEYS = (signal.SIGINT, signal.SIGQUIT)
# Puts the terminal's settings back if we are gone before we say that they are as they were.
_SETTINGS = """
import os, signal, termios
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
terminal = os.open("/dev/tty", os.O_RDWR)
found = termios.tcgetattr(terminal)
os.write(1, b"x")
if not os.read(0, 1):
    termios.tcsetattr(terminal, termios.TCSAFLUSH, found)
"""


def apart(argv: Sequence[str]) -> list[str]:
    """Wrap a command line so that a shutdown's signals are ignored, and what it starts ends with us.

    A shutdown sends SIGTERM and SIGHUP to it as well as to us, who need it until the job has ended or is saved. That it
    ends with the thread that starts it, setpriv(1) of util-linux tells the kernel; without that program the end of its
    input has to do. No preexec_fn: in a process with threads, the child may wait for a lock for ever.
    """
    setpriv = programs.find("setpriv")
    if setpriv is not None and os.path.basename(os.path.realpath(setpriv)) == "setpriv":  # not busybox, which cannot
        argv = [setpriv, "--pdeathsig", _END.name.removeprefix("SIG"), "--", *argv]
    return ["/bin/sh", "-c", "trap '' TERM HUP; exec \"$@\"", "sh", *argv]


def end_group(leader: subprocess.Popen[bytes]) -> None:
    """End the process group of a child started by way of ``apart``, stopped or not, unless the child has ended."""
    if leader.poll() is None:
        for number in (_END, signal.SIGCONT):
            os.killpg(leader.pid, number)


@contextlib.contextmanager
def settings_kept() -> Iterator[None]:
    """Have the terminal's settings put back if this process is ended while the body runs, however that comes."""
    with subprocess.Popen(
        [sys.executable, "-ISc", _SETTINGS],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, process_group=0,
    ) as keeper:  # fmt: skip
        assert keeper.stdin is not None and keeper.stdout is not None
        keeper.stdout.read(1)
        try:
            yield
        finally:
            keeper.communicate(b"x")


def open_terminal() -> int:
    """Open this process's controlling terminal; -1 where it has none."""
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return -1


_asking: set[JobControl] = set()  # a process has one terminal, and it stands for all of those


def end_questions() -> None:
    """End those who ask something on the terminal, and take it back: this process is about to end itself."""
    for control in tuple(_asking):
        control.end()


class JobControl:
    """Gives the terminal to the process group of `leader`, a child, whenever the kernel stops that for want of it.

    Keys that end or stop the group then do so with ours too, as if we were one. SIGTTIN and SIGTTOU must have their
    default action, here and in the child, until ``settle`` is called.
    """

    def __init__(self, leader: int, terminal: int) -> None:
        """`terminal`: a descriptor of the controlling terminal, which is closed in the end."""
        self._leader, self._terminal = leader, terminal
        self.refused = False  # it had to be ended, since it wants a terminal that we never get
        self.asked = False  # it was given the terminal
        self._lock = threading.Lock()  # of the two below
        self._witness: subprocess.Popen[bytes] | None = None
        self._settled = False
        self._thread = threading.Thread(target=self._watch, name=f"terminal of {leader}", daemon=True)
        self._thread.start()

    def settle(self) -> None:
        """Take the terminal back for good: nothing more will be asked."""
        with self._lock:
            self._settled = True
            self._end_witness()

    def ended(self) -> None:
        """Take note that the child has ended: if it was by a key, that reaches our own group before this returns."""
        self._thread.join()

    def end(self) -> None:
        """End the child and its group, and wait until the terminal is ours."""
        with contextlib.suppress(ProcessLookupError):
            for number in (_END, signal.SIGCONT):
                os.killpg(self._leader, number)
        self._thread.join(2.0)

    def _watch(self) -> None:
        try:
            while (number := self._stop_of_child()) is not None:
                if not self._lend(number):
                    self.refused = True
                    os.killpg(self._leader, signal.SIGKILL)  # it could neither ask nor end
                    return
        except (ProcessLookupError, PermissionError):
            return  # the group is gone meanwhile
        finally:
            self.settle()
            os.close(self._terminal)

    def _stop_of_child(self) -> int | None:
        """Wait for the child to be stopped, and by which signal; None: it has ended, and is left for others to reap."""
        try:
            while True:
                seen = os.waitid(os.P_PID, self._leader, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
                assert seen is not None  # it is without WNOHANG
                if seen.si_code != os.CLD_STOPPED:
                    return None
                os.waitid(os.P_PID, self._leader, os.WSTOPPED | os.WNOHANG)
                asked = self._witness is not None
                if seen.si_status in (signal.SIGTTIN, signal.SIGTTOU) or (asked and seen.si_status == signal.SIGTSTP):
                    return seen.si_status
        except ChildProcessError:
            return None

    def _lend(self, number: int) -> bool:
        """Have the child go on in the foreground, once we are there ourselves; False: we never shall be."""
        if number == signal.SIGTSTP:
            self._give(os.getpgrp())
            _stop_our_group()
        try:
            # In the background this stops our group, as whatever touches a terminal there does, until somebody brings
            # it to the foreground; where nobody can, it fails with EIO.
            os.tcsetpgrp(self._terminal, os.getpgrp())
        except OSError:
            return False
        with self._lock:
            if self._settled:
                return False  # the terminal is the job's
            if self._witness is None:
                program = os.pidfd_open(self._leader)  # not by its number: it may have ended before the witness looks
                try:
                    self._witness = subprocess.Popen(
                        [sys.executable, "-ISc", _WITNESS, str(program), str(os.getpgrp())],
                        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                        process_group=self._leader, pass_fds=(program,),
                    )  # fmt: skip
                finally:
                    os.close(program)
                _asking.add(self)
                self.asked = True
            self._give(self._leader)
        os.killpg(self._leader, signal.SIGCONT)
        return True

    def _end_witness(self) -> None:
        _asking.discard(self)
        if self._witness is None:
            return
        witness, self._witness = self._witness, None
        self._give(os.getpgrp())
        witness.send_signal(signal.SIGCONT)
        witness.communicate(b"x")
        number = -witness.wait()
        if number in _KEYS:
            os.killpg(0, number)

    def _give(self, group: int) -> None:
        """Make `group` the foreground one, if it is ours to say."""
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTTOU,))
        try:
            if os.tcgetpgrp(self._terminal) in (os.getpgrp(), self._leader):
                os.tcsetpgrp(self._terminal, group)
        except OSError:
            return  # the terminal has hung up
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTTOU,))


def _stop_our_group() -> None:
    """As the key does. Returns when we have been continued, or at once where nobody could do that (an orphaned group).

    One to the process may be heard by another thread first, and this one go on for a while: so it has one of its own,
    which a SIGCONT in between takes away again.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTSTP,))
    signal.pthread_kill(threading.get_ident(), signal.SIGTSTP)
    os.killpg(0, signal.SIGTSTP)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTSTP,))
