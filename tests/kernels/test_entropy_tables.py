"""Tables: the best that 12 bits allow, kept as bytes, and refused where they are not tables."""

from __future__ import annotations

import itertools
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stepwell.kernels.entropy import RansTables, StreamError, build_tables, cpu, reference
from stepwell.kernels.entropy.base import PRECISION, TOTAL
from stepwell.kernels.entropy.tables import decode_entries, encode_entries

COUNTS = arrays.arrays(
    np.int64,
    st.tuples(st.integers(1, 8), st.integers(1, 256)),
    elements=st.one_of(st.just(0), st.integers(0, 5), st.integers(0, 10**9)),
)


@given(COUNTS)
def test_tables_fit_any_counts(counts: np.ndarray) -> None:
    tables = build_tables(counts)
    assert (tables.frequencies.sum(1) == TOTAL).all() and (tables.frequencies > 0).all()
    assert tables.bits(counts) >= 0
    again = RansTables.from_bytes(tables.to_bytes())
    assert np.array_equal(again.frequencies, tables.frequencies)


def test_no_exchange_makes_a_table_better() -> None:
    source = np.random.default_rng(1)
    counts = (source.dirichlet(np.full(12, 0.2), 50) * 1e5).astype(np.int64)
    tables = build_tables(counts)
    best = tables.bits(counts)
    for row, (to, away) in itertools.product(range(50), itertools.permutations(range(12), 2)):
        other = tables.frequencies.copy()
        other[row, to] += 1
        other[row, away] -= 1
        if other[row, away]:
            assert RansTables(other).bits(counts) >= best - 1e-6


def test_a_row_without_counts_is_even() -> None:
    assert set(build_tables(np.zeros((1, 8), np.int64)).frequencies.ravel()) == {512}


CHUNK_COUNTS = arrays.arrays(
    np.int64,
    st.tuples(st.integers(1, 5), st.just(256)),
    elements=st.one_of(st.just(0), st.integers(0, 5), st.integers(0, 10**6)),
)


@settings(deadline=None)  # the first call compiles
@given(CHUNK_COUNTS)
def test_a_chunk_s_own_tables(counts: np.ndarray) -> None:
    edges = np.array([[1] * 256, [0] * 255 + [7], [10**9] + [1] * 255], np.int64)
    for given_counts in (counts, np.concatenate([counts, edges])):
        given_counts[:, 3] += 1  # no row without symbols
        found, expected = cpu.fit(given_counts), reference.fit(given_counts)
        used = np.unpackbits(found.used, bitorder="little").astype(bool)
        assert np.array_equal(used, given_counts.any(0))
        assert (found.frequencies.sum(1) == TOTAL).all()
        assert ((found.frequencies > 0) == (given_counts[:, used] > 0)).all()
        assert np.array_equal(found.frequencies, expected.frequencies)
        assert np.array_equal(found.used, expected.used) and found.bits == expected.bits
        where = given_counts > 0
        assert np.array_equal(found.table.entries[where], expected.table.entries[where])


def test_entries_say_what_the_tables_say() -> None:
    tables = build_tables(np.array([[5, 0, 90, 1], [1, 1, 1, 4000]]))
    encoding, decoding = encode_entries(tables.frequencies), decode_entries(tables.frequencies)
    for context, row in enumerate(tables.frequencies.astype(int)):
        slots = [
            (symbol, frequency, offset)
            for symbol, frequency in enumerate(row)
            for offset in range(frequency)
        ]
        for slot, (symbol, frequency, offset) in enumerate(slots):
            assert decoding[context, slot] == symbol << 24 | frequency - 1 << PRECISION | offset
            assert encoding[context, symbol] & 0xFFF == frequency - 1
            assert encoding[context, symbol] >> PRECISION == slot - offset


def test_a_certain_symbol() -> None:
    tables = build_tables(np.array([[7]]))
    assert tables.decode_table.entries[0, 4095] == 4095 << PRECISION | 4095
    assert tables.bits(np.array([[7]])) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        np.full((1, 2), 2048),
        np.array([[4096, 0]], np.uint16),
        np.array([[4095, 2]], np.uint16),
        np.array([4096], np.uint16),
        np.zeros((0, 2), np.uint16),
        np.full((1, 257), 16, np.uint16),
    ],
    ids=repr,
)
def test_wrong_frequencies_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError):
        RansTables(wrong)


def test_wrong_counts_are_refused() -> None:
    for wrong in (np.array([1, 2]), np.array([[-1, 2]]), np.zeros((0, 3), np.int64)):
        with pytest.raises(ValueError):
            build_tables(wrong)
    with pytest.raises(ValueError):
        build_tables(np.ones((1, 3), np.int64)).bits(np.ones((3, 1), np.int64))


def body(data: bytes, *, symbols: int = 2, contexts: int = 1, version: int = 1) -> bytes:
    """Bytes of tables whose numbers are these."""
    return struct.pack("<4sHHI", b"SWRT", version, symbols, contexts) + zlib.compress(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"SWRT",
        body(b"\xff\x0f\xff\x0f", version=2),
        body(b"\x80"),
        body(b"\x80\x00\xff\x0f"),
        body(b"\xff\xff\x0f"),
        body(b"\x01"),
        body(b"\x01\x01\x01"),
        body(b"", symbols=0),
        body(b"", symbols=257),
        body(b"", contexts=1 << 20),
        body(b"\0" * (1 << 24)),
        body(b"\xff\x0f\xff\x0f")[:-1],
        body(b"\xff\x0f\xff\x0f") + b"\0",
    ],
)
def test_bytes_that_are_no_tables_are_refused(data: bytes) -> None:
    good = RansTables.from_bytes(body(b"\xff\x0f\xff\x0f"))
    assert good.frequencies.tolist() == [[2048, 2048]]
    with pytest.raises(StreamError):
        RansTables.from_bytes(data)
