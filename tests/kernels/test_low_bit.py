"""K and V in 8 and 4 bits: what quantizing loses, and every version against the reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from stepwell.kernels.native import dot, team
from stepwell.kernels.paged_attention import (
    AttentionSpec,
    KVFormat,
    PagedLayer,
    RaggedBatch,
    cpu,
    gathered,
    low_bit,
    low_bit_kernel,
    paged_attention_with_lse,
    reference,
)
from stepwell.kernels.write_kv import cpu as write_cpu
from stepwell.kernels.write_kv import reference as write_reference
from stepwell.kernels.write_kv import scatter
from tests.kernels.pools import Case, make_case, make_pool

FORMS = [KVFormat.INT8, KVFormat.INT4]
ATTEND = {"cpu": cpu.attend, "gathered": gathered.attend}
WRITE = {"cpu": write_cpu.write, "scatter": scatter.write, "reference": write_reference.write}
STEP = [(1, 1), (1, 16), (1, 700), (1, 1100), (5, 5), (33, 90), (70, 600), (2, 530)]
# Queries and weights of 16 bits lose up to 2^-16 of a row's largest number (`low_bit_tiles`).
CODED = 3e-4
ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2**-6, torch.float16: 2**-9}


def spec_of(case: Case, **options: object) -> AttentionSpec:
    return replace(AttentionSpec(scale=case.layer.key_dim**-0.5), **options)  # type: ignore[arg-type]


def check(case: Case, spec: AttentionSpec, *, version: str) -> None:
    """Against the reference, which attends over the dequantized pages in float32."""
    truth, true_lse = reference.attend(case.query.float(), case.layer, case.batch, spec)
    out, lse = ATTEND[version](case.query, case.layer, case.batch, spec, with_lse=True)
    assert out.dtype == case.query.dtype
    assert lse is not None
    bound = CODED + ROUNDING[case.query.dtype]
    torch.testing.assert_close(out.float(), truth, atol=bound, rtol=0)
    torch.testing.assert_close(lse, true_lse, atol=CODED, rtol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_quantizing_is_off_by_half_a_step(form: KVFormat) -> None:
    """The scale is rounded up by at most 2^-7 of itself, so no level is cut off."""
    rows = torch.randn(50, 3, 64) * torch.logspace(-20, 20, 50)[:, None, None]
    levels, scales = low_bit.quantize(rows, form)
    groups = low_bit.groups_of(form, 64)
    assert scales.shape == (50, 3, groups)
    wide = torch.unflatten(rows, -1, (groups, -1))
    numbers = torch.unflatten(levels.float() - low_bit.bias(form), -1, (groups, -1))
    assert int(numbers.abs().max()) == low_bit.largest_level(form)
    error = (numbers * scales.float()[..., None] - wide).abs().amax(-1)
    most = wide.abs().amax(-1) / low_bit.largest_level(form) * (1 + 2**-7) / 2
    assert bool((error <= most * (1 + 1e-6)).all())


@pytest.mark.parametrize("form", FORMS)
def test_bytes_of_a_block(form: KVFormat) -> None:
    """Scales counted, against 16 bits: at the sizes of the house model and of Qwen2.5."""
    shape = low_bit.LowBitShape(form=form, kv_heads=2, key_dim=64, value_dim=64, block_size=16)
    share = shape.nbytes / (2 * 16 * 128 * 2)
    assert share == pytest.approx({KVFormat.INT8: 0.5156, KVFormat.INT4: 0.2813}[form], abs=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_sizes_that_cannot_be_kept(form: KVFormat) -> None:
    assert low_bit.refusal(form, block_size=16, dims=(64, 96)) is None
    assert "block_size 8" in (low_bit.refusal(form, block_size=8, dims=(64, 64)) or "")
    assert "dimension 24" in (low_bit.refusal(form, block_size=16, dims=(64, 24)) or "")
    assert low_bit.refusal(KVFormat.MODEL, block_size=8, dims=(24,)) is None


def storage_of(layer: PagedLayer) -> Tensor:
    base = layer.key._base
    assert base is not None
    return base


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("version", WRITE)
def test_write_bytes(version: str, dtype: torch.dtype, form: KVFormat) -> None:
    """Each version writes the bytes that `store` writes, and no others."""
    sizes = {"heads": 2, "block_size": 32, "key_dim": 64, "value_dim": 96}
    tokens, blocks = 200, 9
    key = torch.randn(2, tokens, 64).transpose(0, 1).to(dtype)
    value = torch.randn(tokens, 2, 96).to(dtype)
    key[5] *= 1e-3
    value[7] = 0
    batch = RaggedBatch.build(
        [tokens], [230], block_tables=[torch.randperm(blocks).tolist()], block_size=32
    )
    expected, found = (make_pool(blocks, **sizes, dtype=dtype, form=form) for _ in range(2))
    low_bit.store(key, value, expected, batch.slots)
    WRITE[version](key, value, found, batch)
    assert torch.equal(storage_of(found), storage_of(expected))


@pytest.mark.parametrize("version", ["cpu", "reference"])
def test_slots_outside_the_pool_are_refused(version: str) -> None:
    case = make_case([(1, 5), (1, 9)], form=KVFormat.INT8)
    batch = replace(case.batch, slots=torch.tensor([10_000, int(case.batch.slots[1])]))
    new = torch.zeros(2, 2, 32)
    with pytest.raises(IndexError, match="outside the pool"):
        WRITE[version](new, new, case.layer, batch)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("version", WRITE)
def test_what_is_no_number_stays_none(version: str, form: KVFormat) -> None:
    """nan and infinity spoil their own row, and show."""
    case = make_case([(3, 3)], key_dim=32, form=form)
    key, value = torch.randn(3, 2, 32), torch.randn(3, 2, 32)
    key[1, 0, 3], value[1, 1, 5] = float("inf"), float("nan")
    WRITE[version](key, value, case.layer, case.batch)
    keys, values = (
        side.transpose(1, 2).flatten(0, 1)[:3]
        for side in low_bit.pages(case.layer, torch.tensor(case.tables[0]))
    )
    assert [bool(row.isnan().all()) for row in keys[:, 0]] == [False, True, False]
    assert [bool(row.isnan().all()) for row in values[:, 1]] == [False, True, False]
    assert bool(keys[:, 1].isfinite().all())
    out, _ = cpu.attend(case.query, case.layer, case.batch, spec_of(case))
    assert bool(out[0].isfinite().all())
    assert bool(out[1:, 2:].isnan().all())


@pytest.mark.parametrize("version", ATTEND)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"window": 1},
        {"window": 100},
        {"softcap": 3.0},
        {"sinks": True},
        {"sinks": True, "softcap": 20.0, "window": 37},
    ],
    ids=str,
)
def test_versions_match(
    version: str, dtype: torch.dtype, form: KVFormat, options: dict[str, object]
) -> None:
    case = make_case(STEP, dtype=dtype, form=form)
    if options.get("sinks"):
        options = {**options, "sinks": torch.randn(4)}
    check(case, spec_of(case, **options), version=version)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "sizes",
    [
        {"q_heads": 14, "kv_heads": 2, "key_dim": 64},
        {"q_heads": 3, "kv_heads": 3, "key_dim": 32, "block_size": 256},
        {"q_heads": 4, "kv_heads": 2, "key_dim": 96, "value_dim": 64},
    ],
    ids=str,
)
def test_sizes(form: KVFormat, sizes: dict[str, int]) -> None:
    check_sizes(form, sizes)


@pytest.mark.parametrize(
    "form", [KVFormat.INT4, pytest.param(KVFormat.INT8, marks=pytest.mark.slow)]
)
def test_wide_heads(form: KVFormat) -> None:
    """These take longest to compile."""
    check_sizes(form, {"q_heads": 16, "kv_heads": 1, "key_dim": 256, "block_size": 1024})


def check_sizes(form: KVFormat, sizes: dict[str, int]) -> None:
    case = make_case([(1, 40), (1, 1500), (9, 300), (20, 20)], form=form, **sizes)  # type: ignore[arg-type]
    check(case, spec_of(case), version="cpu")
    check(case, spec_of(case, window=33), version="cpu")


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_random_steps(data: st.DataObject) -> None:
    """Any mix of lengths, windows and sinks, on sizes that are compiled once."""
    decodes = data.draw(st.lists(st.integers(1, 1200), max_size=4))
    prompts = data.draw(st.lists(st.tuples(st.integers(2, 80), st.integers(0, 700)), max_size=3))
    lengths = [(1, c) for c in decodes] + [(n, n + before) for n, before in prompts]
    form = data.draw(st.sampled_from(FORMS))
    case = make_case(lengths or [(1, 1)], seed=data.draw(st.integers(0, 1000)), form=form)
    spec = spec_of(
        case,
        window=data.draw(st.none() | st.integers(1, 1300)),
        softcap=data.draw(st.none() | st.floats(1.0, 50.0)),
        sinks=data.draw(st.none() | st.just(torch.linspace(-3, 3, 4))),
    )
    check(case, spec, version="cpu")


@pytest.mark.parametrize("form", FORMS)
def test_batch_does_not_change_a_row(form: KVFormat) -> None:
    """A sequence alone and among others: the same bits, whatever the threads did."""
    case = make_case([(1, 90), (1, 1700), (1, 520), (40, 800)], dtype=torch.bfloat16, form=form)
    spec = spec_of(case)
    whole, whole_lse = paged_attention_with_lse(case.query, case.layer, case.batch, spec)
    starts = case.batch.query_starts.tolist()
    for i, context in enumerate(case.contexts):
        rows = slice(starts[i], starts[i + 1])
        alone = RaggedBatch.build(
            [rows.stop - rows.start], [context], block_tables=[case.tables[i]], block_size=16
        )
        out, lse = paged_attention_with_lse(case.query[rows], case.layer, alone, spec)
        assert torch.equal(out, whole[rows])
        assert torch.equal(lse, whole_lse[rows])


@pytest.mark.parametrize("form", FORMS)
def test_without_the_instructions(form: KVFormat) -> None:
    """The plain arithmetic gives the bits of AVX-512's."""
    if dot.missing_features() is not None:
        pytest.skip(str(dot.missing_features()))
    case = make_case([(1, 700), (9, 40)], form=form)
    expected, _ = cpu.attend(case.query, case.layer, case.batch, spec_of(case))
    call = cpu.prepare(case.query, case.layer, case.batch, spec_of(case))
    dims = (case.layer.key_dim, case.layer.value_dim)
    plain = low_bit_kernel.compiled_kernel(0, form, *dims, 2, vnni=False)
    team.run(plain, call.record, tasks=call.tasks)
    assert torch.equal(call.out, expected)


@pytest.mark.parametrize("form", FORMS)
def test_no_key_at_all(form: KVFormat) -> None:
    """A part that holds nothing yet: zero with -inf, so that a merge leaves it out."""
    case = make_case([(1, 16)], form=form)
    batch = RaggedBatch.build([1], [1], block_tables=case.tables, block_size=16)
    batch = replace(batch, context_lens=torch.zeros(1, dtype=torch.int32))
    out, lse = cpu.attend(case.query, case.layer, batch, spec_of(case))
    assert torch.equal(out, torch.zeros_like(out))
    assert bool(lse.isneginf().all())


@pytest.mark.parametrize("form", FORMS)
def test_extreme_scores_stay_finite(form: KVFormat) -> None:
    case = make_case([(1, 200), (3, 300)], form=form)
    case.query.mul_(1e4)
    out, lse = cpu.attend(case.query, case.layer, case.batch, spec_of(case))
    _, true_lse = reference.attend(case.query, case.layer, case.batch, spec_of(case))
    assert bool(out.isfinite().all())
    torch.testing.assert_close(lse, true_lse, atol=0, rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_several_parts_in_a_task(form: KVFormat) -> None:
    """Contexts so long that a task takes several parts."""
    case = make_case([(1, 17_000)], form=form)
    check(case, spec_of(case), version="cpu")
