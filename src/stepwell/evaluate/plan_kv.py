"""KV bytes of the plan against caches that are really filled: transformers' growing and static
ones, and the pool of our own engine. Small models, one sequence of `TOKENS` tokens.

transformers' growing cache keeps window - 1 tokens of a layer with a window, since the next token
is always there too, and `planned` counts it so; nothing else is corrected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

from stepwell.base.errors import StepwellError
from stepwell.evaluate.plan_models import SMALL
from stepwell.evaluate.plan_weights import hf_config
from stepwell.kernels.paged_attention import KVFormat
from stepwell.model.architectures import refuse_unsupported
from stepwell.model.attention import ATTENTION_NAME, probe_layers, register_attention
from stepwell.model.pool import KVPool
from stepwell.plan.architecture import AttentionKind, KVPrecision, ModelSpec
from stepwell.plan.memory import Rounding, kv_bytes
from stepwell.plan.read import spec_of

TOKENS = 300
_BLOCK = 16
_FORMS = {
    KVPrecision.MODEL: KVFormat.MODEL,
    KVPrecision.INT8: KVFormat.INT8,
    KVPrecision.INT4: KVFormat.INT4,
}


@dataclass(frozen=True, slots=True)
class KVRow:
    """Bytes of one sequence's KV in one holder. `real` None: it has no such cache, as `reason`
    says."""

    model: str
    holder: str
    planned: int
    real: int | None
    reason: str = ""

    @property
    def is_exact(self) -> bool:
        """To the byte."""
        return self.planned == self.real


def kv_rows(models: Mapping[str, dict[str, Any]] = SMALL) -> Iterator[KVRow]:
    """Of each model, each holder in turn."""
    for name, fields in models.items():
        spec = spec_of(fields, name=name, source="small")
        yield from _transformers_rows(name, fields, spec)
        yield from _pool_rows(name, fields, spec)


def _one_less(spec: ModelSpec) -> ModelSpec:
    """The same with windows of one token less."""
    layers = tuple(
        replace(layer, window=layer.window - 1) if layer.kind is AttentionKind.SLIDING else layer
        for layer in spec.layers
    )
    return replace(spec, layers=layers)


@torch.inference_mode()
def _transformers_rows(name: str, fields: dict[str, Any], spec: ModelSpec) -> Iterator[KVRow]:
    torch.manual_seed(0)
    config = hf_config(fields)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    ids = torch.arange(TOKENS).remainder(500).unsqueeze(0)
    growing = DynamicCache(config=config)
    model(ids, past_key_values=growing, use_cache=True, logits_to_keep=1)
    planned = kv_bytes(_one_less(spec), TOKENS)
    yield KVRow(name, "transformers DynamicCache", planned, _cache_bytes(growing))
    planned = kv_bytes(spec, TOKENS)
    try:
        static = StaticCache(config=config, max_cache_len=TOKENS)
        model(ids, past_key_values=static, use_cache=True, logits_to_keep=1)
        yield KVRow(name, "transformers StaticCache", planned, _cache_bytes(static))
    except (NotImplementedError, ValueError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        yield KVRow(name, "transformers StaticCache", planned, None, reason)


def _cache_bytes(cache: Any) -> int:
    """Of all tensors that the cache's layers hold, each once."""
    found: dict[int, int] = {}
    for layer in cache.layers:
        for value in vars(layer).values():
            many = value.values() if isinstance(value, dict) else [value]
            for tensor in many:
                if isinstance(tensor, torch.Tensor) and tensor.dim() > 1:
                    storage = tensor.untyped_storage()
                    found[storage.data_ptr()] = tensor.numel() * tensor.element_size()
    return sum(found.values())


def _pool_rows(name: str, fields: dict[str, Any], spec: ModelSpec) -> Iterator[KVRow]:
    try:
        refuse_unsupported(hf_config(fields))
    except StepwellError as error:
        yield KVRow(name, "our pool", 0, None, error.message)
        return
    register_attention()
    model = AutoModelForCausalLM.from_config(
        hf_config(fields), dtype=torch.bfloat16, attn_implementation=ATTENTION_NAME
    ).eval()
    shapes = probe_layers(model)
    for precision, form in _FORMS.items():
        pool = KVPool.reserve(
            shapes,
            num_blocks=-(-TOKENS // _BLOCK),
            block_size=_BLOCK,
            dtype=torch.bfloat16,
            device=torch.device("cpu"),
            form=form,
        )
        holder = "our pool" if form is KVFormat.MODEL else f"our pool, {precision}"
        planned = kv_bytes(spec, TOKENS, precision, Rounding.STEPWELL)
        yield KVRow(name, holder, planned, pool.storage.untyped_storage().nbytes())
