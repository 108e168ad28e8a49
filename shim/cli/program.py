"""``rexec``: the program. It does what its words ask for; where that fails it says why, and ends with 125."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module

from checkpoint.errors import CheckpointError
from remoteio.errors import RexecError, named
from shim.cli import plain, say
from shim.cli.say import FAILED, tell
from shim.submit import own_code

# verb -> (module, its click command); all else is a command to run
VERBS: dict[str, tuple[str, str]] = {
    "hosts": ("shim.cli.hosts", "hosts_command"),
    "doctor": ("shim.cli.doctor", "doctor_command"),
    "disconnect": ("shim.cli.disconnect", "disconnect_command"),
    "submit": ("shim.cli.submit", "submit_command"),
    "dag": ("shim.cli.dag", "dag_command"),
    "pool": ("shim.cli.pool", "pool_command"),
    "jobs": ("shim.cli.listed", "jobs_command"),
    "watch": ("shim.cli.watch", "watch_command"),
    "report": ("shim.cli.report", "report_command"),
    "stat": ("shim.cli.stat", "stat_command"),
    "priority": ("shim.cli.desk", "priority_command"),
    "attach": ("shim.cli.attach", "attach_command"),
    "checkpoint": ("shim.cli.jobs", "checkpoint_command"),
    "vacate": ("shim.cli.jobs", "vacate_command"),
    "hold": ("shim.cli.jobs", "hold_command"),
    "release": ("shim.cli.jobs", "release_command"),
    "kill": ("shim.cli.jobs", "kill_command"),
    "restart": ("shim.cli.jobs", "restart_command"),
    "resume": ("shim.cli.resume", "resume_command"),
    "service": ("shim.cli.resume", "service_command"),
    "owner": ("shim.cli.owner", "owner_command"),
    "images": ("shim.cli.images", "images_command"),
    "log": ("shim.cli.jobs", "log_command"),
    "completion": ("shim.cli.completion", "completion_command"),
}


_COERCED = ("C.UTF-8", "C.utf8", "UTF-8")  # PEP 538


def as_given() -> None:
    """Take back the LC_CTYPE that Python sets where the locale is C: a job finds the environment that was given."""
    if os.environ.get("LC_CTYPE") not in _COERCED:
        return
    with open("/proc/self/environ", "rb") as environ:
        given = [item for item in environ.read().split(b"\0") if item.startswith(b"LC_CTYPE=")]
    if given:
        os.environb[b"LC_CTYPE"] = given[0].partition(b"=")[2]
    else:
        del os.environ["LC_CTYPE"]


def main() -> None:
    """Run the command line. The console script."""
    as_given()
    asked = os.environ.get("_REXEC_COMPLETE")
    if asked:
        import_module("shim.cli.main").complete(asked)
    own_code.import_only_ours()
    stdout = sys.__stdout__
    if stdout is not None and sys.stdout is stdout:  # it is None if 1 was closed when we were started
        sys.stdout = say.output(stdout)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there is a job to have it, Ctrl-C simply ends this
    words = sys.argv[1:]
    try:
        known = None if words and words[0] in VERBS else plain.usual(words[1:] if words[:1] == ["run"] else words)
        if known is not None:
            plain.start(known[0], **known[1])
        import_module("shim.cli.main").by_click(words)  # by name: it is imported where it is wanted, and knows this one
    except (RexecError, CheckpointError) as e:
        tell(str(e))
        sys.exit(FAILED)
    except Exception as e:  # 1, Python's status for it, would pass for the job's
        import traceback

        traceback.print_exc()
        tell(f"an error of rexec's own: {named(e)}; please report it with what is above")
        sys.exit(FAILED)
