"""Rows of keys and values as a running model makes them: what calibration and measuring read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from stepwell.codec.kvtc.layout import RowLayout
from stepwell.kernels.paged_attention import AttentionSpec, RaggedBatch
from stepwell.model.attention import CONTEXT_ARGUMENT, AttentionContext, StepContext
from stepwell.model.load import LoadedModel
from stepwell.model.pool import KVPool

_BLOCK = 16


@dataclass(slots=True)
class _Recorder:
    """Passes on to the paged attention and keeps what it was given."""

    inner: AttentionContext
    queries: list[Tensor] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, spec: AttentionSpec
    ) -> Tensor:
        """See AttentionContext."""
        self.queries.append(query)
        self.keys.append(key.transpose(0, 1))
        self.values.append(value.transpose(0, 1))
        return self.inner.attend(module, query, key, value, spec)


@dataclass(frozen=True, slots=True)
class Recording:
    """One text's rows. `keys` and `values` [tokens, p] float32, keys turned back; `queries`: each
    layer's [tokens, q_heads, dim] as attention saw them."""

    positions: Tensor
    keys: Tensor
    values: Tensor
    queries: tuple[Tensor, ...]

    @property
    def rows(self) -> Tensor:
        """Keys and values side by side."""
        return torch.cat((self.keys, self.values), dim=1)


@torch.inference_mode()
def record(
    loaded: LoadedModel, tokens: Sequence[int], *, keys: RowLayout, values: RowLayout
) -> Recording:
    """Run the model over the tokens from position 0, in one pass."""
    count, parameter = len(tokens), next(loaded.model.parameters())
    table = list(range(-(-count // _BLOCK)))
    pool = KVPool.reserve(
        loaded.shapes,
        num_blocks=len(table),
        block_size=_BLOCK,
        dtype=parameter.dtype,
        device=parameter.device,
    )
    batch = RaggedBatch.build([count], [count], block_tables=[table], block_size=_BLOCK)
    recorder = _Recorder(StepContext(layers=pool.layers, batch=batch))
    positions = torch.arange(count, device=parameter.device)
    loaded.model(
        input_ids=torch.tensor([list(tokens)], device=parameter.device),
        position_ids=positions[None],
        use_cache=False,
        logits_to_keep=1,
        **{CONTEXT_ARGUMENT: recorder},
    )
    positions = positions.cpu()
    return Recording(
        positions=positions,
        keys=keys.gather([k.cpu() for k in recorder.keys], positions=positions),
        values=values.gather([v.cpu() for v in recorder.values], positions=positions),
        queries=tuple(q.cpu() for q in recorder.queries),
    )
