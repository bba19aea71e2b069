"""This machine as a device: measured once, kept, told apart from others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stepwell.hardware.machine import read_machine
from stepwell.plan import local
from stepwell.plan.local import Rates, rates_place, this_machine


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_it_is_measured_once_and_says_so() -> None:
    said: list[str] = []
    first = this_machine(say=said.append)
    again = this_machine(say=said.append)

    assert len(said) == 1 and "measuring" in said[0]
    assert first.bandwidth == again.bandwidth and first.flops == again.flops
    assert 1e8 < first.bandwidth < 1e13 and first.flops["bf16"] > 1e8
    assert first.memory_bytes > first.used_bytes >= 0


def test_a_second_measurement_keeps_the_higher_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    for rates in (Rates(5e9, 1e11), Rates(7e9, 5e10)):
        monkeypatch.setattr(local, "measure", lambda cores, rates=rates: rates)
        found = this_machine(remeasure=True)

    assert found.bandwidth == 7e9
    assert found.flops["bf16"] in (1e11, 2e11, 8e11)


@pytest.mark.parametrize(
    "content", ["", "{}", '{"bandwidth": "x"}', '{"bandwidth": -1, "float32": 0}']
)
def test_a_broken_file_is_measured_again(content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = rates_place(read_machine())
    place.parent.mkdir(parents=True)
    place.write_text(content)
    monkeypatch.setattr(local, "measure", lambda cores: Rates(3e9, 4e10))

    assert this_machine().bandwidth == 3e9


def test_without_numpy_arithmetic_is_estimated_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "measure", lambda cores: Rates(3e9, 0.0))
    found = this_machine()

    assert found.flops["bf16"] > 0 and "numpy is missing" in found.source


def test_a_cache_that_cannot_be_written_costs_measuring_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(local, "measure", lambda cores: Rates(3e9, 4e10))

    assert this_machine().bandwidth == 3e9


def test_another_machine_has_another_place() -> None:
    machine = read_machine()

    assert rates_place(machine) != rates_place(replace(machine, cores=machine.cores + 1))
