"""Text as it comes: whole characters only, stop strings wherever they are cut."""

from __future__ import annotations

from collections.abc import Sequence

import hypothesis.strategies as st
from hypothesis import given

from stepwell.engine.detokenizer import Detokenizer


def decode(ids: Sequence[int]) -> str:
    """A byte-level tokenizer: each token is a byte."""
    return bytes(ids).decode("utf-8", errors="replace")


def stream(text: str, **settings: object) -> tuple[str, list[str], Detokenizer]:
    detokenizer = Detokenizer(decode=decode, **settings)
    detokenizer.begin(b"abc")
    pieces = []
    for byte in text.encode():
        pieces.append(detokenizer.push(byte))
        if detokenizer.stopped_by is not None:
            break
    pieces.append(detokenizer.flush())
    return "".join(pieces), pieces, detokenizer


@given(st.text(max_size=40))
def test_pieces_make_the_text(text: str) -> None:
    whole, pieces, _ = stream(text)
    assert whole == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@given(st.text(alphabet="ab", max_size=30), st.text(alphabet="ab", min_size=1, max_size=4))
def test_stop_string_is_found_wherever_it_is_cut(text: str, stop: str) -> None:
    whole, _, detokenizer = stream(text, stop=(stop,))
    at = text.find(stop)
    assert whole == (text if at < 0 else text[:at])
    assert (detokenizer.stopped_by == stop) == (at >= 0)


def test_first_of_several_stops_wins() -> None:
    whole, _, detokenizer = stream("one two three", stop=("three", "two"))
    assert (whole, detokenizer.stopped_by) == ("one ", "two")
    assert stream("one two three", stop=("two",), include_stop=True)[0] == "one two"


def test_text_goes_out_as_soon_as_it_cannot_be_a_stop() -> None:
    _, pieces, _ = stream("abcx", stop=("abd",))
    assert pieces[:4] == ["", "", "abc", "x"]


def test_invalid_bytes_do_not_hold_the_text_for_ever() -> None:
    detokenizer = Detokenizer(decode=decode)
    out = "".join(detokenizer.push(0xFF) for _ in range(40))
    assert out
    assert len(detokenizer.tokens) - detokenizer.shown < 20
