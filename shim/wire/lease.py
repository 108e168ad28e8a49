"""How long an end of a link waits for a sign of life, in seconds. Pure. Shipped.

Both ends send PING every PULSE, and anything at all that comes is a sign of life. The figures rest on one another:

* a silence of the network of up to SILENCE is no end. The last sign may have come a PULSE before it. And TCP sends
  again what was lost after a time that it doubles with each try (RFC 6298, 5.5; Linux begins with 0.2 s and the round
  trip): a try that was lost just before the network came back is made again as long after it as the silence lasted.
  Neither end can have that sooner: the socket is ssh's. So nothing may be heard for PULSE + 2 * SILENCE + FIRST_TRY;
* the host gives up first: after AGENT of silence, more than that, the agent ends itself, and with it the job and its
  mounts;
* so when home gives up a silent host, after HOME, nothing runs there any more, if what is sent here does not arrive
  there either. It is more than AGENT and a PULSE: the last sign that either had of the other may be a pulse apart;
* a job that can be checkpointed may go on elsewhere only when it acts nowhere. The last that a host can have heard of
  home was sent before the link ended here: LOST after that its agent has ended too, with a second for clocks and for
  scheduling. Of a silent host the link is ended here only after HOME, so that the job goes on HOME + LOST after its
  last sign of life, since there are networks that carry one direction only.
"""

from __future__ import annotations

PULSE = 1.0
"""Between two signs of life of one's own."""

SILENCE = 3.6
"""Of the network, after which a job goes on as if there had been none."""

FIRST_TRY = 0.5
"""Until TCP sends for the second time what was not acknowledged: 0.2 s, and a round trip of a far host."""

AGENT = 9.0
"""The agent on a host, without a sign of life from home."""

HOME = 11.0
"""The submit side, without a sign of life from the host."""

LOST = 10.0
"""The supervisor of a job, after the end of the link to the host that ran it, before it runs the job elsewhere."""

RELEASE = 6.0
"""The end of a run, for a reader or a system call here that holds up what is left to do."""
