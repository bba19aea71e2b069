"""Every "auto" becomes a value, with its reason on record.

Runs before anything large is loaded, from the configuration, the checkpoint's own configuration
and the machine; `build.py` carries it out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from stepwell.base.config import AUTO, Config
from stepwell.base.decisions import Decision
from stepwell.base.errors import ConfigError, HardwareError, PoolDoesNotFit
from stepwell.base.units import format_bytes, parse_bytes
from stepwell.engine.kv_format import check_kv
from stepwell.hardware.machine import Machine

# Rotary embeddings that change with the longest sequence of a batch: in a ragged batch one long
# sequence would change the others, so the context ends where the change begins.
_BATCH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})
_POOL_SHARE = 0.5  # of the memory that is left beside the weights
_HOST_SHARE = 0.9  # of the memory that is left: a step and the interpreter need some too


@dataclass(frozen=True, slots=True)
class Resolved:
    """What the engine is built from."""

    device: torch.device
    dtype: torch.dtype
    max_model_len: int
    decisions: tuple[Decision, ...]


def resolve(config: Config, hf_config: Any, machine: Machine) -> Resolved:
    """Device, precision and context length. Raises HardwareError or ConfigError, also for a host
    tier that this machine cannot hold and for what does not go with `model.kv`."""
    device, device_why = _device(config)
    check_kv(config, device)
    dtype, dtype_why = _dtype(config, hf_config, machine, device)
    length, length_why = _max_model_len(config, hf_config)
    check_host_tier(parse_bytes(config.tiers.host), memory_available=machine.memory_available)
    decisions = (
        Decision("model.device", device.type, device_why),
        Decision("model.dtype", str(dtype).removeprefix("torch."), dtype_why),
        Decision("model.max_model_len", length, length_why),
    )
    return Resolved(device=device, dtype=dtype, max_model_len=length, decisions=decisions)


def resolve_pool(
    config: Config, *, max_model_len: int, block_bytes: int, memory_available: int
) -> tuple[int, Decision]:
    """Blocks of the KV pool. `memory_available`: bytes left on the device after the weights."""
    size = config.cache.block_size
    per_sequence = -(-max_model_len // size)
    useful = per_sequence * config.scheduler.max_sequences
    if config.cache.pool == AUTO:
        share = int(memory_available * _POOL_SHARE) // block_bytes
        blocks = min(useful, share)
        which = (
            "max_sequences full contexts"
            if blocks == useful
            else (f"half of the {format_bytes(memory_available)} left beside the weights")
        )
        why = f"auto: {which}"
    else:
        blocks = parse_bytes(config.cache.pool) // block_bytes
        why = f"cache.pool = {config.cache.pool}"
    if blocks * block_bytes > memory_available:
        raise PoolDoesNotFit(
            f"a pool of {format_bytes(blocks * block_bytes)} exceeds the "
            f"{format_bytes(memory_available)} that are left.",
            hint="Lower cache.pool.",
        )
    if blocks < 1:
        raise PoolDoesNotFit(
            f"the pool has no room for one block of {format_bytes(block_bytes)}.",
            hint="Raise cache.pool or choose a smaller model.",
        )
    why += f"; {blocks} blocks of {size} tokens, {format_bytes(blocks * block_bytes)}"
    return blocks, Decision("cache.num_blocks", blocks, why)


def check_host_tier(size: int, *, memory_available: int) -> None:
    """Raises HardwareError for a host tier of `size` bytes that would get the process killed.
    `memory_available`: bytes left at that moment. Asked before the weights are loaded, and again
    before the tier is allocated."""
    most = int(memory_available * _HOST_SHARE)
    if size > most:
        raise HardwareError(
            f"tiers.host is {format_bytes(size)}, but {format_bytes(memory_available)} of memory "
            "are left.",
            hint=f"Set it to {format_bytes(most)} or less, lower cache.pool, or use tiers.disk.",
            param="tiers.host",
        )


def _device(config: Config) -> tuple[torch.device, str]:
    wanted = config.model.device
    has_cuda = torch.cuda.is_available()
    if wanted == "cuda" and not has_cuda:
        raise HardwareError(
            "model.device is cuda, but torch finds no CUDA device.",
            hint="Use --device cpu, or install a CUDA build of torch.",
        )
    if wanted == AUTO:
        name = "cuda" if has_cuda else "cpu"
        return torch.device(name), f"auto: torch finds {'a' if has_cuda else 'no'} CUDA device"
    return torch.device(wanted), "model.device"


def _dtype(
    config: Config, hf_config: Any, machine: Machine, device: torch.device
) -> tuple[torch.dtype, str]:
    if config.model.dtype != AUTO:
        return getattr(torch, config.model.dtype), "model.dtype"
    stored = hf_config.dtype or getattr(hf_config.get_text_config(), "dtype", None)
    if isinstance(stored, str):
        stored = getattr(torch, stored)
    if stored is None:
        return torch.float32, "auto: the checkpoint names no precision"
    if device.type == "cpu" and stored != torch.float32 and not machine.has_fast_bf16:
        return torch.float32, f"auto: this CPU has no fast {stored}".replace("torch.", "")
    return stored, "auto: as the checkpoint"


def _max_model_len(config: Config, hf_config: Any) -> tuple[int, str]:
    text = hf_config.get_text_config()
    limit = int(getattr(text, "max_position_embeddings", 0) or 2048)
    why = "max_position_embeddings of the checkpoint"
    rope = getattr(text, "rope_parameters", None) or {}
    kinds = {r.get("rope_type") for r in [rope, *rope.values()] if isinstance(r, dict)}
    if kinds & _BATCH_DEPENDENT_ROPE:
        original = getattr(text, "original_max_position_embeddings", None) or rope.get(
            "original_max_position_embeddings"
        )
        if original and original < limit:
            limit = int(original)
            why = "longer sequences would change the rotary embedding of others in the batch"
    wanted = config.model.max_model_len
    if wanted > limit:
        raise ConfigError(
            f"model.max_model_len is {wanted}, but the limit is {limit} ({why}).",
            hint=f"Set it to {limit} or less.",
            param="model.max_model_len",
        )
    return (wanted, "model.max_model_len") if wanted else (limit, why)
