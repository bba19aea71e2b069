"""A filesystem that is really full: segments, index and WAL all hit the wall."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepwell.tier.contract import ReadOutcome, WriteOutcome
from tests.tier.disk_helpers import MIB, check_books, get, open_tier, put, value_of
from tests.values import key


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """2 MiB of tmpfs."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "stepwell-test", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip("may not mount a tmpfs")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_filesystem(small_disk: Path) -> None:
    path = small_disk / "tier"
    tier = open_tier(path, capacity=64 * MIB)
    outcomes: dict[int, WriteOutcome] = {}
    for name in range(500):
        outcomes[name] = put(tier, name)
        if name % 50 == 49:
            try:
                tier.flush()
            except OSError as error:
                assert error.errno == 28
    assert WriteOutcome.FULL in outcomes.values()
    for name, outcome in outcomes.items():
        wanted = ReadOutcome.MISSING if outcome is WriteOutcome.FULL else value_of(name)
        assert get(tier, name) == wanted
    check_books(tier)

    # Room again: the brain evicts, and the tier takes writes and flushes as before.
    stored = [n for n, outcome in outcomes.items() if outcome is WriteOutcome.STORED]
    try:
        tier.delete([key(n) for n in stored[: len(stored) // 2]])
    except OSError as error:
        assert error.errno == 28
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert put(tier, 1001) is WriteOutcome.STORED
    tier.flush()
    for name in stored[len(stored) // 2 :]:
        assert get(tier, name) == value_of(name)
    tier.close()
    tier = open_tier(path, capacity=64 * MIB)
    assert tier.recovery.dropped == 0
    assert get(tier, 1001) == value_of(1001)
    check_books(tier)
    tier.close()
