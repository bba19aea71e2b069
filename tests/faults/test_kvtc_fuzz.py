"""Mutated calibration artifacts and chunks: refused or decoded, no crash, no wrong accept.

Two kinds: as damage would leave them (the checksum then refuses every one), and sealed: their
checksums made right again, as a hostile writer would, so that what lies behind is reached. Sealed
ones may be accepted; they must then decode to numbers of the right shape or be refused.
"""

from __future__ import annotations

import random
import resource
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import pytest
import torch
import xxhash

from stepwell.codec.kvtc.artifact import dump_calibration, load_calibration
from stepwell.codec.kvtc.calibration import Calibration, sealed
from stepwell.codec.kvtc.container import ArtifactError, read_sections, write_sections
from stepwell.codec.kvtc.matrix import Precision
from tests.codec.kvtc_shapes import WEIGHTS, WIDTH, calibration, rows

TOKENS = 24
FEW = 400
LONGEST_S = 10.0  # of computing, one input
MOST_BYTES = 256 << 20  # that the process may grow by
HEAD, ENTRY, SUM = 56, 88, 8  # container.py
EDGES = (0, 1, 2, 127, 128, 255, 256, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


@dataclass
class Tally:
    """What became of the inputs."""

    refused: int = 0
    accepted: int = 0
    longest: float = 0.0


def mutate(data: bytes, others: Sequence[bytes], source: random.Random) -> bytes:
    """One to four changes: bits, bytes, fields, cuts, splices, swaps."""
    found = bytearray(data)
    for _ in range(source.choice((1, 1, 1, 2, 4))):
        if not found:
            break
        source.choice(CHANGES)(found, others, source)
    return bytes(found)


def _flip(data: bytearray, others: Sequence[bytes], source: random.Random) -> None:
    for _ in range(source.choice((1, 1, 2, 8))):
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)


def _field(data: bytearray, others: Sequence[bytes], source: random.Random) -> None:
    """An edge value, more often near the start, where headers are."""
    width = source.choice((1, 2, 4, 8))
    reach = len(data) if source.random() < 0.3 else min(len(data), 400)
    at = source.randrange(max(1, reach))
    value = source.choice((*EDGES, source.getrandbits(64))) & ((1 << 8 * width) - 1)
    data[at : at + width] = value.to_bytes(width, "little")[: len(data) - at]


def _cut(data: bytearray, others: Sequence[bytes], source: random.Random) -> None:
    at = source.randrange(len(data))
    del data[at : at + source.choice((1, 2, 4, 8, 64, len(data)))]


def _splice(data: bytearray, others: Sequence[bytes], source: random.Random) -> None:
    """A run of another input, over or between the bytes here."""
    other = source.choice(others)
    start, size = source.randrange(len(other)), source.choice((1, 4, 16, 100, 1000))
    at = source.randrange(len(data))
    piece = other[start : start + size]
    data[at : at + (len(piece) if source.random() < 0.6 else 0)] = piece


def _number(data: bytearray, others: Sequence[bytes], source: random.Random) -> None:
    """Digits in text (the description is JSON) become others; elsewhere any byte does."""
    at = source.randrange(len(data))
    run = next((i for i in range(at, min(len(data), at + 200)) if 48 <= data[i] < 58), at)
    data[run : run + 1] = source.choice((b"-", b"9", b"e9", b"0", b"1e300", b"NaN", b"[", b'"'))


CHANGES: tuple[Callable[..., None], ...] = (_flip, _field, _cut, _splice, _number)


def reseal_artifact(data: bytes) -> bytes:
    """The file's size and all checksums made right, as far as a table can be read at all."""
    found = bytearray(data)
    if len(found) < HEAD + SUM:
        return data
    struct.pack_into("<Q", found, 48, len(found))
    end = HEAD + ENTRY * struct.unpack_from("<H", found, 10)[0]
    if end + SUM > len(found):
        return bytes(found)
    for at in range(HEAD, end, ENTRY):
        offset, size = struct.unpack_from("<QQ", found, at + 64)
        digest = xxhash.xxh3_64_intdigest(memoryview(found)[offset : offset + size])
        struct.pack_into("<Q", found, at + 80, digest)
    struct.pack_into("<Q", found, end, xxhash.xxh3_64_intdigest(memoryview(found)[:end]))
    return bytes(found)


def reseal_chunk(data: bytes) -> bytes:
    """With the right checksum, and often the right length of the first plane."""
    body = bytearray(data[:-SUM])
    if len(body) > 8 and body[-1] & 1:
        struct.pack_into("<I", body, 0, len(body) - 4)
    return sealed(bytes(body))


@cache
def calibrations() -> tuple[Calibration, ...]:
    return (
        calibration(joint=True),
        calibration(joint=False, precision=Precision.CODED),
    )


@cache
def chunks() -> tuple[tuple[Calibration, bytes], ...]:
    """Chunks of each calibration at a fine, a middle and a coarse rung; some with escapes."""
    found = []
    for made in calibrations():
        for rung in (0, 2, 5):
            data = rows(TOKENS, seed=rung) * (30 if rung == 2 else 1)
            found.append((made, made.encode_rows(data, rungs=[rung] * len(made.planes))))
    return tuple(found)


@cache
def artifacts() -> tuple[bytes, ...]:
    """Files as they are written, and with nothing deflated, so that changes reach the contents."""
    found = []
    for made in calibrations():
        data = dump_calibration(made)
        weights, arrays = read_sections(data)
        found += [data, write_sections(arrays, weights=weights, packed=frozenset())]
    return tuple(found)


def decode(made: Calibration, data: bytes) -> bool:
    try:
        back = made.decode_rows(data, tokens=TOKENS)
    except ValueError:
        return False
    assert back.shape == (TOKENS, made.width) and back.dtype == torch.float32
    return True


def try_chunk(source: random.Random, *, seals: bool) -> bool | None:
    made, good = source.choice(chunks())
    bad = mutate(good, [data for _, data in chunks()], source)
    bad = reseal_chunk(bad) if seals else bad
    if any(bad == data for _, data in chunks()):
        return None
    accepted = decode(made, bad)
    assert seals or not accepted, "a damaged chunk was decoded"
    return accepted


def try_artifact(source: random.Random, *, seals: bool) -> bool | None:
    good = source.choice(artifacts())
    bad = mutate(good, artifacts(), source)
    bad = reseal_artifact(bad) if seals else bad
    if bad in artifacts():
        return None
    try:
        found = load_calibration(bad, weights=None if seals else WEIGHTS)
    except ArtifactError:
        return False
    assert seals, "a damaged artifact was accepted"
    assert found.width <= 4 * WIDTH
    decode(found, source.choice(chunks())[1])
    return True


def campaign(trial: Callable[..., bool | None], *, count: int, seals: bool, seed: int) -> Tally:
    """Try so many mutated inputs, the same for the same seed."""
    source, tally = random.Random(seed), Tally()
    artifacts(), chunks()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tried = 0
    while tried < count:
        began = time.thread_time()
        outcome = trial(source, seals=seals)
        tally.longest = max(tally.longest, time.thread_time() - began)
        if outcome is not None:
            tried += 1
            tally.accepted += outcome
            tally.refused += not outcome
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    print(f"{trial.__name__}, sealed {seals}: {tally}, grown by {grown >> 20} MiB")
    assert grown < MOST_BYTES and tally.longest < LONGEST_S
    return tally


KINDS = [
    pytest.param(try_chunk, False, 300_000, id="chunks"),
    pytest.param(try_chunk, True, 300_000, id="sealed-chunks"),
    pytest.param(try_artifact, False, 250_000, id="artifacts"),
    pytest.param(try_artifact, True, 150_000, id="sealed-artifacts"),
]


@pytest.mark.parametrize(("trial", "seals", "many"), KINDS)
def test_some_mutations(trial: Callable[..., bool | None], seals: bool, many: int) -> None:
    tally = campaign(trial, count=FEW, seals=seals, seed=1)
    assert tally.refused > 0 and (tally.accepted > 0) == seals


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("trial", "seals", "many"), KINDS)
def test_a_million_mutations(trial: Callable[..., bool | None], seals: bool, many: int) -> None:
    """A million together."""
    campaign(trial, count=many, seals=seals, seed=2)
