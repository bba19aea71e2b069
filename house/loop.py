"""The training loop that every recipe runs: phases, rates, checkpoints and a log.

A recipe is a list of phases counted in tokens. It is read again every few steps, so a run can
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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from house.model import HouseModel

RUNS = Path(__file__).parent.parent / "runs"
CHECKPOINT = "checkpoint.pt"
STEPS_PER_READ = 20
RATES = ("muon_lr", "embedding_lr", "norm_lr")  # in the order of the optimizers
Phase = dict[str, Any]


class Lesson(Protocol):
    """A model, the data that it learns from, and what is told of its progress."""

    model: HouseModel

    def loss(self, phase: Phase) -> tuple[Tensor, int]:
        """Of a fresh batch of the phase: what is to fall, and how many tokens there were."""
        ...

    def report(self, *, saving: bool) -> dict[str, Any]:
        """Progress since the last report. `saving`: a checkpoint is due, so it may cost time."""
        ...

    def place(self) -> object:
        """Where the data stands, for `go_to`."""
        ...

    def go_to(self, place: Any) -> None:
        """Go on from there."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How often a run says and saves where it is, and how slowly it begins."""

    steps_per_log: int
    seconds_per_save: float
    warm_up_tokens: int


def phase_at(recipe: dict[str, Any], tokens: int) -> tuple[Phase, float]:
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
    """A lesson's optimizers and position in a recipe. The run's folder is made."""

    def __init__(self, lesson: Lesson, *, run: Path, recipe: Path, pace: Pace) -> None:
        self.lesson, self.run, self.recipe_path, self.pace = lesson, run, recipe, pace
        self.recipe: dict[str, Any] = json.loads(recipe.read_text())
        self.optimizers = make_optimizers(lesson.model)
        self.tokens = self.step = 0
        self.stopping = False
        run.mkdir(parents=True, exist_ok=True)
        self._load()

    def _load(self) -> None:
        path = self.run / CHECKPOINT
        if not path.exists():
            return
        state = torch.load(path, weights_only=False)
        self.lesson.model.load_state_dict(state["model"])
        if state["optimizers"] is not None:  # they start anew where weights were planted
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
        self.tokens, self.step = state["tokens"], state["step"]
        self.lesson.go_to(state["place"])

    def save(self) -> None:
        """All that resuming needs, replacing the last checkpoint at once."""
        state = {
            "model": self.lesson.model.state_dict(),
            "place": self.lesson.place(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "tokens": self.tokens,
            "step": self.step,
        }
        aside = self.run / f"{CHECKPOINT}.tmp"
        torch.save(state, aside)
        aside.replace(self.run / CHECKPOINT)

    def learn(self, phase: Phase) -> None:
        """One update."""
        loss, tokens = self.lesson.loss(phase)
        torch.autograd.backward(loss)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.tokens += tokens
        self.step += 1

    def set_rates(self, phase: Phase, done: float) -> None:
        """Warm-up over the first tokens; a phase with `decay` falls linearly to that share."""
        scale = min(1.0, (self.tokens + 1) / self.pace.warm_up_tokens)
        scale *= 1 - (1 - phase.get("decay", 1.0)) * min(1.0, done)
        for optimizer, name in zip(self.optimizers, RATES, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = phase[name] * scale

    def log(self, phase: Phase, tokens_per_second: float, *, saving: bool) -> None:
        """One line of progress."""
        entry = {
            "step": self.step,
            "tokens": self.tokens,
            "phase": phase["name"],
            "tokens_per_second": round(tokens_per_second),
            "time": time.strftime("%H:%M:%S"),
            "lr": [round(o.param_groups[0]["lr"], 5) for o in self.optimizers],
        } | self.lesson.report(saving=saving)
        with (self.run / "log.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def train(self) -> bool:
        """Until the recipe ends (True) or a signal comes (False)."""
        saved = logged = time.monotonic()
        tokens_logged = self.tokens
        while not self.stopping:
            if self.step % STEPS_PER_READ == 0:
                self._read_recipe()
            phase, done = phase_at(self.recipe, self.tokens)
            if done >= 1.0 or math.isnan(done):
                break
            self.set_rates(phase, done)
            self.learn(phase)
            now = time.monotonic()
            due = now - saved > self.pace.seconds_per_save
            if due or self.step % self.pace.steps_per_log == 0:
                self.log(phase, (self.tokens - tokens_logged) / (now - logged), saving=due)
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


@dataclass(frozen=True, kw_only=True)
class Program:
    """A recipe's command line. `name`: of the run. `lesson`: made from the recipe's seed. `export`:
    from a checkpoint into a folder, by default `folder`."""

    about: str
    name: str
    recipe: Path
    threads: int
    pace: Pace
    lesson: Callable[[int], Lesson]
    export: Callable[[Path, Path], None]
    folder: Path

    def main(self) -> None:
        """Train, and export when the recipe has ended."""
        parser = argparse.ArgumentParser(description=self.about)
        parser.add_argument("--run", type=Path, default=RUNS / self.name)
        parser.add_argument("--recipe", type=Path, default=self.recipe)
        parser.add_argument("--folder", type=Path, default=self.folder, help="to export to")
        parser.add_argument("--threads", type=int, default=self.threads)
        arguments = parser.parse_args()
        torch.set_num_threads(arguments.threads)
        torch.set_flush_denormal(True)
        trainer = self.trainer(arguments.run, arguments.recipe)

        def stop(*_: object) -> None:
            trainer.stopping = True

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        if trainer.train():
            self.export(arguments.run / CHECKPOINT, arguments.folder)

    def trainer(self, run: Path, recipe: Path) -> Trainer:
        """Of a run in that folder, from its checkpoint if there is one."""
        seed = json.loads(recipe.read_text())["seed"]
        torch.manual_seed(seed)
        return Trainer(self.lesson(seed), run=run, recipe=recipe, pace=self.pace)
