"""The engine over real lower tiers: what comes back is what was computed, whatever happens.

The model is tiny, so recomputing is always the faster choice; `slow_compute` tells the cost model
otherwise, so that loads happen.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from stepwell.base.errors import ConfigError, HardwareError  # noqa: E402
from stepwell.base.hierarchy import TierName  # noqa: E402
from stepwell.base.request import Delta, GenerationRequest  # noqa: E402
from stepwell.base.sampling import SamplingParams  # noqa: E402
from stepwell.cache.cost import PrefillCost  # noqa: E402
from stepwell.engine.llm import LLM  # noqa: E402
from stepwell.hardware.machine import read_machine  # noqa: E402
from stepwell.tier.contract import Tier  # noqa: E402
from stepwell.tier.faulty import Faults, FaultyTier  # noqa: E402
from tests.redis_server import needs_server, redis_server  # noqa: E402

GREEDY = SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True)
POOL = "1MiB"  # 128 blocks of the tiny model
MakeTiered = Callable[..., LLM]


def tokens_of(count: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(300, 4000) for _ in range(count)]


def slow_compute(llm: LLM, monkeypatch: pytest.MonkeyPatch, *, per_token: float = 0.01) -> None:
    """Let the brain believe that a prompt token costs `per_token` seconds."""
    tiers = llm.built.engine.tiers
    assert tiers is not None
    tiers.hierarchy.prefill = PrefillCost()
    for count in (64, 128, 256):
        tiers.observe(tokens=count, context=0, seconds=count * per_token, now=time.monotonic())
    monkeypatch.setattr(tiers, "observe", lambda **_: None)


def settle(llm: LLM) -> None:
    """Wait until every transfer has ended."""
    engine = llm.built.engine
    assert engine.tiers is not None
    deadline = time.monotonic() + 60
    while engine.tiers.hierarchy.stats().open_orders:
        assert time.monotonic() < deadline, "transfers do not end"
        engine.wait_for_transfers(0.02)
        engine.tend()
        engine.check()


def run(llm: LLM, prompts: list[list[int]], **fields: Any) -> list[list[int]]:
    """Outputs of all prompts, run together."""
    engine = llm.built.engine
    outputs: dict[str, list[int]] = {}
    for prompt in prompts:
        run.count += 1  # type: ignore[attr-defined]
        name = f"r{run.count}"  # type: ignore[attr-defined]
        outputs[name] = []
        engine.add(
            GenerationRequest(
                request_id=name,
                prompt_token_ids=tuple(prompt),
                sampling=GREEDY,
                arrival=time.monotonic(),
                **fields,
            )
        )
    while engine.has_work:
        for delta in engine.step():
            assert delta.error is None, delta.error
            outputs[delta.request_id] += delta.token_ids
        if engine.blocked:
            engine.wait_for_transfers(0.25)
    return list(outputs.values())


run.count = 0  # type: ignore[attr-defined]


def restored(llm: LLM) -> int:
    tiers = llm.built.engine.tiers
    assert tiers is not None
    return tiers.restored_tokens


@pytest.fixture
def make_tiered(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeTiered]:
    """make_tiered(tiers__host="4MiB") -> an engine whose small pool forgets quickly."""
    made = []

    def make(*, per_token: float = 0.01, **settings: Any) -> LLM:
        defaults = {"cache__pool": POOL, "tiers__chunk_blocks": 2}
        llm = LLM(str(tiny_checkpoint), **(defaults | settings))
        made.append(llm)
        slow_compute(llm, monkeypatch, per_token=per_token)
        return llm

    yield make
    for llm in made:
        llm.close()


@pytest.fixture
def plain(tiny_checkpoint: Path) -> LLM:
    """The same model without tiers."""
    return LLM(str(tiny_checkpoint), cache__pool="8MiB", cache__prefix_caching=False)


def forget_device(llm: LLM) -> None:
    settle(llm)
    llm.built.engine.clear_cache()


@pytest.mark.parametrize("codec", ["raw", "lossless"])
def test_a_returning_prompt_is_restored_from_host(
    make_tiered: MakeTiered, plain: LLM, codec: str
) -> None:
    llm = make_tiered(tiers__host="8MiB", tiers__host_codec=codec)
    prompts = [tokens_of(200 + 7 * i, i) for i in range(3)]
    expected = run(plain, prompts)
    assert run(llm, prompts) == expected
    forget_device(llm)

    assert run(llm, prompts) == expected
    assert restored(llm) >= 3 * 192


def test_a_restored_prefix_is_shared_and_counted_as_cached(make_tiered: MakeTiered) -> None:
    llm = make_tiered(tiers__host="8MiB")
    prompt = tokens_of(256, 5)
    run(llm, [prompt])
    forget_device(llm)
    engine = llm.built.engine
    engine.add(
        GenerationRequest(
            request_id="again",
            prompt_token_ids=tuple(prompt),
            sampling=GREEDY,
            arrival=time.monotonic(),
        )
    )
    deltas: list[Delta] = []
    while engine.has_work:
        deltas += engine.step()
        if engine.blocked:
            engine.wait_for_transfers(0.25)
    usage = deltas[-1].usage
    assert usage is not None
    assert usage.cached_tokens == 255, "all but the token whose logits are wanted"
    before = restored(llm)
    run(llm, [prompt + tokens_of(9, 6)])
    assert restored(llm) == before, "the restored blocks are found on the device"


@pytest.mark.parametrize("codecs", [("raw", "raw"), ("lossless", "lossless"), ("raw", "lossless")])
def test_context_survives_a_restart_on_disk(
    make_tiered: MakeTiered, plain: LLM, tmp_path: Path, codecs: tuple[str, str]
) -> None:
    """Also where the codec was changed meanwhile."""
    settings = {"tiers__disk": str(tmp_path / "disk"), "tiers__disk_capacity": "64MiB",
                "tiers__disk_free_floor": "1MiB", "tiers__disk_codec": codecs[0]}  # fmt: skip
    prompts = [tokens_of(300, i) for i in range(4)]
    expected = run(plain, prompts)
    first = make_tiered(**settings)
    assert run(first, prompts) == expected
    settle(first)
    first.close()

    second = make_tiered(**settings | {"tiers__disk_codec": codecs[1]})
    assert run(second, prompts) == expected
    assert restored(second) >= 4 * 256


def test_a_failed_build_lets_go_of_the_disk(
    make_tiered: MakeTiered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While later tiers are opened, and after all are: the same process can open it again."""
    disk = {"tiers__disk": str(tmp_path / "disk"), "tiers__disk_capacity": "64MiB",
            "tiers__disk_free_floor": "1MiB"}  # fmt: skip
    with pytest.raises(ConfigError, match="scheme"):
        make_tiered(**disk, tiers__remote="http://nowhere")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no warm-up today")

    before = set(threading.enumerate())
    machine = replace(read_machine(), memory_available=8 << 20)
    with monkeypatch.context() as patched:  # weights and pool have taken the memory meanwhile
        patched.setattr("stepwell.engine.build_tiers.read_machine", lambda: machine)
        with pytest.raises(HardwareError, match=r"tiers.host is 8.0 MiB, but 8.0 MiB"):
            make_tiered(**disk, tiers__host="8MiB")
    with monkeypatch.context() as patched:
        patched.setattr("stepwell.engine.build._warm_up", fail)
        with pytest.raises(RuntimeError, match="today"):
            make_tiered(**disk)
    assert set(threading.enumerate()) <= before, "a thread of the mover is left"

    llm = make_tiered(**disk)
    assert llm.built.open_tiers is not None


def test_other_weights_never_find_the_chunks(
    make_tiered: MakeTiered, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same shape and configuration with one number changed, anywhere in the file."""
    import shutil

    from safetensors.torch import load_file, save_file

    other = tmp_path / "other"
    shutil.copytree(tiny_checkpoint, other)
    weights = load_file(other / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][17, 23] += 1.0
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    disk = {"tiers__disk": str(tmp_path / "disk"), "tiers__disk_capacity": "64MiB",
            "tiers__disk_free_floor": "1MiB"}  # fmt: skip
    prompt = tokens_of(300, 1)
    first = make_tiered(**disk)
    run(first, [prompt])
    settle(first)
    first.close()

    changed = LLM(str(other), cache__pool=POOL, tiers__chunk_blocks=2, **disk)
    slow_compute(changed, monkeypatch)
    expected = run(LLM(str(other), cache__pool="8MiB"), [prompt])
    assert run(changed, [prompt]) == expected
    assert restored(changed) == 0
    changed.close()


def test_tenants_do_not_find_each_others_chunks(make_tiered: MakeTiered) -> None:
    llm = make_tiered(tiers__host="8MiB")
    prompt = tokens_of(256, 3)
    run(llm, [prompt], tenant="a")
    forget_device(llm)
    run(llm, [prompt], tenant="b")
    assert restored(llm) == 0
    forget_device(llm)
    run(llm, [prompt], tenant="a")
    assert restored(llm) > 0


def test_a_request_may_forbid_storing(make_tiered: MakeTiered) -> None:
    llm = make_tiered(tiers__host="8MiB")
    run(llm, [tokens_of(256, 3)], store=False)
    settle(llm)
    assert llm.built.open_tiers is not None
    assert llm.built.open_tiers.stores[TierName.HOST].usage().chunks == 0


def test_preempted_sequences_swap_instead_of_forgetting(
    make_tiered: MakeTiered, plain: LLM
) -> None:
    """More prompts than the pool holds, at once."""
    prompts = [tokens_of(380, i) for i in range(8)]
    expected = run(plain, prompts)
    llm = make_tiered(tiers__host="16MiB", cache__pool="704KiB")
    for _ in range(3):
        assert run(llm, prompts) == expected
    assert restored(llm) > 0


def test_split_computes_the_front_while_the_back_is_loaded(
    make_tiered: MakeTiered, plain: LLM
) -> None:
    """A tier about as slow as computing: both ends meet."""
    llm = make_tiered(tiers__host="8MiB", per_token=0.002)
    prompt = tokens_of(448, 9)
    expected = run(plain, [prompt])
    run(llm, [prompt])
    forget_device(llm)
    hierarchy = llm.built.engine.tiers.hierarchy  # type: ignore[union-attr]
    for count in [1, 4, 8] * 20:  # one chunk takes half as long as computing it
        hierarchy.transferred(
            TierName.HOST, size=count * 16384, seconds=count * 0.032, now=time.monotonic()
        )
    before = hierarchy.stats().ledger.splits
    assert run(llm, [prompt]) == expected
    assert 0 < restored(llm) < 448
    assert hierarchy.stats().ledger.splits == before + 1


@pytest.mark.parametrize("faults", [
    Faults(fail_read=0.3, fail_write=0.1, seed=1),
    Faults(corrupt_below=0.3, seed=2),
    Faults(hang=0.2, hang_seconds=0.3, seed=3),
    Faults(bytes_per_second=20e6),
], ids=["fails", "corrupts", "hangs", "slow"])  # fmt: skip
def test_a_sick_tier_changes_no_token(
    tiny_checkpoint: Path, plain: LLM, monkeypatch: pytest.MonkeyPatch, faults: Faults
) -> None:
    sick: list[FaultyTier] = []

    def wrap(name: TierName, tier: Tier) -> FaultyTier:
        sick.append(FaultyTier(tier, faults))
        return sick[-1]

    llm = LLM(
        str(tiny_checkpoint), wrap_tier=wrap, cache__pool=POOL, tiers__chunk_blocks=2,
        tiers__host="8MiB",
    )  # fmt: skip
    slow_compute(llm, monkeypatch)
    prompts = [tokens_of(200 + 11 * i, i) for i in range(6)]
    expected = run(plain, prompts)
    for _ in range(4):
        assert run(llm, prompts) == expected
        llm.built.engine.clear_cache()
    assert sick[0].injected.total() or faults.bytes_per_second, "the faults never came"
    llm.close()


def test_aborting_while_loading_frees_everything(make_tiered: MakeTiered) -> None:
    llm = make_tiered(tiers__host="8MiB")
    prompt = tokens_of(400, 4)
    run(llm, [prompt])
    forget_device(llm)
    engine = llm.built.engine
    for attempt in range(5):
        engine.add(
            GenerationRequest(
                request_id=f"gone-{attempt}",
                prompt_token_ids=tuple(prompt),
                sampling=GREEDY,
                arrival=time.monotonic(),
            )
        )
        engine.step()
        engine.abort(f"gone-{attempt}")
        engine.check()
        forget_device(llm)
    assert engine.stats().blocks_used == 0


@needs_server
@pytest.mark.parametrize("codec", ["raw", "lossless"])
def test_a_session_moves_from_one_replica_to_another(
    make_tiered: MakeTiered, plain: LLM, codec: str
) -> None:
    """Replica B has never seen the prompt; the network tier has it from A. A third with another
    codec does not look there."""
    prompts = [tokens_of(300, i) for i in range(3)]
    expected = run(plain, prompts)
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)):
        url = f"unix://{folder}/redis.sock"
        first = make_tiered(tiers__remote=url, tiers__remote_codec=codec)
        (chosen,) = [d for d in first.built.decisions if d.name == "tiers.remote"]
        assert chosen.because == f"tiers.remote = {url}"
        assert run(first, prompts) == expected
        settle(first)
        second = make_tiered(tiers__remote=url, tiers__remote_codec=codec)
        assert run(second, prompts) == expected
        assert restored(second) >= 3 * 256
        other = {"raw": "lossless", "lossless": "raw"}[codec]
        third = make_tiered(tiers__remote=url, tiers__remote_codec=other)
        assert run(third, prompts) == expected
        assert restored(third) == 0
        for llm in (first, second, third):
            llm.close()


def test_a_hanging_tier_does_not_hold_the_devices_blocks(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one store that hangs keeps its chunk; those behind it are given up."""
    monkeypatch.setattr("stepwell.engine.tiers._STORE_SECONDS", 0.2)
    hung: list[FaultyTier] = []

    def wrap(name: TierName, tier: Tier) -> FaultyTier:
        hung.append(FaultyTier(tier, Faults(hang=1.0)))
        return hung[-1]

    llm = LLM(
        str(tiny_checkpoint), cache__pool=POOL, tiers__chunk_blocks=2, tiers__host="8MiB",
        wrap_tier=wrap,
    )  # fmt: skip
    run(llm, [tokens_of(400, 1)])
    engine = llm.built.engine
    assert engine.stats().blocks_used > 2
    time.sleep(0.3)
    engine.tend()
    assert engine.stats().blocks_used <= 2
    hung[0].release()
    llm.close()


def test_a_full_host_tier_goes_on_evicting(make_tiered: MakeTiered) -> None:
    """A chunk of 16 KiB takes a page of 64: the books must count what it takes, or they believe in
    room that is not there, evict nothing, and all later stores fail."""
    llm = make_tiered(tiers__host="2MiB")
    prompts = [tokens_of(200, 100 + i) for i in range(20)]
    for prompt in prompts:
        run(llm, [prompt])
        settle(llm)
    forget_device(llm)
    tiers = llm.built.engine.tiers
    assert tiers is not None
    host = tiers.hierarchy.stats().tiers[TierName.HOST]
    assert host.evictions > 50
    assert host.failures <= 3, "only until the books know what a chunk takes"
    run(llm, prompts[-1:])
    assert restored(llm) >= 128
