"""Train the house model: `python -m house.train`; see `house.loop`."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from house.corpus import load_corpus
from house.data import Batch, Source
from house.export import MODEL_FOLDER, export
from house.loop import Pace, Phase, Program
from house.model import HouseModel, Shape

PACE = Pace(steps_per_log=50, seconds_per_save=180.0, warm_up_tokens=200_000)


class TextAndTasks:
    """Text and tasks; mean loss and accuracy by task and length."""

    def __init__(self, seed: int) -> None:
        tokenizer = Tokenizer.from_file(str(MODEL_FOLDER / "tokenizer.json"))
        self.source = Source(tokenizer, load_corpus(), seed)
        self.model = HouseModel(Shape())
        self.sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])

    def loss(self, phase: Phase) -> tuple[Tensor, int]:
        """Weighted over text and tasks."""
        self.source.pieces.words = self.source.all_words[: phase.get("words")]
        batch = self.source.batch(
            phase["mix"], phase["lengths"], phase["batch_tokens"], phase["text_share"]
        )
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self.model.hidden(batch.ids).flatten(0, 1)[batch.positions]
            logits = self.model.logits(hidden)
        losses = F.cross_entropy(logits.float(), batch.targets, reduction="none")
        right = (logits.detach().argmax(-1) == batch.targets).float()
        self._count(batch, losses.detach(), right)
        return (losses * batch.weight).sum(), batch.ids.numel()

    def _count(self, batch: Batch, losses: Tensor, right: Tensor) -> None:
        for index in sorted(set(batch.task.tolist())):
            mine = batch.task == index
            sums = self.sums[f"{self.source.names[index]}@{batch.ids.shape[1]}"]
            sums[0] += float(mine.sum())
            sums[1] += float(losses[mine].sum())
            sums[2] += float(right[mine].sum())

    def report(self, *, saving: bool) -> dict[str, Any]:
        """Mean loss and accuracy; `saving`: on held-out text, too."""
        tasks = {
            name: [round(s[1] / s[0], 3), round(s[2] / s[0], 4)]
            for name, s in sorted(self.sums.items())
        }
        self.sums.clear()
        held_out = {"held_out": round(self.held_out_loss(), 4)} if saving else {}
        return {"tasks": tasks} | held_out

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Mean loss in nats a token on a little held-out text."""
        ids = self.source.held_out_rows(24, 512)
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.model.logits(self.model.hidden(ids[:, :-1]))
        return float(F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten()))

    def place(self) -> np.random.Generator:
        """The source's random stream."""
        return self.source.rng

    def go_to(self, place: np.random.Generator) -> None:
        """Draw on from there."""
        self.source.rng = place


PROGRAM = Program(
    about=__doc__,
    name="house",
    recipe=Path(__file__).parent / "recipe.json",
    threads=2,
    pace=PACE,
    lesson=TextAndTasks,
    export=export,
    folder=MODEL_FOLDER,
)

if __name__ == "__main__":
    PROGRAM.main()
