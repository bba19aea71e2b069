"""A model, its row layouts, texts, and what the streaming pass over its cache gathered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stepwell.base.config import ModelConfig
from stepwell.codec.kvtc.calibration import Calibration
from stepwell.codec.kvtc.gather import Gatherer
from stepwell.codec.kvtc.layout import RowLayout
from stepwell.codec.kvtc.statistics import SINK_TOKENS
from stepwell.codec.kvtc.train import TrainingOptions, train_calibration
from stepwell.evaluate.codec_measure import CHUNK_TOKENS
from stepwell.evaluate.codec_text import TextSets, make_sets
from stepwell.model.load import LoadedModel, find_checkpoint, load_model, read_hf_config
from stepwell.model.record import record
from stepwell.model.rotary import row_layouts

ROW_TOKENS = SINK_TOKENS + 4 * CHUNK_TOKENS


@dataclass(frozen=True)
class Bench:
    """What all measurements share."""

    loaded: LoadedModel
    keys: RowLayout
    values: RowLayout
    sets: TextSets
    gathered: Gatherer

    @property
    def split(self) -> int:
        """Features of keys."""
        return self.keys.width

    def train(self, **options: Any) -> Calibration:
        """A calibration of ours."""
        return train_calibration(
            self.gathered,
            weights=bytes(32),
            keys=self.keys,
            values=self.values,
            options=TrainingOptions(**options),
        )

    def chunks(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """Chunks [256, width] of these texts' caches, sinks left out."""
        found: list[Tensor] = []
        for tokens in rows:
            recorded = record(self.loaded, tokens, keys=self.keys, values=self.values)
            found += torch.split(recorded.rows[SINK_TOKENS:], CHUNK_TOKENS)
        return found


def prepare(model: str, *, rows: tuple[int, int, int], seed: int, sample: int) -> Bench:
    """Load the model and run the calibration texts through it. `rows`: texts for calibration,
    measuring and recall; `sample`: calibration tokens kept to train the ladder on."""
    folder = find_checkpoint(model)
    config = ModelConfig(path=model)
    loaded = load_model(
        config, folder, read_hf_config(folder), dtype=torch.bfloat16, device=torch.device("cpu")
    )
    keys, values = row_layouts(loaded)
    assert loaded.tokenizer is not None
    encode = partial(loaded.tokenizer.encode, special_tokens=False)
    sets = make_sets(encode, first=1, length=ROW_TOKENS, rows=rows, seed=seed)
    gathered = Gatherer.of(width=keys.width + values.width, sample=sample)
    for tokens in sets.calibration:
        recorded = record(loaded, tokens, keys=keys, values=values)
        gathered.add(recorded.rows[SINK_TOKENS:])
    return Bench(loaded, keys, values, sets, gathered)
