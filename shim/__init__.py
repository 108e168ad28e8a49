"""Runs commands on other machines as if they ran here, and moves them: the command `rexec`, and a door for Python.

`from shim import run, start, …` is the door: docs/python.md is its manual, and __init__.pyi says what there is, for
editors and type checkers. A name is imported when it is first asked for (PEP 562): this file is also read on hosts,
which have none of what it names, and at the start of every command. It trusts the user who runs it; who
else is trusted, and with what, each folder says.
"""

_MODULES = {
    "shim.submit.api.arguments": ("ScopeOptions",),
    "shim.submit.api.errors": (
        "ArgumentError", "CannotStart", "CommandFailed", "ImageError", "JobFailed", "JobStopped", "RequestRefused",
        "RexecError", "WaitTimeout",
    ),
    "shim.submit.api.host_reports": ("HostReport", "hosts"),
    "shim.submit.api.job_handle": ("Job", "job", "jobs"),
    "shim.submit.api.job_report": ("JobReport", "SavedImage"),
    "shim.submit.api.remote_run": ("Result", "run"),
    "shim.submit.api.start_job": ("start",),
    "shim.submit.hosts.checks": ("Check",),
    "shim.submit.hosts.config": ("HostsError",),
    "shim.submit.job.control_socket": ("ControlError",),
    "shim.submit.job.events": ("Event", "EventLogError"),
    "shim.submit.job.record": ("JobError",),
    "shim.submit.job.submission": ("SubmitError",),
    "shim.wire.owner_policy": ("PolicyError",),
}  # fmt: skip
__all__ = sorted(name for names in _MODULES.values() for name in names)


def __getattr__(name):
    for module, names in _MODULES.items():
        if name in names:
            from importlib import import_module

            value = globals()[name] = getattr(import_module(module), name)
            return value
    raise AttributeError("module %r has no attribute %r" % (__name__, name))


def __dir__():
    return sorted({*globals(), *__all__})
