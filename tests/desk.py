"""The test bench: two execute hosts, alpha and beta, on this machine.

Each is a Debian root of its own (desk_root.py) with its own mount, pid, uts, ipc and network namespace, a real sshd and
none of the submit machine's files (desk_boot.py, desk_init.py). From here they are reached by ssh under these names:

    alpha            as root                      alpha-alice      as the ordinary user alice
    alpha-noisy      a user whose shell prints banners to stdout and stderr; sshd shows a Banner too
    alpha-fishy      a user whose shell is fish   alpha-cshy       a user whose shell is tcsh
    alpha-subby      a user with 65536 subordinate ids, which all others lack; newuidmap is there
    alpha-nouserns   alice where user.max_user_namespaces is 0
    alpha-far200     root, 200 ms round trip; any number will do
    alpha-far20-10mbit   the same over a line of 10 Mbit/s

and beta likewise. ssh finds the names through /etc/ssh/ssh_config.d while the desk is up, for root and for
`SUBMIT_USER`, an ordinary user of the submit machine that the desk makes (it stays when the desk goes down; so does
the cached root). Every function may be called again, and by several processes at once. There is one desk a network
namespace: each run of the tests has its own (apart.py); the machine's own is for you to look around in.

    sudo python3 -m tests.desk up|down|status
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests import desk_root, desk_ssh
from tests.desk_hosts import HOSTS, PORT, PORT_NO_USER_NAMESPACES, STATE, SUBMIT_USER, SYSTEM_SSH_CONFIG, Host
from tests.desk_root import USERS, DeskError, call, locked

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

SSHD_CONFIG = """\
HostKey /etc/ssh/desk_host_key
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
UseDNS no
PrintMotd yes
AcceptEnv LANG LC_*
MaxStartups 200
PerSourcePenalties no
Subsystem sftp internal-sftp
PidFile none
Match User noisy
    Banner /etc/issue.net
"""
NOISE = "echo 'Welcome! {file} speaking on stdout'; echo 'Today is cake day ({file} on stderr)' >&2\n"


def up() -> None:
    """Have both hosts running and answering, the network whole, and the submit user there."""
    _need_root()
    with locked(STATE / "lock"):
        if call(["stat", "--file-system", "--format=%T", STATE]).strip() == "overlayfs":
            raise DeskError(
                f"{STATE} lies on an overlay and cannot hold another; set REXEC_DESK to a directory on a disk"
            )
        desk_ssh.submit_user()
        desk_ssh.keys()
        desk_ssh.configure()
        for host in HOSTS.values():
            if pid(host.name) is None:
                _boot(host)
            heal(host.name)
        for host in HOSTS.values():
            _await_sshd(host)


def down() -> None:
    """Undo `up`: no process, mount, namespace, link or file of the desk is left but the cached root and SUBMIT_USER."""
    _need_root()
    with locked(STATE / "lock"):
        for host in HOSTS.values():
            kill(host.state)
            _unplug(host)
        SYSTEM_SSH_CONFIG.unlink(missing_ok=True)
        for entry in STATE.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif not entry.name.startswith("lock"):
                entry.unlink()


def power_on(name: str) -> None:
    """Start a host that was powered off: its disk is as it was, /tmp, /run and /dev/shm are empty."""
    with locked(STATE / "lock"):
        if pid(name) is None:
            _boot(HOSTS[name])
            heal(name)
        _await_sshd(HOSTS[name])


def power_off(name: str) -> None:
    """Take the host's current away: nothing more leaves its network card, then every process is dead at once."""
    host = HOSTS[name]
    with locked(STATE / "lock"):
        call(["ip", "-n", host.link, "link", "set", "eth0", "down"])
        kill(host.state)


def cut(name: str) -> None:
    """Pull the host's network cable; connections neither end nor carry anything until `heal`."""
    call(["ip", "-n", HOSTS[name].link, "link", "set", "eth0", "down"])


def silence(name: str) -> None:
    """Have each end's packets for the other lost on the way, of which neither is told anything, until `heal`."""
    for where, address, device in _ways(HOSTS[name]):
        nobody = ["lladdr", "02:00:00:00:00:01", "nud", "permanent"]
        call(["ip", *where, "neighbour", "replace", address, "dev", device, *nobody])


def heal(name: str) -> None:
    call(["ip", "-n", HOSTS[name].link, "link", "set", "eth0", "up"])
    for where, _, device in _ways(HOSTS[name]):
        call(["ip", *where, "neighbour", "flush", "dev", device, "nud", "permanent"])


def _ways(host: Host) -> tuple[tuple[list[str], str, str], ...]:
    """For ip(8): from here to the host, and back: in which network, to what address, by which device."""
    return ([], host.address, host.link), (["-n", host.link], host.gateway, "eth0")


def dev_fuse(name: str, *, present: bool) -> None:
    """Give the host /dev/fuse, readable and writable by all, or take it away."""
    run(name, ["rm", "-f", "/dev/fuse"])
    if present:
        run(name, ["mknod", "-m", "666", "/dev/fuse", "c", "10", "229"])


def install(name: str, packages: Sequence[str]) -> None:
    """Install Debian packages on the host, with what they depend on; the host itself needs no network for it."""
    with locked(STATE / "lock"):
        status = run(name, ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n"]).splitlines()
        if all(f"{package} installed" in status for package in packages):
            return
        inside = Path(f"/proc/{_running(name)}/root/var/cache/desk-debs")
        shutil.copytree(desk_root.debs(packages), inside, dirs_exist_ok=True)
        try:
            run(name, ["sh", "-c", "dpkg --unpack /var/cache/desk-debs/*.deb && dpkg --configure --pending"])
        finally:
            shutil.rmtree(inside)


def uninstall(name: str, packages: Sequence[str]) -> None:
    """Take packages off the host again, whether they are there or not."""
    run(name, ["dpkg", "--purge", "--force-depends", *packages])


def run(name: str, argv: Sequence[str], *, stdin: str = "") -> str:
    """Run a command on the host as root, without ssh, and return its stdout; DeskError when it fails."""
    target = ["nsenter", "-t", str(_running(name)), "-m", "-u", "-i", "-n", "-p"]
    clean = ["env", "-i", f"PATH={PATH}", "LANG=C.UTF-8", "HOME=/root", "DEBIAN_FRONTEND=noninteractive"]
    return call([*target, *clean, *argv], stdin=stdin)


def pid(name: str) -> int | None:
    """The host's init as a pid of the submit machine, or None while the host is off."""
    return _init(HOSTS[name].state)


def kill(state: Path) -> None:
    """Kill every process of the host whose state directory that is, if it is on."""
    number = _init(state)
    if number is None:
        return
    # The kernel kills every process of a pid namespace with its init, and init has not ended before they have.
    descriptor = os.pidfd_open(number)
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        if not select.select([descriptor], [], [], 20)[0]:
            raise DeskError(f"host {state.name} has processes that do not die; see which: `ps -e -o pid,stat,wchan`")
    finally:
        os.close(descriptor)
    (state / "init").unlink()


def _init(state: Path) -> int | None:
    try:
        number, started = (state / "init").read_text().split()
    except FileNotFoundError:
        return None
    return int(number) if _start_time(int(number)) == started else None


def processes(name: str) -> dict[int, str]:
    """The host's processes: pid on the submit machine -> command line (its name in brackets when it has none)."""
    parents, lines = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = dict(line.split(":\t", 1) for line in (entry / "status").read_text().splitlines())
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we looked
            parents[int(entry.name)] = int(status["PPid"])
            lines[int(entry.name)] = line or f"[{status['Name']}]"
    # Whoever loses its parent in there gets the host's init, or an init below that: the line of parents leads to it.
    found = {_running(name)}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {number: lines[number] for number in sorted(found) if number in lines}


def _need_root() -> None:
    if os.geteuid() != 0:
        raise DeskError("the desk needs root to make its hosts; run it with sudo")


def _running(name: str) -> int:
    number = pid(name)
    if number is None:
        raise DeskError(f"host {name} is off; start it with `python3 -m tests.desk up`")
    return number


def _start_time(number: int) -> str | None:
    """Field 22 of /proc/PID/stat (proc(5)), which with the pid names a process for good; None if there is none."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def _boot(host: Host) -> None:
    lower = desk_root.base()
    _unplug(host)
    call(["ip", "netns", "add", host.link])
    call(["ip", "link", "add", host.link, "type", "veth", "peer", "name", "eth0", "netns", host.link])
    call(["ip", "address", "add", f"{host.gateway}/24", "dev", host.link])
    call(["ip", "link", "set", host.link, "up"])
    call(["ip", "-n", host.link, "address", "add", f"{host.address}/24", "dev", "eth0"])
    call(["ip", "-n", host.link, "link", "set", "lo", "up"])
    _furnish(host)
    boot = Path(__file__).with_name("desk_boot.py")
    argv = [sys.executable, "-I", str(boot), host.name, f"/run/netns/{host.link}", str(lower), str(host.state)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdin is not None
        assert starter.stdout is not None
        number = int(starter.stdout.readline() or 0)
        if not number:
            raise DeskError(f"host {host.name} could not be started; this machine does not let root make namespaces")
        (host.state / "init").write_text(f"{number} {_start_time(number)}")
        starter.stdin.write("go on\n")


def _furnish(host: Host) -> None:
    """Write the host's own files where its overlay will find them."""
    for name in ("upper", "work", "root"):
        (host.state / name).mkdir(exist_ok=True)
    keys = "".join((STATE / "keys" / f"{user}.pub").read_text() for user in ("root", SUBMIT_USER))
    for user, uid in {"root": 0, **{user: uid for user, (uid, _) in USERS.items()}}.items():
        home = host.upper / ("root" if user == "root" else f"home/{user}")
        (home / ".ssh").mkdir(parents=True, exist_ok=True)
        (home / ".ssh/authorized_keys").write_text(keys)
        if user == "noisy":
            for file in (".bashrc", ".profile"):
                (home / file).write_text(NOISE.format(file=file))
        home.chmod(0o700)
        for path in (home, *home.rglob("*")):
            os.lchown(path, uid, uid)
    etc = host.upper / "etc"
    (etc / "ssh").mkdir(parents=True, exist_ok=True)
    (etc / "ssh/sshd_config").write_text(SSHD_CONFIG)
    shutil.copy(host.state / "host_key", etc / "ssh/desk_host_key")
    (etc / "issue.net").write_text("All your keystrokes are belong to us.\n")
    (etc / "hostname").write_text(f"{host.name}\n")
    others = "".join(f"{other.address} {other.name}\n" for other in HOSTS.values())
    (etc / "hosts").write_text(f"127.0.0.1 localhost\n{others}")
    (host.upper / "usr/sbin").mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).with_name("desk_init.py"), host.upper / "usr/sbin/desk-init")


def _await_sshd(host: Host) -> None:
    for port in (PORT, PORT_NO_USER_NAMESPACES):
        _await_port(host, port)


def _await_port(host: Host, port: int) -> None:
    deadline = time.monotonic() + 20
    last: OSError | None = None
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host.address, port), timeout=2) as connection:
                if connection.recv(4) == b"SSH-":
                    return
        except OSError as error:
            last = error
        time.sleep(0.05)
    words = (host.state / "log").read_text().splitlines()[-1:]
    raise DeskError(f"sshd on {host.name}, port {port}, does not answer ({last}); the host said last: {words}")


def _unplug(host: Host) -> None:
    if host.link in (name for _, name in socket.if_nameindex()):
        call(["ip", "link", "del", host.link])
    if Path(f"/run/netns/{host.link}").exists():
        call(["ip", "netns", "del", host.link])


def main(argv: Sequence[str]) -> int:
    try:
        if argv == ["up"]:
            up()
        elif argv == ["down"]:
            down()
        elif argv != ["status"]:
            print("usage: python3 -m tests.desk up|down|status", file=sys.stderr)
            return 2
        for name, host in HOSTS.items():
            number = pid(name)
            print(f"{name}: {'off' if number is None else f'on, at {host.address}, init is pid {number}'}")
    except DeskError as error:
        print(f"desk: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
