"""Does this architecture come out the same over paged memory? Asked of transformers, at load.

For architectures that no test of ours covers, two questions:

- What does each layer see? transformers builds a mask for the last positions of the longest text,
  in a forward pass of two tokens whose attention answers zeros. It must allow exactly what our
  attention will see, so a window of any length is compared, at the cost of one mask row.
- Are the numbers the same? One short text runs through transformers' own attention, and through
  ours in three chunks over a scratch pool; logits must agree.

The truth is the model's forward pass without a cache. `generate` is not asked: its cache believes
a `sliding_window` of the configuration even where the model's layers ignore it.
A difference means that the layers need something our attention does not do: the model is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from stepwell.base.errors import UnsupportedArchitecture
from stepwell.kernels.paged_attention import RaggedBatch
from stepwell.model.attention import ATTENTION_NAME, CONTEXT_ARGUMENT, StepContext
from stepwell.model.load import LoadedModel
from stepwell.model.pool import KVPool

SAMPLE_TOKENS = 48
_CHUNKS = ((0, 29), (29, 47), (47, 48))
_MASK_PROBE = "stepwell_mask_probe"
_MASKS_ARGUMENT = "stepwell_masks"
# Texts longer than this are not asked about (16 MB of indices).
_LONGEST = 1 << 20
# Largest accepted |difference| of logits relative to their spread: rounding differs between
# attention implementations, semantics differ by far more.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.05}


@dataclass(frozen=True, slots=True)
class Verification:
    """Largest logit difference over the standard deviation of the logits, and top-1 agreement."""

    difference: float
    agreement: float


@torch.inference_mode()
def verify_architecture(loaded: LoadedModel) -> Verification:
    """Compare with transformers. Raises UnsupportedArchitecture when they differ."""
    _compare_masks(loaded)
    tokens = _sample_tokens(loaded)
    ours, theirs = _paged_logits(loaded, tokens), _reference_logits(loaded, tokens)
    spread = float(theirs.std()) or 1.0
    difference = float((ours - theirs).abs().max()) / spread
    agreement = float((ours.argmax(-1) == theirs.argmax(-1)).float().mean())
    dtype = next(loaded.model.parameters()).dtype
    if not difference <= _TOLERANCE.get(dtype, 1e-3):  # also refuses NaN
        raise UnsupportedArchitecture(
            f"{loaded.hf_config.model_type!r} over paged memory differs from transformers by "
            f"{difference:.2g} standard deviations of the logits.",
            hint="Its attention does something this engine does not; it is not served.",
        )
    return Verification(difference=difference, agreement=agreement)


def _sample_tokens(loaded: LoadedModel) -> Tensor:
    device = next(loaded.model.parameters()).device
    vocabulary = loaded.hf_config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocabulary, (SAMPLE_TOKENS,), generator=generator).to(device)


def _paged_logits(loaded: LoadedModel, tokens: Tensor) -> Tensor:
    size = 16
    table = list(range(-(-SAMPLE_TOKENS // size)))
    parameter = next(loaded.model.parameters())
    pool = KVPool.reserve(
        loaded.shapes,
        num_blocks=len(table),
        block_size=size,
        dtype=parameter.dtype,
        device=parameter.device,
    )
    parts = []
    for start, end in _CHUNKS:
        batch = RaggedBatch.build(
            [end - start],
            [end],
            block_tables=[table],
            block_size=size,
            device=parameter.device,
        )
        output = loaded.model(
            input_ids=tokens[start:end].unsqueeze(0),
            position_ids=torch.arange(start, end, device=tokens.device).unsqueeze(0),
            use_cache=False,
            **{CONTEXT_ARGUMENT: StepContext(layers=pool.layers, batch=batch)},
        )
        parts.append(output.logits[0].float())
    return torch.cat(parts)


def _reference_logits(loaded: LoadedModel, tokens: Tensor) -> Tensor:
    """transformers' eager attention: it is the one that implements everything."""
    loaded.model.set_attn_implementation("eager")
    try:
        output = loaded.model(input_ids=tokens.unsqueeze(0), use_cache=False)
    finally:
        loaded.model.set_attn_implementation(ATTENTION_NAME)
    return output.logits[0].float()


def _compare_masks(loaded: LoadedModel) -> None:
    """Refuse a model whose layers see other tokens than our attention would show them.

    Asked of the mask that the model builds, so it holds at every length. Masks that the model
    does not build through transformers' mask interface are left to the comparison of logits.
    """
    for index, (module, mask) in enumerate(_far_masks(loaded).items()):
        length = _longest_text(loaded.hf_config)
        if mask is None or mask.dtype != torch.bool or mask.shape[-1] != length:
            continue
        window = loaded.shapes[module].window
        theirs, ours = mask[0, 0].cpu(), _visible(length, window=window)
        if not torch.equal(theirs, ours):
            raise UnsupportedArchitecture(
                f"{loaded.hf_config.model_type!r} does not hand its attention the window it means: "
                f"of {length} tokens, layer {index} in transformers sees "
                f"{int(theirs[-1].sum())}, over paged memory {int(ours[-1].sum())}.",
                hint="Served are models that mask with the window which they pass to attention, "
                "such as mistral. If this checkpoint was trained without a window, remove "
                "`sliding_window` from its config.json.",
            )


def _visible(length: int, *, window: int | None) -> Tensor:
    """What the last two positions of a text see in `kernels.paged_attention`: [2, length]."""
    distance = torch.arange(length - 2, length).unsqueeze(1) - torch.arange(length)
    return (distance >= 0) & (distance < (window or length))


def _far_masks(loaded: LoadedModel) -> dict[nn.Module, Tensor | None]:
    """Attention module -> the mask [1, 1, 2, longest text] that transformers' model gives it."""
    AttentionInterface.register(_MASK_PROBE, _keep_mask)
    AttentionMaskInterface.register(_MASK_PROBE, _mask_of_last_positions)
    masks: dict[nn.Module, Tensor | None] = {}
    tokens = _sample_tokens(loaded)[:2].unsqueeze(0)
    loaded.model.set_attn_implementation(_MASK_PROBE)
    try:
        loaded.model(input_ids=tokens, use_cache=False, **{_MASKS_ARGUMENT: masks})
    finally:
        loaded.model.set_attn_implementation(ATTENTION_NAME)
    return masks


def _keep_mask(
    module: nn.Module,
    query: Tensor,
    _key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function that keeps the mask and answers zeros."""
    kwargs[_MASKS_ARGUMENT][module] = attention_mask
    return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3]), None


def _mask_of_last_positions(*, config: Any, **kwargs: Any) -> Tensor:
    """A mask function of transformers: the rows of the last two positions, whatever is asked."""
    length = _longest_text(config)
    rows = {"q_length": 2, "q_offset": length - 2, "kv_length": length, "kv_offset": 0}
    mask: Tensor = sdpa_mask(
        **(kwargs | rows | {"attention_mask": None, "allow_is_causal_skip": False})
    )
    return mask


def _longest_text(config: Any) -> int:
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    return min(longest or _LONGEST, _LONGEST)
