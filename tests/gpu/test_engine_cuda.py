"""The engine on a CUDA device: same tokens, and no device allocation once it serves."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from stepwell.base.sampling import SamplingParams  # noqa: E402
from stepwell.engine.llm import LLM  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]

GREEDY = SamplingParams(max_tokens=16, temperature=0.0, ignore_eos=True)


def prompts() -> list[list[int]]:
    generator = random.Random(2)
    return [[generator.randrange(3, 500) for _ in range(n)] for n in (1, 17, 64, 130, 255)]


def tokens(llm: LLM) -> list[list[int]]:
    return [c.token_ids for c in llm.generate(prompts(), GREEDY)]


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt_oss", "mistral"])
def test_cuda_equals_cpu_in_float32(model_type: str, checkpoint: Callable[..., Path]) -> None:
    folder = str(checkpoint(model_type))
    on_cpu = LLM(folder, cache__pool="16MiB", model__device="cpu")
    on_cuda = LLM(folder, cache__pool="16MiB", model__device="cuda")

    assert tokens(on_cuda) == tokens(on_cpu)
    assert tokens(on_cuda) == tokens(on_cpu), "prefix hits"


def test_paged_flash_attention_serves_large_blocks(checkpoint: Callable[..., Path]) -> None:
    """Blocks of 256 tokens in bfloat16 go through torch's own paged kernel."""
    llm = LLM(
        str(checkpoint("llama", head_dim=64)), cache__pool="64MiB", cache__block_size=256,
        model__device="cuda", model__dtype="bfloat16",
    )  # fmt: skip
    (choice,) = {d.value for d in llm.built.decisions if d.name == "kernels.paged_attention"}

    assert choice == "cuda"
    assert all(len(t) == 16 for t in tokens(llm))


def test_no_device_allocation_while_serving(checkpoint: Callable[..., Path]) -> None:
    llm = LLM(str(checkpoint("llama")), cache__pool="16MiB", model__device="cuda")
    tokens(llm)
    before = torch.cuda.memory_stats()["num_device_alloc"]
    for _ in range(5):
        llm.built.engine.clear_cache()
        tokens(llm)

    assert torch.cuda.memory_stats()["num_device_alloc"] == before
