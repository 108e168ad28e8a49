"""From a host to an entry point of the runtime that runs there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from remoteio.errors import RexecError
from remoteio.submit.sandbox import dumps
from remoteio.submit.transport.stream import Cut, Dropped, NameUnknown, OptionUnknown, Stream, TransportError
from shim.submit.engines import names
from shim.submit.hosts import bootstrap, config, turns
from shim.submit.hosts.config import Host

AGENT = "shim.execute.main:main"
# A host that drops connections before the login is tried again for so long: sshd's penalties take 15 s from when they
# begin to tell (PerSourcePenalties, sshd_config(5)).
_AGAIN_SECONDS = 25.0
_LONGEST_PAUSE = 4.0
_CUTS = 2  # from which a start recovers; a host that hangs up on each has a reason

Take = Callable[[Host, Callable[[Stream], bytes], Callable[[], object]], "tuple[Stream, bootstrap.Facts] | None"]
"""Gives what is to be had without connecting, as ``Kept.take``."""


def connect(
    host: Host,
    entry: str,
    *,
    batch: bool = False,
    deadline: float = 150.0,
    first: Callable[[Stream], bytes] = lambda stream: b"",
    meanwhile: Callable[[], object] = lambda: None,
) -> tuple[Stream, bootstrap.Facts]:
    """Open a stream to ``host`` and start ``entry`` ("module:function") there, within ``deadline`` seconds.

    ``batch``: ask for no password. ``first`` gives what is sent to the entry without waiting for an answer, over each
    stream that is tried. ``meanwhile`` is called while the connection is being made.
    Waits for its turn where many of this user's connect to one host, and tries again where it drops them all the same,
    or the connection breaks: nothing has begun there that would not end with it, as home has answered it nothing.
    Raises RexecError; then nothing is left open.
    """
    until = time.monotonic() + deadline
    pauses = _pauses(min(deadline, _AGAIN_SECONDS))
    cuts = 0
    while True:
        try:
            with turns.turn(host.ssh, deadline / 2) if host.ssh is not None else nullcontext():
                return _connect_once(host, entry, batch, until, first, meanwhile)
        except OptionUnknown:
            continue
        except Dropped:
            pause = next(pauses, None)
            if pause is None:
                raise
            time.sleep(pause)
        except Cut:
            cuts += 1
            if cuts > _CUTS:
                raise
        except NameUnknown as e:
            meant = config.meant(host.name, config.load()) if host.name == host.ssh else ""
            raise NameUnknown(f"{e}{meant}") from e


def _pauses(most: float) -> Iterator[float]:
    """Yield how long to wait before each further try, in seconds; by chance, for those dropped at once come at once."""
    import random  # hardly ever

    last, longest = time.monotonic() + most, 0.25
    while (pause := random.uniform(0.4, 1.0) * longest) < last - time.monotonic():
        yield pause
        longest = min(2 * longest, _LONGEST_PAUSE)


def _connect_once(
    host: Host,
    entry: str,
    batch: bool,
    until: float,
    first: Callable[[Stream], bytes],
    meanwhile: Callable[[], object],
) -> tuple[Stream, bootstrap.Facts]:
    from remoteio.submit.transport.ssh import open_host, open_local  # who is given a connection makes none

    with dumps.allowed():
        if host.ssh is None:
            stream = open_local(bootstrap.local_argv(host.python))
        elif names.is_job(host.ssh):
            stream = names.open_job(host.ssh, bootstrap.command(host.python))
        else:
            stream = open_host(host.ssh, bootstrap.command(host.python), host.options, batch=batch)
        try:
            facts = bootstrap.start(
                stream, entry, deadline=until - time.monotonic(), first=first(stream), meanwhile=meanwhile
            )
            stream.settle()
        except BaseException as e:
            stream.close(done=True)
            if isinstance(e, Cut) and stream.asked():
                raise TransportError(str(e)) from e  # nobody is asked for his password again without a word
            raise
        return stream, facts


def connect_first(
    on: str | None,
    *,
    batch: bool = False,
    passed_over: Callable[[str], object] = lambda text: None,
    connecting: Callable[[Host], AbstractContextManager[object]] = lambda host: nullcontext(),
    first: Callable[[Host, Stream], bytes] = lambda host, stream: b"",
    meanwhile: Callable[[], object] = lambda: None,
    take: Take = lambda host, first, meanwhile: None,
) -> tuple[Host, Stream, bootstrap.Facts]:
    """Start the agent on the host that ``on`` names; None: on the first of hosts.toml that answers, else here.

    ``passed_over`` is told of each that does not; each is waited for within ``connecting`` of it. ``take`` gives what
    is to be had without connecting, as ``Kept.take``. The others are as for ``connect``. Raises RexecError.
    """

    def reach(host: Host) -> tuple[Host, Stream, bootstrap.Facts]:
        with connecting(host):
            told = partial(first, host)
            found = take(host, told, meanwhile)
            return host, *(found or connect(host, AGENT, batch=batch, first=told, meanwhile=meanwhile))

    known = config.load()
    if on is None:
        for host in known.hosts:
            try:
                return reach(host)
            except RexecError as e:
                passed_over(f"passing over {host.name}: {e}")
    return reach(Host(config.LOCAL, None) if on is None else config.resolve(on, known))
