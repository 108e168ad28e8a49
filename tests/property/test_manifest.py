"""A manifest survives its encoding, and no other bytes are taken for one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint.wire.manifest import (
    ENTRY,
    FORMAT,
    HASH,
    WINDOW,
    ImageFile,
    Manifest,
    ManifestError,
    Streams,
    WrittenFile,
)

HEAD = b"rexec image %d\n" % FORMAT
natural = st.integers(0, (1 << 63) - 1)
text = st.binary(max_size=20).map(lambda b: b.replace(b"\0", b"").decode("utf-8", "surrogateescape"))
name = st.from_regex(r"[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,20}", fullmatch=True)
leaves = st.none() | st.booleans() | natural | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
values = st.recursive(leaves, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3))
objects = st.dictionaries(st.text(max_size=5), values, max_size=3)


@st.composite
def files(draw: st.DrawFn, file_name: str) -> ImageFile:
    rows = draw(
        st.lists(
            st.tuples(st.integers(0, 1 << 52), st.integers(1, WINDOW), st.binary(min_size=32, max_size=32)), max_size=4
        )
    )
    return ImageFile(file_name, draw(name), sum(row[1] for row in rows), b"".join(ENTRY.pack(*row) for row in rows))


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    return Manifest(
        job=draw(name),
        number=draw(natural),
        generation=draw(natural),
        time_ns=draw(natural),
        host=draw(text),
        argv=tuple(draw(st.lists(text, min_size=1, max_size=3))),
        cwd=draw(text),
        env=tuple(draw(st.lists(st.tuples(text, text), max_size=3))),
        uid=draw(natural),
        gid=draw(natural),
        tty=draw(st.booleans()),
        streams=Streams(draw(natural), draw(natural), draw(natural), draw(st.binary(max_size=20))),
        files=tuple(draw(files(each)) for each in draw(st.lists(name, max_size=3, unique=True))),
        written=tuple(WrittenFile(draw(text), draw(natural), draw(natural), draw(natural)) for _ in range(2)),
        facts=draw(objects),
        stats=draw(objects),
    )


def sealed(body: bytes) -> bytes:
    return HEAD + HASH(body).hexdigest().encode() + b"\n" + body


@given(manifests())
def test_a_manifest_is_what_it_was_after_its_encoding(manifest: Manifest) -> None:
    again = Manifest.from_bytes(manifest.to_bytes())
    assert again == manifest
    assert hash(again) == hash(manifest)
    assert again.digest == manifest.digest


@given(manifests())
def test_an_image_of_another_format_is_refused_by_that_name(manifest: Manifest) -> None:
    body = manifest.to_bytes()[len(HEAD) + 65 :]
    assert Manifest.from_bytes(sealed(body)) == manifest
    with pytest.raises(ManifestError, match="format 1, made by another version"):
        Manifest.from_bytes(sealed(body).replace(HEAD, b"rexec image 1\n", 1))


@given(manifests(), st.data())
def test_every_flipped_bit_is_found(manifest: Manifest, data: st.DataObject) -> None:
    encoded = bytearray(manifest.to_bytes())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ManifestError):
        Manifest.from_bytes(bytes(encoded))


@given(st.binary() | st.binary().map(sealed) | values.map(lambda v: sealed(json.dumps(v).encode() + b"\n")))
def test_garbage_is_a_manifest_error(garbage: bytes) -> None:
    with pytest.raises(ManifestError):
        Manifest.from_bytes(garbage)


def paths(value: object, at: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, each in inner for path in paths(each, (*at, key)))]


@given(manifests(), st.data(), values)
def test_a_head_with_one_thing_replaced_is_read_or_refused(
    manifest: Manifest, data: st.DataObject, new: object
) -> None:
    head, _, tables = manifest.to_bytes()[len(HEAD) + 65 :].partition(b"\n")
    tree = {"": json.loads(head)}
    path = ("", *data.draw(st.sampled_from(paths(tree[""]))))
    inner = tree
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    encoded = sealed(json.dumps(tree[""], sort_keys=True, separators=(",", ":")).encode() + b"\n" + tables)
    try:
        assert Manifest.from_bytes(encoded).to_bytes() == encoded
    except ManifestError as error:
        assert str(error)


@pytest.mark.parametrize("nested", [b"[" * 200_000, b'{"a":' * 200_000, b"1" * 10_000, b"1e999", b"NaN", b"\xff"])
def test_hostile_json_is_a_manifest_error(nested: bytes) -> None:
    with pytest.raises(ManifestError):
        Manifest.from_bytes(sealed(nested + b"\n"))


def test_a_value_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Streams().stdout = 1
