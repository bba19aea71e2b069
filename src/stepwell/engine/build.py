"""From settings to a running engine: resolve, load, verify, allocate, warm up."""

from __future__ import annotations

import gc
import os
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stepwell import kernels
from stepwell.base.account import MemoryAccount
from stepwell.base.config import Config
from stepwell.base.decisions import Decision
from stepwell.base.request import GenerationRequest
from stepwell.base.sampling import SamplingParams
from stepwell.base.units import format_bytes
from stepwell.cache.cost import PrefillCost
from stepwell.cache.manager import CacheManager
from stepwell.engine.account import StartBook, take_account
from stepwell.engine.ahead import MOST_STEPS, Ahead
from stepwell.engine.asked import any_tier, limits_weights, outlives_process
from stepwell.engine.door import Door
from stepwell.engine.engine import Engine
from stepwell.engine.kv_format import choose_kv
from stepwell.engine.resolve import Resolved, resolve, resolve_pool
from stepwell.engine.runner import ModelRunner
from stepwell.engine.scheduler import Scheduler
from stepwell.engine.start_clock import StartClock
from stepwell.hardware.account import grown
from stepwell.hardware.machine import read_machine
from stepwell.hardware.malloc import give_back_freed_memory, keep_freed_memory
from stepwell.hardware.onednn import bound_primitive_caches
from stepwell.kernels.native import compile_log
from stepwell.model.architectures import TESTED_MODEL_TYPES
from stepwell.model.identity import Coverage, make_namespace
from stepwell.model.load import (
    LoadedModel,
    ModelInfo,
    find_checkpoint,
    load_model,
    read_hf_config,
)
from stepwell.model.pool import KVPool, block_bytes
from stepwell.model.verify import verify_architecture

if TYPE_CHECKING:  # what most starts do not use
    from stepwell.engine.build_tiers import OpenTiers, WrapTier
    from stepwell.engine.codecs import TierCodecs
    from stepwell.engine.rolling import Rolling

Progress = Callable[[str], None]
# Below this a step is mostly the starting of parallel regions. Measured on two cores with the house
# model (12 MiB): offline 8 % slower with one thread, over HTTP 28 % faster, because the event loop
# has a core of its own (docs/lab-notes.md).
_ONE_THREAD_BYTES = 64 << 20
_GIVE_UP_SECONDS = 5.0  # for transfers under way when building fails


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine and what is to be known about it."""

    engine: Engine
    info: ModelInfo
    loaded: LoadedModel
    pool: KVPool
    decisions: tuple[Decision, ...]
    book: StartBook
    open_tiers: OpenTiers | None = None

    def account(self) -> MemoryAccount | None:
        """Who holds this process's memory now; any thread may ask."""
        return take_account(self, self.book)

    def close(self, timeout: float = 30.0) -> None:
        """Let go of lower tiers, at most `timeout` seconds after what is under way, and of streamed
        weights. Nothing else needs closing. Calling it twice is harmless."""
        if self.open_tiers is not None:
            self.open_tiers.close(timeout)
        if self.loaded.streamer is not None:
            self.loaded.streamer.close()


def resolve_only(config: Config) -> list[Decision]:
    """The decisions that need no weights: for `--explain --dry-run`."""
    hf_config = read_hf_config(find_checkpoint(config.model.path))
    return list(resolve(config, hf_config, read_machine()).decisions)


def build_engine(
    config: Config, *, progress: Progress | None = None, wrap_tier: WrapTier | None = None
) -> BuiltEngine:
    """Load the model, allocate the pool, open the tiers, warm up. Without tiers the pool's pages
    are not in memory yet: whoever will serve long calls `pool.touch` before.

    `wrap_tier`: replaces each lower tier as it is opened (fault injection). Raises ModelError,
    HardwareError, ConfigError, TierError, OSError: then no tier stays open.
    """
    clock, say = StartClock(), progress or (lambda text: None)
    with compile_log.telling(lambda kernel: say(f"compiling {kernel}, once on this machine")):
        return _build(config, clock, say, wrap_tier)


def _build(
    config: Config, clock: StartClock, say: Progress, wrap_tier: WrapTier | None
) -> BuiltEngine:
    folder = find_checkpoint(config.model.path)
    hf_config = read_hf_config(folder)
    resolved = resolve(config, hf_config, read_machine())
    memory, book = [keep_freed_memory(), bound_primitive_caches()], StartBook()
    say(f"loading {folder.name}")
    config, loaded = _load(config, folder, hf_config, resolved, say)
    clock.phase("model")
    decisions = [*resolved.decisions, *memory, *loaded.decisions, *_verify(config, loaded, say)]
    pool, sized = _reserve_pool(config, loaded, resolved)
    decisions += sized
    decisions.append(_choose_threads(loaded))
    clock.phase("memory")
    with grown("kernels"):
        _make_kernels(loaded, pool)
    give_back_freed_memory()  # what compiling took
    clock.phase("kernels")
    decisions += kernels.decisions()
    info = _info(config, folder, hf_config, loaded, resolved)
    codecs = _make_codecs(config, loaded, pool)
    decisions += codecs.decisions if codecs else ()
    cache = _make_cache(config, loaded, pool, info, lossy=codecs.lossy if codecs else "")
    with ExitStack() as undo:
        if loaded.streamer is not None:
            undo.callback(loaded.streamer.close)
        lower = None
        if codecs is not None:
            from stepwell.engine.build_tiers import open_tiers

            pool.touch()  # before the tiers look at what memory is left
            lower = open_tiers(
                config.tiers, config.cache, pool, cache, codecs, say=say, wrap=wrap_tier
            )
            undo.callback(lower.close, _GIVE_UP_SECONDS)
            decisions += lower.decisions
        rolling, rolled = _make_rolling(config, loaded, pool, cache)
        decisions += rolled
        engine = _assemble(config, loaded, pool, info, cache, lower, rolling)
        clock.phase("tiers")
        say("warming up")
        _warm_up(engine, config, info, pool_tokens=pool.num_blocks * pool.block_size)
        undo.pop_all()
    clock.phase("first steps")
    decisions += clock.decisions()
    return BuiltEngine(
        engine=engine,
        info=info,
        loaded=loaded,
        pool=pool,
        decisions=tuple(decisions),
        book=book,
        open_tiers=lower,
    )


def _load(
    config: Config, folder: Path, hf_config: Any, resolved: Resolved, say: Progress
) -> tuple[Config, LoadedModel]:
    if limits_weights(config.model):
        from stepwell.engine.build_streaming import load_for

        return load_for(config, folder, hf_config, resolved, say=say)
    dtype, device = resolved.dtype, resolved.device
    return config, load_model(config.model, folder, hf_config, dtype=dtype, device=device)


def _make_codecs(config: Config, loaded: LoadedModel, pool: KVPool) -> TierCodecs | None:
    if not any_tier(config.tiers):
        return None
    from stepwell.engine.codecs import make_codecs

    return make_codecs(config.tiers, loaded, pool)


def _make_rolling(
    config: Config, loaded: LoadedModel, pool: KVPool, cache: CacheManager
) -> tuple[Rolling | None, list[Decision]]:
    if config.cache.rolling == "off":
        return None, []
    from stepwell.engine.build_rolling import make_rolling

    return make_rolling(config, loaded, pool, cache)


def _choose_threads(loaded: LoadedModel) -> Decision:
    """One thread for a model that fits into a core's cache. Process-wide, as torch's setting is."""
    size = loaded.weight_bytes
    if "OMP_NUM_THREADS" in os.environ:
        why = "OMP_NUM_THREADS is set"
    elif size < _ONE_THREAD_BYTES:
        torch.set_num_threads(1)
        why = f"{format_bytes(size)} of weights: starting a second thread costs what it saves"
    else:
        why = "torch's default, one for each core"
    return Decision("kernels.threads", torch.get_num_threads(), f"{why}; {kernels.threads_kind()}")


def _make_kernels(loaded: LoadedModel, pool: KVPool) -> None:
    """First use on a machine compiles for some seconds; later ones load from the disk cache."""
    layers = [(pool.layers[module], shape.q_heads) for module, shape in loaded.shapes.items()]
    kernels.warm_up(layers)


def _verify(config: Config, loaded: LoadedModel, say: Progress) -> list[Decision]:
    name = loaded.hf_config.model_type
    if name in TESTED_MODEL_TYPES:
        return [Decision("model.verified", "by tests", f"{name} is a tested architecture")]
    if not config.model.verify:
        return [Decision("model.verified", "no", "model.verify is off")]
    say(f"comparing {name} with transformers")
    result = verify_architecture(loaded)
    why = (
        f"{name} over paged memory: logits within {result.difference:.1e} standard deviations, "
        f"top-1 equal at {result.agreement:.0%} of positions"
    )
    return [Decision("model.verified", "at load", why)]


def _reserve_pool(
    config: Config, loaded: LoadedModel, resolved: Resolved
) -> tuple[KVPool, list[Decision]]:
    gc.collect()
    give_back_freed_memory()  # packing frees as much as it makes: room for the pool
    size, dtype = config.cache.block_size, resolved.dtype
    form, kept = choose_kv(config, loaded.shapes, dtype)
    shapes = list(loaded.shapes.values())
    blocks, decision = resolve_pool(
        config,
        max_model_len=resolved.max_model_len,
        block_bytes=block_bytes(shapes, block_size=size, dtype=dtype, form=form),
        memory_available=_memory_available(resolved.device),
    )
    pool = KVPool.reserve(
        loaded.shapes,
        num_blocks=blocks,
        block_size=size,
        dtype=dtype,
        device=resolved.device,
        form=form,
    )
    return pool, [kept, decision]


def _memory_available(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return read_machine().memory_available


def _info(
    config: Config, folder: Path, hf_config: Any, loaded: LoadedModel, resolved: Resolved
) -> ModelInfo:
    return ModelInfo(
        name=config.model.name or folder.name,
        architecture=hf_config.model_type,
        parameters=loaded.parameters,
        weight_bytes=loaded.weight_bytes,
        dtype=str(resolved.dtype).removeprefix("torch."),
        device=resolved.device.type,
        vocab_size=hf_config.get_text_config().vocab_size,
        max_model_len=resolved.max_model_len,
    )


def _make_cache(
    config: Config, loaded: LoadedModel, pool: KVPool, info: ModelInfo, *, lossy: str
) -> CacheManager:
    whole = outlives_process(config.tiers)
    namespace = make_namespace(
        folder=loaded.folder,
        coverage=Coverage.WHOLE if whole else Coverage.SAMPLED,
        model_config=loaded.hf_config.to_dict(),
        dtype=info.dtype,
        block_size=pool.block_size,
        instance=secrets.token_hex(16) if loaded.folder is None else "",
        lossy=lossy,
        precision=loaded.precision,
        kv=pool.form,
    )
    return CacheManager(
        num_blocks=pool.num_blocks,
        block_size=pool.block_size,
        namespace=namespace,
        prefix_caching=config.cache.prefix_caching,
    )


def _assemble(
    config: Config,
    loaded: LoadedModel,
    pool: KVPool,
    info: ModelInfo,
    cache: CacheManager,
    lower: OpenTiers | None,
    rolling: Rolling | None,
) -> Engine:
    limits = config.scheduler
    tiers = None if lower is None else lower.tiers
    scheduler = Scheduler(
        cache,
        max_step_tokens=limits.max_step_tokens,
        max_sequences=limits.max_sequences,
        tiers=tiers,
        rolling=rolling,
    )
    runner = ModelRunner(
        loaded,
        pool,
        max_step_tokens=max(limits.max_step_tokens, limits.max_sequences),
        max_sequences=limits.max_sequences,
        max_model_len=info.max_model_len,
        max_ahead=MOST_STEPS,
    )
    door = Door(
        vocab_size=info.vocab_size,
        max_model_len=info.max_model_len,
        pool_tokens=info.max_model_len if rolling else pool.num_blocks * pool.block_size,
        max_waiting=limits.max_waiting,
        tokenizer=loaded.tokenizer,
        eos_token_ids=loaded.eos_token_ids,
    )
    return Engine(
        runner=runner,
        pool=pool,
        cache=cache,
        scheduler=scheduler,
        door=door,
        weight_bytes=info.weight_bytes,
        ahead=Ahead(seconds=limits.ahead_ms / 1000, most=MOST_STEPS),
        tiers=tiers,
        streamer=loaded.streamer,
        check_every_step=os.environ.get("STEPWELL_CHECK") == "1",
    )


def _warm_up(engine: Engine, config: Config, info: ModelInfo, *, pool_tokens: int) -> None:
    """One prompt and a few decoded tokens, twice, so that no request pays for first use. What the
    second one costs is the cost model's first measurement of computing; where weights stream,
    every token is a pass over them, and without tiers nobody asks for the second."""
    limit = min(info.max_model_len, pool_tokens)
    length = min(config.scheduler.max_step_tokens + 8, limit - 4)
    if length < 1:
        return
    sampling = SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True)
    for number in range(1 if engine.streams and engine.tiers is None else 2):
        tokens = tuple((i + number) % info.vocab_size for i in range(length))
        engine.add(
            GenerationRequest(
                request_id=f"warm-up-{number}",
                prompt_token_ids=tokens,
                sampling=sampling,
                arrival=time.monotonic(),
                store=False,
            )
        )
        if engine.tiers is not None:
            engine.tiers.hierarchy.prefill = PrefillCost()
        while engine.has_work:
            engine.step()
    engine.clear_cache()
    engine.reset_counters()
