"""What shim/execute/rejoin.py asks an agent at its door (door.py), and how that answers. Shipped.

By itself, as rejoin.py has nothing else of the agent's to read: a hundred of them may start at once.
"""

from __future__ import annotations

import struct

ASKED = struct.Struct("=c32sQ")  # JOIN, END or TAKE, the secret, and home's position
JOIN, END, TAKE = b"j", b"e", b"t"
YES, NO = b"+", b"-"
