"""Attention over a bfloat16 pool by dot products of pairs, against the reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepwell.kernels.native import dot
from stepwell.kernels.paged_attention import AttentionSpec, cpu, prompt_kernel, reference
from tests.kernels.pools import Case, make_case

pytestmark = pytest.mark.skipif(
    dot.missing_features() is not None, reason=str(dot.missing_features())
)
ROUNDING = 2**-6  # of outputs below 4, and of weights, in bfloat16


def check(case: Case, **options: object) -> None:
    spec = replace(AttentionSpec(scale=case.layer.key_dim**-0.5), **options)  # type: ignore[arg-type]
    assert prompt_kernel.refusal(case.layer.key_dim, case.layer.value_dim) is None
    truth, true_lse = reference.attend(case.query.float(), case.layer, case.batch, spec)
    out, lse = cpu.attend(case.query, case.layer, case.batch, spec)
    torch.testing.assert_close(out.float(), truth, atol=1.5 * ROUNDING, rtol=0)
    torch.testing.assert_close(lse, true_lse, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("window", [None, 1, 5, 40, 513, 530])
@pytest.mark.parametrize(
    "sizes",
    [
        {"q_heads": 14, "kv_heads": 2, "key_dim": 64},
        {"q_heads": 8, "kv_heads": 8, "key_dim": 128, "block_size": 64},
        {"q_heads": 16, "kv_heads": 1, "key_dim": 256, "block_size": 1024},
        {"q_heads": 6, "kv_heads": 2, "key_dim": 96, "value_dim": 64},
    ],
    ids=str,
)
def test_sizes_and_windows(sizes: dict[str, int], window: int | None) -> None:
    """Slots that nobody wrote hold nan, and cut tiles must not let them through."""
    lengths = [(1, 1), (1, 16), (1, 17), (1, 511), (1, 512), (1, 513), (1, 1100), (1, 1600)]
    lengths += [(5, 5), (33, 90), (70, 600), (2, 530)]
    check(make_case(lengths, dtype=torch.bfloat16, **sizes), window=window)  # type: ignore[arg-type]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    contexts=st.lists(st.integers(1, 1300), min_size=1, max_size=5),
    window=st.none() | st.integers(1, 1400),
    softcap=st.none() | st.floats(1.0, 50.0),
    seed=st.integers(0, 1000),
)
def test_random_steps(
    contexts: list[int], window: int | None, softcap: float | None, seed: int
) -> None:
    lengths = [(1, context) for context in contexts]
    case = make_case(lengths, q_heads=14, kv_heads=2, key_dim=64, dtype=torch.bfloat16, seed=seed)
    check(case, window=window, softcap=softcap, sinks=torch.linspace(-3, 3, 14))


@pytest.mark.parametrize("window", [None, 9001])
def test_several_parts_in_a_task(window: int | None) -> None:
    """Contexts so long that a task takes several parts, the last of them cut anywhere."""
    sizes = {"q_heads": 14, "kv_heads": 2, "key_dim": 64}
    lengths = [(1, 17_000), (1, 24_577)]
    check(make_case(lengths, dtype=torch.bfloat16, **sizes), window=window)  # type: ignore[arg-type]
