"""Which rotary embedding each layer's keys carry, read from the model and then proven on it.

A row layout (codec/kvtc/layout.py) needs the exact turn of every layer. The frequencies are the
model's own buffers; how they are applied (pairs by halves or neighbours, or not at all) is found
by trial: one token stands at several positions while attention answers zeros, so every layer's
key is the same at all positions but for its turn. What takes that off is right; if nothing does,
the model is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from stepwell.base.errors import UnsupportedArchitecture
from stepwell.codec.kvtc.layout import LayerPart, RowLayout
from stepwell.codec.kvtc.rotary import Rotary
from stepwell.kernels.paged_attention import AttentionSpec
from stepwell.model.attention import CONTEXT_ARGUMENT
from stepwell.model.load import LoadedModel

_MOVING = {"dynamic", "longrope"}  # frequencies that depend on the length of the text
_POSITIONS = (0, 1, 2, 5, 17, 93, 500)
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 0.01, torch.bfloat16: 0.03}


@dataclass(slots=True)
class _KeyProbe:
    """Keeps every layer's keys; attention answers zeros."""

    keys: dict[nn.Module, Tensor] = field(default_factory=dict)

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, spec: AttentionSpec
    ) -> Tensor:
        """See AttentionContext."""
        self.keys[module] = key.to(torch.float32)
        return query.new_zeros(query.shape[0], query.shape[1], value.shape[2])


def row_layouts(loaded: LoadedModel) -> tuple[RowLayout, RowLayout]:
    """Layouts of key and value rows. Raises UnsupportedArchitecture where a layer's turn is not
    one of those known here."""
    keys = _probe_keys(loaded)
    dtype = next(loaded.model.parameters()).dtype
    key_parts, value_parts = [], []
    for number, (module, shape) in enumerate(loaded.shapes.items()):
        rotary = _matching(keys[module], _candidates(loaded, number), _TOLERANCE.get(dtype, 0.03))
        if rotary is _NOTHING:
            raise UnsupportedArchitecture(
                f"{loaded.hf_config.model_type!r}, layer {number}: its keys carry a rotary "
                "embedding of no known kind.",
                hint="Lossless codecs work with it; transform coding does not.",
            )
        key_parts.append(LayerPart(heads=shape.kv_heads, dim=shape.key_dim, rotary=rotary))
        value_parts.append(LayerPart(heads=shape.kv_heads, dim=shape.value_dim))
    return RowLayout(tuple(key_parts)), RowLayout(tuple(value_parts))


_NOTHING = Rotary(inv_freq=(0.0,))  # stands for "no candidate fits"


@torch.inference_mode()
def _probe_keys(loaded: LoadedModel) -> dict[nn.Module, Tensor]:
    probe = _KeyProbe()
    device = next(loaded.model.parameters()).device
    limit = getattr(loaded.hf_config.get_text_config(), "max_position_embeddings", 1 << 20)
    positions = torch.tensor([p for p in _POSITIONS if p < limit], device=device)
    loaded.model(
        input_ids=torch.full((1, len(positions)), 11, device=device),
        position_ids=positions[None],
        use_cache=False,
        **{CONTEXT_ARGUMENT: probe},
    )
    return {module: key[: len(positions)].cpu() for module, key in probe.keys.items()}


def _candidates(loaded: LoadedModel, layer: int) -> Iterator[Rotary | None]:
    """Turns that this layer may have, likeliest first."""
    for module in loaded.model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name.endswith("inv_freq") and "original" not in name:
                kind = name.removesuffix("inv_freq")
                if not _is_for(loaded.hf_config, kind.rstrip("_"), layer):
                    continue
                _refuse_moving(loaded, module, kind.rstrip("_"))
                scaling = float(getattr(module, f"{kind}attention_scaling", 1.0))
                frequencies = tuple(buffer.to(torch.float64).flatten().tolist())
                for interleaved in (False, True):
                    yield Rotary(inv_freq=frequencies, scaling=scaling, interleaved=interleaved)
    yield None


def _is_for(hf_config: Any, kind: str, layer: int) -> bool:
    kinds = getattr(hf_config.get_text_config(), "layer_types", None)
    return not kind or kinds is None or kinds[layer] == kind


def _refuse_moving(loaded: LoadedModel, module: nn.Module, kind: str) -> None:
    found = getattr(module, "rope_type", "default")
    if isinstance(found, dict):
        found = found.get(kind, "default")
    if found in _MOVING:
        raise UnsupportedArchitecture(
            f"{loaded.hf_config.model_type!r} has rotary frequencies of kind {found!r}, which "
            "change with the length of the text.",
            hint="Lossless codecs work with it; transform coding does not.",
        )


def _matching(keys: Tensor, candidates: Iterator[Rotary | None], tolerance: float) -> Any:
    """The first candidate after whose undoing all positions' keys [n, heads, dim] agree."""
    positions = torch.tensor(_POSITIONS[: len(keys)])
    for rotary in candidates:
        if rotary is not None and rotary.rotary_dim > keys.shape[-1]:
            continue
        undone = keys if rotary is None else rotary.undo(keys, positions=positions)
        spread = (undone - undone[:1]).abs().max()
        if float(spread) <= tolerance * float(undone.abs().max()):
            return rotary
    return _NOTHING
