"""Where the contenders run: one execute host reached over ssh, and a sshd here that sshfs can come back to."""

from __future__ import annotations

import getpass
import os
import re
import shlex
import socket
import subprocess
import sys
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

from tests import desk_delay
from tests.bench.process import BenchError, Run, execute, must

REMOTE = "/opt/bench-peers"
"""Everything of the bench's own on the execute host, except packages and two scripts in /usr/local/bin."""


class Ground:
    """The execute host `host`, the work directory, the environment every contender gets; closed with `stack`.

    `rtt`, `rate`: the milliseconds that the way to `host` takes there and back, and the Mbit/s that it carries, as the
    way home is to do; 0: as it is. `host` is named by them then, as desk_delay.py has it.
    """

    def __init__(self, host: str, work: Path, cache: Path, stack: ExitStack, rtt: int = 0, rate: int = 0) -> None:
        self.rtt, self.rate = rtt, rate
        self.host, self.work, self.cache, self.stack = desk_delay.name(host, rtt, rate), work, cache, stack
        self.tools = work / ".bench"
        self.tools.mkdir()
        self.env = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": os.environ.get("HOME", "/"),
            "USER": getpass.getuser(),
            "LANG": "C.UTF-8",
            "XDG_CONFIG_HOME": str(self.tools / "config"),
            "XDG_STATE_HOME": str(self.tools / "state"),
            "XDG_CACHE_HOME": str(self.tools / "cache"),
        }
        asked = self.there(
            "id -u; . /etc/os-release; echo $VERSION_CODENAME; uname -m; echo $SSH_CONNECTION; python3 -V"
        )
        if asked.code:
            raise BenchError(f"{host} does not answer over ssh: {asked.trouble()}; check `ssh {host} true`")
        uid, self.codename, self.machine, connection, version = asked.out.decode().splitlines()
        if uid != "0":
            raise BenchError(f"the login on {host} is uid {uid}, but sshfs + chroot and outrun need root there")
        self.home_address = connection.split()[0]
        self.python = ".".join(version.split()[1].split(".")[:2])
        self.must_there(f"mkdir -p {REMOTE}", f"{REMOTE} cannot be made")
        stack.callback(self.there, f"rm -rf {REMOTE} ~/.outrun; rmdir /tmp/outrun_fs_*")

    def there(self, script: str, given: bytes | None = None) -> Run:
        """Run a shell script on the execute host, untimed."""
        return execute(["ssh", self.host, script], env=self.env, given=given)

    def must_there(self, script: str, why: str, given: bytes | None = None) -> bytes:
        """Like `there`; BenchError says `why` when it fails."""
        return must(["ssh", self.host, script], f"{why} on {self.host}", env=self.env, given=given).out

    def ssh_argv(self, argv: tuple[str, ...]) -> list[str]:
        """Plain ssh of one command, as a person would type it."""
        return ["ssh", self.host, shlex.join(argv)]

    def install(self, packages: list[Path]) -> None:
        """dpkg -i on the execute host, undone at the end."""
        if not packages:
            return
        names = [package.name.split("_")[0] for package in packages]
        archive = must(["tar", "cf", "-", "-C", packages[0].parent, *(p.name for p in packages)], "tar failed").out
        script = f"mkdir -p {REMOTE}/debs && tar xf - -C {REMOTE}/debs && dpkg -i {REMOTE}/debs/*.deb"
        self.must_there(script, f"{', '.join(names)} cannot be installed", archive)
        self.stack.callback(self.there, f"dpkg -P {shlex.join(names)}")

    def copy(self, directory: Path, to: str) -> None:
        """A directory's contents to the execute host."""
        archive = must(["tar", "cf", "-", "-C", directory, "."], "tar failed").out
        self.must_there(f"mkdir -p {to} && tar xf - -C {to}", f"{to} cannot be written", archive)

    def script(self, path: str, text: str) -> None:
        """An executable file on the execute host that must not be there yet, removed at the end."""
        self.must_there(f"set -C; cat >{path} && chmod 755 {path}", f"{path} cannot be made", text.encode())
        self.stack.callback(self.there, f"rm -f {path}")

    @cached_property
    def way_home(self) -> str:
        """A sshd started here on the address that the execute host sees: sshfs's options for coming to it."""
        for name in ("key", "hostkey"):
            must(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.tools / name], "ssh-keygen failed")
        with socket.create_server((self.home_address, 0)) as probe:
            port = probe.getsockname()[1]
        config = self.tools / "sshd_config"
        config.write_text(
            f"ListenAddress {self.home_address}:{port}\nHostKey {self.tools}/hostkey\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {self.tools}/key.pub\nStrictModes no\nPermitRootLogin prohibit-password\n"
            "PasswordAuthentication no\nSubsystem sftp /usr/lib/openssh/sftp-server\n"
        )
        separation = Path("/run/sshd")
        if not separation.exists():
            separation.mkdir(mode=0o755)
            self.stack.callback(separation.rmdir)
        daemon = subprocess.Popen(
            ["/usr/sbin/sshd", "-D", "-e", "-f", config],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=(self.tools / "sshd.log").open("wb"),
        )  # fmt: skip
        self.stack.callback(daemon.wait)
        self.stack.callback(daemon.terminate)
        self.must_there(f"umask 77; cat >{REMOTE}/key", "sshfs's key cannot be left", (self.tools / "key").read_bytes())
        known = f"[{self.home_address}]:{port} {(self.tools / 'hostkey.pub').read_text()}"
        self.must_there(f"cat >{REMOTE}/known_hosts", "sshfs's known_hosts cannot be left", known.encode())
        options = f"port={port},IdentityFile={REMOTE}/key,UserKnownHostsFile={REMOTE}/known_hosts"
        options += ",IdentitiesOnly=yes,StrictHostKeyChecking=yes"
        if self.rtt or self.rate:
            self.must_there(
                f"cat >{REMOTE}/delay.py", "the delay cannot be left", Path(desk_delay.__file__).read_bytes()
            )
            options += f",ProxyCommand=python3 {REMOTE}/delay.py {desk_delay.name('home', self.rtt, self.rate)} %h %p"
        come = ["ssh", *(f"-o{option}" for option in options.split(",")), f"root@{self.home_address}", "true"]
        wait = f"for try in $(seq 50); do {shlex.join(come)} && exit; sleep 0.1; done; exit 1"
        self.must_there(wait, "the way back to the sshd here does not open")
        return options

    def facts(self) -> dict[str, str]:
        """What the figures depend on: kernel, processors, ssh, ciphers, load."""
        resolved = execute(["ssh", "-G", self.host], env=self.env).out.decode()
        ciphers = re.search(r"^ciphers ([^,\n]+)", resolved, re.MULTILINE)
        cpu = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        return {
            "kernel": os.uname().release,
            "cpu": f"{os.cpu_count()} x {cpu.group(1) if cpu else os.uname().machine}",
            "python": f"{sys.version.split()[0]} here, {self.python} on {self.host}",
            "ssh": execute(["/usr/bin/ssh", "-V"]).err.decode().strip(),
            "round trip": f"{self.rtt} ms more than there is (tests/desk_delay.py)" if self.rtt else "as it is",
            "line": f"{self.rate} Mbit/s each way" if self.rate else "as it is",
            "first cipher offered": ciphers.group(1) if ciphers else "unknown",
            "load": load(),
        }


def load() -> str:
    """The load of this machine over the last minute, and over five and fifteen."""
    return " ".join(f"{value:.1f}" for value in os.getloadavg())
