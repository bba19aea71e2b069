"""`stepwell bench codec`: what it prints, and a small contest from end to end."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from stepwell.base.errors import ConfigError
from stepwell.cli.bench import app
from stepwell.cli.bench_codec import _show
from stepwell.evaluate.codec_run import CodecOptions, Part, Scale, run_codec_bench
from stepwell.evaluate.codec_shapes import H200, KvShape, _basis, bounds, run_shape
from stepwell.evaluate.shapes import house_folder

SHAPE = KvShape(layers=4, heads=4, dim=64, rank=256)
TINY = Scale(
    ratios=(16,), rows=(4, 1, 0), sample=1500, paper_sample=256, rungs=5, rounds=1, whole=False
)


def test_help_has_an_example() -> None:
    result = CliRunner().invoke(app, ["codec", "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "stepwell bench codec --quick" in result.output


def test_a_part_that_is_none_is_refused() -> None:
    result = CliRunner().invoke(app, ["codec", "--only", "contests"])
    assert isinstance(result.exception, ConfigError)
    assert "contest" in str(result.exception)


def test_ours_takes_fewer_bytes_at_the_papers_error(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    options = CodecOptions(folder=house_folder(), parts=(Part.CONTEST,), scale=TINY)
    result = run_codec_bench(options, say=said.append)
    (row,) = result["contest"]["held_out"]
    assert result["bytes_vs_kvtc_paper_16x"] > 1.4
    for side in ("key_error", "value_error"):
        assert row["kvtc_joint_each_error"][side] <= row["paper"][side]
    assert result["calibration_tokens"] == 4096
    assert said[0] == "ceiling" and "training: joint" in said
    _show(result)
    printed = capsys.readouterr().out
    assert printed.index("Ceiling") < printed.index("at equal error")


@pytest.mark.parametrize("groups", [1, 2])
def test_synthetic_directions_are_orthonormal_and_carry_rows(groups: int) -> None:
    shape = replace(SHAPE, groups=groups)
    basis, _ = _basis(shape)
    for group in basis.groups:
        vectors = group.matrix.dense()
        gram = vectors.T @ vectors
        assert float((gram - torch.eye(len(gram))).abs().max()) < 0.3  # coded in few bits
    coefficients = torch.randn(20, shape.rank)
    assert torch.allclose(basis.forward(basis.backward(coefficients)), coefficients, atol=1e-4)
    figures = run_shape(shape, say=lambda text: None)
    assert 1 < figures["matrix_bits_per_entry"] < 8
    assert all(rung["encode_tokens_per_s"] > 0 for rung in figures["rungs"])


def test_bounds_are_arithmetic() -> None:
    one = bounds(KvShape(), H200, tokens=8192)
    assert one["decode_flop_per_token"] == 4 * 32_768 * 10_000
    assert one["encode_flop_per_token"] == 4 * (32_768 * 10_000 + 10_000**2)
    assert one["decode_tokens_per_s"] == pytest.approx(989e12 / 1.31072e9)
    two = bounds(KvShape(groups=2), H200, tokens=8192)
    assert two["decode_flop_per_token"] == one["decode_flop_per_token"] / 2
    assert (
        bounds(KvShape(), H200, tokens=1)["decode_tokens_per_s"] < 4000
    )  # matrices read each time
