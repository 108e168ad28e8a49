"""A person logged in on an execute host by ssh types a key; what watches there, as whoever, notices."""

from __future__ import annotations

import io
import subprocess
import time
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import IO

import pytest

from tests.until import soon

SSH = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]
WATCH = """
import select, sys, time
sys.path.insert(0, sys.argv[1])
from shim.execute.owner.sources import OwnerSources
watch = OwnerSources(time.monotonic())
print("ready", flush=True)
while 0 not in select.select([watch.fileno(), 0], [], [], watch.timeout(time.monotonic()))[0]:
    for touched in watch.poll(time.monotonic()):
        print("touched", time.monotonic(), touched, flush=True)
"""


@pytest.fixture(scope="module")
def runtime(desk: ModuleType) -> Iterator[str]:
    """The modules that watch, as a zip file on alpha that all may read; the host has none of ours otherwise."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for package in ("jeepney", "remoteio", "shim"):
            spec = find_spec(package)
            assert spec is not None and spec.origin is not None
            root = Path(spec.origin).parent
            for path in root.rglob("*.py"):
                archive.write(path, path.relative_to(root.parent))
    place = "/tmp/owner-watch.zip"
    subprocess.run([*SSH, "alpha", f"cat > {place}; chmod 644 {place}"], input=packed.getvalue(), check=True)
    yield place
    subprocess.run([*SSH, "alpha", f"rm {place}"], check=True)


def touched_after(lines: IO[str], moment: float) -> float:
    """When the watch first noticed something after this moment; what it noticed before (the login) is passed over."""
    while True:
        mark, at, source, _path = lines.readline().split()
        assert (mark, source) == ("touched", "terminals:")
        if float(at) > moment:
            return float(at)


@pytest.mark.parametrize("watcher", ["alpha", "alpha-alice", "alpha-noisy"], ids=["root", "the-person", "a-stranger"])
def test_a_key_typed_over_ssh_is_noticed_there(desk: ModuleType, runtime: str, watcher: str) -> None:
    person = subprocess.Popen(
        [*SSH, "-tt", "alpha-alice", "tty; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    watch = subprocess.Popen(
        [*SSH, watcher, f"exec python3 -c '{WATCH}' {runtime}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert person.stdin is not None
        assert person.stdout is not None
        assert watch.stdout is not None
        terminal = person.stdout.readline().decode().strip()
        assert terminal.startswith("/dev/pts/")
        while watch.stdout.readline() != "ready\n":
            assert watch.poll() is None
        lines, keys = watch.stdout, person.stdin

        def once() -> float:
            # As if nothing had been typed for an hour: others' terminals show their times in steps of eight seconds.
            paused = time.monotonic()
            desk.run("alpha", ["touch", "-d", "1 hour ago", terminal])
            if watcher == "alpha-noisy":
                # The change itself is a change of times, and is waited for: what comes after it is the key.
                touched_after(lines, paused)
            typed = time.monotonic()
            keys.write(b"k\n")
            # Alpha and this machine share one clock. The key's way through ssh and sshd is in it.
            return touched_after(lines, typed) - typed

        soon(once, 0.3)
    finally:
        # Ctrl-D ends the person's cat, and the end of its input the watch: nothing stays on the host.
        person.communicate(b"\x04", timeout=60)
        watch.communicate(timeout=60)
