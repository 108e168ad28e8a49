"""What no job needs is hidden, and what programs here run by themselves is kept, at any depth and by any spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoteio.submit.export.rights import (
    ALWAYS,
    DENIAL,
    EMPTY,
    FIXED,
    FREE,
    GRANT,
    HIDDEN,
    KEPT,
    READ,
    RULE,
    Folded,
    Glob,
    Rights,
    Rule,
    RuleSet,
    folded,
    pattern,
)
from shim.submit import kept_places, personal

HOME = b"/home/u"
TOP = RuleSet(personal.rules((HOME,))).top
DEPTHS = st.lists(st.sampled_from([b"a", b"src", b"lib", b"node_modules", b"x.y"]), max_size=4)
ENDS = st.sampled_from([b"", b".", b" ", b". .", "\u200c".encode(), "\u2060".encode()])
CASES = st.sampled_from([bytes.lower, bytes.upper, bytes.title, bytes.swapcase])
GENERAL = [rule for rule in kept_places.anywhere() if rule.level == READ]
OF_HOME = list(kept_places.at_home(HOME))


def at(path: bytes, top: Rights = TOP) -> Rights:
    for name in path.split(b"/"):
        top = top.child(name) if name else top
    return top


@st.composite
def spelled(draw: st.DrawFn, rules: list[Rule]) -> tuple[Rule, list[bytes]]:
    """A rule, and a path that it is about, in a spelling that some filesystem takes for it."""
    rule, case, end = draw(st.sampled_from(rules)), draw(CASES), draw(ENDS)
    names: list[bytes] = []
    for word in rule.words:
        if word == b"**":
            names += draw(DEPTHS)
        elif isinstance(word, Glob):
            names.append(case(word.head + b"a-b" + word.tail) + end)
        else:
            names.append(case(word) + end if isinstance(word, Folded) else word)
    return rule, names


@given(spelled(OF_HOME), DEPTHS)
def test_what_is_kept_at_home(given: tuple[Rule, list[bytes]], beneath: list[bytes]) -> None:
    rule, names = given
    for path in (names, names + beneath):
        found = at(b"/".join(path))
        assert found.level <= rule.level and found.file <= rule.level
    for cut in range(1, len(names)):
        assert at(b"/".join(names[:cut])).level <= FIXED, "what leads there stays where it is"


@given(spelled(GENERAL), DEPTHS, DEPTHS)
def test_what_is_kept_anywhere(given: tuple[Rule, list[bytes]], above: list[bytes], beneath: list[bytes]) -> None:
    names = above + given[1]
    assert at(b"/".join(names + beneath)).level <= READ
    own = at(b"/".join(above)).owned
    if own.own:
        assert at(b"/".join(names[len(above) :]), own).level == FREE, "in a tree that the job has made it is its own"


@given(
    st.lists(st.sampled_from([b".git", b"hooks", b"config", b"modules", b"x", b"HEAD", b"refs", b".GIT"]), max_size=6)
)
def test_a_directory_with_a_name_of_a_rule_is_nobody_s_own(names: list[bytes]) -> None:
    """`mkdir .git` in a directory that was there does not make what is in it the job's."""
    if any(folded(name) == b".git" for name in names):
        git = next(k for k, name in enumerate(names) if folded(name) == b".git")
        hooks = at(b"/".join([*names[: git + 1], b"hooks"]))
        assert hooks.level == READ and not hooks.owned.own
        assert not at(b"/".join(names[: git + 1])).owned.own


@pytest.mark.parametrize(
    ("path", "level", "file"),
    [
        ("/home/u/project/main.c", FREE, FREE),
        ("/home/u/project/.gitignore", FREE, FREE),
        ("/home/u/project/.git", FIXED, READ),  # a file of that name leads elsewhere
        ("/home/u/project/.git/index", FREE, FREE),
        ("/home/u/project/.git/objects/ab/cd", FREE, FREE),
        ("/home/u/project/.git/HEAD", FREE, FREE),
        ("/home/u/project/.git/refs/remotes/origin/HEAD", FREE, FREE),
        ("/home/u/project/.git/info", FIXED, READ),
        ("/home/u/project/.git/info/exclude", FREE, FREE),
        ("/home/u/project/.git/config.lock", FREE, FREE),
        ("/home/u/project/.git/modules/lib/a/objects", FIXED, FREE),
        ("/home/u/project/.git/modules/lib/a/config", READ, READ),
        ("/home/u/project/.git/worktrees/w/index", FREE, FREE),
        ("/home/u/project/.git/worktrees/w/commondir", READ, READ),
        ("/srv/project.git/config", READ, READ),
        ("/home/u/project/HEAD", KEPT, KEPT),
        ("/home/u/project/venv/lib/python3.13/site-packages", FIXED, READ),
        ("/home/u/project/venv/lib/python3.13/site-packages/numpy/x.pth", FREE, FREE),
        ("/home/u/project/venv/bin/python", FREE, FREE),
        ("/home/u/project/bin", FREE, FREE),
        ("/home/u/bin", READ, READ),
        ("/home/u/.config", FIXED, READ),
        ("/home/u/.config/other", FREE, FREE),
        ("/home/u/.cache/pip/x", FREE, FREE),
        ("/home/u/.ssh", FREE, FREE),  # not by these rules
        ("/home/other/.bashrc", FREE, FREE),
        ("/run/user", HIDDEN, HIDDEN),
        ("/tmp/ssh-XX/agent.1", HIDDEN, HIDDEN),
        ("/tmp/sshd", FREE, FREE),
        ("/tmp", FIXED, READ),
    ],
)
def test_what_work_needs_is_left(path: str, level: int, file: int) -> None:
    found = at(path.encode())
    assert (found.level, found.file) == (level, file)


@given(st.binary(min_size=1, max_size=8).filter(lambda name: b"/" not in name and b"\0" not in name))
def test_any_name_has_rights_and_the_same_each_time(name: bytes) -> None:
    for above in (b"", HOME, HOME + b"/p", HOME + b"/p/.git"):
        assert at(above).child(name) is at(above).child(name)


def test_a_name_of_no_rule_costs_two_looks_at_its_letters() -> None:
    """The rights of such names are not even kept: there may be millions."""
    project = at(HOME + b"/project")
    for k in range(100):
        assert project.child(b"file%d.c" % k) is project
    assert not any(name.startswith(b"file") for name in project._known)


WORDS = st.lists(st.sampled_from([b"a", b"b"]), min_size=1, max_size=3).map(tuple)
RULES = st.lists(
    st.builds(
        Rule, WORDS, st.sampled_from([HIDDEN, READ, FIXED]), st.just("rule"), st.sampled_from([RULE, ALWAYS, DENIAL])
    )
    | st.builds(Rule, WORDS, st.sampled_from([READ, FREE]), st.just("grant"), st.just(GRANT)),
    max_size=4,
)


def expected(rules: list[Rule], names: tuple[bytes, ...], within: int) -> int:
    """The words of the kinds, with no tree: the level at each name on the way, one after the other."""
    level, locked, fixed = within, False, False
    for end in range(len(names) + 1):
        here = [rule for rule in rules if rule.words == names[:end]]
        fixed = False
        for rule in sorted(here, key=lambda rule: (rule.kind, rule.level)):
            if rule.level == FIXED:
                fixed = True
            elif rule.kind == GRANT:
                level, fixed = (level, fixed) if locked else (rule.level, False)
            elif rule.level < level:
                level, locked = rule.level, locked or rule.kind == ALWAYS
    ways = [rule for rule in rules if rule.words[: len(names)] == names and len(rule.words) > len(names)]
    if level == HIDDEN and not locked and any(rule.kind == GRANT for rule in ways):
        return EMPTY
    return min(level, FIXED) if fixed or any(rule.kind != GRANT for rule in ways) else level


@given(RULES, WORDS, st.sampled_from([FREE, HIDDEN]))
def test_who_has_the_last_word(rules: list[Rule], names: tuple[bytes, ...], within: int) -> None:
    found = at(b"/".join(names), RuleSet(rules, within).top)
    assert found.level == expected(rules, names, within)
    if found.closed:
        assert all(found.child(name).level == HIDDEN for name in (b"a", b"b", b"c"))
    if not found.hides:
        assert all(found.child(name).level != HIDDEN for name in (b"a", b"b", b"c"))


@given(RULES, RULES, WORDS, st.sampled_from([FREE, HIDDEN]))
def test_rules_that_hold_beside_others_say_what_they_would_say_among_them(
    rules: list[Rule], further: list[Rule], names: tuple[bytes, ...], within: int
) -> None:
    path = b"/".join(names)
    beside, among = (
        at(path, RuleSet(rules, within, beside=RuleSet(further)).top),
        at(path, RuleSet(rules + further, within).top),
    )
    assert (beside.level, beside.closed, beside.hides) == (among.level, among.closed, among.hides)
    assert (beside.rule is None) == (among.rule is None)


def test_what_a_grant_names() -> None:
    """It takes back what is said of that very place and above it; what is said further down stands."""

    def granted(path: str, level: int = FREE) -> Rights:
        words = tuple(path.encode().split(b"/"))
        return RuleSet([*personal.rules((HOME,)), Rule(words, level, "--write", GRANT)]).top

    assert at(b"home/u/.aws/x", granted("home/u/.aws", READ)).level == READ
    assert at(b"home/u/.config/gh/x", granted("home/u/.config")).level == HIDDEN
    assert at(b"home/u/p/.git/hooks", granted("home/u/p")).level == READ
    assert at(b"home/u/p/.git/hooks/x", granted("home/u/p/.git")).level == FREE
    assert at(b"home/u/p/.git/config", granted("home/u/p/.git/hooks")).level == READ
    assert at(b"home/u/.docker/config.json", granted("home/u/.docker/config.json", READ)).level == READ


def test_patterns() -> None:
    assert pattern("**/a*b/C") == (b"**", Glob(b"a", b"b"), b"c")
    assert Glob(b"a", b"b").matches(b"ab") and not Glob(b"ab", b"ba").matches(b"aba")
    assert folded("\uff27it".encode()) == folded(b"GIT.") == b"git"
    assert folded(b"...") == b"..."
