"""Train the model that reads: `python -m house.sql.train`; see `house.loop`."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from house.loop import Pace, Phase, Program
from house.model import HouseModel
from house.sql.export import export, shape
from house.sql.rows import Batch, Maker, make_batch
from house.sql.tokenizer import FOLDER, make_tokenizer

PACE = Pace(steps_per_log=25, seconds_per_save=120.0, warm_up_tokens=100_000)


class Reading:
    """Questions about drawn worlds; of each kind, the share of answers without a wrong token."""

    def __init__(self, seed: int) -> None:
        self.maker = Maker(make_tokenizer(), seed)
        self.model = HouseModel(shape())
        self.counts: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self.losses: list[float] = []

    def loss(self, phase: Phase) -> tuple[Tensor, int]:
        """Mean over the tokens of answers."""
        count = max(1, phase["batch_tokens"] // phase["length"])
        batch = make_batch([self.maker.row(phase["length"], phase["mix"]) for _ in range(count)])
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self.model.hidden(batch.ids, batch.positions, batch.mask)
            logits = self.model.logits(hidden.flatten(0, 1)[batch.at])
        loss = F.cross_entropy(logits.float(), batch.targets)
        self.losses.append(float(loss.detach()))
        self._count(batch, logits.detach().argmax(-1))
        return loss, batch.ids.numel()

    def _count(self, batch: Batch, written: Tensor) -> None:
        wrong = (written != batch.targets).float()
        misses = torch.zeros(len(batch.kinds)).index_add_(0, batch.answer, wrong)
        for kind, miss in zip(batch.kinds, misses.tolist(), strict=True):
            self.counts[kind][0] += 1
            self.counts[kind][1] += miss == 0

    def report(self, *, saving: bool) -> dict[str, Any]:
        """The same whether `saving` or not."""
        found = {
            "loss": round(sum(self.losses) / max(1, len(self.losses)), 4),
            "right": {k: round(r / n, 3) for k, (n, r) in sorted(self.counts.items())},
        }
        self.counts.clear()
        self.losses.clear()
        return found

    def place(self) -> object:
        """The maker's random stream."""
        return self.maker.draw.getstate()

    def go_to(self, place: Any) -> None:
        """Draw on from there."""
        self.maker.draw.setstate(place)


PROGRAM = Program(
    about=__doc__,
    name="house-sql",
    recipe=Path(__file__).parent / "recipe.json",
    threads=1,
    pace=PACE,
    lesson=Reading,
    export=export,
    folder=FOLDER,
)

if __name__ == "__main__":
    PROGRAM.main()
