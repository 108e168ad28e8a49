"""A criu that works, for hosts that have none: found on this machine, or made of a newer Debian's packages.

The packages come by this machine's own apt (its mirror, its proxy), their signatures verified with Debian's keyring,
into a private directory: nothing is installed and no privilege is needed. Submit side.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from checkpoint.submit import mirror, xdg
from checkpoint.wire import criu_bundle, elf
from checkpoint.wire.criu_bundle import BundleError

# What an archive must have at least, or somebody plays an old one again, whose signature holds.
OLDEST = (4, 1)
# Of these the first that can be had. criu before 4.2 cannot save an internet socket on Linux 6.16 or newer.
SUITES = ("forky", "trixie")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
APT_TIMEOUT_S = 600
_HOOKS = (
    "APT::Update::Pre-Invoke", "APT::Update::Post-Invoke", "APT::Update::Post-Invoke-Success", "DPkg::Pre-Invoke",
    "DPkg::Pre-Install-Pkgs", "DPkg::Post-Invoke", "APT::Default-Release",
)  # fmt: skip
_VALID_UNTIL = "Acquire::Check-Valid-Until"
PIN = "pinned"


class ArchiveError(BundleError):
    """A Debian archive cannot be read."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A packed criu.

    archive   the file, a tar: see criu_bundle.pack
    hash      of its bytes, in hexadecimal
    """

    archive: Path
    hash: str

    def read(self) -> bytes:
        """Read the archive. Raises BundleError if it cannot be read, or is not what was packed."""
        try:
            data = self.archive.read_bytes()
        except OSError as error:
            raise BundleError(f"{self.archive} cannot be read: {error.strerror}; mend its mode") from error
        if criu_bundle.digest(data) != self.hash:
            raise BundleError(f"{self.archive} is damaged; remove it and run `rexec doctor --fix`")
        return data


def home() -> Path:
    """Name the directory where bundles are kept here: $XDG_DATA_HOME/rexec/criu."""
    return xdg.data() / "criu"


def kept(at: Path) -> Bundle | None:
    """Find the bundle kept there, or None: the one that PIN has the hash of, whatever else lies beside it."""
    try:
        digest = (at / PIN).read_text(errors="replace").strip()
    except FileNotFoundError:
        return None
    archive = _archive(at, digest)
    return Bundle(archive, digest) if re.fullmatch(r"[0-9a-f]{32}", digest) and archive.exists() else None


def _archive(at: Path, digest: str) -> Path:
    return at / f"criu-{digest}.tar"


def keep(files: dict[str, bytes], at: Path) -> Bundle:
    """Pack files (see criu_bundle.gather) into the directory and return the bundle; the file appears whole or not."""
    archive, digest = criu_bundle.pack(files)
    xdg.make(at)
    bundle = Bundle(_archive(at, digest), digest)
    _write(bundle.archive, archive)
    _write(at / PIN, f"{digest}\n".encode())
    return bundle


def _write(target: Path, data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    os.replace(f.name, target)


def lets_expired_pass() -> bool:
    """Tell whether this machine's own apt takes lists that have expired, as where its mirror is a snapshot."""
    said = _run(["apt-config", "dump", _VALID_UNTIL], "read how apt is set up here")
    found = re.search(rf'^{_VALID_UNTIL} "(.*)";$', said, re.MULTILINE)
    return found is not None and found[1].lower() in ("no", "false", "without", "off", "disable", "0")


def apt_config(work: Path, sources: Path, expired: bool = False) -> str:
    """Write a configuration for apt-get -c: all that apt writes is under work; only the named sources are used.

    `expired`: lists that have expired will do, as for this machine's own apt.

    The dpkg status is an empty file, so that every library counts as missing and is fetched, libc included.
    """
    settings = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "-",
        "Dir::Etc::preferences": "-",
        "Dir::Etc::preferencesparts": "-",
        "Dir::State": work / "state",
        "Dir::State::status": work / "status",
        "Dir::State::lists": f"{work}/state/lists/",
        "Dir::Cache": work / "cache",
        "Dir::Cache::archives": f"{work}/cache/archives/",
        "APT::Sandbox::User": "",
        "APT::Install-Recommends": "false",
        "APT::Update::Error-Mode": "any",
        "Acquire::Languages": "none",
        # Whatever this machine's apt lets pass: apt.conf(5), apt-secure(8). What has expired passes in one case alone,
        # where this machine's own apt lets it: its mirror may be a snapshot, as whoever set it up knows; OLDEST is
        # there against an old archive.
        _VALID_UNTIL: "false" if expired else "true",
        "APT::Get::AllowUnauthenticated": "false",
        "Acquire::AllowInsecureRepositories": "false",
        "Acquire::AllowWeakRepositories": "false",
        "Acquire::AllowDowngradeToInsecureRepositories": "false",
    }
    lines = [f"#clear {name};" for name in _HOOKS]
    lines += [f'{name} "{value}";' for name, value in settings.items()]
    return "\n".join(lines) + "\n"


def _run(command: list[str], what: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("APT_CONFIG", "LANGUAGE")} | {"LC_ALL": "C"}
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=APT_TIMEOUT_S, check=False, env=environment
    )
    if done.returncode != 0:
        said = (done.stderr + done.stdout).splitlines()
        # The errors first: a warning, such as apt's about directories that it does without, is seldom the cause.
        lines = [line for start in ("E:", "dpkg-deb:", "W:") for line in said if line.startswith(start)]
        reason = lines[0].removeprefix("E: ") if lines else f"exit status {done.returncode}"
        raise BundleError(f"cannot {what}: {reason}")
    return done.stdout


def require_recent(version: str, suite: str) -> None:
    """Check the version of the package criu, as Debian numbers it. Raises BundleError for one older than OLDEST."""
    found = re.match(r"(?:\d+:)?(\d+)\.(\d+)", version)
    if found is None or (int(found[1]), int(found[2])) < OLDEST:
        raise ArchiveError(
            f"criu of Debian {suite} is {version.strip()!r:.40} in this archive, older than "
            f"{'.'.join(map(str, OLDEST))}: it is not Debian's present one"
        )


def download(archive: str, suite: str, work: Path) -> Path:
    """Unpack criu of a Debian archive's suite, and all it depends on, under work; that root. Raises BundleError."""
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            raise BundleError(f"cannot obtain criu: this machine has no {tool}; install criu 4.1 or newer by hand")
    if not KEYRING.exists():
        raise BundleError(f"cannot obtain criu: {KEYRING} is missing; install the package debian-archive-keyring")
    for name in ("state/lists/partial", "cache/archives/partial", "root"):
        (work / name).mkdir(parents=True)
    (work / "status").touch()
    sources = work / "debian.sources"
    sources.write_text(f"Types: deb\nURIs: {archive}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n")
    config = work / "apt.conf"
    config.write_text(apt_config(work, sources, lets_expired_pass()))
    apt = ["apt-get", "-c", str(config), "-qq", "-y"]
    try:
        _run([*apt, "update"], f"read Debian {suite}'s package list")
        _run([*apt, "--download-only", "install", "criu"], f"download criu of Debian {suite}")
    except BundleError as error:
        raise ArchiveError(str(error)) from error
    packages = sorted((work / "cache/archives").glob("*.deb"))
    (criu,) = (str(package) for package in packages if package.name.startswith("criu_"))
    require_recent(_run(["dpkg-deb", "-f", criu, "Version"], "read the version of criu"), suite)
    for package in packages:
        _run(["dpkg-deb", "-x", str(package), str(work / "root")], f"unpack {package.name}")
    return work / "root"


def obtain(at: Path, asked: str = "") -> Bundle:
    """Download criu of the newest of SUITES that has it and keep it as a bundle under at. Raises BundleError.

    `asked`: the address of the Debian archive, see mirror.find.
    """
    archive = mirror.find(asked)
    whys, unread = [], False
    for suite in SUITES:
        try:
            return _obtain(at, archive, suite)
        except BundleError as e:
            whys.append(str(e))
            unread = unread or isinstance(e, ArchiveError)
    mend = [f"name an archive that can be read with --mirror ADDRESS or in ${mirror.VARIABLE}"] if unread else []
    raise BundleError("; ".join([*whys, *mend]))


def _obtain(at: Path, archive: str, suite: str) -> Bundle:
    with tempfile.TemporaryDirectory(prefix="rexec-criu-") as name:
        root = download(archive, suite, Path(name))
        machine = os.uname().machine
        libraries = [
            str(root / d) for d in (f"usr/lib/{machine}-linux-gnu", "usr/lib", f"lib/{machine}-linux-gnu", "lib")
        ]
        try:
            # Debian's merged /usr: the loader is named /lib64/…, the package holds it below /usr
            return keep(criu_bundle.gather(str(root / "usr/sbin/criu"), libraries, f"{root}/usr"), at)
        except (elf.ElfError, OSError) as e:
            raise BundleError(f"criu of Debian {suite} has an unexpected shape: {e}") from e
