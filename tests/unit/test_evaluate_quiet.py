"""Waiting for a quiet machine."""

from __future__ import annotations

import pytest

from stepwell.evaluate import quiet


def test_it_waits_as_long_as_somebody_computes() -> None:
    looks = [2.0, 0.9, 0.1, 5.0]
    assert quiet.wait_until_quiet(most=60.0, busy_cores=lambda _: looks.pop(0))
    assert looks == [5.0]


def test_it_does_not_wait_for_ever() -> None:
    assert not quiet.wait_until_quiet(most=0.0, busy_cores=lambda _: 2.0)


@pytest.mark.parametrize(
    ("before", "after", "cores"),
    [
        ("cpu 10 0 10 500 0 0 0 7 0 0", "cpu 30 0 20 999 9 0 0 9 0 0", 30),
        ("cpu 10 0 10 500 0 0 0 7 0 0", "cpu 10 0 10 999 9 0 0 9 0 0", 0),
    ],
)
def test_waiting_and_stolen_time_is_not_busy(
    monkeypatch: pytest.MonkeyPatch, tmp_path, before: str, after: str, cores: int
) -> None:
    stat = tmp_path / "stat"
    stat.write_text(f"{before}\ncpu0 1 2 3\n")
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds
        stat.write_text(f"{after}\ncpu0 1 2 3\n")

    monkeypatch.setattr(quiet, "_STAT", stat)
    monkeypatch.setattr(quiet.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(quiet.time, "sleep", sleep)
    monkeypatch.setattr(quiet.os, "sysconf", lambda name: 100)
    assert quiet._busy_cores(0.1) == pytest.approx(cores / 100 / 0.1)


def test_where_the_kernel_does_not_say_nothing_is_waited_for(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(quiet, "_STAT", tmp_path / "none")
    assert quiet.wait_until_quiet(most=0.0)
