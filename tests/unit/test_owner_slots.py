"""Who comes to a machine whose slots are all taken: whose job leaves for that, and whose does not."""

from __future__ import annotations

import subprocess
import sys

import pytest

# In a network of its own, whose names of sockets no other has; each job is a process of its login, a fork of this.
_SCENE = """
import os, pwd, signal, socket, sys, threading
from shim.execute.owner import slots, word
from shim.execute.owner.places import NotNow

SAID = word.parse('slots = %s\\nrank = ["daemon", "bin sys"]' % sys.argv[1], "f")
CHILDREN = []
slots._PULSE = 0.05

def become(login):
    os.setuid(pwd.getpwnam(login).pw_uid)
    signal.alarm(30)

def listens(number):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as looks:
        return looks.connect_ex(slots._asked(number)) == 0

def fork(login, body):
    there, here = os.pipe()
    child = os.fork()
    CHILDREN.append(child)
    if child == 0:
        become(login)
        body(lambda text: os.write(here, text.encode()))
        os._exit(0)
    os.close(here)
    with open(there) as said:
        return said.readline().rstrip()

def holds(login, how):
    "Have a job of that login take a slot; `how` it leaves it, when it is asked to."
    def job(say):
        slot = slots.take(SAID, login, lambda: None)
        def leaves(comer):
            if how == "refuses" or SAID.tier(comer) <= SAID.tier(login):
                return False
            threading.Timer(0.2, slot.stays if how == "stays" else lambda: os._exit(0)).start()
            return True
        if how == "plain":
            say("in\\n")
        else:
            threading.Thread(target=slot.lend, args=[leaves], daemon=True).start()
            while not listens(slot._number):
                pass
            say("in\\n")
        signal.pause()
    assert fork(login, job) == "in"

def comes(login):
    "Have a job of that login come: the slot that it is given, or why it is given none; who comes next finds it taken."
    def job(say):
        waited = []
        before = slots.full(SAID, login)
        try:
            slot = slots.take(SAID, login, lambda: waited.append(1))
        except NotNow as e:
            say(f"{e}; {before == str(e)}\\n")
        else:
            say(f"slot {slot._number}, {'waited' if waited else 'at once'}, {before}, {slots.full(SAID, 'man')}\\n")
    told = fork(login, job)
    os.waitpid(CHILDREN.pop(), 0)  # and its slot is free
    print(told)
"""
_END = """
for child in CHILDREN:
    os.kill(child, signal.SIGKILL)
"""
NONE = "there may be no more than {} jobs at a time, by its owner, and so many there are"


def played(count: int, play: str) -> list[str]:
    argv = ["unshare", "--net", sys.executable, "-c", _SCENE + play + _END, str(count)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert not done.stderr and done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_one_that_is_preferred_takes_the_slot_of_one_that_is_less_so_once_that_has_left() -> None:
    assert played(1, 'holds("nobody", "leaves"); comes("bin")') == [f"slot 0, waited, None, {NONE.format(1)}"]
    assert played(1, 'holds("sys", "leaves"); comes("daemon")') == [f"slot 0, waited, None, {NONE.format(1)}"]


def test_the_least_preferred_leaves() -> None:
    play = 'holds("bin", "leaves"); holds("nobody", "leaves"); holds("sys", "leaves"); comes("daemon")'
    assert played(3, play) == [f"slot 1, waited, None, {NONE.format(3)}"]


def test_a_free_slot_is_taken_first() -> None:
    play = 'holds("nobody", "leaves"); comes("daemon"); comes("man")'
    assert played(2, play) == [f"slot 1, at once, None, {NONE.format(2)}", f"slot 1, at once, None, {NONE.format(2)}"]


@pytest.mark.parametrize(("has", "comes"), [("bin", "sys"), ("bin", "bin"), ("daemon", "bin"), ("man", "nobody")])
def test_nobody_leaves_for_one_who_is_not_preferred(has: str, comes: str) -> None:
    assert played(1, f'holds("{has}", "leaves"); comes("{comes}")') == [f"{NONE.format(1)}; True"]


def test_one_that_cannot_leave_is_left_alone() -> None:
    assert played(1, 'holds("nobody", "plain"); comes("daemon")') == [f"{NONE.format(1)}; True"]
    assert played(1, 'holds("nobody", "refuses"); comes("daemon")') == [f"{NONE.format(1)}; False"]


def test_for_one_that_could_not_leave_after_all_the_next_does() -> None:
    play = 'holds("nobody", "stays"); holds("bin", "leaves"); comes("daemon")'
    assert played(2, play) == [f"slot 1, waited, None, {NONE.format(2)}"]
    assert played(1, 'holds("nobody", "stays"); comes("daemon")') == [f"{NONE.format(1)}; False"]


_STRANGER = """
def strange(say):
    door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    door.bind(slots._asked(0))
    door.listen()
    say("in\\n")
    while True:
        comer, _ = door.accept()
        if comer.recv(9):
            other = socket.socket(socket.AF_UNIX, {kind})
            other.bind({name})
            socket.send_fds(comer, [slots.LEAVES], [{given}])
        comer.close()
holds("man", "plain")
assert fork("nobody", strange) == "in"
comes("daemon")
"""


@pytest.mark.parametrize(
    ("kind", "name", "given"),
    [
        ("socket.SOCK_DGRAM", "slots._name(1)", "other.fileno()"),
        ("socket.SOCK_STREAM", "slots._name(0)", "other.fileno()"),
        ("socket.SOCK_DGRAM", "slots._name(1)", "0"),
    ],
)
def test_what_a_stranger_gives_for_a_slot_is_none(kind: str, name: str, given: str) -> None:
    play = _STRANGER.format(kind=kind, name=name, given=given)
    assert played(1, play) == [f"{NONE.format(1)}; False"]


def test_one_who_says_nothing_keeps_nobody_from_coming() -> None:
    play = """
holds("nobody", "leaves")
silent = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
for each in silent:
    each.connect(slots._asked(0))
comes("daemon")
"""
    assert played(1, play) == [f"slot 0, waited, None, {NONE.format(1)}"]
