"""kill -9 at every point of a workload: nothing wrong is served, nothing written is lost."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stepwell.tier.contract import ReadOutcome, WriteOutcome
from tests.tier.disk_helpers import (
    MIB,
    check_books,
    disk_bytes,
    get,
    meta_of,
    open_tier,
    put,
    value_of,
)
from tests.values import key

ROOT = Path(__file__).resolve().parents[2]


def victim(path: Path, *, seed: int, at: int, how: str = "kill") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.disk_victim", str(path), str(seed), str(at), how],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip


def check_after(path: Path, said: list[list[str]]) -> None:
    """Reopen after a death: every write that returned is there, every byte is right."""
    held: set[int] = set()
    ever: set[int] = set()
    for verb, *names in said:
        numbers = {int(n) for n in names if verb in ("want", "done", "gone")}
        if verb == "want":
            ever |= numbers
        elif verb == "done":
            held |= numbers
        elif verb == "gone":
            held -= numbers
    tier = open_tier(path, capacity=4 * MIB)
    check_books(tier)
    assert disk_bytes(path) <= 4 * MIB
    assert tier.recovery.quarantined == 0
    for name in ever:
        value = get(tier, name)
        assert value == value_of(name) or (name not in held and value is ReadOutcome.MISSING), name
    metas = {chunk.key: chunk.meta for chunk in tier.scan()}
    assert metas.keys() >= {key(n) for n in held}
    assert all(metas[key(n)] == meta_of(n) for n in ever if key(n) in metas)
    for name in range(5):  # and it goes on working
        assert put(tier, name) in (WriteOutcome.STORED, WriteOutcome.PRESENT)
        assert get(tier, name) == value_of(name)
    check_books(tier)
    tier.close()
    again = open_tier(path, capacity=4 * MIB)
    assert again.recovery.dropped == again.recovery.recovered == 0
    again.close()


def die_at(path: Path, *, seed: int, at: int, how: str) -> bool:
    """Whether the victim died there (it may have finished before)."""
    process = victim(path, seed=seed, at=at, how=how)
    out, err = process.communicate(timeout=60)
    assert process.returncode in (0, -9), err
    check_after(path, [line.split() for line in out.splitlines()])
    shutil.rmtree(path)
    return process.returncode == -9


def count_steps(path: Path, *, seed: int) -> int:
    out, err = victim(path, seed=seed, at=0).communicate(timeout=60)
    assert "steps" in out, err
    shutil.rmtree(path)
    return int(out.split()[-1])


def test_kill_at_some_points(tmp_path: Path) -> None:
    path = tmp_path / "tier"
    steps = count_steps(path, seed=1)
    assert steps > 250
    points = [1, 2, 3, 4, 5, 6, 7, *random.Random(5).sample(range(8, steps), 15)]
    for index, at in enumerate(points):
        assert die_at(path, seed=1, at=at, how=("kill", "half")[index % 2]), at


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1, 2])
def test_kill_at_every_point(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "tier"
    steps = count_steps(path, seed=seed)
    died = 0
    for at in range(1, steps + 1):
        died += die_at(path, seed=seed, at=at, how=("kill", "half")[at % 2])
    assert died == steps
    print(f"seed {seed}: died at {died} points")


def kill_at_random(path: Path, *, rounds: int, seed: int) -> None:
    """SIGKILL from outside, also while SQLite works; the directory lives on."""
    source = random.Random(seed)
    said: list[list[str]] = []
    for number in range(rounds):
        process = victim(path, seed=seed * 1000 + number, at=0)
        assert process.stdout is not None
        said.append(process.stdout.readline().split())
        time.sleep(source.random() * 0.25)
        process.kill()
        out, _ = process.communicate(timeout=60)
        said += [line.split() for line in out.splitlines()]
        check_after(path, said)


def test_kill_at_random_times(tmp_path: Path) -> None:
    kill_at_random(tmp_path / "tier", rounds=5, seed=3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kill_at_random_times_often(tmp_path: Path) -> None:
    for seed in range(10):
        kill_at_random(tmp_path / f"tier{seed}", rounds=10, seed=seed)
