"""How long, and how much of, what an execute host was told of a file may stand for the file. Pure. Shipped.

One contract between the export, which tells it, and the relay and the kernel there, which answer from it; what a job
may count on is docs/consistency.md. A figure that is changed at one end alone breaks that page.
"""

from __future__ import annotations

TTL = 1
"""Seconds for which a name, attributes or contents that were told may be used without asking again.

As long as docs/consistency.md lets a change by others go unseen (libfuse has the same entry_timeout and attr_timeout).
One figure for all of it: what the relay answers from may be used for as long as what the kernel was given, and no
longer, or a job would see a file go back in time.
"""

BESIDE = (1 << 31).to_bytes(4, "little")
"""Flags in the attributes (struct fuse_attr) of a file beside one that is locked, which home takes back when others
change the file: the kernel, to which that flag is nothing, is told for no time, and the relay answers for TTL.
"""

KEPT_BY_KERNEL = 60
"""Seconds for which the kernel of a host that has a session is told what is leased: it is told as well when home takes
that back, and when nothing is heard of home (execute/invalidating.py). So this bounds no more than what may go wrong
between a kernel and who tells it.
"""

LISTING_TTL = 0.1
"""Seconds after its OPENDIR for which a listing may be handed to readdir(3) as it came.

A directory opened is listed as it is then (docs/consistency.md), so this is only as long as a program takes from
opendir(3) to its first readdir(3), and none that works between the two reads an old listing.
"""

AHEAD = 56 << 10
"""Bytes of a file, or of a directory's entries, that go along with another reply.

Whole, the frame stays below frames.LARGE, so that it waits behind nothing and no metadata waits behind it.
"""

LISTED_AFTER = 3
"""Lookups in one directory, within TTL of each other's listing, after which all of it is told with the reply.

One lookup is a path that is walked; several are a program that looks at what is there, as `ls -l` and compilers do.
Where all was told to a job before this one, the first lookup is enough: whoever runs `git status` does so again.
"""

LISTED_ENTRIES = 320
"""Entries of a directory that is told of with a LOOKUP: each is looked up here, and counts a lookup of the kernel's.

About what fits into AHEAD; a larger one costs the disk more than the round trips that it would save.
"""

LISTED_NAMES = 8 << 10
"""Bytes of names of a directory in which the job makes something, that are told so that it need not ask whether one is
there: what a line of 10 Mbit/s carries in 7 ms."""

KNOWN_NODES = 512
"""Nodes whose attributes and contents the relay keeps: with AHEAD bytes each 28 MiB at the most."""

KNOWN_DIRECTORIES = 64
"""Directories whose entries the relay keeps: with AHEAD bytes each 3.5 MiB at the most."""

KNOWN_LINKS = KNOWN_NODES
"""Symbolic links whose target the relay keeps until the kernel asks for it: of up to 4 KiB each, 2 MiB at the most."""

KNOWN_BARE = 8 * KNOWN_NODES
"""Nodes that the relay knows to have no capabilities: two numbers each, and asked for at every write and chown."""

KNOWN_MADE = 1 << 12
"""Files and directories that the job has made, whose attributes may be set before home has done so: of some 300 bytes
each."""

KNOWN_CHANGES = 1 << 14
"""Nodes whose last change the relay remembers by number, those that were changed last; all others are taken as changed
when the first of these was."""

WALK_HITS = 2
"""Directories, each named by a listing that the job was given, that it opens before others are listed ahead."""

WALK_WINDOW = 64
"""Directories that are listed ahead at the most before the next one that the job may open, in the order of its walk."""

WALK_AHEAD = 4 * WALK_WINDOW
"""Directories that are being listed ahead, or kept until the job opens them, at the most."""

WALK_KEPT = 4 << 20
"""Bytes of what is kept of them, from which on no more is asked for."""

WALK_KNOWN = 1 << 14
"""Directories of which the relay knows where in a walk they are: some 200 bytes each."""

LISTED_BELOW = 8
"""Directories that one request lists ahead, as long as all of it is no more than AHEAD: it and what is below it."""

KNOWN_OPENED = 1 << 10
"""Directories of which the relay knows that they could be opened: two numbers each."""

BARE_ASKED = 3
"""Files in a row that a program asks for which a listing was without, before it is given no such listings any more."""

LEASED_NAMES = 1 << 16
"""Names that the relay keeps under leases: of about 250 bytes each, 16 MiB at the most."""

LEASED_LISTINGS = 8 << 20
"""Bytes of listings that the relay keeps under leases, for who opens these directories again."""

LEASED_NODES = 1 << 15
"""Nodes whose attributes the relay keeps under leases: of about 250 bytes each, 8 MiB at the most."""

OPENED_HERE = 1 << 12
"""Files that are open on the host by a lease on their contents, at the most: three numbers each."""

PUSHED_KEPT = 64 << 20
"""Bytes of files that were sent before the job asked, and are kept until it does, at the most."""

SILENCE = 3
"""Seconds after which a host that has heard nothing from home answers from no lease: a break could not have come.

Home is heard of once a second (lease.PULSE).
"""

ORDER_HITS = 2
"""Files, each right behind the one before in an order of their directory, opened before others are fetched."""

ORDER_WINDOW = 64
"""Files that are fetched ahead at the most before the next one that the job may open, in the order that it follows."""

ORDER_KNOWN = 1 << 14
"""Files of which the relay knows where in their directory they are, but for one that is larger: some 300 bytes each."""

ORDER_UNREAD = 1 << 20
"""Bytes of listings that the relay keeps until the job opens a file, for their order."""

ORDER_NAMED = 1 << 13
"""Names told one by one that the relay keeps for their order, until home is asked to open a file: of some 300 bytes
each."""

FETCHED = 1 << 20
"""Bytes of files that are being fetched ahead, or kept until the job opens them, at the most."""

FETCHED_FIRST = 64 << 10
"""Of these, how many may be under way at first: what was asked for waits for no more on a narrow link."""

FETCHED_LEAST = 16 << 10
"""How many may be under way over the narrowest link."""

WRITTEN_EACH = 4 << 20
"""Bytes of a file that the job has made up to which the host keeps what is written to it, to be read back."""

WRITTEN = 8 * WRITTEN_EACH
"""Bytes of all such files that are kept."""

WRITTEN_FILES = 4096
"""Such files, at the most: of about 500 bytes each, beside what they hold."""
