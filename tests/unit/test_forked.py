"""Which page images are said to be read page by page, by the tree and its pagemaps."""

from __future__ import annotations

from checkpoint.execute import forked
from checkpoint.execute.criu_images import TREE, entry, head
from checkpoint.execute.spool import Spool
from checkpoint.wire.manifest import PAGE
from checkpoint.wire.protobuf import encode
from tests.images import pagemap_bytes

HERE, THERE = 0x7F0000000000, 0x7E0000000000


def put(image: Spool, parents: dict[int, int], runs: dict[int, list[tuple[int, int]]]) -> None:
    """A tree of processes by their parents, and the (address, pages) of each, page image N being process N's."""
    rows = [encode([(1, pid), (2, parent), (3, 1), (4, 1), (5, pid)]) for pid, parent in parents.items()]
    image.write("pstree.img", head(TREE) + b"".join(map(entry, rows)))
    for pid, spans in runs.items():
        image.write(f"pagemap-{pid}.img", pagemap_bytes(pid, [(at, pages, 4) for at, pages in spans]))
        image.write(f"pages-{pid}.img", bytes(sum(pages for _, pages in spans) * PAGE))


def marked(image: Spool) -> set[str]:
    forked.mark(image)
    return {name for name in image.names() if image.file(name).by_pages}


def test_what_a_process_shares_with_its_parent_is_read_page_by_page(image: Spool) -> None:
    """And no more: not the parent's, a brother's, a program's of its own, nor one that has a little in common."""
    shares = [(HERE, 100)]
    put(
        image,
        {2: 0, 3: 2, 4: 2, 5: 4, 6: 3},
        {2: shares, 3: [(HERE, 10), (HERE + 50 * PAGE, 90)], 4: [(THERE, 100)], 5: shares, 6: [(HERE, 1), (THERE, 40)]},
    )
    assert marked(image) == {"pages-3.img"}


def test_what_is_no_image_of_criu_is_left_to_criu(image: Spool) -> None:
    assert marked(image) == set()
    shares = [(HERE, 100)]
    put(image, {2: 0, 3: 2}, {2: shares, 3: shares})
    whole = image.read("pagemap-3.img")
    for broken in (b"", whole[:-1], whole[:8]):
        image.write("pagemap-3.img", broken)
        assert marked(image) == set()
    image.write("pagemap-3.img", whole)
    image.write("pstree.img", b"no such thing")
    assert marked(image) == set()
