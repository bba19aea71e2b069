"""Levels and symbols: versions agree exactly, at ties, beyond all cells, and for no values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.kernels import registry
from stepwell.kernels.levels import Cells, Columns, cpu, cpu_kernel, levels_version, reference

LIMIT = 1 << 30
VERSIONS = {"cpu": cpu, "reference": reference}


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Compiling takes longer than one random example may."""
    cpu_kernel.quantizing_kernel()
    cpu_kernel.symbols_kernel()


def make_columns(source: np.random.Generator, *, count: int, k: int) -> Columns:
    """Random cells, some levels left out, in `count` contexts of which some may go unused."""
    cells = []
    for _ in range(count):
        top = int(source.integers(0, 128))
        levels = np.arange(-top, top + 1, dtype=np.int32)
        kept = levels[(source.random(len(levels)) < 0.9) | (levels == 0)]
        thresholds = (kept[1:] + kept[:-1]) / 2 + source.uniform(-0.4, 0.4, len(kept) - 1)
        offset = float(source.integers(-128, 129)) / 256
        ascending = np.sort(thresholds).astype(np.float32)
        cells.append(Cells(ascending, kept, top + 1.5 + offset, offset))
    return Columns(source.integers(0, count, k).astype(np.uint16), cells)


def make_values(source: np.random.Generator, columns: Columns, *, tokens: int) -> np.ndarray:
    """Of all sizes; some are thresholds or ends of their column, or lie next to one."""
    shape = (tokens, len(columns.contexts))
    values = source.normal(0, 1, shape) * 10.0 ** source.integers(-2, 11, shape)
    for column, context in enumerate(columns.contexts):
        cells = columns.cells[context]
        ties = np.concatenate([cells.thresholds, [cells.inside, -cells.inside, 0.0, -0.0]])
        chosen = source.random(tokens) < 0.4
        values[chosen, column] = source.choice(ties.astype(np.float32), int(chosen.sum()))
    found = values.astype(np.float32)
    ends = source.choice(np.float32([-np.inf, np.inf]), shape)
    return np.where(source.random(shape) < 0.2, np.nextafter(found, ends), found)


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(0, 70), st.integers(0, 11))
def test_versions_choose_the_same_levels(seed: int, count: int, k: int, tokens: int) -> None:
    source = np.random.default_rng(seed)
    columns = make_columns(source, count=count, k=k)
    values = make_values(source, columns, tokens=tokens)
    expected = reference.quantize(values, columns)
    found = cpu.quantize(values, columns)
    assert found.dtype == np.int32 and found.shape == (tokens, k)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("version", VERSIONS)
def test_ties_signs_and_outliers(version: str) -> None:
    cells = Cells(np.float32([-1.5, -0.5, 0.5, 1.5]), np.int32([-2, -1, 0, 1, 2]), 3.25, -0.25)
    given_ = [0.5, -0.5, 0.0, -0.0, 1.5, 3.25, -3.25, 3.3, -3.3, 5.25, 6.25, 3e9, -np.inf, np.nan]
    wanted = [0, -1, 0, 0, 1, 2, -2, 4, -4, 6, 6, LIMIT, -LIMIT, 2]
    columns = Columns(np.zeros(16, np.uint16), [cells])
    values = np.repeat(np.float32(given_)[:, None], 16, axis=1)
    found = VERSIONS[version].quantize(values, columns)
    assert (found == np.int32(wanted)[:, None]).all()


@pytest.mark.parametrize("version", VERSIONS)
def test_levels_left_out_are_never_chosen(version: str) -> None:
    cells = Cells(np.float32([-2.0, 3.0]), np.int32([-5, 0, 7]), 8.5, 0.0)
    columns = Columns(np.zeros(20, np.uint16), [cells])
    values = np.linspace(-8, 8, 20, dtype=np.float32)[None]
    found = VERSIONS[version].quantize(values, columns)[0]
    assert found.tolist() == [-5 if x <= -2 else 0 if x <= 3 else 7 for x in values[0]]


def test_values_at_any_stride() -> None:
    source = np.random.default_rng(1)
    columns = make_columns(source, count=4, k=40)
    values = make_values(source, columns, tokens=24)
    expected = reference.quantize(values, columns)
    assert np.array_equal(cpu.quantize(np.asfortranarray(values), columns), expected)
    assert np.array_equal(cpu.quantize(values[::3], columns), expected[::3])


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(0, 40), st.integers(0, 11))
def test_versions_write_the_same_symbols(seed: int, count: int, k: int, tokens: int) -> None:
    source = np.random.default_rng(seed)
    levels = source.normal(0, 1, (tokens, k)) * 10.0 ** source.integers(-1, 10, (tokens, k))
    levels = levels.clip(-LIMIT, LIMIT).astype(np.int32)
    contexts = source.integers(0, count, k).astype(np.uint16)
    frequencies = source.integers(0, 2, (count, 256)).astype(np.uint16) * np.uint16(4096)
    found = cpu.symbols(levels, contexts, frequencies)
    assert found.dtype == np.uint8
    assert np.array_equal(found, reference.symbols(levels, contexts, frequencies))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_symbol_is_a_zigzag_number_or_the_escape(version: str) -> None:
    levels = np.int32([[0, 1, -1, 127, -127, 128, -128, 2**31 - 1, -(2**31), 3]])
    frequencies = np.ones((1, 256), np.uint16)
    frequencies[0, 5] = 0
    found = VERSIONS[version].symbols(levels, np.zeros(10, np.uint16), frequencies)
    assert found.tolist() == [[0, 1, 2, 253, 254, 255, 255, 255, 255, 255]]


@pytest.mark.parametrize("version", VERSIONS)
def test_what_does_not_fit_is_refused(version: str) -> None:
    columns = make_columns(np.random.default_rng(2), count=3, k=20)
    run = VERSIONS[version]
    with pytest.raises(ValueError, match="20 columns"):
        run.quantize(np.zeros((2, 21), np.float32), columns)
    with pytest.raises(ValueError, match="context 3 of 2"):
        Columns(np.full(20, 3, np.uint16), columns.cells[:2])
    levels, table = np.zeros((2, 20), np.int32), np.ones((3, 256), np.uint16)
    for row, wrong in (
        (np.zeros(19, np.uint16), table),
        (np.full(20, 3, np.uint16), table),
        (np.zeros(20, np.uint16), table[:, :255]),
    ):
        with pytest.raises(ValueError):
            run.symbols(levels, row, wrong)


def test_the_reference_runs_on_demand(choices: pytest.MonkeyPatch) -> None:
    choices.setenv(registry.VARIABLE, "reference")
    assert levels_version() is reference
    choices.setenv(registry.VARIABLE, "auto")
    registry.forget()
    assert levels_version() is cpu
