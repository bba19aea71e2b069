"""Flipped bits in segments and index: right bytes or none, never wrong ones."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from stepwell.base.errors import TierUnusable
from stepwell.tier.contract import ReadOutcome
from tests.tier.disk_helpers import check_books, get, meta_of, open_tier, put, value_of
from tests.values import key

NAMES = range(40)
GONE = (ReadOutcome.MISSING, ReadOutcome.CORRUPT)


def make(path: Path) -> None:
    tier = open_tier(path)
    for name in NAMES:
        put(tier, name)
    tier.close()


def flip(path: Path, source: random.Random, bits: int) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(bits):
        bit = source.randrange(len(data) * 8)
        data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def check(path: Path) -> tuple[int, int]:
    """(right, gone) after opening what was damaged."""
    tier = open_tier(path)
    check_books(tier)
    names = {key(name): name for name in NAMES}
    for chunk in tier.scan():
        name = names[chunk.key]
        assert (chunk.size, chunk.meta) == (len(value_of(name)), meta_of(name))
    right = 0
    for name in NAMES:
        value = get(tier, name)
        assert value == value_of(name) or value in GONE, name
        right += value not in GONE
        if value is ReadOutcome.CORRUPT:
            assert get(tier, name) is ReadOutcome.MISSING
    check_books(tier)
    tier.close()
    return right, len(NAMES) - right


def campaign(tmp_path: Path, *, rounds: int, bits: int, seed: int, pattern: str) -> None:
    source = random.Random(seed)
    make(tmp_path / "good")
    right = gone = 0
    for _ in range(rounds):
        path = tmp_path / "bad"
        shutil.copytree(tmp_path / "good", path)
        for _ in range(bits):
            flip(source.choice(sorted(path.glob(pattern))), source, 1)
        one, other = check(path)
        right, gone = right + one, gone + other
        shutil.rmtree(path)
    print(f"{rounds} x {bits} flips in {pattern}: {right} reads right, {gone} gone")
    assert right > 0


@pytest.mark.parametrize("pattern", ["segment-*", "index.sqlite"])
def test_some_flips(tmp_path: Path, pattern: str) -> None:
    campaign(tmp_path, rounds=12, bits=4, seed=1, pattern=pattern)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("pattern", ["segment-*", "index.sqlite"])
def test_a_thousand_flips(tmp_path: Path, pattern: str) -> None:
    campaign(tmp_path, rounds=250, bits=1, seed=2, pattern=pattern)
    shutil.rmtree(tmp_path / "good")
    campaign(tmp_path, rounds=50, bits=5, seed=3, pattern=pattern)


def test_flips_under_a_running_tier(tmp_path: Path) -> None:
    """One bit at a time, each read at once: the damaged frame is corrupt, the others are right."""
    make(tmp_path / "tier")
    tier = open_tier(tmp_path / "tier")
    source = random.Random(4)
    for name in NAMES:
        at = tier.books.find(key(name))
        assert at is not None
        path = tier.files.path(at.segment)
        with path.open("r+b") as file:
            offset = source.randrange(at.offset, at.end)
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 1 << source.randrange(8)]))
        assert get(tier, name) is ReadOutcome.CORRUPT
    assert tier.usage().corrupt == len(NAMES)
    assert all(put(tier, name).value == "stored" for name in NAMES)
    assert all(get(tier, name) == value_of(name) for name in NAMES)
    tier.flush()
    assert len(tier.index.quarantine()) == len(NAMES)
    tier.close()


def test_every_flip_of_the_format_file(tmp_path: Path) -> None:
    make(tmp_path)
    good = (tmp_path / "format").read_bytes()
    for bit in range(len(good) * 8):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        (tmp_path / "format").write_bytes(data)
        try:
            open_tier(tmp_path).close()
        except TierUnusable as error:  # pragma: no cover
            raise AssertionError(bit) from error
        assert (tmp_path / "format").read_bytes() == good
