"""Greedy output in float32 is token-identical to transformers' generate, whatever the engine does
in between: batching mixed lengths, chunking, preempting, hitting the prefix cache."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM  # noqa: E402

from stepwell.base.sampling import SamplingParams  # noqa: E402
from stepwell.engine.llm import LLM  # noqa: E402
from stepwell.model.architectures import TESTED_MODEL_TYPES  # noqa: E402
from tests.checkpoints import ARCHITECTURES, VOCABULARY  # noqa: E402

LENGTHS = (1, 3, 15, 16, 17, 40, 70, 111)
OUTPUT = 20
GREEDY = SamplingParams(max_tokens=OUTPUT, temperature=0.0, ignore_eos=True)


def make_prompts() -> list[list[int]]:
    generator = random.Random(5)
    return [[generator.randrange(3, VOCABULARY) for _ in range(n)] for n in LENGTHS]


def expected_outputs(folder: Path, prompts: list[list[int]]) -> list[list[int]]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    outputs = []
    for prompt in prompts:
        tokens = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=OUTPUT, do_sample=False,
        )  # fmt: skip
        outputs.append(tokens[0, len(prompt) :].tolist())
    return outputs


def run(llm: LLM, prompts: list[list[int]]) -> list[list[int]]:
    return [c.token_ids for c in llm.generate(prompts, GREEDY)]


@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
def test_greedy_equals_transformers(model_type: str, checkpoint: Callable[..., Path]) -> None:
    folder, prompts = checkpoint(model_type), make_prompts()
    expected = expected_outputs(folder, prompts)

    batched = LLM(str(folder), cache__pool="16MiB")

    assert run(batched, prompts) == expected, "batched, mixed lengths"
    assert run(batched, prompts) == expected, "all prefixes cached"
    assert batched.stats.prefix_hits > 0

    chunked = LLM(
        str(folder), cache__pool="16MiB", scheduler__max_step_tokens=13, cache__block_size=8
    )

    assert run(chunked, prompts) == expected, "prompts in chunks of at most 13 tokens"

    blocks = 22 * 8
    pool = blocks * batched.built.pool.block_bytes // 16
    tight = LLM(str(folder), cache__pool=str(pool), cache__block_size=1)

    assert run(tight, prompts) == expected, "preempted"
    assert tight.stats.preemptions > 0


def test_every_tested_architecture_has_a_test() -> None:
    assert set(ARCHITECTURES) == TESTED_MODEL_TYPES
