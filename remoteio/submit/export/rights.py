"""What may be done with a file: the rights of a directory and a name give the child's.

Pure. Rules say what is hidden, or may be read only, by patterns of names from the root on; rights are the rules that
may still apply further down, and the level that those which did apply have left. Each set of them is made once, when it
is first met: there are few. Most names begin with no letter that any rule would have, which is all that is asked then.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple, TypeVar, Union

# Each may do all that those before it may.
HIDDEN = 0  # it is not there, and nothing may get its name
EMPTY = 1  # a directory with nothing in it but what is named: for the job's kernel to mount something on
READ = 2  # nothing of it may be changed, nor of what is beneath it
FIXED = 3  # a directory on the way to one of the others: it may not be moved, removed or replaced
KEPT = 4  # it may be changed and removed, and not made
FREE = 5  # what the submit machine's kernel allows the user

LEVELS = ("hidden", "empty", "read", "fixed", "kept", "free")
_WITHIN = (HIDDEN, HIDDEN, READ, FREE, FREE, FREE)

# Which rules have the last word about one name. Of a directory, they bind all that is beneath it; but a grant takes
# back what rules say of the directory that it names, and of those above it.
RULE, GRANT, DENIAL, ALWAYS = range(4)


class Folded(bytes):
    """A name as `folded` gives it: all those are meant that a filesystem may take for it."""


class Glob(NamedTuple):
    """All names that, folded, begin and end so."""

    head: bytes
    tail: bytes

    def matches(self, name: bytes) -> bool:
        """Is it one of them?"""
        room = len(name) >= len(self.head) + len(self.tail)
        return room and name.startswith(self.head) and name.endswith(self.tail)


ANY = Folded(b"**")
Word = Union[bytes, Glob]


class Rule(NamedTuple):
    """One rule: the names that lead to what it is about, from the root on, and what is so.

    A word of `words` is one name: as it stands; a Folded name, whatever its case; any that a Glob matches; or ANY, for
    any number of directories.
    """

    words: tuple[Word, ...]
    level: int
    name: str = ""
    kind: int = ALWAYS


# Letters, a bit each.
_EVERY = (1 << 256) - 1
_NON_ASCII = _EVERY ^ (1 << 128) - 1
_BITS = bytes.maketrans(b"01", bytes((0, 1)))
_MOST_KNOWN = 2048  # names in directories alike whose rights are remembered


def folded(name: bytes) -> bytes:
    """Return what a name has in common with those that some filesystem takes for the same.

    Case, as ext4, vfat, ntfs and cifs may; what Unicode says is the same, or nothing at all; full stops and spaces at
    its end.
    """
    if not name.isascii():
        text = unicodedata.normalize("NFKD", name.decode("utf-8", "surrogateescape")).casefold()
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if unicodedata.category(c) != "Cf")
        name = text.encode("utf-8", "surrogateescape")
    return name.rstrip(b". ").lower() or name


def pattern(words: str) -> tuple[Word, ...]:
    """Read a pattern such as `**/.git/hooks` or `.bash*`, of names that are folded; each has one `*` at most."""
    return tuple(_word(word) for word in words.split("/"))


def _word(word: str) -> Word:
    if word == "**":
        return ANY
    name = word.encode().lower()
    if b"*" not in name:
        return Folded(folded(name))
    head, _, tail = name.partition(b"*")
    return Glob(head, tail)


def _bits(letters: Iterable[int]) -> int:
    found = 0
    for letter in letters:
        found |= 1 << letter
    return found


@lru_cache(1024)  # one for all rights that are alike in this: there are hundreds of these
def _table(letters: int) -> bytes:
    """Tell of each letter whether it is one of them: quicker to look at than the bits are."""
    return f"{letters:0256b}"[::-1].encode().translate(_BITS)


class _Step:
    """Where some rules are when their first words have been met: a node of the tree that their words make.

    done        rules that this name is the last word of
    way         a rule further down that keeps something; None: none
    granted     is there a grant further down?
    hides       is there a rule for the next name, by which it is not seen?
    general     is it about any tree; `initial`: and not about this directory more than about others
    stays       does any name lead here again?
    """

    __slots__ = (
        "_letters",
        "any",
        "done",
        "exact",
        "folded",
        "general",
        "globs",
        "granted",
        "hides",
        "initial",
        "stays",
        "way",
    )

    def __init__(self, general: bool = False, stays: bool = False, initial: bool = False) -> None:
        self.exact: dict[bytes, _Step] = {}
        self.folded: dict[bytes, _Step] = {}
        self.globs: dict[Glob, _Step] = {}
        self.any: _Step | None = None
        self.done: list[Rule] = []
        self._letters: tuple[int, int] | None = None
        self.way: Rule | None = None
        self.granted = self.hides = False
        self.general, self.stays, self.initial = general, stays, initial

    def add(self, rule: Rule, at: int = 0) -> None:
        """Put a rule there, of which `at` words have been met."""
        if at == len(rule.words):
            self.done.append(rule)
            return
        if rule.kind == GRANT:
            self.granted = True
        elif rule.level < FREE and self.way is None:
            self.way = rule
        word = rule.words[at]
        if at + 1 == len(rule.words) and rule.level == HIDDEN:
            self.hides = True
        if word is ANY:
            if self.any is None:
                self.any = _Step(self.general or at == 0, True, at == 0)
            self.any.add(rule, at + 1)
        elif isinstance(word, Glob):
            _then(self, self.globs, word).add(rule, at + 1)
        else:
            _then(self, self.folded if isinstance(word, Folded) else self.exact, bytes(word)).add(rule, at + 1)

    def letters(self) -> tuple[int, int]:
        """With which letters (bits) a name begins, or ends, that a rule may speak of: most do with none."""
        if self._letters is None:
            heads, tails = _bits(name[0] for name in self.exact), 0
            for head in (*self.folded, *(glob.head for glob in self.globs)):
                heads |= _NON_ASCII | _bits(head[:1].lower() + head[:1].upper())
            for glob in self.globs:
                if not glob.head:
                    last = _bits(glob.tail[-1:].lower() + glob.tail[-1:].upper()) or _EVERY
                    tails |= _NON_ASCII | _bits(b". ") | last
            self._letters = heads, tails
        return self._letters

    @property
    def leads(self) -> bool:
        """Does a rule keep something for which this very directory is needed, and no other beneath it would do?"""
        named = (*self.exact.values(), *self.folded.values(), *self.globs.values())
        keeping = (step for step in named if step.way or any(rule.level < FREE for rule in step.done))
        return not self.stays and next(keeping, None) is not None


_W = TypeVar("_W", bytes, Glob)


def _then(step: _Step, table: dict[_W, _Step], word: _W) -> _Step:
    if word not in table:
        table[word] = _Step(step.general)
    return table[word]


class State(NamedTuple):
    """What the rights of a directory's children come from.

    steps    the rules that may apply further down
    within   the level of what no rule names
    locked   may no grant change that?
    own      is it in a tree that the job has made?
    """

    steps: frozenset[_Step]
    within: int
    locked: bool
    own: bool


class Rights:
    """Says what may be done with one file.

    level   of a directory, or symbolic link; and whether one may be made or moved there
    file    of anything else
    rule    the one that says so; None: none
    state   what that of its children comes from
    closed, hides    is nothing that is in it ever to be seen; may something not be?
    """

    __slots__ = (
        "_heads", "_known", "_others", "_owned", "_rules", "_tails", "closed", "file", "hides", "level", "rule",
        "state",
    )  # fmt: skip

    def __init__(self, rules: RuleSet, state: State, level: int, rule: Rule | None) -> None:
        self._rules, self.state, self.rule = rules, state, rule
        self.level = self.file = level
        self.closed = False
        self.hides = state.within == HIDDEN or any(step.hides for step in state.steps)
        heads = tails = 0
        for step in state.steps:
            begin, end = step.letters()
            heads, tails = heads | begin, tails | end
        self._heads, self._tails = _table(heads), _table(tails)
        self._known: dict[bytes, Rights] = {}
        self._others: Rights | None = None
        self._owned: Rights | None = None

    @property
    def others(self) -> Rights:
        """The rights of every name that no rule names."""
        if self._others is None:
            self._others = self._rules.beneath(self, ())
        return self._others

    def child(self, name: bytes) -> Rights:
        """Return the rights of what has that name in this directory."""
        if not name or not (self._heads[name[0]] or self._tails[name[-1]]):
            return self._others or self.others
        return self._known.get(name) or self._named(name)

    def _named(self, name: bytes) -> Rights:
        key = folded(name)
        steps = [step.exact[name] for step in self.state.steps if name in step.exact]
        steps += [step.folded[key] for step in self.state.steps if key in step.folded]
        steps += [then for step in self.state.steps for glob, then in step.globs.items() if glob.matches(key)]
        found = self._rules.beneath(self, steps) if steps else self.others
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[name] = found
        return found

    @property
    def owned(self) -> Rights:
        """The same of a directory that the job has made: what is so in any tree is not in one that is its own.

        A directory with a name of which such a rule speaks is none of the job's.
        """
        if self._owned is None:
            self._owned = self._rules.owned(self)
        return self._owned

    @property
    def words(self) -> tuple[bytes, ...]:
        """The names, folded, of which a rule speaks in this directory; "*" for any bytes."""
        steps = self.state.steps
        names = {folded(name) for step in steps for name in (*step.exact, *step.folded)}
        return tuple(sorted(names | {glob.head + b"*" + glob.tail for step in steps for glob in step.globs}))

    @property
    def own(self) -> bool:
        """Is it in a tree that the job has made?"""
        return self.state.own

    def of(self, directory: bool) -> int:
        """The level of a directory, or of another file."""
        return self.level if directory else self.file


class RuleSet:
    """Holds the rules, and the rights that they have given so far.

    `top`: what the root's level is, by `rule`. `beside`: one whose rules hold as well. Threads: any; two may make the
    same rights at once, and one is kept.
    """

    def __init__(
        self, rules: Iterable[Rule] = (), top: int = FREE, rule: Rule | None = None, beside: RuleSet | None = None
    ) -> None:
        self._made: dict[tuple[State, int, Rule | None], Rights] = {}
        start = _Step()
        for each in dict.fromkeys(rules):
            start.add(each)
        self._starts: tuple[_Step, ...] = (start, *(() if beside is None else beside._starts))
        self.top = self._decided(State(frozenset(self._starts), top, False, False), rule)

    def beneath(self, above: Rights, named: Iterable[_Step]) -> Rights:
        """The rights of a child whose name leads there."""
        staying = [step for step in above.state.steps if step.stays]
        return self._decided(above.state._replace(steps=frozenset((*named, *staying))), above.rule)

    def owned(self, rights: Rights) -> Rights:
        """See Rights.owned."""
        general = [step for step in rights.state.steps if step.general]
        if rights.own or not general or rights.level < FIXED or not all(step.initial for step in general):
            return rights
        state = rights.state._replace(steps=rights.state.steps.difference(general), own=True)
        return self._kept(state, state.within, None)

    def _decided(self, state: State, rule: Rule | None) -> Rights:
        steps, within, locked, own = state
        reached = set(steps)
        for step in steps:
            while step.any is not None:
                step = step.any
                reached.add(step)
        level, rule = within, None if within == FREE else rule
        done = [each for step in reached for each in step.done]
        for each in sorted(done, key=lambda each: (each.kind, each.level)):
            if each.kind == GRANT:
                if not locked:
                    level, within, rule = each.level, _WITHIN[each.level], each
                    if level == FREE:  # who names .git names what is in it; who names the directory above does not
                        reached = {step for step in reached if step.initial or not step.general}
            elif each.level == FREE:
                level = FREE if level == KEPT else level
            elif each.level < level:
                level, rule = each.level, each
                within = min(within, _WITHIN[level])
                locked = locked or (each.kind == ALWAYS and level < FIXED)
        if own:
            reached = {step for step in reached if not step.general}
        return self._kept(State(frozenset(reached), within, locked, own), level, rule)

    def _kept(self, state: State, level: int, rule: Rule | None) -> Rights:
        key = state, level, rule
        found = self._made.get(key)
        if found is None:
            found = Rights(self, *key)
            _on_the_way(found)
            found = self._made.setdefault(key, found)
        return found


def _on_the_way(rights: Rights) -> None:
    """What is on the way to something: a directory stays where it is, and nothing else has its name."""
    about = [step for step in rights.state.steps if not step.initial]
    granted = not rights.state.locked and any(step.granted for step in about)
    if rights.level == HIDDEN and granted:
        rights.level = EMPTY
    rights.closed = rights.state.within == HIDDEN and not granted
    ways = [step for step in about if step.way is not None]
    if ways and rights.level > FIXED:
        rights.level, rights.rule = FIXED, max((step.way for step in ways if step.way), key=lambda rule: rule.kind)
        if any(step.leads for step in ways):
            rights.file = READ  # in its place there can only be what leads elsewhere


def least(one: Rights, other: Rights) -> Rights:
    """Return, of what two ways to a file allow, that which allows less."""
    return other if other.level < one.level or other.file < one.file else one
