"""Measure the exported house model through `transformers`: `python -m house.evaluate`.

Reported: held-out loss, look-up accuracy by length and depth with Wilson's interval
(Wilson, JASA 22, 1927), the other tasks' answer accuracy, and where attention rests on the
first tokens (attention sinks, arXiv:2309.17453). Nothing here touches the training code's model.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from house import probes
from house.corpus import load_corpus
from house.data import Source

ROOT = Path(__file__).parent.parent
LENGTHS = (128, 256, 512, 1024, 2048, 4096)
TASKS = ("pairs", "lines", "codes", "needles", "trace", "copy", "count", "chat")
KINDS = ("filled", "prose", "digits")
SEED = 20_240_607


def wilson(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """95 % score interval of a proportion."""
    share = right / total
    middle = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return (middle - spread) / scale, (middle + spread) / scale


class Evaluation:
    """The model, the generators, and the measurements."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        corpus = load_corpus()
        self.held_out_bytes = sum(len(text.encode()) for text in corpus.held_out)
        self.source = Source(tokenizer, corpus, SEED)

    @torch.no_grad()
    def held_out(self, length: int = 1024) -> dict[str, float]:
        """Loss over the whole held-out text, each window seeing only itself."""
        text = self.source.held_out
        total, seen = 0.0, 0
        for start in range(0, len(text) - 1, length - 1):
            ids = torch.tensor([[self.source.pieces.bos, *text[start : start + length - 1]]])
            logits = self.model(ids).logits[0, :-1].float()
            total += float(F.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            seen += ids.shape[1] - 1
        return {
            "tokens": seen,
            "nats_per_token": round(total / seen, 4),
            "bits_per_byte": round(total / math.log(2) / self.held_out_bytes, 4),
        }

    @torch.no_grad()
    def _right(self, batch: list[probes.Probe]) -> list[bool]:
        """Whether greedy decoding writes each answer; equal to checking it token by token."""
        ids = torch.tensor([probe.ids + probe.answer for probe in batch])
        size = len(batch[0].answer)
        logits = self.model(ids, logits_to_keep=size + 1).logits[:, :-1]
        return (logits.argmax(-1) == ids[:, -size:]).all(-1).tolist()

    def lookup(self, kind: str, length: int, per_depth: int) -> dict[str, Any]:
        """Accuracy over ten depths, `per_depth` contexts each."""
        rng = np.random.default_rng([SEED, length, KINDS.index(kind)])
        pieces, by_depth = self.source.pieces, []
        for decile in range(10):
            made = []
            for _ in range(per_depth):
                depth = (decile + float(rng.random())) / 10
                if kind == "filled":
                    made.append(probes.filled(pieces, rng, length, depth))
                else:
                    made.append(
                        probes.prose(
                            pieces,
                            rng,
                            length,
                            depth,
                            self.source.held_out,
                            digits=kind == "digits",
                        )
                    )
            rows = max(1, 8192 // length)
            right = sum(sum(self._right(made[i : i + rows])) for i in range(0, per_depth, rows))
            by_depth.append(right)
        total, right = per_depth * 10, sum(by_depth)
        low, high = wilson(right, total)
        print(kind, length, total, right / total, flush=True)
        return {
            "kind": kind,
            "length": length,
            "n": total,
            "accuracy": round(right / total, 4),
            "wilson_95": [round(low, 4), round(high, 4)],
            "n_per_decile": per_depth,
            "by_depth_decile": [round(found / per_depth, 4) for found in by_depth],
        }

    @torch.no_grad()
    def task(self, name: str, length: int, rows: int) -> dict[str, Any]:
        """Share of answer tokens that are the likeliest, over freshly generated rows."""
        self.source.rng = np.random.default_rng([SEED, length, TASKS.index(name)])
        right = total = 0
        for _ in range(rows):
            ids, answers = self.source.row(name, length)
            mask = torch.tensor(answers)[1:]
            best = self.model(torch.tensor([ids])).logits[0, :-1].argmax(-1)
            right += int((best == torch.tensor(ids)[1:])[mask].sum())
            total += int(mask.sum())
        return {
            "task": name,
            "length": length,
            "answer_tokens": total,
            "accuracy": round(right / max(1, total), 4),
        }

    @torch.no_grad()
    def sinks(self, length: int = 512, rows: int = 4) -> list[list[float]]:
        """Mean attention on the first four tokens by layer and head, over the later queries."""
        self.model.set_attn_implementation("eager")
        ids = self.source.held_out_rows(rows, length)
        seen = self.model(ids, output_attentions=True).attentions
        self.model.set_attn_implementation("sdpa")
        return [
            [round(float(x), 3) for x in layer[:, :, 64:, :4].sum(-1).mean((0, 2))]
            for layer in seen
        ]


def contexts(kind: str, length: int, per_depth: int) -> int:
    """Contexts at each depth: all at the target length of 2,048, fewer where it costs or matters
    less (4,096 tokens, and the digits, which the model has not mastered)."""
    share = 1.0 if length == 2048 else 0.2 if length == 4096 else 0.4
    return max(2, round(per_depth * share * (0.2 if kind == "digits" else 1.0)))


def machine() -> dict[str, Any]:
    """What this was measured on."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        name = names[0].split(":")[1].strip() if names else name
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def report(result: dict[str, Any]) -> None:
    """Print the result as a table."""
    print("held-out", result["held_out"])
    print(f"{'look-up':8}{'length':>7}{'n':>6}{'accuracy':>10}  95 % interval     by depth")
    for row in result["lookup"]:
        low, high = row["wilson_95"]
        depths = " ".join(f"{x:.2f}" for x in row["by_depth_decile"])
        print(
            f"{row['kind']:8}{row['length']:7}{row['n']:6}{row['accuracy']:10.3f}"
            f"  {low:.3f} to {high:.3f}  {depths}"
        )
    for row in result["tasks"]:
        print(f"{row['task']:8}{row['length']:7}{row['answer_tokens']:7}{row['accuracy']:9.3f}")
    for layer, heads in enumerate(result["sinks"]):
        print(f"layer {layer} attention on the first four tokens, by head: {heads}")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "models" / "house")
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/house-model.json")
    parser.add_argument("--per-depth", type=int, default=20)
    parser.add_argument("--max-length", type=int, default=4096)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    arguments = parser.parse_args()
    started = time.monotonic()
    run = Evaluation(arguments.folder, getattr(torch, arguments.dtype))
    lengths = [length for length in LENGTHS if length <= arguments.max_length]
    result = {
        "dtype": arguments.dtype,
        "machine": machine(),
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "words": len(run.source.pieces.words),
        "held_out": run.held_out(),
        "lookup": [
            run.lookup(kind, length, contexts(kind, length, arguments.per_depth))
            for kind in KINDS
            for length in lengths
        ],
        "tasks": [
            run.task(name, length, 4)
            for name in TASKS
            for length in (512, 2048)
            if length <= arguments.max_length
        ],
        "sinks": run.sinks(),
    }
    result["seconds"] = round(time.monotonic() - started, 1)
    report(result)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
