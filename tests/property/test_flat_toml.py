"""What is accepted of an owner.toml means what TOML means by it, and all that owners write is accepted."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shim.execute.owner import flat_toml

KEYS = st.sampled_from(["a", "max_load", "b-c", "1", "true"])
TEXTS = st.text(st.sampled_from("ab #=,[]'\"\\é\t"), max_size=6)
BASIC = TEXTS.map(lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"')
LITERAL = TEXTS.map(lambda text: "'" + text.replace("'", "") + "'")
NUMBERS = st.one_of(st.integers(-(10**18) + 1, 10**18 - 1).map(str), st.decimals(-1000, 1000, places=3).map(str))
PLAIN = st.one_of(BASIC, LITERAL, NUMBERS, st.sampled_from(["true", "false"]))
SPACE = st.text(st.sampled_from(" \t"), max_size=2)
LISTS = st.tuples(st.lists(st.tuples(SPACE, PLAIN, SPACE).map("".join), max_size=3).map(",".join), SPACE).map(
    lambda parts: f"[{parts[0]}{parts[1]}]"
)
ENDS = st.sampled_from(["", " # a note = 1", "\t#", "\r"])
LINES = st.tuples(SPACE, KEYS, SPACE, st.just("="), SPACE, PLAIN | LISTS, ENDS).map("".join)
PIECES = st.sampled_from([
    "a", "b", " ", "=", "1", "0", "-", ".", "5", '"', "'", "\\", "[", "]", ",", "true", "\n", "\r\n", "#", "é", "_",
    "+", "\x7f", "\\u0041", '"""', "e1", "inf", "2020-01-01", "{}", "[t]\n",
])  # fmt: skip


@given(
    st.lists(st.one_of(LINES, st.just(""), st.just("  # nothing")), max_size=5, unique_by=lambda line: line[:9].strip())
)
def test_what_is_written_plainly_is_read_as_toml_reads_it(lines: list[str]) -> None:
    text = "\n".join([*lines, ""])
    try:
        expected = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        with pytest.raises(flat_toml.TomlError):
            flat_toml.parse(text)  # a key comes twice
        return
    assert repr(flat_toml.parse(text)) == repr(expected)


@given(
    st.one_of(
        st.lists(PIECES, max_size=12).map("".join), st.lists(PIECES, max_size=8).map("".join).map("a = {}".format)
    )
)
@example("a = 01")
@example("a = 1_0")
@example('a = "\\n"')
@example("a = 1.")
@example("a = [1 2]")
@example("a = [,]")
@example("a = [1,]")
@example("a = ''''''")
@example("a = trueb")
@example("a = 1 b")
def test_what_is_accepted_at_all_means_what_toml_means(text: str) -> None:
    try:
        found = flat_toml.parse(text)
    except flat_toml.TomlError:
        return
    assert repr(found) == repr(tomllib.loads(text))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[owner]\n", "line 1 is no `key = value`: there are no tables in it"),
        ("a = 1\na = 2", "line 2 sets a once more"),
        ("\n\na = 2020-01-01", "line 3 has no value that is known here"),
        ("a = [1,\n2]", "line 1 has no value that is known here"),
        ("a = 9999999999999999999", "line 1 has no value"),
        ("a = 'x\x00'", "line 1 has a control character"),
    ],
)
def test_what_is_more_is_refused_with_its_line(text: str, why: str) -> None:
    with pytest.raises(flat_toml.TomlError, match=f"^{why}"):
        flat_toml.parse(text)
