"""Which page images criu reads page by page: those of processes that share memory with their parents. Shipped.

What a process and its parent both have at one address criu restores in the parent, before it forks. The process then
reads its own image of it, a page at a time, and keeps a page that is the same: so they share it again (criu/mem.c:
restore_priv_vma_content). All else is read by as much as there is in a row.
"""

from __future__ import annotations

import re
from io import BytesIO

from checkpoint.execute import chunker, criu, criu_images
from checkpoint.execute.page_ranges import Ranges, joined, shared
from checkpoint.execute.spool import Spool
from checkpoint.wire import protobuf
from checkpoint.wire.manifest import PAGE

_PID, _PARENT = 1, 2  # images/pstree.proto
_PAGEMAP = re.compile(r"pagemap-(\d+)\.img$")
_SOME = 16  # less than such a part, and reading it past the page cache is worth more


def mark(spool: Spool) -> None:
    """Mark the page images in the spool that are read page by page.

    An image that cannot be understood is none of them: it is restored all the same, or criu says what is wrong with it.
    """
    try:
        rows = criu_images.entries(spool.read("pstree.img"), criu_images.TREE)
        tree = [protobuf.decode(raw) for raw in rows]
        parents = {protobuf.integer(row, _PID): protobuf.integer(row, _PARENT) for row in tree}
        pages = {int(m[1]): _pages(spool, m[0]) for m in map(_PAGEMAP.match, spool.names()) if m and len(rows) > 1}
        for pid, (number, ranges) in pages.items():
            _, above = pages.get(parents.get(pid) or 0, (0, []))
            if _bytes(shared(ranges, above)) * _SOME > _bytes(ranges):
                spool.file("pages-%d.img" % number).by_pages = True
    except (criu.CriuError, protobuf.ProtobufError, chunker.ChunkerError, OSError):
        return


def _pages(spool: Spool, name: str) -> tuple[int, Ranges]:
    """The number of its page image, and the addresses of its pages."""
    runs = chunker.pagemap(BytesIO(spool.read(name)))
    _, number = next(runs)
    return number, joined((at, at + count * PAGE) for at, count in runs)


def _bytes(ranges: Ranges) -> int:
    return sum(end - start for start, end in ranges)
