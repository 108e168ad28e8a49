"""The first process of a desk host, run by that host's python3: starts its two sshds and reaps what is orphaned.

Port 22 is the host as it is. Port 2222 is the same host as it is where the administrator has set
user.max_user_namespaces to 0: the setting belongs to a user namespace, so this sshd gets one of its own with every id
mapped to itself, and the rest of the machine keeps the right to make them.
"""

from __future__ import annotations

import os
import sys

SSHD = ["/usr/sbin/sshd", "-D", "-e", "-f", "/etc/ssh/sshd_config"]


def start() -> int:
    pid = os.fork()
    if pid == 0:
        os.execv(SSHD[0], SSHD)
    return pid


def start_without_user_namespaces() -> int:
    if sys.version_info < (3, 12):
        sys.exit("desk-init: this python3 has no os.unshare")
    unshared, tell = os.pipe()
    mapped, go_on = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.unshare(os.CLONE_NEWUSER)
        os.write(tell, b".")
        os.read(mapped, 1)
        with open("/proc/sys/user/max_user_namespaces", "w") as file:
            file.write("0")
        os.execv(SSHD[0], [*SSHD, "-p", "2222", "-o", "PidFile=none"])
    os.read(unshared, 1)
    for table in ("uid_map", "gid_map"):
        with open(f"/proc/{pid}/{table}", "w") as file:
            file.write("0 0 65536")
    os.write(go_on, b".")
    for descriptor in (unshared, tell, mapped, go_on):
        os.close(descriptor)
    return pid


def main() -> None:
    needed = {start(), start_without_user_namespaces()}
    while needed:
        pid, status = os.wait()
        if pid in needed:
            sys.exit(f"desk-init: sshd {pid} ended with wait status {status}; the host goes down")


main()
