"""The Debian archive that this machine takes packages from, as its apt has it: no address is known beforehand.

Sources: apt-get(8), `indextargets`; acquire-additional-files.txt of apt-doc; apt-transport-mirror(1).
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from checkpoint.wire.criu_bundle import BundleError

VARIABLE = "REXEC_MIRROR"
_FIELDS = ("$(REPO_URI)", "$(ORIGIN)", "$(LABEL)", "$(COMPONENT)")
_TARGETS = ["apt-get", "indextargets", "--format", "|".join(_FIELDS), "Created-By: Packages"]
_URIS = ["apt-get", "--print-uris", "update"]
_LIST = re.compile(r"'(\S+/debian)/dists/[^/']+/main/[^']+'")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*:/")
_FILE = re.compile(r"mirror\+file:/*(?=/)")


def of_targets(targets: str) -> str | None:
    """Pick the archive of Debian itself, not its security archive, from lines of _FIELDS, what apt has lists of."""
    for line in targets.splitlines():
        uri, *found = line.split("|")
        if found == ["Debian", "Debian", "main"]:
            return uri.rstrip("/")
    return None


def of_uris(uris: str) -> str | None:
    """Pick the same from what `apt-get --print-uris update` says, where apt has no lists yet: by the address alone."""
    found = _LIST.search(uris)
    return found.group(1) if found else None


def find(asked: str = "") -> str:
    """Name the archive: `asked`, else $REXEC_MIRROR, else this machine's. Raises BundleError where there is none."""
    given = asked or os.environ.get(VARIABLE, "")
    if given:
        if _ADDRESS.match(given) is None:
            where = "--mirror" if asked else f"${VARIABLE}"
            raise BundleError(
                f"{where} {given!r:.200} is no address of a Debian archive; write one such as a Debian machine has in "
                "/etc/apt/sources.list, with http:// or file:/ before it"
            )
        return given.rstrip("/")
    targets = _said(_TARGETS)
    found = of_targets(targets) if targets else of_uris(_said(_URIS))
    if found is None:
        raise BundleError(
            f"apt is set up with no archive of Debian here; name one with --mirror ADDRESS or in ${VARIABLE}, "
            "such as a Debian machine has in /etc/apt/sources.list"
        )
    return _first_of(found)


def _first_of(found: str) -> str:
    """Where the address is that of a file of addresses, the first of those: debootstrap knows no such files."""
    file = _FILE.match(found)
    if file is None:
        return found
    words = [line.split()[0] for line in Path(found[file.end() :]).read_text().splitlines() if line.strip()]
    addresses = [word for word in words if not word.startswith("#")]
    if not addresses:
        raise BundleError(f"{found[file.end() :]}, where apt looks for its mirrors, names none; name one with --mirror")
    return addresses[0].rstrip("/")


def _said(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
        )
    except FileNotFoundError:
        return ""  # no apt: not a Debian
    return done.stdout
