"""Every version of paged attention against the reference; the reference against torch itself."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from stepwell.kernels.paged_attention import (
    AttentionSpec,
    PagedLayer,
    RaggedBatch,
    cpu,
    cuda,
    gathered,
    merge_partials,
    paged_attention,
    paged_attention_with_lse,
    reference,
)
from tests.kernels.pools import Case, make_case

VERSIONS = {"cpu": cpu.attend, "gathered": gathered.attend}
STEP = [(1, 1), (1, 16), (1, 700), (1, 1100), (5, 5), (33, 90), (70, 600), (2, 530)]
# Bounds on |difference| of outputs. Values are standard normal, so outputs stay below about 4,
# where one rounding to the dtype costs at most half of 2**-6 (bfloat16) or 2**-9 (float16).
BOUND = {torch.float32: 5e-6, torch.bfloat16: 2**-6, torch.float16: 2**-9}


def spec_of(case: Case, **options: object) -> AttentionSpec:
    return replace(AttentionSpec(scale=case.layer.key_dim**-0.5), **options)  # type: ignore[arg-type]


def check(case: Case, spec: AttentionSpec, *, version: str) -> None:
    """Compare a version with the reference, which gets the same (rounded) numbers in float32."""
    truth, true_lse = reference.attend(case.query.float(), case.layer, case.batch, spec)
    out, lse = VERSIONS[version](case.query, case.layer, case.batch, spec, with_lse=True)
    assert out.dtype == case.query.dtype
    assert lse is not None
    bound = BOUND[case.query.dtype]
    torch.testing.assert_close(out.float(), truth, atol=bound, rtol=0)
    torch.testing.assert_close(lse, true_lse, atol=5e-6, rtol=1e-6)
    alone, _ = VERSIONS[version](case.query, case.layer, case.batch, spec, with_lse=False)
    torch.testing.assert_close(alone.float(), truth, atol=2 * bound, rtol=0)


def test_reference_is_torch_attention() -> None:
    """A whole prompt, unpaged, through torch's own function."""
    case = make_case([(50, 50)], q_heads=6, kv_heads=2)
    out, _ = reference.attend(case.query, case.layer, case.batch, spec_of(case))

    def rows(pool: Tensor) -> Tensor:
        return pool[case.tables[0]].transpose(0, 1).flatten(1, 2)[None, :, :50]

    expected = torch.nn.functional.scaled_dot_product_attention(
        case.query.transpose(0, 1)[None],
        rows(case.layer.key),
        rows(case.layer.value),
        is_causal=True,
        enable_gqa=True,
    )
    torch.testing.assert_close(out, expected[0].transpose(0, 1), atol=2e-6, rtol=0)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", BOUND, ids=str)
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
def test_versions_match(version: str, dtype: torch.dtype, options: dict[str, object]) -> None:
    case = make_case(STEP, dtype=dtype)
    if options.get("sinks"):
        options = {**options, "sinks": torch.randn(4)}
    check(case, spec_of(case, **options), version=version)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "sizes",
    [
        {"q_heads": 14, "kv_heads": 2, "key_dim": 64},
        {"q_heads": 3, "kv_heads": 3, "key_dim": 16, "block_size": 256},
        {"q_heads": 4, "kv_heads": 2, "key_dim": 96, "value_dim": 48},
        {"q_heads": 4, "kv_heads": 1, "key_dim": 256, "block_size": 1024},
    ],
    ids=str,
)
def test_sizes(version: str, sizes: dict[str, int]) -> None:
    case = make_case([(1, 40), (1, 1500), (9, 300), (20, 20)], **sizes)  # type: ignore[arg-type]
    check(case, spec_of(case), version=version)
    check(case, spec_of(case, window=33), version=version)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_random_steps(data: st.DataObject) -> None:
    """Any mix of lengths, windows and sinks, on sizes that are compiled once."""
    decodes = data.draw(st.lists(st.integers(1, 1200), max_size=4))
    prompts = data.draw(st.lists(st.tuples(st.integers(2, 80), st.integers(0, 700)), max_size=3))
    lengths = [(1, c) for c in decodes] + [(n, n + before) for n, before in prompts]
    if not lengths:
        lengths = [(1, 1)]
    case = make_case(lengths, seed=data.draw(st.integers(0, 1000)))
    spec = spec_of(
        case,
        window=data.draw(st.none() | st.integers(1, 1300)),
        softcap=data.draw(st.none() | st.floats(1.0, 50.0)),
        sinks=data.draw(st.none() | st.just(torch.linspace(-3, 3, 4))),
    )
    for version in VERSIONS:
        check(case, spec, version=version)


def test_odd_sizes_are_gathered() -> None:
    case = make_case([(1, 30), (4, 9)], key_dim=24, block_size=8)
    reason = cpu.refusal(case.layer)
    assert reason is not None
    assert "block_size 8" in reason
    check(case, spec_of(case), version="gathered")
    out = paged_attention(case.query, case.layer, case.batch, spec_of(case))
    truth, _ = reference.attend(case.query, case.layer, case.batch, spec_of(case))
    torch.testing.assert_close(out, truth, atol=5e-6, rtol=0)


def test_batch_does_not_change_a_row() -> None:
    """A sequence alone and among others: the same bits, whatever the threads did."""
    case = make_case([(1, 90), (1, 1700), (1, 520), (40, 800)], dtype=torch.bfloat16)
    spec = spec_of(case)
    whole, whole_lse = paged_attention_with_lse(case.query, case.layer, case.batch, spec)
    starts = case.batch.query_starts.tolist()
    for i, context in enumerate(case.contexts):
        rows = slice(starts[i], starts[i + 1])
        alone = RaggedBatch.build(
            [rows.stop - rows.start], [context], block_tables=[case.tables[i]], block_size=16
        )
        for threads in (1, 2):
            torch.set_num_threads(threads)
            out, lse = paged_attention_with_lse(case.query[rows], case.layer, alone, spec)
            assert torch.equal(out, whole[rows])
            assert torch.equal(lse, whole_lse[rows])


@pytest.mark.parametrize("window", [None, 50])
def test_chunks_make_the_whole(window: int | None) -> None:
    """A prompt in chunks, and its last token as a decode, give what the whole prompt gives."""
    case = make_case([(700, 700)])
    spec = spec_of(case, window=window)
    whole = paged_attention(case.query, case.layer, case.batch, spec)
    for begin, end in [(0, 300), (300, 301), (301, 699), (699, 700)]:
        batch = RaggedBatch.build([end - begin], [end], block_tables=case.tables, block_size=16)
        assert batch.num_decodes == (1 if end - begin == 1 else 0)
        part = paged_attention(case.query[begin:end], case.layer, batch, spec)
        torch.testing.assert_close(part, whole[begin:end], atol=2e-6, rtol=0)


def test_partials_merge_to_the_whole() -> None:
    """Keys split over two tables (two tiers, say), merged by their log-sum-exp."""
    case = make_case([(1, 640)])
    spec = spec_of(case)
    whole, whole_lse = paged_attention_with_lse(case.query, case.layer, case.batch, spec)
    table = case.tables[0]
    parts = [(table[:8], 128), (table[8:30], 352), (table[30:], 160)]
    outs, lses = [], []
    for blocks, tokens in parts:
        batch = RaggedBatch.build([1], [tokens], block_tables=[blocks], block_size=16)
        out, lse = paged_attention_with_lse(case.query, case.layer, batch, spec)
        outs.append(out)
        lses.append(lse)
    merged, merged_lse = merge_partials(outs, lses)
    torch.testing.assert_close(merged, whole, atol=2e-6, rtol=0)
    torch.testing.assert_close(merged_lse, whole_lse, atol=2e-6, rtol=0)


def test_merge_ignores_empty_parts() -> None:
    empty, some = torch.full((1, 2, 4), torch.nan), torch.randn(1, 2, 4)
    nothing, lse = torch.full((1, 2), -torch.inf), torch.zeros(1, 2)
    merged, total = merge_partials([empty, some], [nothing, lse])
    assert torch.equal(merged, some)
    assert torch.equal(total, lse)
    merged, total = merge_partials([empty, empty], [nothing, nothing])
    assert torch.equal(merged, torch.zeros(1, 2, 4))
    assert bool(total.isneginf().all())


@pytest.mark.parametrize("name", ["cpu", "gathered", "reference"])
def test_no_key_at_all(name: str) -> None:
    """A part that holds nothing yet: zero with -inf, so that a merge leaves it out."""
    attend = {**VERSIONS, "reference": reference.attend}[name]
    case = make_case([(1, 16)])
    batch = RaggedBatch.build([1], [1], block_tables=case.tables, block_size=16)
    batch = replace(batch, context_lens=torch.zeros(1, dtype=torch.int32))
    out, lse = attend(case.query, case.layer, batch, spec_of(case), with_lse=True)
    assert torch.equal(out, torch.zeros_like(out))
    assert lse is not None
    assert bool(lse.isneginf().all())


def test_extreme_scores_stay_finite() -> None:
    """Scores of +-1e4 and equal scores: no overflow, no nan, right winner."""
    case = make_case([(1, 200), (3, 300)])
    case.query.mul_(1e4)
    for softcap in (None, 30.0):
        check_spec = spec_of(case, softcap=softcap)
        out, lse = paged_attention_with_lse(case.query, case.layer, case.batch, check_spec)
        truth, true_lse = reference.attend(case.query, case.layer, case.batch, check_spec)
        assert bool(out.isfinite().all())
        torch.testing.assert_close(lse, true_lse, atol=1e-2, rtol=1e-5)
    # Capped scores near +-30 all but tie, so only the capped outputs are compared.
    torch.testing.assert_close(out, truth, atol=1e-4, rtol=0)


def test_query_of_another_dtype_and_layout() -> None:
    case = make_case([(1, 50), (6, 80)], dtype=torch.bfloat16)
    spread = case.query.float().transpose(0, 1).contiguous().transpose(0, 1)
    out = paged_attention(spread, case.layer, case.batch, spec_of(case))
    same = paged_attention(case.query, case.layer, case.batch, spec_of(case))
    assert out.dtype == torch.float32
    assert torch.equal(out, same.float())


def test_a_batch_serves_layers_of_different_heads() -> None:
    """The plan made for one layer must not be used for another of different shape."""
    first = make_case([(1, 600), (5, 40)], q_heads=4, kv_heads=2)
    second = make_case([(1, 600), (5, 40)], q_heads=4, kv_heads=1)
    batch = first.batch
    assert torch.equal(second.batch.block_tables, batch.block_tables)
    for case in (first, second, first):
        spec = spec_of(case)
        out = paged_attention(case.query, case.layer, batch, spec)
        truth, _ = reference.attend(case.query, case.layer, batch, spec)
        torch.testing.assert_close(out, truth, atol=5e-6, rtol=0)


def test_build_derives_slots() -> None:
    batch = RaggedBatch.build(
        [1, 1, 3], [4, 17, 18], block_tables=[[7], [2, 5], [1, 9]], block_size=16
    )
    assert batch.num_decodes == 2
    assert batch.slots.tolist() == [7 * 16 + 3, 5 * 16, 1 * 16 + 15, 9 * 16, 9 * 16 + 1]
    assert batch.query_starts.tolist() == [0, 1, 2, 5]
    (span,) = batch.prefills
    assert (span.sequence, span.query_start, span.query_length, span.context_len) == (2, 2, 3, 18)


def test_cuda_rules() -> None:
    """What the CUDA version refuses is said, here of a CPU pool."""
    case = make_case([(1, 5)])
    assert cuda.refusal(case.layer) == "the pool is on cpu"
    # Sinks never reach varlen_attn, so this path runs without a GPU.
    spec = spec_of(case, sinks=torch.zeros(4))
    out, _ = cuda.attend(case.query, case.layer, case.batch, spec)
    truth, _ = reference.attend(case.query, case.layer, case.batch, spec)
    torch.testing.assert_close(out, truth, atol=5e-6, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("block_size", [16, 256])
@pytest.mark.parametrize("window", [None, 100])
def test_cuda_matches(block_size: int, window: int | None) -> None:
    case = make_case(STEP, block_size=block_size, key_dim=64, dtype=torch.bfloat16)
    layer = PagedLayer(key=case.layer.key.cuda(), value=case.layer.value.cuda())
    batch = RaggedBatch.build(
        [n for n, _ in STEP],
        case.contexts,
        block_tables=case.tables,
        block_size=block_size,
        device="cuda",
    )
    spec = spec_of(case, window=window)
    assert (cuda.refusal(layer) is None) == (block_size == 256)
    out, lse = paged_attention_with_lse(case.query.cuda(), layer, batch, spec)
    truth, true_lse = reference.attend(case.query.float(), case.layer, case.batch, spec)
    torch.testing.assert_close(out.cpu().float(), truth, atol=2**-5, rtol=0)
    torch.testing.assert_close(lse.cpu(), true_lse, atol=1e-3, rtol=1e-3)
    assert math.isfinite(float(lse.sum()))
