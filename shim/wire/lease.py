"""How long an end of a link waits for a sign of life, in seconds. Pure. Shipped.

Both ends send PING every PULSE, and anything at all that comes is a sign of life. The figures rest on one another:

* the host gives up first: after AGENT of silence, a few pulses, the agent ends itself, and with it the job and its
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

AGENT = 4.0
"""The agent on a host, without a sign of life from home."""

HOME = 6.0
"""The submit side, without a sign of life from the host."""

LOST = 5.0
"""The supervisor of a job, after the end of the link to the host that ran it, before it runs the job elsewhere."""
