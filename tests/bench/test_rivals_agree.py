"""Rivals as processes, on a tiny model: whoever is installed generates what transformers does.

transformers always is. For llama.cpp this proves the conversion: every weight, norm and bias of
the checkpoint is drawn wide, so that one in the wrong place changes the tokens.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

from stepwell.evaluate.contestants import Contestant, ContestantFailed, rival_contestant
from stepwell.evaluate.workload import Mix

torch = pytest.importorskip("torch")

ENVIRONMENTS = Path(os.environ.get("STEPWELL_RIVALS", "~/.cache/stepwell/rivals")).expanduser()
WORK = Mix(count=40, prompt=(1, 70), output=(1, 6), vocab_size=5000, seed=3).draw().as_dicts()
SAME = 0.9
"""Share of tokens to agree on: bfloat16 rounds differently from engine to engine."""


@pytest.fixture(scope="session")
def wide(tiny_shape: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with weights that make the next token depend on everything."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("wide") / "model"
    shutil.copytree(tiny_shape, folder)
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        noise = torch.randn(tensor.shape, generator=generator)
        drawn = 1 + noise / 4 if "norm" in name else noise / 8 if tensor.dim() > 1 else noise / 2
        tensors[name] = drawn.to(tensor.dtype)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def expected(wide: Path) -> list[list[int]]:
    """transformers' own greedy output, one request at a time, in float32."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(wide, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    outputs = []
    for request in WORK:
        ids = torch.tensor([request["prompt"]])
        found = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=request["max_tokens"],
            pad_token_id=0,
        )
        outputs.append(found[0, ids.shape[1] :].tolist())
    return outputs


@pytest.fixture(params=["transformers-static", "transformers-cb", "llama.cpp"])
def rival(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Contestant]:
    try:
        contestant = rival_contestant(request.param, workdir=tmp_path, environments=ENVIRONMENTS)
    except ContestantFailed as error:
        pytest.skip(str(error))
    with contestant:
        yield contestant


def test_a_rival_generates_what_transformers_does(
    rival: Contestant, wide: Path, expected: list[list[int]]
) -> None:
    loaded = rival.ask("load", model=str(wide), timeout=60)
    assert loaded["engine"].split()[-1].strip(")") in loaded["versions"].values()
    assert loaded["threads"] >= 1
    assert 0 < loaded["startup_seconds"] < 60
    found = rival.ask("run", requests=WORK, tokens=1, timeout=60)
    assert found["complete"]
    assert found["counts"] == [request["max_tokens"] for request in WORK]
    assert found["busy_threads"] >= 1
    agreed = sum(agreeing(a, b) for a, b in zip(found["tokens"], expected, strict=True))
    assert agreed >= SAME * sum(len(output) for output in expected)
    assert len({token for output in expected for token in output}) > len(WORK) / 2, "no proof"
    times = rival.ask("ttft", prompts=[list(range(60))], max_tokens=4, warm=2, timeout=60)
    assert [len(times[name]) for name in ("cold", "warm")] == [1, 2]
    assert times["decode_step"] > 0


def agreeing(a: list[int], b: list[int]) -> int:
    """Tokens up to where two outputs part."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=True))))
