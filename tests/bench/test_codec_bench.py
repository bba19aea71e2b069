"""The codec bench's pieces: every figure is there, and none is absurd."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from stepwell.evaluate.codec_bench import Sample, load_sample, run

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def sample() -> Sample:
    """A prompt of 512 tokens."""
    return load_sample(ROOT / "models" / "house", TEXT, blocks=32)


def test_figures(sample: Sample) -> None:
    figures = run(sample, rounds=3)
    assert all(math.isfinite(value) and value > 0 for value in figures.values())
    assert figures["lossless_ratio"] > 1.4 > figures["zlib6_ratio"]
    assert figures["lossless_gbps_core"] > figures["zlib6_encode_gbps"]
    assert figures["entropy_bits_per_symbol"] < figures["entropy_zlib6_bits_per_symbol"]
    assert figures["entropy_gbps_core"] > figures["entropy_zlib6_encode_gbps"]
    assert figures["int8_error_share"] < figures["fp8_error_share"] < figures["int4_error_share"]


def test_too_little_text_is_refused() -> None:
    with pytest.raises(ValueError, match="tokens"):
        load_sample(ROOT / "models" / "house", "too short", blocks=200)
