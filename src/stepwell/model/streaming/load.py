"""A model whose weights exceed what they may take: skeleton, store, residents, reading ahead."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stepwell.base.config import ModelConfig
from stepwell.base.decisions import Decision
from stepwell.base.errors import (
    ConfigError,
    WeightsBudgetTooSmall,
    WeightStoreDamaged,
    WeightStoreError,
)
from stepwell.base.units import format_bytes
from stepwell.kernels.linear.quantize import WeightFormat
from stepwell.model.attention import register_attention
from stepwell.model.load import LoadedModel, describe_model, load_model
from stepwell.model.streaming.arrival import landing_bytes
from stepwell.model.streaming.build import Say, build_store, store_identity, store_path
from stepwell.model.streaming.checkpoint import CheckpointTensors
from stepwell.model.streaming.embedding import EmbeddingRows, gather_bytes
from stepwell.model.streaming.explain import explain
from stepwell.model.streaming.files import ALIGNMENT, Arena, BlockFile, aligned
from stepwell.model.streaming.packing import Packing
from stepwell.model.streaming.plan import (
    CODED_SHARE,
    SLOTS,
    choose_residents,
    is_coded,
    least_bytes,
)
from stepwell.model.streaming.reader import PIECE
from stepwell.model.streaming.skeleton import Origin, Skeleton, make_skeleton
from stepwell.model.streaming.store import StoreIndex, read_index
from stepwell.model.streaming.streamer import Streamer
from stepwell.model.swap import swap_streamed

logger = logging.getLogger(__name__)
_PADDING = 1.02  # packed weights are padded to whole units (few widths are not) and blocks
_PROBE_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class _Opened:
    """A store whose every byte has been read and checked once. `built`: why the store was
    built, empty where it was there."""

    streamer: Streamer
    index: StoreIndex
    built: str


@dataclass(frozen=True, slots=True)
class Needs:
    """What a model asks for before anything is loaded: bytes of all weights in its precision,
    unpacked, and the least that streaming holds; `parameters` counts tied ones once."""

    weights: int
    least: int
    parameters: int


def needs_of(hf_config: Any, *, dtype: torch.dtype) -> Needs:
    """From the model's shape alone. Raises UnsupportedArchitecture."""
    register_attention()
    skeleton = make_skeleton(hf_config, dtype=dtype)
    units = [[p.nbytes for p in unit.module.parameters()] for unit in skeleton.units]
    width = skeleton.embedding.embedding_dim
    least = int(_PADDING * least_bytes(units)) + gather_bytes(width * dtype.itemsize)
    if dtype == torch.bfloat16:  # packed slots, and one layer unpacked
        least = int(least * (CODED_SHARE + 1 / SLOTS))
    return Needs(skeleton.whole_bytes, least, skeleton.parameters)


def measure_read(folder: Path) -> float:
    """Bytes/s of large reads past the page cache, from a weights file: some 0.1 s. Raises
    OSError."""
    path = max(folder.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    file = BlockFile(path)
    try:
        size = min(PIECE, file.size // ALIGNMENT * ALIGNMENT)
        target, done, start = Arena(size), 0, time.perf_counter()
        while done + size <= min(file.size, _PROBE_BYTES):
            file.read(target.view[:size], done)
            done += size
        return done / (time.perf_counter() - start) if done else 1e9
    finally:
        file.close()


def load_within_budget(
    config: ModelConfig,
    folder: Path,
    hf_config: Any,
    *,
    dtype: torch.dtype,
    device: torch.device,
    budget: int,
    packing: Packing | None = None,
    say: Say,
) -> LoadedModel:
    """Load with at most `budget` bytes of weights in memory; a model that fits is loaded whole.

    Raises ConfigError, ModelError, WeightsBudgetTooSmall, OSError.
    """
    _refuse(hf_config, device=device, random_weights=config.random_weights)
    register_attention()
    skeleton = make_skeleton(hf_config, dtype=dtype)
    size, most = format_bytes(skeleton.whole_bytes), format_bytes(budget)
    if skeleton.whole_bytes <= budget:
        loaded = load_model(config, folder, hf_config, dtype=dtype, device=device)
        why = f"all {size} of weights fit into the budget of {most}: streaming would only slow down"
        return replace(
            loaded, decisions=(Decision("weights.streaming", "off", why), *loaded.decisions)
        )
    packing = packing or Packing()
    if packing.format is WeightFormat.BFLOAT16 and dtype == torch.bfloat16:
        packing = replace(packing, coded=is_coded(budget, skeleton.whole_bytes))
    skeleton, opened = _open(
        folder, hf_config, dtype=dtype, packing=packing, budget=budget, say=say
    )
    _read_generation_config(skeleton.model, folder)
    loaded = describe_model(skeleton.model, folder, hf_config, parameters=skeleton.parameters)
    decisions = explain(
        opened.streamer, opened.index, whole_bytes=skeleton.whole_bytes, built=opened.built
    )
    swapped = swap_streamed(skeleton.model, loaded.shapes, opened.streamer)
    opened.streamer.reset()
    return replace(loaded, streamer=opened.streamer, decisions=(*decisions, *swapped))


def _refuse(hf_config: Any, *, device: torch.device, random_weights: bool) -> None:
    if device.type != "cpu":
        why = f"weights stream from disk to a CPU only, and the device is {device.type}"
    elif random_weights:
        why = "random weights have no files to stream from"
    elif getattr(hf_config, "quantization_config", None):
        why = "this checkpoint is quantized already, and is not read layer by layer"
    else:
        return
    raise ConfigError(
        f"model.weights_budget: {why}.", hint="Set it to 0.", param="model.weights_budget"
    )


def _load_rest(skeleton: Skeleton, folder: Path, dtype: torch.dtype) -> int:
    """What always stays, from the checkpoint itself; its bytes."""
    checkpoint = CheckpointTensors(folder)
    checkpoint.check(skeleton)
    total = 0
    for name in skeleton.rest:
        owner_name, _, own = name.rpartition(".")
        tensor = checkpoint.read(Origin(name), dtype)
        owner = skeleton.model.get_submodule(owner_name)
        owner._parameters[own] = nn.Parameter(tensor, requires_grad=False)
        total += tensor.numel() * tensor.element_size()
    return total


def _read_generation_config(model: Any, folder: Path) -> None:
    from transformers import GenerationConfig

    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)


def _open(
    folder: Path, hf_config: Any, *, dtype: torch.dtype, packing: Packing, budget: int, say: Say
) -> tuple[Skeleton, _Opened]:
    """The store under its model: built where it is missing, built anew where it is damaged."""
    identity = store_identity(folder, dtype=dtype, packing=packing)
    path = store_path(identity)
    why = "" if path.is_file() else "there was none for these weights"
    for _attempt in range(2):
        skeleton = make_skeleton(hf_config, dtype=dtype)
        fixed = _load_rest(skeleton, folder, dtype)
        if why:
            build_store(
                path,
                identity=identity,
                folder=folder,
                skeleton=skeleton,
                dtype=dtype,
                packing=packing,
                say=say,
            )
        try:
            say("reading weights")
            return skeleton, _start(skeleton, path, identity, budget=budget, fixed=fixed, built=why)
        except WeightStoreDamaged as error:
            logger.warning("building %s anew: %s", path.name, error.message)
            path.unlink(missing_ok=True)
            why = f"it was damaged: {error.message.rstrip('.')}"
    raise WeightStoreError(
        f"{path} is damaged directly after it was written.", hint="Check the disk."
    )


def _start(
    skeleton: Skeleton, path: Path, identity: str, *, budget: int, fixed: int, built: str
) -> _Opened:
    with ExitStack() as undo:
        file = BlockFile(path)
        undo.callback(file.close)
        index = read_index(file, identity=identity)
        rows = EmbeddingRows(skeleton.embedding, file, index.embedding)
        undo.callback(rows.close)
        rows.check()
        fixed += rows.nbytes
        landing = aligned(landing_bytes(index.units))
        residency = choose_residents(index.sizes, budget=budget - fixed - landing)
        if residency is None:
            raise _too_small(budget, fixed + landing + least_bytes(index.sizes))
        streamer = Streamer(skeleton.units, file, index, residency, rows=rows, fixed=fixed)
        undo.callback(streamer.close)
        streamer.check_all()
        undo.pop_all()
    return _Opened(streamer, index, built)


def _too_small(budget: int, least: int) -> WeightsBudgetTooSmall:
    mib = -(-least // (1 << 20))
    return WeightsBudgetTooSmall(
        f"model.weights_budget is {format_bytes(budget)}, but streaming this model takes "
        f"{mib} MiB: two layers, since one is computed while the next is read, one to unpack where "
        "they are packed, and what stays.",
        hint=f"Set it to {mib}MiB or more.",
        param="model.weights_budget",
    )
