"""rANS: versions agree bit for bit, streams come back, and nothing malformed gets through."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.kernels import registry
from stepwell.kernels.entropy import (
    RansTables,
    StreamError,
    build_tables,
    cpu,
    cpu_lanes,
    decode_prefix,
    head_bytes,
    reference,
    stream,
)
from stepwell.kernels.entropy import decode as decode_stream
from stepwell.kernels.entropy import encode as encode_stream
from stepwell.kernels.entropy.base import LOWER, Pattern
from stepwell.kernels.entropy.tables import encode_entries

VERSIONS: dict[str, tuple[Callable, Callable]] = {
    "loop": (partial(cpu.encode, vectors=False), partial(cpu.decode, vectors=False)),
    "lanes": (partial(cpu.encode, vectors=True), partial(cpu.decode, vectors=True)),
}
if not cpu_lanes.available():
    del VERSIONS["lanes"]
PREFIXES = {
    "loop": partial(cpu.decode_prefix, vectors=False),
    "lanes": partial(cpu.decode_prefix, vectors=True),
}


def make(seed: int, *, contexts: int, symbols: int, count: int, width: int) -> tuple:
    """Tables, contexts [width] and symbols [count] drawn from them."""
    source = np.random.default_rng(seed)
    weights = source.dirichlet(np.full(symbols, 0.3), contexts)
    tables = build_tables((weights * 1e6).astype(np.int64))
    row = source.integers(0, contexts, width).astype(np.uint16)
    ends = tables.frequencies.cumsum(1)
    slots = source.integers(0, 4096, count)
    drawn = (slots[:, None] >= ends[np.resize(row, count)]).sum(1).astype(np.uint8)
    return tables, row, drawn


SHAPES = [
    dict(contexts=1, symbols=2, count=1, width=1),
    dict(contexts=1, symbols=1, count=777, width=3),
    dict(contexts=5, symbols=256, count=5003, width=5003),
    dict(contexts=7, symbols=17, count=4128, width=33),
    dict(contexts=3, symbols=3, count=96, width=31),
    dict(contexts=300, symbols=16, count=6400, width=64),
    dict(contexts=2, symbols=5, count=33, width=7),
]


@pytest.mark.parametrize("lanes", [1, 8, 32])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("version", VERSIONS)
def test_versions_write_and_read_the_same_bits(version: str, shape: dict, lanes: int) -> None:
    encode, decode = VERSIONS[version]
    tables, row, symbols = make(1, **shape)
    pattern = Pattern.of(row, count=len(symbols))
    expected = reference.encode(symbols, pattern, tables.encode_table, lanes=lanes)
    states, words = encode(symbols, pattern, tables.encode_table, lanes=lanes)
    assert np.array_equal(states, expected[0]) and np.array_equal(words, expected[1])
    for read in (decode, reference.decode):
        out = np.empty_like(symbols)
        read(words, states.copy(), pattern, tables.decode_table, out)
        assert np.array_equal(out, symbols)


@pytest.mark.parametrize("version", VERSIONS)
def test_versions_refuse_the_same_words(version: str) -> None:
    """Words changed, missing, left over; states changed: both see it, or both read the same."""
    source = random.Random(2)
    tables, row, symbols = make(2, contexts=4, symbols=6, count=700, width=50)
    pattern = Pattern.of(row, count=700)
    refused = 0
    for trial in range(300):
        states, words = reference.encode(symbols, pattern, tables.encode_table, lanes=32)
        kind = trial % 4
        if kind == 0:
            words[source.randrange(len(words))] ^= source.randrange(1, 1 << 16)
        elif kind == 1:
            words = words[: source.randrange(len(words))]
        elif kind == 2:
            words = np.concatenate([words, words[:1]])
        else:
            states[source.randrange(32)] = source.randrange(LOWER, 1 << 32)
        outcomes = []
        for read in (reference.decode, VERSIONS[version][1]):
            out = np.zeros_like(symbols)
            try:
                read(words, states.copy(), pattern, tables.decode_table, out)
            except StreamError:
                outcomes.append(None)
            else:
                outcomes.append(bytes(out))
        assert outcomes[0] == outcomes[1]
        refused += outcomes[0] is None
    assert refused == 300


@pytest.mark.parametrize("lanes", [1, 8, 32])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("version", VERSIONS)
def test_versions_read_the_same_of_a_prefix(version: str, shape: dict, lanes: int) -> None:
    tables, row, symbols = make(4, **shape)
    pattern = Pattern.of(row, count=len(symbols))
    states, words = reference.encode(symbols, pattern, tables.encode_table, lanes=lanes)
    reached = 0
    for end in np.unique(np.linspace(0, len(words), 7).astype(int)):
        found = []
        for read in (reference.decode_prefix, PREFIXES[version]):
            out = np.zeros_like(symbols)
            args = (words[:end], states.copy(), pattern, tables.decode_table, out)
            found.append(read(*args))
            assert np.array_equal(out[: found[-1]], symbols[: found[-1]])
        assert found[0] == found[1] >= reached
        reached = found[0]
    assert reached == len(symbols)


def test_a_stream_s_prefix() -> None:
    tables, row, symbols = make(5, contexts=3, symbols=9, count=5000, width=5000)
    data = encode_stream(symbols, row, tables)
    least = head_bytes(len(symbols))
    with pytest.raises(StreamError):
        decode_prefix(data[: least - 1], row, tables)
    for end in (least, least + 301, len(data)):
        found, given = decode_prefix(data[:end], row, tables)
        assert np.array_equal(found[:given], symbols[:given]) and not found[given:].any()
    assert given == len(symbols)
    with pytest.raises(StreamError):
        decode_prefix(data + data[-2:], row, tables)


def test_every_division_is_exact() -> None:
    """The quotient through float32 against integers, at the ends of each frequency's range."""
    source = np.random.default_rng(3)
    for base in range(1, 4096, 16):
        group = np.arange(base, base + 16)
        frequencies = np.stack([group, 4096 - group], 1).clip(1, 4095).astype(np.uint16)
        entries = encode_entries(frequencies.astype(np.int64))
        table = reference.EncodeTable(entries=entries)
        row = np.resize(np.arange(16, dtype=np.uint16), 32)
        symbols = (source.random(640) < 0.3).astype(np.uint8)
        pattern = Pattern.of(row, count=640)
        expected = reference.encode(symbols, pattern, table, lanes=32)
        for encode, _ in VERSIONS.values():
            states, words = encode(symbols, pattern, table, lanes=32)
            assert np.array_equal(states, expected[0]) and np.array_equal(words, expected[1])


@given(
    st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 256), st.integers(0, 200),
    st.integers(1, 70),
)  # fmt: skip
def test_streams_come_back(seed: int, contexts: int, symbols: int, tokens: int, p: int) -> None:
    tables, row, flat = make(seed, contexts=contexts, symbols=symbols, count=tokens * p, width=p)
    drawn = flat.reshape(tokens, p)
    data = encode_stream(drawn, row, tables)
    assert np.array_equal(decode_stream(data, row, tables), drawn)
    assert np.array_equal(decode_stream(memoryview(data), row, tables, tokens=tokens), drawn)
    with pytest.raises(StreamError):
        decode_stream(data, row, tables, tokens=tokens + 1)
    each = np.resize(row, len(flat))
    one = encode_stream(flat, each, tables)
    assert np.array_equal(decode_stream(one, each, tables), flat)


def test_the_size_is_the_entropy_and_little_more() -> None:
    tables, row, symbols = make(4, contexts=8, symbols=12, count=1 << 16, width=64)
    counts = np.zeros((8, 12), np.int64)
    np.add.at(counts, (np.resize(row, len(symbols)), symbols), 1)
    bits = 8 * len(encode_stream(symbols.reshape(-1, 64), row, tables))
    assert tables.bits(counts) < bits < tables.bits(counts) * 1.001 + 8 * (8 + 4 * 32)


def test_what_cannot_be_coded_is_refused() -> None:
    tables = build_tables(np.ones((2, 3), np.int64))
    row, symbols = np.zeros(4, np.uint16), np.zeros(4, np.uint8)
    for wrong_symbols, wrong_row in [
        (symbols + np.uint8(3), row),
        (symbols, row + np.uint16(2)),
        (symbols[:3], row),
        (symbols.reshape(2, 2), row),
        (symbols.astype(np.int64), row),
        (symbols, row.astype(np.int64)),
        (symbols.reshape(1, 1, 4), row),
    ]:
        with pytest.raises(ValueError):
            encode_stream(wrong_symbols, wrong_row, tables)
    data = encode_stream(symbols, row, tables)
    with pytest.raises(ValueError):
        decode_stream(data, row + np.uint16(2), tables)


def test_cut_and_stretched_streams_are_refused() -> None:
    tables, row, symbols = make(5, contexts=3, symbols=9, count=90, width=9)
    data = encode_stream(symbols.reshape(10, 9), row, tables)
    for size in range(len(data)):
        with pytest.raises(StreamError):
            decode_stream(data[:size], row, tables)
    with pytest.raises(StreamError):
        decode_stream(data + b"\0\0", row, tables)


def test_a_header_cannot_make_the_decoder_allocate_without_bound() -> None:
    tables = build_tables(np.ones((1, 1), np.int64))  # certain symbols take no bits
    row = np.zeros(1000, np.uint16)
    data = bytearray(encode_stream(np.zeros((5000, 1000), np.uint8), row, tables))
    assert decode_stream(data, row, tables).shape == (5000, 1000)
    data[4:8] = b"\xff" * 4
    with pytest.raises(StreamError):
        decode_stream(data, row, tables)


def mutate(data: bytes, source: random.Random) -> bytes:
    """Flip, overwrite, cut, repeat or insert somewhere."""
    changed = bytearray(data)
    for _ in range(source.choice((1, 1, 1, 2, 8))):
        at = source.randrange(len(changed)) if changed else 0
        kind = source.randrange(5)
        if kind == 0 and changed:
            changed[at] ^= 1 << source.randrange(8)
        elif kind == 1 and changed:
            changed[at] = source.randrange(256)
        elif kind == 2:
            del changed[at : at + source.randrange(1, 9)]
        elif kind == 3:
            changed[at:at] = changed[at : at + source.randrange(1, 9)]
        else:
            changed[at:at] = source.randbytes(source.randrange(1, 9))
    return bytes(changed)


def campaign(count: int, seed: int) -> None:
    """Mutated streams and tables: an error or symbols inside the alphabet, nothing else."""
    source = random.Random(seed)
    cases = []
    for shape in SHAPES[2:]:
        tables, row, symbols = make(6, **shape)
        cases.append(
            (tables, row, symbols, encode_stream(symbols, np.resize(row, len(symbols)), tables))
        )
    accepted = 0
    for trial in range(count):
        tables, row, symbols, data = cases[trial % len(cases)]
        damaged = mutate(data, source)
        try:
            out = decode_stream(damaged, np.resize(row, len(symbols)), tables)
        except StreamError:
            continue
        assert out.size == symbols.size and int(out.max()) < tables.symbols
        accepted += not np.array_equal(out.ravel(), symbols)
    assert accepted <= count * 1e-3
    for trial in range(count // 10):
        tables = cases[trial % len(cases)][0]
        damaged = mutate(tables.to_bytes(), source)
        try:
            found = RansTables.from_bytes(damaged)
        except StreamError:
            continue
        # DEFLATE has bits that mean nothing; zlib's checksum leaves next to nothing else
        assert np.array_equal(found.frequencies, tables.frequencies)


def test_mutated_streams() -> None:
    campaign(3000, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_million_mutated_streams() -> None:
    campaign(1_000_000, seed=2)


def test_the_reference_runs_on_demand(choices: pytest.MonkeyPatch) -> None:
    choices.setenv(registry.VARIABLE, "reference")
    assert stream.coder() is reference
    tables, row, symbols = make(7, contexts=3, symbols=9, count=90, width=9)
    data = encode_stream(symbols.reshape(10, 9), row, tables)
    choices.setenv(registry.VARIABLE, "auto")
    registry.forget()
    assert stream.coder() is cpu
    assert np.array_equal(decode_stream(data, row, tables).ravel(), symbols)
