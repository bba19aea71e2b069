"""Does this architecture come out the same over paged memory? Asked of transformers, at load.

For architectures that no test of ours covers: one short text runs through transformers' own
attention, and through ours in three chunks over a scratch pool; logits must agree. A difference
means that the layers need something our attention does not do, so the model is refused. Texts
longer than the sample are not covered (a window longer than it, say).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stepwell.base.errors import UnsupportedArchitecture
from stepwell.kernels.paged_attention import RaggedBatch
from stepwell.model.attention import ATTENTION_NAME, CONTEXT_ARGUMENT, StepContext
from stepwell.model.load import LoadedModel
from stepwell.model.pool import KVPool

SAMPLE_TOKENS = 48
_CHUNKS = ((0, 29), (29, 47), (47, 48))
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
    pool = KVPool.allocate(
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
