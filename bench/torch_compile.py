"""Does `torch.compile` win anything over transformers' eager modules on this machine?

Qwen2.5-0.5B's shape with random weights in bfloat16, a static cache, sdpa attention. The model's
own forward function and the compiled one run in turn (A B A B); the median of the rounds' ratios
counts, and the first call says what compiling took. (Layers compiled one by one share nothing: each
is compiled again, as its number in the cache differs.)

    python bench/torch_compile.py --out bench/results/torch-compile.json
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import torch
from transformers import AutoConfig, AutoModelForCausalLM, StaticCache

SHAPE: dict[str, Any] = {
    "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936,
    "tie_word_embeddings": True, "max_position_embeddings": 32768,
}  # fmt: skip
CASES = {"decode, batch 1": (1, 1), "decode, batch 32": (32, 1), "prefill, 512": (1, 512)}
CONTEXT = 640  # slots of the static cache
BEFORE = 64  # tokens in it when a decoded token comes


def one_pass(model: Any, forward: Any, cache: Any, batch: int, tokens: int) -> float:
    """Seconds of one forward pass with logits for the last token."""
    first = BEFORE if tokens == 1 else 0
    ids = torch.full((batch, tokens), 7)
    positions = torch.arange(first, first + tokens)[None].expand(batch, -1)
    start = time.perf_counter()
    out = forward(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True)
    model.lm_head(out.last_hidden_state[:, -1:])
    return time.perf_counter() - start


def _cache(model: Any, batch: int) -> Any:
    cache = StaticCache(config=model.config, max_cache_len=CONTEXT)
    heads, dim = SHAPE["num_key_value_heads"], SHAPE["hidden_size"] // SHAPE["num_attention_heads"]
    cache.early_initialization(batch, heads, dim, torch.bfloat16, torch.device("cpu"))
    return cache


@torch.inference_mode()
def compare(model: Any, batch: int, tokens: int, *, rounds: int) -> dict[str, Any]:
    """Median milliseconds of both, and the seconds that compiling took."""
    torch._dynamo.reset()
    ways = {"eager": model.model.forward, "compiled": torch.compile(model.model, dynamic=False)}
    seconds: dict[str, list[float]] = {"eager": [], "compiled": []}
    caches = {name: _cache(model, batch) for name in ways}
    first = {}
    for name, forward in ways.items():
        first[name] = one_pass(model, forward, caches[name], batch, tokens)
        for _ in range(2):
            caches[name].reset()
            one_pass(model, forward, caches[name], batch, tokens)
    for _ in range(rounds):
        for name, forward in ways.items():
            caches[name].reset()
            seconds[name].append(one_pass(model, forward, caches[name], batch, tokens))
    ratios = [a / b for a, b in zip(seconds["eager"], seconds["compiled"], strict=True)]
    milliseconds = {name: round(1000 * median(taken), 2) for name, taken in seconds.items()}
    return {
        "milliseconds": milliseconds,
        "all_milliseconds": {n: [round(1000 * s, 2) for s in t] for n, t in seconds.items()},
        "eager_over_compiled": round(median(ratios), 3),
        "first_call_seconds": {name: round(taken, 1) for name, taken in first.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=list(CASES), action="append")
    options = parser.parse_args()
    torch.manual_seed(7)
    config = AutoConfig.for_model("qwen2", **SHAPE)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    kept = options.out is not None and options.out.is_file()
    result: dict[str, Any] = (
        json.loads(options.out.read_text())
        if kept
        else {
            "command": "python bench/torch_compile.py",
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "shape": SHAPE,
            "cases": {},
        }
    )
    for name in options.only or CASES:
        batch, tokens = CASES[name]
        result["cases"][name] = compare(model, batch, tokens, rounds=options.rounds)
        print(json.dumps({name: result["cases"][name]}), flush=True)
        if options.out is not None:
            options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
