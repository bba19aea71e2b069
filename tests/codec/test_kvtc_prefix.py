"""`kvtc`: a prefix of a chunk's bytes is a coarser chunk."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from stepwell.codec.kvtc.ours import TooShort
from tests.codec.kvtc_shapes import WIDTH, calibration, rows

TOKENS = 64
BOTH = pytest.mark.parametrize("joint", [True, False])


def _escaping() -> torch.Tensor:
    """Rows with outliers that no alphabet has."""
    given = rows(TOKENS, seed=60)
    given[3, ::7] *= 400
    return given


@BOTH
@pytest.mark.parametrize("rung", [0, 3])
def test_all_bytes_are_the_chunk(joint: bool, rung: int) -> None:
    made = calibration(joint=joint)
    for given in (rows(TOKENS, seed=61), _escaping()):
        data = made.encode_rows(given, rungs=[rung] * len(made.planes))
        expected = made.decode_rows(data, tokens=TOKENS)
        for end in (len(data), len(data) - 8):  # with and without the checksum
            found = made.decode_prefix(data[:end], tokens=TOKENS)
            assert torch.allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("rung", [0, 3])
def test_a_prefix_has_the_leading_levels_and_no_others(rung: int) -> None:
    plane = calibration(joint=True).planes[0]
    data = plane.coder.encode(plane.basis.forward(_escaping()), rung=rung)
    whole = plane.coder.decode(data, tokens=TOKENS)
    reached = 0
    for end in range(len(data) + 1):
        try:
            found = plane.coder.decode_prefix(data[:end], tokens=TOKENS)
        except TooShort:
            assert not reached
            continue
        assert found.shape == whole.shape
        same = (found == whole).T.reshape(-1)
        given = int(same.logical_not().nonzero()[0]) if not same.all() else len(same)
        assert not found.T.reshape(-1)[given:].any()
        assert given >= reached
        reached = given
    assert reached == whole.numel()


@BOTH
def test_error_falls_with_the_prefix(joint: bool) -> None:
    made = calibration(joint=joint)
    given = rows(TOKENS, seed=62)
    data = made.encode_rows(given, rungs=[1] * len(made.planes))
    errors = []
    for end in np.linspace(180, len(data), 12).astype(int).tolist():
        back = made.decode_prefix(data[:end], tokens=TOKENS)
        errors.append(float((back - given).square().sum()))
    assert all(b <= a for a, b in itertools.pairwise(errors))
    assert errors[-1] < 0.05 * errors[0]


@BOTH
def test_every_prefix_is_refused_or_decodes(joint: bool) -> None:
    made = calibration(joint=joint)
    data = made.encode_rows(_escaping(), rungs=[2] * len(made.planes))
    decoded = 0
    for end in range(len(data) + 1):
        try:
            back = made.decode_prefix(data[:end], tokens=TOKENS)
        except ValueError:
            assert not decoded, "a longer prefix was refused"
            continue
        assert back.shape == (TOKENS, WIDTH) and bool(torch.isfinite(back).all())
        decoded += 1
    assert decoded > len(data) / 2


@BOTH
def test_changed_prefixes_are_refused_or_decode(joint: bool) -> None:
    made = calibration(joint=joint)
    data = made.encode_rows(_escaping(), rungs=[2] * len(made.planes))
    with pytest.raises(ValueError, match="damaged"):
        made.decode_prefix(data[:-1] + bytes([data[-1] ^ 1]), tokens=TOKENS)
    source = np.random.default_rng(3)
    for _ in range(600):
        wrong = bytearray(data[: int(source.integers(1, len(data)))])
        for place in source.integers(0, min(len(wrong), 300), source.integers(1, 4)):
            wrong[place] ^= int(source.integers(1, 256))
        try:
            back = made.decode_prefix(bytes(wrong), tokens=TOKENS)
        except ValueError:
            continue
        assert back.shape == (TOKENS, WIDTH)
