"""The disk tier: what it keeps, what it gives back, what it refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stepwell.base.errors import ConfigError, TierInUse, TierUnusable
from stepwell.tier.contract import ReadOutcome, WriteOutcome
from stepwell.tier.disk import DiskOptions, DiskTier
from stepwell.tier.disk.index import DAMAGED_FILE, INDEX_FILE
from stepwell.tier.disk.medium import Medium
from tests.tier.disk_helpers import (
    KIB,
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


def test_what_is_written_is_read_after_a_restart(tmp_path: Path) -> None:
    tier = open_tier(tmp_path)
    for name in range(50):
        assert put(tier, name) is WriteOutcome.STORED
    assert put(tier, 3) is WriteOutcome.PRESENT
    tier.close()
    tier.close()

    tier = open_tier(tmp_path)
    assert tier.recovery.found == 50
    assert tier.recovery.scanned == tier.recovery.recovered == tier.recovery.dropped == 0
    assert [get(tier, name) for name in range(50)] == [value_of(name) for name in range(50)]
    assert [(c.key, c.size, c.meta) for c in tier.scan()] == [
        (key(n), len(value_of(n)), meta_of(n)) for n in range(50)
    ]
    check_books(tier)
    tier.close()


def test_unknown_deleted_and_wrongly_sized(tmp_path: Path) -> None:
    tier = open_tier(tmp_path)
    put(tier, 1), put(tier, 2)
    tier.delete([key(1), key(99)])

    assert get(tier, 1) is get(tier, 99) is ReadOutcome.MISSING
    assert tier.contains([key(1), key(2)]) == {key(2)}
    assert tier.read(key(2), [memoryview(bytearray(5))]) is ReadOutcome.CORRUPT
    assert get(tier, 2) is ReadOutcome.MISSING
    assert tier.usage().corrupt == 1
    tier.close()
    with pytest.raises(OSError, match="closed"):
        put(tier, 5)


def test_many_small_parts_and_typed_buffers(tmp_path: Path) -> None:
    tier = open_tier(tmp_path)
    value = os.urandom(3000)
    parts = [memoryview(value[i : i + 1]) for i in range(3000)]
    assert tier.write(key(1), parts) is WriteOutcome.STORED
    out = [bytearray(1) for _ in range(2992)]
    last = memoryview(bytearray(8)).cast("Q")
    assert tier.read(key(1), [*map(memoryview, out), last]) is ReadOutcome.OK
    assert b"".join(out) + last.tobytes() == value
    tier.close()


def test_never_more_than_the_quota(tmp_path: Path) -> None:
    tier = open_tier(tmp_path, capacity=4 * MIB)
    full = name = 0
    while full < 30:
        if put(tier, name) is WriteOutcome.FULL:
            full += 1
            tier.delete([key(n) for n in range(name - 100, name, 3)])
        name += 1
        usage = tier.usage()
        assert usage.used <= usage.capacity + 128 * KIB
        assert disk_bytes(tmp_path) <= 4 * MIB
    assert usage.chunks > 50
    check_books(tier)
    tier.close()
    assert disk_bytes(tmp_path) <= 4 * MIB


def test_a_value_larger_than_a_segment_or_than_everything(tmp_path: Path) -> None:
    tier = open_tier(tmp_path)
    big = os.urandom(MIB)
    assert tier.write(key(1), [memoryview(big)]) is WriteOutcome.STORED
    assert tier.write(key(2), [memoryview(bytes(9 * MIB))]) is WriteOutcome.FULL
    out = bytearray(MIB)
    assert tier.read(key(1), [memoryview(out)]) is ReadOutcome.OK
    assert out == big
    tier.close()


def test_free_floor(tmp_path: Path) -> None:
    tier = open_tier(tmp_path, free_floor=1 << 60)
    assert put(tier, 2) is WriteOutcome.FULL
    assert tier.usage().chunks == 0
    tier.close()


def test_dead_segments_go_at_once_and_compaction_frees_the_rest(tmp_path: Path) -> None:
    tier = open_tier(tmp_path)
    names = [n for n in range(400) if len(value_of(n)) == 9000]
    for name in names:
        put(tier, name)
    tier.flush()
    half = len(names) // 2
    before = tier.usage().used
    tier.delete([key(n) for n in names[:half]])
    dropped = tier.usage().used
    assert dropped < before * 0.7
    keep = names[half::2]
    tier.delete([key(n) for n in names[half + 1 :: 2]])
    assert tier.compact(40 * KIB) >= 0
    tier.compact(100 * MIB)
    assert tier.usage().used < dropped * 0.75
    check_books(tier)
    assert all(get(tier, n) == value_of(n) for n in keep)
    order = [c.key for c in tier.scan()]
    assert order == [key(n) for n in keep]
    tier.close()
    tier = open_tier(tmp_path)
    assert all(get(tier, n) == value_of(n) for n in keep)
    tier.close()


def test_two_openers(tmp_path: Path) -> None:
    tier = open_tier(tmp_path)
    with pytest.raises(TierInUse, match=f"process {os.getpid()}"):
        open_tier(tmp_path)
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.tier.disk_helpers import open_tier\n"
        "try: open_tier(Path(sys.argv[1]))\n"
        "except Exception as error: print(error.code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "tier_in_use"
    tier.close()
    open_tier(tmp_path).close()


def test_another_format_version_is_refused_by_name(tmp_path: Path) -> None:
    from stepwell.tier.disk.lock import _line

    open_tier(tmp_path).close()
    (tmp_path / "format").write_bytes(_line(b"stepwell-disk-tier", b"7"))
    with pytest.raises(TierUnusable, match=r"version 7.*version 1"):
        open_tier(tmp_path)


def test_somebody_elses_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("dear reader")
    with pytest.raises(TierUnusable, match=r"thesis\.txt"):
        open_tier(tmp_path)
    with pytest.raises(TierUnusable):
        open_tier(tmp_path / "thesis.txt" / "below")
    with pytest.raises(ConfigError):
        DiskOptions(capacity=MIB)


def filled(path: Path, count: int = 60) -> None:
    tier = open_tier(path)
    for name in range(count):
        put(tier, name)
    tier.close()


@pytest.mark.parametrize("damage", ["deleted", "garbage", "truncated", "empty", "header"])
def test_the_index_is_rebuilt_from_the_segments(tmp_path: Path, damage: str) -> None:
    filled(tmp_path)
    index = tmp_path / INDEX_FILE
    if damage == "deleted":
        index.unlink()
    elif damage == "garbage":
        index.write_bytes(os.urandom(20_000))
    elif damage == "truncated":
        os.truncate(index, 5000)
    elif damage == "empty":
        os.truncate(index, 0)
    else:
        with index.open("r+b") as file:
            file.write(b"not a database")
    heard: list[tuple[int, int]] = []
    tier = DiskTier(
        tmp_path, options=DiskOptions(capacity=64 * MIB, free_floor=0),
        on_progress=lambda done, total: heard.append((done, total)),
    )  # fmt: skip

    assert tier.recovery.rebuilt
    assert tier.recovery.found == 60
    assert [(c.key, c.meta) for c in tier.scan()] == [(key(n), meta_of(n)) for n in range(60)]
    assert all(get(tier, name) == value_of(name) for name in range(60))
    assert heard[-1][0] == heard[-1][1] == tier.recovery.scanned
    assert (tmp_path / DAMAGED_FILE).exists() == (damage not in ("deleted", "empty"))
    check_books(tier)
    tier.close()


def test_what_was_deleted_before_its_row_was_committed_stays_deleted(tmp_path: Path) -> None:
    """No row of these frames was committed; the next start must not find them past the mark."""
    tier = open_tier(tmp_path)
    put(tier, 1)
    tier.flush()
    put(tier, 2)
    put(tier, 3)
    tier.delete([key(2), key(3)])
    tier.close()

    tier = open_tier(tmp_path)
    assert [chunk.key for chunk in tier.scan()] == [key(1)]
    assert tier.recovery.scanned == tier.recovery.recovered == 0
    tier.close()


def test_the_format_file_is_made_again(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "format").unlink()
    tier = open_tier(tmp_path)
    assert tier.recovery.found == 60
    tier.close()
    (tmp_path / "format").write_bytes(b"junk")
    open_tier(tmp_path).close()


def test_deleted_and_truncated_segments(tmp_path: Path) -> None:
    filled(tmp_path)
    files = sorted(tmp_path.glob("segment-*"))
    assert len(files) > 3
    files[0].unlink()
    os.truncate(files[1], files[1].stat().st_size // 2)
    tier = open_tier(tmp_path)

    assert 0 < tier.recovery.dropped == 60 - tier.recovery.found
    values = [get(tier, name) for name in range(60)]
    assert sum(v is ReadOutcome.MISSING for v in values) == tier.recovery.dropped
    assert all(v in (value_of(n), ReadOutcome.MISSING) for n, v in enumerate(values))
    check_books(tier)
    for name in range(60):
        put(tier, name)
    assert all(get(tier, name) == value_of(name) for name in range(60))
    tier.close()


def test_files_removed_under_a_running_tier(tmp_path: Path) -> None:
    filled(tmp_path)
    tier = open_tier(tmp_path)
    for path in tmp_path.glob("segment-*"):
        path.unlink()
    assert all(get(tier, n) in (value_of(n), ReadOutcome.CORRUPT) for n in range(60))
    assert all(get(tier, n) in (value_of(n), ReadOutcome.MISSING) for n in range(60))
    tier.close()


def test_segments_of_another_place_are_not_believed(tmp_path: Path) -> None:
    filled(tmp_path)
    files = sorted(tmp_path.glob("segment-*"))
    shutil.copy(files[0], files[1])
    tier = open_tier(tmp_path)
    values = [get(tier, name) for name in range(60)]
    gone = (ReadOutcome.CORRUPT, ReadOutcome.MISSING)
    assert all(v == value_of(n) or v in gone for n, v in enumerate(values))
    assert ReadOutcome.CORRUPT in values
    records = tier.index.quarantine()
    tier.flush()
    assert len(tier.index.quarantine()) > len(records)
    tier.close()


class FullMedium(Medium):
    """Runs out of room after some bytes."""

    left = 100_000

    def write(self, fd, parts, offset):  # type: ignore[no-untyped-def]
        size = sum(len(part) for part in parts)
        if size > self.left:
            super().write(fd, [b"".join(parts)[: self.left]], offset)
            self.left = 0
            raise OSError(28, "no space left")
        self.left -= size
        super().write(fd, parts, offset)


def test_a_full_disk_is_full_and_nothing_else(tmp_path: Path) -> None:
    medium = FullMedium()
    tier = open_tier(tmp_path, medium=medium)
    outcomes = [put(tier, name) for name in range(60)]
    assert outcomes.count(WriteOutcome.STORED) > 5
    for name, outcome in enumerate(outcomes):
        wanted = ReadOutcome.MISSING if outcome is WriteOutcome.FULL else value_of(name)
        assert get(tier, name) == wanted
    check_books(tier)
    medium.left = 1 << 40
    assert all(put(tier, name) is not WriteOutcome.FULL for name in range(60))
    assert all(get(tier, name) == value_of(name) for name in range(60))
    tier.close()


class SickMedium(Medium):
    """Cannot sync while told so."""

    sick = False

    def sync(self, fd):  # type: ignore[no-untyped-def]
        if self.sick:
            raise OSError(5, "input/output error")
        super().sync(fd)


def test_what_could_not_be_synced_is_not_promised(tmp_path: Path) -> None:
    medium = SickMedium()
    tier = open_tier(tmp_path, medium=medium)
    put(tier, 1)
    tier.flush()
    put(tier, 2)
    medium.sick = True
    with pytest.raises(OSError, match="input/output"):
        tier.flush()
    medium.sick = False
    assert get(tier, 1) == value_of(1)
    assert get(tier, 2) is ReadOutcome.MISSING
    assert put(tier, 2) is WriteOutcome.STORED
    check_books(tier)
    tier.close()


def test_threads(tmp_path: Path) -> None:
    tier = open_tier(tmp_path, commit_bytes=64 * KIB, capacity=16 * MIB)
    wrong: list[object] = []

    def work(seed: int) -> None:
        try:
            for step in range(150):
                name = (seed * 7 + step * 13) % 60
                put(tier, name)
                value = get(tier, name)
                if value not in (value_of(name), ReadOutcome.MISSING):
                    wrong.append((name, value))
                if step % 5 == seed % 5:
                    tier.delete([key((name + 1) % 60)])
                if step % 40 == seed:
                    tier.compact(MIB)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert tier.usage().corrupt == 0
    check_books(tier)
    tier.close()
    tier = open_tier(tmp_path, capacity=16 * MIB)
    assert tier.recovery.dropped == 0
    check_books(tier)
    tier.close()
