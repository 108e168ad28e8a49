"""Unix sockets whose names were taken away or changed while a job that moves holds them."""

from __future__ import annotations

import pytest

from tests.job_commands import PYTHON, Mover
from tests.until import until

UNLINKED = """
import os, socket, time
server, other = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
server.bind(os.getcwd() + "/s")
server.listen()
client = socket.socket(socket.AF_UNIX)
client.connect(server.getsockname())
os.unlink("s")
other.bind(os.getcwd() + "/o")
os.unlink("o")
print("open", flush=True)
while not os.path.exists("go"):
    time.sleep(.02)
accepted, _ = server.accept()
client.send(b"sent")
print(accepted.recv(9), os.path.basename(server.getsockname()), os.path.exists("s"), os.path.exists("o"))
"""


@pytest.mark.parametrize("mover", ["user", "mapped", "mapped by root"], indirect=True)
def test_a_unix_socket_whose_name_was_removed(mover: Mover) -> None:
    """Where CRIU may not ask for its file, it takes root for the owner: home would have to give it to root."""
    job = mover.submit(PYTHON, "-c", UNLINKED)
    until(lambda: mover.path(job, "stdout").read_text() == "open\n", "it is ready")
    for _ in range(2):
        mover.verb("hold", job)
        mover.verb("release", job)
        mover.running(job)
    (mover.dir / "go").touch()
    assert mover.ended(job) == "done", mover.verb("log", job)
    assert mover.path(job, "stdout").read_text() == "open\nb'sent' s False False\n"


RENAMED = """
import os, socket, time
named = socket.socket(socket.AF_UNIX)
named.bind(os.getcwd() + "/r.tmp")
named.listen()
os.chmod("r.tmp", 0o640)
os.rename("r.tmp", "r")
print("open", flush=True)
while not os.path.exists("go"):
    time.sleep(.02)
with socket.socket(socket.AF_UNIX) as client:
    client.connect("r")
print(sorted(name for name in os.listdir(".") if name.startswith("r")), oct(os.stat("r").st_mode))
"""


def test_a_unix_socket_whose_name_was_changed(mover: Mover) -> None:
    """haproxy and supervisord bind to a name for the moment: their clients find them under the other one."""
    job = mover.submit(PYTHON, "-c", RENAMED)
    until(lambda: mover.path(job, "stdout").read_text() == "open\n", "it is ready")
    for _ in range(2):
        mover.verb("vacate", job)
    (mover.dir / "go").touch()
    assert mover.ended(job) == "done", mover.verb("log", job)
    assert mover.path(job, "stdout").read_text() == "open\n['r'] 0o140640\n"
