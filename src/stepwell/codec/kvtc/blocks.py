"""Rows of a chunk's tokens out of the pool's blocks, and back into them.

    blocks  [blocks, numbers], as the pool has them (codec/shape.py)
    rows    [tokens, width] float32: keys of all layers turned back to position 0, then values

Neighbouring layers of one shape and one rotary embedding are moved together, which is all layers of
most models: a few strided copies a chunk. `RowLayout.gather` and `scatter` do the same layer by
layer and are the reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from stepwell.codec.kvtc.layout import RowLayout
from stepwell.codec.kvtc.rotary import Rotary
from stepwell.codec.shape import BlockShape, LayerKV


@dataclass(frozen=True, slots=True)
class _Run:
    """Equal layers side by side. `start`: in a block's numbers; `key`, `value`: in a row."""

    layer: LayerKV
    rotary: Rotary | None
    count: int
    start: int
    key: int
    value: int

    @property
    def key_width(self) -> int:
        """Features of its keys in a row."""
        return self.count * self.layer.kv_heads * self.layer.key_dim

    @property
    def value_width(self) -> int:
        """Features of its values in a row."""
        return self.count * self.layer.kv_heads * self.layer.value_dim


class BlockRows:
    """For one shape of block and the layouts of its keys and values. ValueError where they do not
    fit together."""

    def __init__(self, shape: BlockShape, *, keys: RowLayout, values: RowLayout) -> None:
        _check(shape, keys, values)
        self._shape = shape
        self._numbers = shape.numbers
        self._width = keys.width + values.width
        self._runs = tuple(_runs(shape, keys))

    def gather(self, blocks: Tensor, *, first: int) -> Tensor:
        """Rows [tokens, width] float32 of blocks [n, numbers]. `first`: position of token 0."""
        tokens = len(blocks) * self._shape.tokens
        rows = torch.empty(tokens, self._width)
        positions = first + torch.arange(tokens)
        for run in self._runs:
            keys, values = self._views(blocks, run)
            heads = _to_tokens(keys)
            if run.rotary is not None:
                heads = run.rotary.undo(heads, positions=positions)
            rows[:, run.key : run.key + run.key_width] = heads.flatten(1)
            rows[:, run.value : run.value + run.value_width] = _to_tokens(values).flatten(1)
        return rows

    def scatter(self, rows: Tensor, *, first: int) -> Tensor:
        """The inverse: blocks [n, numbers] in the pool's dtype, what would overflow it at its
        largest number."""
        blocks = torch.empty(
            len(rows) // self._shape.tokens, self._numbers, dtype=self._shape.dtype
        )
        largest = torch.finfo(self._shape.dtype).max
        positions = first + torch.arange(len(rows))
        for run in self._runs:
            keys, values = self._views(blocks, run)
            layer = run.layer
            heads = rows[:, run.key : run.key + run.key_width]
            heads = heads.reshape(len(rows), -1, layer.key_dim)
            if run.rotary is not None:
                heads = run.rotary.apply(heads, positions=positions)
            _from_tokens(heads.clamp(-largest, largest), keys)
            heads = rows[:, run.value : run.value + run.value_width]
            heads = heads.reshape(len(rows), -1, layer.value_dim)
            _from_tokens(heads.clamp(-largest, largest), values)
        return blocks

    def exact(self, blocks: Tensor, *, count: int) -> Tensor:
        """The numbers of the first `count` tokens, which lie in the first block: [numbers]."""
        kept = [part[:1, :, :, :count].flatten() for part in self._all_views(blocks)]
        return torch.cat(kept)

    def put_exact(self, blocks: Tensor, numbers: Tensor, *, count: int) -> None:
        """The inverse of `exact`, into these blocks."""
        at = 0
        for part in self._all_views(blocks):
            place = part[:1, :, :, :count]
            place.copy_(numbers[at : at + place.numel()].view(place.shape))
            at += place.numel()

    def layer(self, blocks: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Keys, as they are in the pool, and values of one layer, [tokens, heads, dim] each."""
        run, at = self._run_of(number)
        keys, values = self._views(blocks, run)
        return _to_tokens(keys[:, at : at + 1]), _to_tokens(values[:, at : at + 1])

    def exact_layer(self, numbers: Tensor, number: int, *, count: int) -> tuple[Tensor, Tensor]:
        """As `layer`, out of what `exact` gave for `count` tokens."""
        run, place = self._run_of(number)
        start = 0
        for other in self._runs:
            if other is run:
                break
            start += (other.key_width + other.value_width) * count
        found = []
        for width, dim in (
            (run.key_width, run.layer.key_dim),
            (run.value_width, run.layer.value_dim),
        ):
            part = numbers[start : start + width * count]
            part = part.view(run.count, run.layer.kv_heads, count, dim)[place]
            found.append(part.transpose(0, 1).to(torch.float32))
            start += width * count
        return found[0], found[1]

    def _run_of(self, number: int) -> tuple[_Run, int]:
        """The run that a layer belongs to, and its place there."""
        for run in self._runs:
            if number < run.count:
                return run, number
            number -= run.count
        raise IndexError("no such layer")

    def _all_views(self, blocks: Tensor) -> Iterator[Tensor]:
        for run in self._runs:
            yield from self._views(blocks, run)

    def _views(self, blocks: Tensor, run: _Run) -> tuple[Tensor, Tensor]:
        """Keys and values of a run, [blocks, layers, heads, tokens, dim] each."""
        layer, tokens = run.layer, self._shape.tokens
        key = layer.kv_heads * tokens * layer.key_dim
        value = layer.kv_heads * tokens * layer.value_dim
        part = blocks[:, run.start : run.start + run.count * (key + value)]
        part = part.view(len(blocks), run.count, key + value)
        shape = (len(blocks), run.count, layer.kv_heads, tokens)
        return (
            part[:, :, :key].view(*shape, layer.key_dim),
            part[:, :, key:].view(*shape, layer.value_dim),
        )


def _to_tokens(part: Tensor) -> Tensor:
    """[blocks, layers, heads, tokens, dim] -> [tokens of all blocks, layers * heads, dim] f32."""
    blocks, layers, heads, tokens, dim = part.shape
    moved = part.permute(0, 3, 1, 2, 4).to(torch.float32)
    return moved.reshape(blocks * tokens, layers * heads, dim)


def _from_tokens(numbers: Tensor, part: Tensor) -> None:
    """The inverse, into `part`."""
    blocks, layers, heads, tokens, dim = part.shape
    part.copy_(numbers.view(blocks, tokens, layers, heads, dim).permute(0, 2, 3, 1, 4))


def _runs(shape: BlockShape, keys: RowLayout) -> Iterator[_Run]:
    start = key = 0
    value = keys.width
    kinds = [(layer, part.rotary) for layer, part in zip(shape.layers, keys.parts, strict=True)]
    at = 0
    while at < len(kinds):
        end = at
        while end < len(kinds) and kinds[end] == kinds[at]:
            end += 1
        layer, rotary = kinds[at]
        run = _Run(layer, rotary, end - at, start, key, value)
        yield run
        key += run.key_width
        value += run.value_width
        start += (run.key_width + run.value_width) * shape.tokens
        at = end


def _check(shape: BlockShape, keys: RowLayout, values: RowLayout) -> None:
    wanted = [(layer.kv_heads, layer.key_dim) for layer in shape.layers]
    others = [(layer.kv_heads, layer.value_dim) for layer in shape.layers]
    if wanted != [(part.heads, part.dim) for part in keys.parts] or others != [
        (part.heads, part.dim) for part in values.parts
    ]:
        raise ValueError("the calibration is for other layers than the model's")
    if any(part.rotary is not None for part in values.parts):
        raise ValueError("values carry no rotary embedding")
    if shape.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise ValueError(f"kvtc takes bfloat16, float16 and float32, not {shape.dtype}")
