"""The internet sockets of an image as they are written anew for the host that it is restored on."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint.execute import criu, image_sockets
from checkpoint.execute import criu_images as images
from checkpoint.execute.image_sockets import InetSocket
from checkpoint.execute.spool import Spool
from checkpoint.wire.protobuf import decode, encode

LOOPBACK = b"\x7f\0\0\1"
ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING = 1, 4, 5, 8, 9, 11


def tcp(id: int, state: int, port: int, to_port: int) -> InetSocket:
    return InetSocket(
        id=id, inode=id, family=socket.AF_INET, type=socket.SOCK_STREAM, protocol=socket.IPPROTO_TCP, state=state,
        address=LOOPBACK, port=port, to=LOOPBACK, to_port=to_port, v6only=False,
    )  # fmt: skip


def entry(s: InetSocket) -> bytes:
    """A file_entry of images/fdinfo.proto around an inet_sk_entry of images/sk-inet.proto."""
    head = [(1, s.id), (2, s.inode), (3, s.family), (4, s.type), (5, s.protocol)]
    return image_sockets.rewritten(encode([(1, 4), (2, s.id), (4, encode(head))]), s)


# One of `left` is closed, and its FIN is there or not; the kernel is to send it again when both are.
@pytest.mark.parametrize(
    ("left", "right", "as_left", "as_right", "fin_left", "fin_right"),
    [
        (ESTABLISHED, ESTABLISHED, ESTABLISHED, ESTABLISHED, 0, 0),
        (FIN_WAIT1, ESTABLISHED, FIN_WAIT1, ESTABLISHED, 0, 0),
        (FIN_WAIT2, CLOSE_WAIT, FIN_WAIT1, ESTABLISHED, 0, 1),
        (FIN_WAIT2, LAST_ACK, FIN_WAIT1, FIN_WAIT1, 0, 1),
        (CLOSING, CLOSING, FIN_WAIT1, FIN_WAIT1, 1, 1),
    ],
)
def test_the_end_of_half_a_connection_is_sent_again(
    image: Spool, left: int, right: int, as_left: int, as_right: int, fin_left: int, fin_right: int
) -> None:
    """criu pretends that it came: its answer finds nobody where the other end is not made yet, and ends all of it."""
    ends = (tcp(1, left, 4, 5), tcp(2, right, 5, 4))
    raw = images.head(images.FILES) + b"".join(images.entry(entry(s)) for s in ends)
    image.write("files.img", raw)
    for s in ends:  # inq_seq, outq_len, unsq_len, rcv_wnd, rcv_wup: images/tcp-stream.proto
        stream = images.entry(encode([(2, 0), (3, 3), (12, 2), (16, 900), (17, 0)]))
        image.write(f"tcp-stream-{s.inode}.img", images.head(images.TCP_STREAM) + stream + b"abc")
    assert image_sockets.fit(image, keep_tcp=True) == []
    found = [image_sockets.parse(e) for e in images.entries(image.read("files.img"), images.FILES)]
    assert found == [ends[0].but(state=as_left), ends[1].but(state=as_right)]
    for s, fin in zip(ends, (fin_left, fin_right)):
        raw = image.read(f"tcp-stream-{s.inode}.img")
        fields, at = images.first(raw, images.TCP_STREAM)
        before = -fin & 0xFFFFFFFF
        assert decode(fields) == {2: [before], 3: [3], 12: [0], 16: [900 + fin], 17: [before]}
        assert raw[at:] == b"abc"


@given(st.binary(), st.booleans())
def test_garbage_is_a_socket_or_a_criu_error(raw: bytes, within: bool) -> None:
    try:
        image_sockets.parse(encode([(4, raw)]) if within else raw)
    except criu.CriuError as e:
        assert str(e).startswith("an entry of it ")
