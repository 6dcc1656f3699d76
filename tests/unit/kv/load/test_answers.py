"""Where an answer ends, whatever pieces it arrives in; and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv.load.answers import CHUNKED, HEAD_MAX_BYTES, Answer, AnswerReader, Heads, parse_head
from kv.load.answers import MalformedAnswerError as Malformed

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: x\r\nContent-Length: 5\r\n\r\nhello"
IN_CHUNKS = (
    b"HTTP/1.1 404 Not Found\r\ntransfer-encoding: Chunked\r\n\r\n"
    b"3;ext=1\r\nhel\r\n00B\r\nlo\r\n\r\n0\r\n\r\n\r\n0\r\nTrailer: 1\r\n\r\n"
)
WHOLE = {PLAIN: Answer(200, b"hello"), IN_CHUNKS: Answer(404, b"hello\r\n\r\n0\r\n\r\n")}


def reader() -> AnswerReader:
    return AnswerReader(Heads())


@pytest.mark.parametrize("data", [PLAIN, IN_CHUNKS])
def test_one_answer_after_the_other(data: bytes) -> None:
    it = reader()
    assert [it.feed(data) for _ in range(3)] == [WHOLE[data]] * 3


@pytest.mark.parametrize("data", [PLAIN, IN_CHUNKS])
def test_split_at_every_byte(data: bytes) -> None:
    for at in range(1, len(data)):
        it = reader()
        assert it.feed(data[:at]) is None, at
        assert it.feed(data[at:]) == WHOLE[data], at


@given(st.lists(st.binary(max_size=40)), st.data())
def test_any_chunks_in_any_pieces(chunks: list[bytes], data: st.DataObject) -> None:
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks if chunk)
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"
    it = reader()
    while answer:
        size = data.draw(st.integers(1, len(answer)))
        read = it.feed(answer[:size])
        answer = answer[size:]
        assert (read is None) == bool(answer)
    assert read == Answer(200, b"".join(chunks))


def test_a_head_that_repeats_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    monkeypatch.setattr("kv.load.answers.parse_head", lambda b: parsed.append(b) or parse_head(b))
    monkeypatch.setattr("kv.load.answers.HEADS_KEPT", 2)
    heads = Heads()
    one, two, three = (b"HTTP/1.1 200 OK\r\nContent-Length: %d" % n for n in (1, 2, 3))
    for head in (one, one, two, one, three, three):
        heads.of(head)
    assert parsed == [one, two, three]
    heads.of(one)
    assert parsed[3:] == [one], "the memory is bounded"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "closed the connection before the answer"),
        (PLAIN + b"x", "1 bytes after the end"),
        (PLAIN + PLAIN, "after the end"),
        (IN_CHUNKS + b"0", "after the end"),
        (b"HTTP/2 200\r\nContent-Length: 0\r\n\r\n", "not the status line"),
        (b"HTTP/1.1 2x0 OK\r\nContent-Length: 0\r\n\r\n", "not the status line"),
        (b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n", "neither Content-Length nor chunks"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "not a length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n", "not a length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0x1\r\n\r\n", "not a length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "unknown transfer encoding"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ng\r\n", "not a length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabcd", "longer than it says"),
        (b"x" * (HEAD_MAX_BYTES + 1), "head of an answer exceeds"),
    ],
)
def test_what_cannot_be_followed_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(Malformed, match=says):
        reader().feed(data)


def test_an_end_in_the_middle_is_an_error() -> None:
    it = reader()
    assert it.feed(PLAIN[:-1]) is None
    with pytest.raises(Malformed, match="in the middle of an answer"):
        it.feed(b"")


def test_no_body_without_a_length_only_where_there_can_be_none() -> None:
    assert parse_head(b"HTTP/1.1 204 No Content").length == 0
    assert parse_head(b"HTTP/1.0 200 OK\r\nContent-Length: 7").length == 7
    # As HTTP has it: the encoding decides, not the length.
    both = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nTransfer-Encoding: chunked"
    assert parse_head(both).length == CHUNKED
