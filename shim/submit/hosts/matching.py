"""Which hosts a job may have, and which it would rather: ClassAd expressions over their ads (--require, --rank).

HTCondor's own library evaluates them. It is no part of rexec: who never says --require or --rank needs none.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from remoteio.errors import RexecError
from shim.submit.hosts.ad import Ad, lines

if TYPE_CHECKING:
    from classad2 import ClassAd, ExprTree

_PAIRS = {"(": ")", "[": "]", "{": "}"}


class Clause(NamedTuple):
    """A part of a requirement, as it is written, and what is wrong with it on a host; empty: it holds there."""

    text: str
    wrong: str


class Matching:
    """Holds a requirement and a rank against ads. Empty ones: any host will do, and none is better than another."""

    def __init__(self, require: str = "", rank: str = "") -> None:
        """Raises RexecError: one is no expression, or the library is missing."""
        self._require = _split(require) if require else []
        self._rank = _parsed(rank, "--rank") if rank else None

    def look(self, ad: Ad) -> list[Clause]:
        """Tell of each clause of the requirement what is wrong with it there."""
        if not self._require:
            return []
        return [Clause(text, _wrong(tree, ad)) for text, tree in self._require]

    def unmet(self, ad: Ad) -> str:
        """Say which clauses do not hold there; empty: all do."""
        return "; ".join(f"{each.text} {each.wrong}" for each in self.look(ad) if each.wrong)

    def rank(self, ad: Ad) -> float:
        """Return how much a host is wanted: more is better; what is no number there is 0, as in HTCondor."""
        if self._rank is None:
            return 0.0
        value = self._rank.eval(_class_ad(ad), _class_ad(ad))
        return float(value) if type(value) in (bool, int, float) and value == value else 0.0

    def strangers(self, known: set[str]) -> list[str]:
        """List the attributes asked for that are none of those `known`, in lower case: of no host."""
        if not self._require and self._rank is None:
            return []
        nothing = _class_ad({})
        trees = [tree for _, tree in self._require] + ([] if self._rank is None else [self._rank])
        asked = {_bare(name) for tree in trees for name in nothing.externalRefs(tree) if name}
        return sorted(name for name in asked if name.lower() not in known)


def _bare(name: str) -> str:
    scope, dot, rest = name.partition(".")
    return rest if dot and scope.lower() in ("my", "target") else name


def _split(require: str) -> list[tuple[str, ExprTree]]:
    whole = _parsed(require, "--require")
    try:
        return [(text, _parsed(text, "--require")) for text in clauses(require)]
    except RexecError:
        return [(require, whole)]  # a comment has what looks like the end of a clause


def _wrong(tree: ExprTree, ad: Ad) -> str:
    from classad2 import Value

    there = _class_ad(ad)
    value = tree.eval(there, _class_ad(ad))  # both: TARGET.Memory and MY.Memory are the host's as Memory is
    if type(value) in (bool, int, float):
        if value:
            return ""
        said = "does not hold"
    else:
        said = "is undefined" if value == Value.Undefined else "is neither true nor false"
    asked = {_bare(name).lower() for name in (*there.internalRefs(tree), *there.externalRefs(tree))}
    has = {name: value for name, value in ad.items() if name.lower() in asked}
    return f"{said} ({', '.join(lines(has))})" if has else said


def clauses(expression: str) -> list[str]:
    """Split an expression at each && that is not within anything; one with || or ?: outside of that stays whole."""
    parts, start, closing, k = [], 0, list[str](), 0
    while k < len(expression):
        at = expression[k]
        if at in "\"'":
            k = _quoted(expression, k)
        elif at in _PAIRS:
            closing.append(_PAIRS[at])
        elif closing and at == closing[-1]:
            closing.pop()
        elif not closing and ((at == "?" and expression[k - 1 : k] != "=") or expression[k : k + 2] == "||"):
            return [expression.strip()]
        elif not closing and expression[k : k + 2] == "&&":
            parts.append(expression[start:k].strip())
            start = k = k + 2
            continue
        k += 1
    return [*parts, expression[start:].strip()]


def _quoted(text: str, start: int) -> int:
    """Return where the quotation that starts there ends."""
    k = start + 1
    while k < len(text) and text[k] != text[start]:
        k += 2 if text[k] == "\\" else 1
    return k


def _parsed(text: str, option: str) -> ExprTree:
    try:
        from classad2 import ClassAdException, ExprTree  # takes 30 ms, and hardly any run needs it
    except ImportError as e:
        command = f"{sys.prefix}/bin/pip install htcondor"
        raise RexecError(f"{option} needs HTCondor's ClassAd library, which is not installed here: {command}") from e
    try:
        return ExprTree(text)
    except ClassAdException as e:
        example = 'Memory >= 16000 && Arch == "X86_64"'
        raise RexecError(f"{option} {text!r} is no ClassAd expression; write for example {example}") from e


def _class_ad(ad: Ad) -> ClassAd:
    from classad2 import ClassAd

    return ClassAd(dict(ad))


def said(found: Sequence[str]) -> str:
    """Say that attributes are no host's. Pure."""
    what = "an attribute" if len(found) == 1 else "attributes"
    return f"{', '.join(found)}: {what} of no host; `rexec hosts --ad HOST` shows what there is"
