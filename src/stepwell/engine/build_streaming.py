"""From `model.weights_budget` to a loaded model, and to steps that are worth a pass over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from stepwell.base.config import AUTO, Config
from stepwell.base.decisions import Decision
from stepwell.base.errors import WeightsBudgetTooSmall
from stepwell.base.units import format_bytes, parse_bytes
from stepwell.engine.memory_split import (
    MOST_SEQUENCES,
    MOST_STEP_TOKENS,
    Demand,
    Speeds,
    balanced_rows,
    measure_arithmetic,
    split_memory,
)
from stepwell.engine.resolve import Resolved
from stepwell.hardware.machine import read_machine
from stepwell.kernels.linear.quantize import WeightFormat
from stepwell.model.load import LoadedModel, Precision, choose_precision, load_model
from stepwell.model.streaming import Needs, load_within_budget, measure_read, needs_of
from stepwell.model.streaming.packing import Packing

Say = Callable[[str], None]
_ROOM = 0.75  # of free memory: weights below it leave enough for KV and the rest, and are not split
_STEP_MULTIPLE = 64
_STEP_MARGIN = 1.25  # arithmetic was measured alone, and a step that is too narrow waits for reads
_LEAST_STEP = 256  # tokens; narrower products are slower, and each pass unpacks all weights
_CONTEXT = 512  # tokens of a sequence when sequences are counted against free memory
_EXACT = ("checkpoint", "lossless")  # settings of model.weights that are streamed as bfloat16
_KV_SHARE = 0.5  # of free memory; as resolve_pool takes


def load_for(
    config: Config, folder: Path, hf_config: Any, resolved: Resolved, *, say: Say
) -> tuple[Config, LoadedModel]:
    """Load the model as the settings ask for, whole or within a budget; the settings with the
    sizes that were chosen for it. Raises what `load_model` and `load_within_budget` raise."""
    dtype, device = resolved.dtype, resolved.device
    if config.model.weights_budget == AUTO:
        config, chosen = _choose_budget(config, folder, hf_config, resolved)
    else:
        chosen = []
    budget = parse_bytes(config.model.weights_budget)
    if not budget:
        loaded = load_model(config.model, folder, hf_config, dtype=dtype, device=device)
        return config, replace(loaded, decisions=(*chosen, *loaded.decisions))
    precision = _streamable(choose_precision(config.model, folder))
    loaded = load_within_budget(
        config.model,
        folder,
        hf_config,
        dtype=dtype,
        device=device,
        budget=budget,
        packing=Packing(precision.format, precision.exceptions),
        say=say,
    )
    if loaded.streamer is None:
        return config, loaded
    config, widened = _widen_steps(config, loaded, resolved)
    decisions = (*chosen, *loaded.decisions, *precision.decisions, *widened)
    return config, replace(loaded, decisions=decisions, precision=precision.identity)


def _streamable(precision: Precision) -> Precision:
    """The precision, or bfloat16 for LOSSLESS: the same weights, whose bytes lie in one piece."""
    if precision.format is not WeightFormat.LOSSLESS:
        return precision
    why = "streamed weights are computed with as bfloat16; files are in 12 bits where that pays"
    return Precision(WeightFormat.BFLOAT16, {}, (Decision("weights.lossless", "bfloat16", why),))


def _choose_budget(
    config: Config, folder: Path, hf_config: Any, resolved: Resolved
) -> tuple[Config, list[Decision]]:
    """A size for `auto`, and one for the pool where that is automatic, too."""
    free = read_machine().memory_available
    needs = needs_of(hf_config, dtype=resolved.dtype)
    name, size = "weights.budget", format_bytes(needs.weights)
    if needs.weights <= free * _ROOM or resolved.device.type != "cpu":
        why = f"auto: all {size} of weights stay, in {format_bytes(free)} of free memory"
        return _with_budget(config, "0"), [Decision(name, "off", why)]
    speeds = Speeds(read=measure_read(folder), arithmetic=measure_arithmetic(resolved.dtype))
    split = split_memory(
        free,
        _demand(needs, hf_config, resolved, packs=config.model.weights in _EXACT),
        speeds,
        step_tokens=config.scheduler.max_step_tokens,
        max_model_len=resolved.max_model_len,
    )
    if split is None:
        raise WeightsBudgetTooSmall(
            f"{format_bytes(free)} of memory are free, and streaming takes "
            f"{format_bytes(needs.least)} for weights, besides KV and activations.",
            hint="Lower scheduler.max_step_tokens or model.max_model_len, or free memory.",
            param="model.weights_budget",
        )
    why = (
        f"auto: of {format_bytes(free)} free, {format_bytes(split.weights)} for {size} of weights, "
        f"{format_bytes(split.kv)} for KV, {format_bytes(split.activations)} for activations: "
        f"{split.sequences} sequences at {speeds.read / 1e9:.2f} GB/s from disk and "
        f"{speeds.arithmetic / 1e12:.2f} TFLOP/s (predicted, tokens/s)"
    )
    if config.cache.pool == AUTO:
        config = replace(config, cache=replace(config.cache, pool=str(split.kv)))
    config = _with_budget(config, str(split.weights))
    return config, [Decision("memory.split", "auto", why, predicted=split.rate)]


def _with_budget(config: Config, budget: str) -> Config:
    return replace(config, model=replace(config.model, weights_budget=budget))


def _demand(needs: Needs, hf_config: Any, resolved: Resolved, *, packs: bool) -> Demand:
    text, size = hf_config.get_text_config(), resolved.dtype.itemsize
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Demand(
        weights=needs.weights,
        least=needs.least,
        packs=packs and resolved.dtype == torch.bfloat16,
        parameters=needs.parameters,
        kv=2 * text.num_hidden_layers * heads * dim * size,
        row=_row_bytes(text, size),
    )


def _row_bytes(text: Any, size: int) -> int:
    """Activations of one token while it passes a layer: residuals, queries, and the MLP's rows.
    Counted generously, logits are not in it."""
    inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    return size * (8 * text.hidden_size + 4 * int(inner))


def _widen_steps(
    config: Config, loaded: LoadedModel, resolved: Resolved
) -> tuple[Config, list[Decision]]:
    """Steps as wide as what their arithmetic hides under the read of a pass, and a little more; as
    many sequences, but no fewer than the settings say; both as far as memory goes.

    Wider steps would compute prompts while the disk waits, and then read for few rows while the
    cores wait. Narrower ones would do the reverse."""
    streamer = loaded.streamer
    assert streamer is not None
    limits, free = config.scheduler, read_machine().memory_available
    speeds = Speeds(read=streamer.speed, arithmetic=measure_arithmetic(resolved.dtype))
    seconds = streamer.residency.streamed / speeds.read if speeds.read else 0.0
    rows = balanced_rows(seconds, parameters=loaded.parameters, speeds=speeds)
    text = loaded.hf_config.get_text_config()
    fitting = int(free * (1 - _KV_SHARE) / 2) // _row_bytes(text, resolved.dtype.itemsize)
    wanted = -(-int(_STEP_MARGIN * rows) // _STEP_MULTIPLE) * _STEP_MULTIPLE
    tokens = max(_LEAST_STEP, min(wanted, MOST_STEP_TOKENS, fitting))
    kv = sum(s.kv_heads * (s.key_dim + s.value_dim) for s in loaded.shapes.values())
    held = int(free * _KV_SHARE) // (kv * resolved.dtype.itemsize * _CONTEXT)
    wider = replace(
        limits,
        max_step_tokens=tokens,
        max_sequences=max(limits.max_sequences, min(rows, MOST_SEQUENCES, held)),
    )
    why = (
        f"a pass takes {seconds:.2f} s to read, which is the arithmetic of {rows} tokens at "
        f"{speeds.arithmetic / 1e12:.2f} TFLOP/s; "
        f"{wider.max_sequences} sequences, of which scheduler.max_sequences are the least"
    )
    return replace(config, scheduler=wider), [
        Decision("scheduler.max_step_tokens", wider.max_step_tokens, why)
    ]
