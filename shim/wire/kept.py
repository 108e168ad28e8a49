"""What home and an agent that waits for a job say to one another: one byte each, until the job comes. Pure. Shipped."""

from __future__ import annotations

ALIVE, YES = b"?", b"."
"""Home's question, and the answer to it, and to BEGIN."""

BEGIN = b"!"
"""The job is next, as to an agent that was started for it."""

ASKS = 15.0
"""Seconds between two of home's questions."""

ANSWERS = 10.0
"""Seconds that an answer may take: then the host is not to be reached."""

ALONE = 60
"""Seconds without a question, after which the agent ends: home has died, or the way to it."""
