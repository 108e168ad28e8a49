"""How long an end of a run waits: for a sign of life, and for a stream to take the place of one that was cut. Pure.
Shipped.

Both ends send PING every PULSE, and anything at all that comes is a sign of life. A stream that is silent for too long
is given up, the session goes on over the next (remoteio/wire/link.py), which home dials (shim/submit/hosts/dialler.py).
The figures rest on one another:

* a silence of the network of up to SILENCE costs no stream. The last sign may have come a PULSE before it. And TCP
  sends again what was lost after a time that it doubles with each try (RFC 6298, 5.5; Linux begins with 0.2 s and the
  round trip): a try that was lost just before the network came back is made again as long after it as the silence
  lasted. So nothing may be heard for PULSE + 2 * SILENCE + FIRST_TRY, and AGENT and HOME are more than that;
* a dead peer is noticed within 15 s: HOME and two PULSE, one since the last sign and one between looks;
* an agent that has had no stream for the run's lease, LEASE unless its user says otherwise, ends itself, and with it
  the job and its mounts. It counts from the last that it heard of home, which home sent before it missed the agent;
* so once home has had no stream for the lease and LOST more, nothing runs there any more, if clocks run alike: LOST is
  for the looks, for scheduling, and for clocks that differ by a part in 240. Then a job that can be checkpointed may go
  on elsewhere. Sooner it may only when the host has said that the agent is no more;
* of a job that can be checkpointed the agent stops all processes then, and ends them only STILL later, or when home or
  the machine's owner wants it to: what stands still acts no more than what has ended, and goes on once home is back, if
  home has not gone on elsewhere meanwhile;
* where an agent could have no socket there is no other stream: its end, or AGENT of silence, ends it, and HOME of
  silence is the end here, which is later, so that nothing runs there when home says so.
"""

from __future__ import annotations

PULSE = 1.0
"""Between two signs of life of one's own."""

SILENCE = 3.6
"""Of the network, after which the stream goes on as if there had been none."""

FIRST_TRY = 0.5
"""Until TCP sends for the second time what was not acknowledged: 0.2 s, and a round trip of a far host."""

AGENT = 9.0
"""The agent on a host, without a sign of life from home: it gives up the stream."""

HOME = 11.0
"""The submit side, without a sign of life from the host: it gives up the stream, and dials."""

LEASE = 40 * 60
"""Without any stream, by default, until the agent ends the job."""

IMAGES = 5 * 60
"""The same for a job that can be checkpointed: after it, another host may go on from the last image."""

STILL = 3 * 24 * 60 * 60
"""After its lease, for which a job that can be checkpointed stands still on its host: longer than a weekend."""

STOP = 5.0
"""For its processes to be stopped then: with AGENT's second between looks it is less than LOST."""

LOST = 10.0
"""Beyond the lease, before a job whose host has not been heard of is run elsewhere."""

RELEASE = 6.0
"""The end of a run, for a reader or a system call here that holds up what is left to do."""
