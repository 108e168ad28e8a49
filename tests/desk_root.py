"""The Debian root that the desk's hosts share, and packages for them, made once and kept.

Everything here is under `CACHE` ($REXEC_DESK_CACHE, default /var/cache/rexec-tests) and is named by a hash of what it
was made from, so that a changed package list makes a new root. Making one takes about a minute and a Debian mirror;
finding it again takes neither.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from checkpoint.submit import mirror, obtain_criu
from checkpoint.wire.criu_bundle import BundleError
from tests import netns

CACHE = Path(os.environ.get("REXEC_DESK_CACHE", "/var/cache/rexec-tests"))
SUITE = "trixie"

# What a machine in somebody's office has: sshd, python3, the shells two of its users like, and what rootless
# containers need. Nothing for rexec.
PACKAGES = ("openssh-server", "python3-minimal", "python3", "procps", "psmisc", "kmod", "fish", "tcsh", "uidmap")

# The accounts of every host: name -> (uid, login shell). One alone has subordinate ids.
SUBORDINATE = "subby"
USERS = {
    "alice": (1500, "/bin/bash"),
    "fishy": (1501, "/usr/bin/fish"),
    "noisy": (1502, "/bin/bash"),
    "cshy": (1503, "/bin/tcsh"),
    SUBORDINATE: (1504, "/bin/bash"),
}


def criu() -> obtain_criu.Bundle:
    """A criu that works here and can be brought to hosts that have none; every user can read it."""
    at = CACHE / f"criu-{obtain_criu.SUITES[0]}"
    found = obtain_criu.kept(at)
    if found is None:
        with netns.outside():
            found = obtain_criu.obtain(at)
    at.chmod(0o755)
    found.archive.chmod(0o644)
    return found


def give_criu(kept: obtain_criu.Bundle, data: Path, user: str) -> Path:
    """Have the user, whose $XDG_DATA_HOME that directory is to be, keep that criu; where it is then."""
    home = data / "rexec" / "criu"
    home.mkdir(parents=True)
    for path in (kept.archive, kept.archive.with_name(obtain_criu.PIN)):
        shutil.copy(path, home)
    for path in (data, home.parent, home, *home.iterdir()):
        shutil.chown(path, user, user)
    return home


class DeskError(Exception):
    """The desk could not be set up or used; the text is one sentence: what failed, why, what to do."""


def call(argv: Sequence[str | os.PathLike[str]], *, log: Path | None = None, stdin: str | None = None) -> str:
    """Run a command of the submit machine and return its stdout; DeskError with its last words when it fails."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", input=stdin or "", check=False)
    except FileNotFoundError as error:
        raise DeskError(f"{argv[0]} is not installed here; `make test` installs what the desk needs") from error
    if log is not None:
        log.write_text(done.stdout + done.stderr)
    if done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or ["it said nothing"]
        where = f" (all of it is in {log})" if log else ""
        raise DeskError(f"`{' '.join(map(str, argv))}` failed with status {done.returncode}: {words[0]}{where}")
    return done.stdout


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive flock on `path` (made if missing), so that callers in other processes take their turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def archive() -> str:
    """The address of the Debian archive that this machine's apt, or $REXEC_MIRROR, names. Raises DeskError."""
    try:
        return mirror.find()
    except BundleError as error:
        raise DeskError(str(error)) from error


def digest(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:12]


def base() -> Path:
    """The root directory all hosts lie on as an overlay's lower layer; made by debootstrap if it is not there yet."""
    accounts = [f"{name}:{uid}:{shell}" for name, (uid, shell) in USERS.items()]
    root = CACHE / f"{SUITE}-{digest(SUITE, SUBORDINATE, *PACKAGES, *accounts)}"
    with locked(CACHE / "lock"):
        if not root.exists():
            _bootstrap(root)
    return root


def _bootstrap(root: Path) -> None:
    unfinished = root.with_name(f"{root.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    with netns.outside():
        call(
            ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, unfinished, archive()],
            log=root.with_name(f"{root.name}.log"),
        )
    for name, (uid, shell) in USERS.items():
        # '*' and not '!': sshd refuses keys of a locked account.
        ids = [] if name == SUBORDINATE else ["-K", "SUB_UID_COUNT=0", "-K", "SUB_GID_COUNT=0"]
        call(["chroot", unfinished, "useradd", "-m", "-s", shell, "-u", str(uid), "-p", "*", *ids, name])
    (unfinished / "etc/nsswitch.conf").write_text("hosts: files\npasswd: files\ngroup: files\nshadow: files\n")
    (unfinished / "etc/resolv.conf").write_text("")
    for key in (unfinished / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    unfinished.rename(root)


def debs(packages: Sequence[str]) -> Path:
    """A directory with the .deb files that `packages` need beyond the base, downloaded if they are not there yet."""
    lower = base()
    kept = CACHE / f"debs-{digest(lower.name, *sorted(packages))}"
    with locked(CACHE / "lock"):
        if not kept.exists():
            with tempfile.TemporaryDirectory(dir=CACHE, prefix="debs-") as scratch:
                found = _download(lower, packages, Path(scratch))
                unfinished = Path(tempfile.mkdtemp(dir=CACHE, prefix=f"{kept.name}."))
                for deb in found:
                    shutil.copy(deb, unfinished)
                unfinished.rename(kept)
    return kept


def _download(lower: Path, packages: Sequence[str], scratch: Path) -> list[Path]:
    # In a private mount namespace, so that no mount outlives the download, whatever ends it.
    for name in ("upper", "work", "root"):
        (scratch / name).mkdir()
    script = f"""
set -e
mount -t overlay overlay -o lowerdir={lower},upperdir={scratch}/upper,workdir={scratch}/work {scratch}/root
mount -t proc proc {scratch}/root/proc
mount -t tmpfs tmpfs {scratch}/root/dev
mknod -m 666 {scratch}/root/dev/null c 1 3
mknod -m 666 {scratch}/root/dev/urandom c 1 9
cat /etc/resolv.conf >{scratch}/root/etc/resolv.conf
cat /etc/hosts >{scratch}/root/etc/hosts
echo 'hosts: files dns' >{scratch}/root/etc/nsswitch.conf
echo 'deb {archive()} {SUITE} main' >{scratch}/root/etc/apt/sources.list
chroot {scratch}/root apt-get -q update </dev/null
chroot {scratch}/root apt-get -q -y --no-install-recommends --download-only install {" ".join(packages)} </dev/null
"""
    with netns.outside():
        call(["unshare", "--mount", "--propagation", "private", "sh"], stdin=script, log=CACHE / "debs.log")
    found = sorted((scratch / "upper/var/cache/apt/archives").glob("*.deb"))
    if not found:
        raise DeskError(f"apt-get downloaded nothing for {', '.join(packages)}: they may be part of the base already")
    return found
