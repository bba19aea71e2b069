"""A model over block pools of its own: one prefill, and the same continuation on several caches.

Sequence 0 is vanilla: its cache is never touched. The others hold what codecs made of it, so one
ragged step continues all of them, as the engine would after a restore. Owns: pool and steps.
Does not own: codecs, what is asked, statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stepwell.codec.kvtc.layout import RowLayout
from stepwell.kernels.paged_attention import KVFormat, PagedLayer, RaggedBatch
from stepwell.model.attention import CONTEXT_ARGUMENT, StepContext
from stepwell.model.load import LoadedModel
from stepwell.model.pool import KVPool

BLOCK_TOKENS = 16
_PREFILL_TOKENS = 4096  # of a step, so that activations stay small
LayerKV = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The cache of a context: each layer's K and V [kv_heads, tokens, dim] in the pool's dtype, on
    the host."""

    layers: tuple[LayerKV, ...]

    @property
    def tokens(self) -> int:
        """Tokens of the context."""
        return self.layers[0][0].shape[1]

    def part(self, start: int, stop: int) -> Snapshot:
        """Views of the tokens start:stop."""
        return Snapshot(tuple((k[:, start:stop], v[:, start:stop]) for k, v in self.layers))

    def rows(self, keys: RowLayout, values: RowLayout) -> Tensor:
        """[tokens, width] float32, keys turned back to position 0: what `kvtc` codes."""
        positions = torch.arange(self.tokens)
        sides = (
            keys.gather([k for k, _ in self.layers], positions=positions),
            values.gather([v for _, v in self.layers], positions=positions),
        )
        return torch.cat(sides, dim=1)


class Caches:
    """`sequences` caches of at most `tokens` tokens each. `form`: how they keep K and V."""

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        sequences: int,
        tokens: int,
        form: KVFormat = KVFormat.MODEL,
    ) -> None:
        self._loaded = loaded
        self._blocks = -(-tokens // BLOCK_TOKENS)
        parameter = next(loaded.model.parameters())
        self._device = parameter.device
        self._pool = KVPool.reserve(
            loaded.shapes,
            num_blocks=sequences * self._blocks,
            block_size=BLOCK_TOKENS,
            dtype=parameter.dtype,
            device=self._device,
            form=form,
        )
        self.sequences = sequences

    def feed(self, tokens: Sequence[int]) -> None:
        """Compute a context on sequence 0."""
        for start in range(0, len(tokens), _PREFILL_TOKENS):
            self._step([tokens[start : start + _PREFILL_TOKENS]], start=start, keep=[0])

    def prefill(self, tokens: Sequence[int]) -> Snapshot:
        """Compute a context on sequence 0 and give its cache, which must be one of numbers."""
        self.feed(tokens)
        count = len(tokens)
        found = []
        for layer in self._pool.layers.values():
            sides = [_read(side, self._blocks, count) for side in (layer.key, layer.value)]
            found.append((sides[0], sides[1]))
        return Snapshot(tuple(found))

    def write(self, sequence: int, snapshot: Snapshot) -> None:
        """Make this the cache of a sequence. Sequence 0 is refused: ValueError."""
        if not 0 < sequence < self.sequences:
            raise ValueError(f"sequence {sequence} is not one to restore into")
        table = slice(sequence * self._blocks, (sequence + 1) * self._blocks)
        for layer, (key, value) in zip(self._pool.layers.values(), snapshot.layers, strict=True):
            _write(layer, table, key, value)

    def extend(self, rows: Sequence[Sequence[int]], *, start: int) -> Tensor:
        """Append each sequence's new tokens, equally many for all, at position `start`; logits
        [sequences, tokens, vocabulary] float32 on the host."""
        size = len(rows[0])
        logits = self._step(rows, start=start, keep=range(size * len(rows)))
        return logits.float().cpu().view(len(rows), size, -1)

    def generate(self, question: Sequence[int], *, start: int, new_tokens: int) -> list[list[int]]:
        """Each sequence's greedy answer to the same question at position `start`."""
        rows = [list(question)] * self.sequences
        answers: list[list[int]] = [[] for _ in rows]
        for _ in range(new_tokens):
            size = len(rows[0])
            last = range(size - 1, size * len(rows), size)
            best = self._step(rows, start=start, keep=last).argmax(-1).tolist()
            start += size
            rows = [[token] for token in best]
            for answer, token in zip(answers, best, strict=True):
                answer.append(token)
        return answers

    @torch.inference_mode()
    def _step(self, rows: Sequence[Sequence[int]], *, start: int, keep: Sequence[int]) -> Tensor:
        size = len(rows[0])
        tables = [list(range(i * self._blocks, (i + 1) * self._blocks)) for i in range(len(rows))]
        batch = RaggedBatch.build(
            [size] * len(rows),
            [start + size] * len(rows),
            block_tables=tables,
            block_size=BLOCK_TOKENS,
            device=self._device,
        )
        positions = torch.arange(start, start + size, device=self._device).repeat(len(rows))
        flat = [token for row in rows for token in row]
        output = self._loaded.model(
            input_ids=torch.tensor([flat], device=self._device),
            position_ids=positions[None],
            use_cache=False,
            logits_to_keep=torch.tensor(list(keep), device=self._device),
            **{CONTEXT_ARGUMENT: StepContext(layers=self._pool.layers, batch=batch)},
        )
        return output.logits[0]


def _read(side: Tensor, blocks: int, count: int) -> Tensor:
    """Sequence 0 of [blocks, heads, 16, dim] -> [heads, count, dim], a copy."""
    heads = side[:blocks].transpose(0, 1).flatten(1, 2)
    return heads[:, :count].cpu().clone()


def _write(layer: PagedLayer, table: slice, key: Tensor, value: Tensor) -> None:
    for side, given in ((layer.key, key), (layer.value, value)):
        full, rest = divmod(given.shape[1], BLOCK_TOKENS)
        heads, _, dim = given.shape
        whole = given[:, : full * BLOCK_TOKENS].reshape(heads, full, BLOCK_TOKENS, dim)
        target = side[table]
        target[:full] = whole.transpose(0, 1).to(side.device)
        if rest:
            target[full, :, :rest] = given[:, full * BLOCK_TOKENS :].to(side.device)
