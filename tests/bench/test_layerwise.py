"""The layer-wise measurement: same bytes both ways, and the arithmetic of its best case."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepwell.evaluate.disk_bench import main
from stepwell.evaluate.layerwise import _overlapped


def test_overlap_is_bounded_by_load_and_by_compute() -> None:
    assert _overlapped([0.0] * 4, 2.0) == pytest.approx(2.0)
    assert _overlapped([1.0] * 4, 0.0) == pytest.approx(4.0)
    assert _overlapped([1.0] * 4, 2.0) == pytest.approx(4.5)
    assert _overlapped([1.0] * 4, 8.0) == pytest.approx(9.0)


def test_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(tmp_path), "--layers", "4", "--total", "256KiB", "--chunk", "16KiB", "--rounds", "1",
          "--step", "0.01"])  # fmt: skip
    result = json.loads(capsys.readouterr().out)
    assert result["slice"] == 4096
    for medium in ("host", "disk"):
        assert result[medium]["load_then_step_s"] > 0.01
        assert 0.01 < result[medium]["overlapped_s"]
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--layers", "3", "--chunk", "16KiB"])
