"""Train the house model: `python -m house.train --run runs/house`.

The recipe is a list of phases counted in tokens. It is read again every few steps, so a run can
be steered while it goes (change a phase, or set the last one's `decay` to end it); the recipe
that remains at the end repeats the run. SIGTERM saves and leaves; a second start continues.
Matrices inside the blocks are trained by Muon (https://kellerjordan.github.io/posts/muon/),
embeddings and norms by AdamW (arXiv:1711.05101).
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from house.corpus import load_corpus
from house.data import Batch, Source
from house.export import MODEL_FOLDER, export
from house.model import HouseModel, Shape

HERE = Path(__file__).parent
STEPS_PER_LOG = 50
SECONDS_PER_SAVE = 180.0
WARM_UP_TOKENS = 200_000
RATES = ("muon_lr", "embedding_lr", "norm_lr")  # in the order of the optimizers


def phase_at(recipe: dict[str, Any], tokens: int) -> tuple[dict[str, Any], float]:
    """The phase in force after `tokens`, and how much of it is done (1 after the last)."""
    start = 0
    for phase in recipe["phases"]:
        if tokens < start + phase["tokens"]:
            return phase, (tokens - start) / phase["tokens"]
        start += phase["tokens"]
    return recipe["phases"][-1], 1.0


def make_optimizers(model: HouseModel) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for the rest."""
    named = list(model.named_parameters())
    matrices = [p for n, p in named if "proj" in n]
    norms = [p for n, p in named if "norm" in n]
    return [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.02, momentum=0.95),
        torch.optim.AdamW([model.embed_tokens.weight], betas=(0.9, 0.95), weight_decay=0.0),
        torch.optim.AdamW(norms, betas=(0.9, 0.95), weight_decay=0.0),
    ]


class Trainer:
    """Model, optimizers, data and position of a run."""

    def __init__(self, run: Path, recipe_path: Path) -> None:
        self.run, self.recipe_path = run, recipe_path
        self.recipe = json.loads(recipe_path.read_text())
        torch.manual_seed(self.recipe["seed"])
        self.tokenizer = Tokenizer.from_file(str(MODEL_FOLDER / "tokenizer.json"))
        self.source = Source(self.tokenizer, load_corpus(), self.recipe["seed"])
        self.model = HouseModel(Shape())
        self.optimizers = make_optimizers(self.model)
        self.tokens = self.step = 0
        self.sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
        self.stopping = False
        self._load()

    def _load(self) -> None:
        path = self.run / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=False)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.tokens, self.step = state["tokens"], state["step"]
        self.source.rng = state["rng"]

    def save(self) -> None:
        """Checkpoint everything that resuming needs, replacing the last one at once."""
        self.run.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "rng": self.source.rng,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "tokens": self.tokens,
            "step": self.step,
        }
        torch.save(state, self.run / "checkpoint.tmp")
        (self.run / "checkpoint.tmp").replace(self.run / "checkpoint.pt")

    def learn(self, batch: Batch) -> None:
        """One update."""
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self.model.hidden(batch.ids).flatten(0, 1)[batch.positions]
            logits = self.model.logits(hidden)
        losses = F.cross_entropy(logits.float(), batch.targets, reduction="none")
        torch.autograd.backward((losses * batch.weight).sum())
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        right = (logits.detach().argmax(-1) == batch.targets).float()
        self._count(batch, losses.detach(), right)

    def _count(self, batch: Batch, losses: Tensor, right: Tensor) -> None:
        for index in sorted(set(batch.task.tolist())):
            mine = batch.task == index
            sums = self.sums[f"{self.source.names[index]}@{batch.ids.shape[1]}"]
            sums[0] += float(mine.sum())
            sums[1] += float(losses[mine].sum())
            sums[2] += float(right[mine].sum())

    def set_rates(self, phase: dict[str, Any], done: float) -> None:
        """Warm-up over the first tokens; a phase with `decay` falls linearly to that share."""
        scale = min(1.0, (self.tokens + 1) / WARM_UP_TOKENS)
        scale *= 1 - (1 - phase.get("decay", 1.0)) * min(1.0, done)
        for optimizer, name in zip(self.optimizers, RATES, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = phase[name] * scale

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Mean loss in nats a token on a little held-out text."""
        ids = self.source.held_out_rows(24, 512)
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.model.logits(self.model.hidden(ids[:, :-1]))
        return float(F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten()))

    def log(self, phase: dict[str, Any], seconds: float, tokens: int, *, held_out: bool) -> None:
        """One line of progress: mean loss and accuracy by task and length."""
        entry: dict[str, Any] = {
            "step": self.step,
            "tokens": self.tokens,
            "phase": phase["name"],
            "tokens_per_second": round(tokens / seconds),
            "time": time.strftime("%H:%M:%S"),
            "lr": [round(o.param_groups[0]["lr"], 5) for o in self.optimizers],
            "tasks": {
                name: [round(s[1] / s[0], 3), round(s[2] / s[0], 4)]
                for name, s in sorted(self.sums.items())
            },
        }
        if held_out:
            entry["held_out"] = round(self.held_out_loss(), 4)
        with (self.run / "log.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")
        self.sums.clear()

    def train(self) -> bool:
        """Run until the recipe ends (True) or a signal (False)."""
        saved = logged = time.monotonic()
        tokens_logged = self.tokens
        while not self.stopping:
            if self.step % 20 == 0:
                self._read_recipe()
            phase, done = phase_at(self.recipe, self.tokens)
            if done >= 1.0 or math.isnan(done):
                break
            self.set_rates(phase, done)
            self.source.pieces.words = self.source.all_words[: phase.get("words")]
            batch = self.source.batch(
                phase["mix"], phase["lengths"], phase["batch_tokens"], phase["text_share"]
            )
            self.learn(batch)
            self.tokens += batch.ids.numel()
            self.step += 1
            now = time.monotonic()
            due = now - saved > SECONDS_PER_SAVE
            if self.step % STEPS_PER_LOG == 0 or due:
                self.log(phase, now - logged, self.tokens - tokens_logged, held_out=due)
                logged, tokens_logged = now, self.tokens
            if due:
                self.save()
                saved = now
        self.save()
        return not self.stopping

    def _read_recipe(self) -> None:
        try:
            self.recipe = json.loads(self.recipe_path.read_text())
        except json.JSONDecodeError:
            pass  # being written right now; the last one stays in force


def main() -> None:
    """Train, and export when the recipe has ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=HERE.parent / "runs" / "house")
    parser.add_argument("--recipe", type=Path, default=HERE / "recipe.json")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.run.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(arguments.run, arguments.recipe)

    def stop(*_: object) -> None:
        trainer.stopping = True

    torch.set_flush_denormal(True)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if trainer.train():
        export(arguments.run / "checkpoint.pt", MODEL_FOLDER)


if __name__ == "__main__":
    main()
