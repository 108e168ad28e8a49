"""From a host to an entry point of the runtime that runs there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from remoteio.errors import RexecError
from remoteio.submit.transport.ssh import open_host, open_local
from remoteio.submit.transport.stream import Stream
from shim.submit.hosts import bootstrap, config
from shim.submit.hosts.config import Host

AGENT = "shim.execute.main:main"


def connect(
    host: Host,
    entry: str,
    *,
    batch: bool = False,
    deadline: float = 150.0,
    meanwhile: Callable[[], object] = lambda: None,
) -> tuple[Stream, bootstrap.Facts]:
    """Open a stream to ``host`` and start ``entry`` ("module:function") there, within ``deadline`` seconds.

    ``batch``: ask for no password. ``meanwhile`` is called while the connection is being made.
    Raises RexecError; then nothing is left open.
    """
    if host.ssh is None:
        stream = open_local(bootstrap.local_argv(host.python))
    else:
        stream = open_host(host.ssh, bootstrap.command(host.python), host.options, batch=batch)
    try:
        meanwhile()
        facts = bootstrap.start(stream, entry, deadline=deadline)
        stream.settle()
    except BaseException:
        stream.close(done=True)
        raise
    return stream, facts


def connect_first(
    on: str | None,
    *,
    batch: bool = False,
    passed_over: Callable[[str], object] = lambda text: None,
    connecting: Callable[[Host], AbstractContextManager[object]] = lambda host: nullcontext(),
    meanwhile: Callable[[], object] = lambda: None,
) -> tuple[Host, Stream, bootstrap.Facts]:
    """Start the agent on the host that ``on`` names; None: on the first of hosts.toml that answers, else here.

    ``passed_over`` is told of each that does not; each is waited for within ``connecting`` of it. The others are as for
    ``connect``. Raises RexecError.
    """
    known = config.load()
    if on is None:
        for host in known.hosts:
            try:
                with connecting(host):
                    return host, *connect(host, AGENT, batch=batch, meanwhile=meanwhile)
            except RexecError as e:
                passed_over(f"passing over {host.name}: {e}")
    host = Host(config.LOCAL, None) if on is None else config.resolve(on, known)
    with connecting(host):
        return host, *connect(host, AGENT, batch=batch, meanwhile=meanwhile)
