"""Submit side: positions in directories that outlive the open directory, as a job needs that goes on elsewhere.

A position is what readdir(3) gives with each entry (``d_off``) and seekdir(3) takes. The filesystem's own, at home, say
where the next entry is, whatever was removed before it: a number of entries to pass over would not. So a job is given
those, with two differences. The first numbers are of entries that are ours. And ext4 makes positions of 63 bits out of
the names' hashes, of which a 32-bit program can read none (EOVERFLOW), so what it would be given at home is given here:
the upper bits alone (hash2pos in fs/ext4/dir.c), wherever they suffice. Pure.
"""

from __future__ import annotations

OWN = 64  # positions below it are of entries that are not the filesystem's
EXT4 = 0xEF53  # linux/magic.h
_HASH = 33  # bits of ext4's position that are left out
_FIRST, _END = 1 << 30, 1 << 31  # what stands for the others
_MOST = (1 << 63) - 1


def given(raw: list[int], start: int, ext4: bool) -> list[int]:
    """Return what to give the job for the filesystem's positions after each entry, read one by one from `start` on."""
    if not ext4:
        most = _MOST - OWN
        return [position + OWN if position < most else _MOST for position in raw]
    found, before = [], start >> _HASH
    for position in raw:
        upper = position >> _HASH
        # those alone lead to the first entry that has them, and so are of use only if this one is
        short = upper and upper != before
        found.append(_FIRST + upper if short else min(position + OWN, _MOST))
        before = upper
    return found


def meant(position: int, ext4: bool) -> int:
    """Return the filesystem's own position, to be read from, for one that the job was given."""
    if ext4 and _FIRST <= position < _END:
        return position - _FIRST << _HASH
    return _MOST if position == _MOST else max(position - OWN, 0)
