"""The desk's hosts by name, where they are kept, and the submit machine's ordinary user."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

STATE = Path(os.environ.get("REXEC_DESK", "/var/lib/rexec-desk"))
SSH_CONFIG = STATE / "ssh_config"
SYSTEM_SSH_CONFIG = Path("/etc/ssh/ssh_config.d/rexec-desk.conf")
SUBMIT_USER, SUBMIT_UID, SUBMIT_GROUP = "rexecuser", 1600, "rexecgrp"
PORT, PORT_NO_USER_NAMESPACES = 22, 2222


@dataclass(frozen=True, slots=True)
class Host:
    """One execute host: `name` is its hostname and ssh name, `network` the third octet of its address."""

    name: str
    network: int

    @property
    def address(self) -> str:
        # 198.18.0.0/15 is set aside for benchmarks (RFC 2544): nobody's office uses it.
        return f"198.18.{self.network}.2"

    @property
    def gateway(self) -> str:
        return f"198.18.{self.network}.1"

    @property
    def link(self) -> str:
        """Name of its network namespace, and of the submit machine's end of the cable."""
        return f"rexec-{self.name}"

    @property
    def state(self) -> Path:
        return STATE / self.name

    @property
    def upper(self) -> Path:
        """What is on its disk beyond the shared root: an overlay's upper layer."""
        return self.state / "upper"


HOSTS = {host.name: host for host in (Host("alpha", 1), Host("beta", 2))}
