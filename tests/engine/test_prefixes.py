"""Pinned prefixes survive pressure and make nobody wait; what is forgotten is nowhere any more."""

# ruff: noqa: F811
from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from stepwell.base.hierarchy import TierName, WorkloadClass  # noqa: E402
from stepwell.base.prefix import Erasure, Mark, PrefixPin  # noqa: E402
from stepwell.base.request import GenerationRequest  # noqa: E402
from stepwell.engine.llm import LLM  # noqa: E402
from stepwell.tier.faulty import Faults, FaultyTier  # noqa: E402
from tests.engine.test_tiers import (  # noqa: E402
    GREEDY,
    MakeTiered,
    forget_device,
    make_tiered,  # noqa: F401
    plain,  # noqa: F401
    restored,
    run,
    settle,
    tokens_of,
)
from tests.redis_server import needs_server, redis_server  # noqa: E402

SECRET = "gotcha-1"
HEAD, PACK = tokens_of(64, 1), tokens_of(160, 2)
AFTER = len(HEAD) + len(PACK)
MARKED = (Mark(labels=(SECRET, "metric-2"), start=len(HEAD)),)


def pin_of(tokens: list[int], *, name: str = "pack", worth: float = 1.0) -> PrefixPin:
    return PrefixPin(name=name, tenant="", token_ids=tuple(tokens), worth=worth)


def cached(llm: LLM, prompt: list[int]) -> int:
    """Tokens that a request with this prompt finds."""
    engine = llm.built.engine
    engine.add(
        GenerationRequest(
            request_id=f"probe{time.monotonic()}", prompt_token_ids=tuple(prompt),
            sampling=GREEDY, arrival=time.monotonic(), store=False,
        )
    )  # fmt: skip
    last = None
    while engine.has_work:
        for delta in engine.step():
            last = delta
        if engine.blocked:
            engine.wait_for_transfers(0.25)
    assert last is not None and last.usage is not None
    return last.usage.cached_tokens


def test_a_pinned_prefix_survives_pressure_and_what_is_not_pinned_does_not(plain: LLM) -> None:
    llm = LLM(plain.built.loaded.folder.as_posix(), cache__pool="512KiB")  # 64 blocks
    prompts = {name: tokens_of(256, seed) for seed, name in enumerate(("pinned", "other"))}
    for prompt in prompts.values():
        run(llm, [prompt])
    state = llm.built.engine.prefixes.pin(pin_of(prompts["pinned"]))
    assert state.tokens == state.kept == state.on_device == 256
    for seed in range(100, 120):
        run(llm, [tokens_of(200, seed)])
    assert cached(llm, [*prompts["pinned"], 7]) == 256
    assert cached(llm, [*prompts["other"], 7]) == 0
    llm.built.engine.prefixes.unpin("pack")
    for seed in range(200, 220):
        run(llm, [tokens_of(200, seed)])
    assert cached(llm, [*prompts["pinned"], 7]) == 0


def test_requests_take_pinned_blocks_when_they_need_them(plain: LLM) -> None:
    """Pins protect half of the pool; a prompt that needs more than the other half gets it."""
    llm = LLM(plain.built.loaded.folder.as_posix(), cache__pool="512KiB")
    kept, given_up = tokens_of(256, 1), tokens_of(240, 2)
    run(llm, [kept])
    run(llm, [given_up])
    prefixes = llm.built.engine.prefixes
    assert prefixes.pin(pin_of(kept, name="good", worth=2.0)).kept == 256
    assert prefixes.pin(pin_of(given_up, name="late", worth=1.0)).kept == 240
    long = [tokens_of(400, 3), tokens_of(400, 4)]
    assert run(llm, long) == run(plain, long)
    assert prefixes.stats().pin_evictions > 0
    assert cached(llm, [*given_up, 7]) < 240, "the least worth gives way first"
    llm.built.engine.check()


def test_the_share_of_pins_goes_to_the_most_worth(plain: LLM) -> None:
    llm = LLM(plain.built.loaded.folder.as_posix(), cache__pool="512KiB")
    prefixes = llm.built.engine.prefixes
    assert prefixes.pin(pin_of(tokens_of(480, 1), name="a", worth=1.0)).kept == 480
    assert prefixes.pin(pin_of(tokens_of(480, 2), name="b", worth=2.0)).kept == 480
    assert prefixes.pin(pin_of(tokens_of(480, 1), name="a", worth=1.0)).kept < 480
    prefixes.unpin("b")
    assert prefixes.pin(pin_of(tokens_of(480, 1), name="a", worth=1.0)).kept == 480


# --- forgetting ---------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)):
        yield f"unix://{folder}/redis.sock"


def block_bytes(llm: LLM, prompt: list[int], first: int) -> list[bytes]:
    """The bytes of K and V of a prompt's whole blocks from token `first` on, as computed: each
    block's first 64 bytes, which no other text gives."""
    engine = llm.built.engine
    keys = engine._cache.keys_of(prompt, tenant="")
    blocks = engine._cache.pool.find(keys)
    assert len(blocks) == len(keys), "not on the device"
    return [bytes(view[:64]) for view in llm.built.pool.views(blocks[first // 16 :])]


def places(llm: LLM, folder: Path, url: str, needles: list[bytes]) -> dict[str, int]:
    """How often the needles are found, by place."""
    pool = llm.built.pool.storage.view(torch.uint8).numpy().tobytes()
    found = {"device": sum(pool.count(needle) for needle in needles)}
    opened = llm.built.open_tiers
    assert opened is not None
    host = opened.stores[TierName.HOST]
    arena = bytes(host._arena)  # type: ignore[attr-defined]
    found["host"] = sum(arena.count(needle) for needle in needles)
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    found["disk"] = sum(data.count(needle) for data in files for needle in needles)
    import redis

    client = redis.Redis.from_url(url)
    values = [client.get(name) or b"" for name in client.scan_iter()]
    found["network"] = sum(value.count(needle) for value in values for needle in needles)  # type: ignore[union-attr]
    client.close()
    return found


@needs_server
def test_no_byte_of_what_is_erased_is_left_anywhere(
    make_tiered: MakeTiered,
    plain: LLM,
    tmp_path: Path,
    server: str,
) -> None:
    disk = tmp_path / "disk"
    llm = make_tiered(
        tiers__host="8MiB", tiers__disk=str(disk), tiers__disk_capacity="64MiB",
        tiers__disk_free_floor="1MiB", tiers__remote=server,
    )  # fmt: skip
    engine = llm.built.engine
    secret = HEAD + PACK + tokens_of(96, 3)
    other = HEAD + tokens_of(192, 4)
    expected = run(plain, [secret, other])
    for workload in ("document", "code"):
        kind = WorkloadClass(workload)
        assert run(llm, [secret], workload=kind, marks=MARKED) == expected[:1]
        assert run(llm, [other], workload=kind) == expected[1:]
        settle(llm)
    needles = block_bytes(llm, secret, len(HEAD))
    clean = block_bytes(llm, other, 0)
    before = places(llm, disk, server, needles)
    assert all(count > 0 for count in before.values()), before
    engine.prefixes.pin(pin_of(HEAD + PACK))

    done = engine.prefixes.forget(Erasure(tenant="", labels=(SECRET,)))
    assert done.blocks and done.chunks and not done.everything
    settle_erasures(llm)
    assert sum(places(llm, disk, server, needles).values()) == 0
    after = places(llm, disk, server, clean)
    assert after["device"] and after["host"] and after["disk"], "more went than had to"
    assert engine.prefixes.stats().pins == 0
    assert cached(llm, secret) == len(HEAD), "what was computed before it is still good"
    forget_device(llm)
    assert run(llm, [secret, other]) == expected
    engine.check()
    assert engine.tiers is not None
    engine.tiers.hierarchy.check()


def settle_erasures(llm: LLM) -> None:
    engine, deadline = llm.built.engine, time.monotonic() + 20
    while engine.prefixes.stats().erasing:
        assert time.monotonic() < deadline, "an erasure does not end"
        engine.wait_for_transfers(0.02)
        engine.tend()
    settle(llm)


def test_bytes_evicted_long_before_go_too(make_tiered: MakeTiered, tmp_path: Path) -> None:
    """A chunk that was evicted leaves its bytes in free pages and dead frames until they are used
    again; an erasure overwrites those."""
    disk = tmp_path / "disk"
    llm = make_tiered(
        tiers__host="1MiB", tiers__disk=str(disk), tiers__disk_capacity="64MiB",
        tiers__disk_free_floor="1MiB",
    )  # fmt: skip
    secret = HEAD + PACK
    run(llm, [secret], marks=MARKED, workload=WorkloadClass.CODE)
    settle(llm)
    needles = block_bytes(llm, secret, len(HEAD))
    stores = llm.built.open_tiers.stores  # type: ignore[union-attr]
    for name in (TierName.HOST, TierName.DISK):
        stores[name].delete([chunk.key for chunk in stores[name].scan()])
    llm.built.engine.clear_cache()
    arena = bytes(stores[TierName.HOST]._arena)  # type: ignore[attr-defined]
    pool = llm.built.pool.storage.view(torch.uint8).numpy().tobytes()
    assert any(n in arena for n in needles) and any(n in pool for n in needles)
    llm.built.engine.prefixes.forget(Erasure(tenant="", labels=(SECRET,)))
    settle_erasures(llm)
    arena = bytes(stores[TierName.HOST]._arena)  # type: ignore[attr-defined]
    pool = llm.built.pool.storage.view(torch.uint8).numpy().tobytes()
    data = b"".join(path.read_bytes() for path in disk.rglob("*") if path.is_file())
    assert not any(n in arena or n in pool or n in data for n in needles)


def test_a_live_sequence_finishes_and_gives_nothing_to_others(
    make_tiered: MakeTiered,
    plain: LLM,
) -> None:
    llm = make_tiered(tiers__host="8MiB")
    engine = llm.built.engine
    secret = HEAD + PACK + tokens_of(40, 5)
    expected = run(plain, [secret])

    def ask(name: str) -> None:
        engine.add(
            GenerationRequest(
                request_id=name, prompt_token_ids=tuple(secret), sampling=GREEDY,
                arrival=time.monotonic(), marks=MARKED,
            )
        )  # fmt: skip

    ask("running")
    ask("waiting")
    outputs: dict[str, list[int]] = {"running": [], "waiting": [], "late": []}
    for delta in engine.step():
        outputs[delta.request_id] += delta.token_ids
    done = engine.prefixes.forget(Erasure(tenant="", labels=(SECRET,)))
    assert done.live >= 1
    ask("late")
    while engine.has_work:
        for delta in engine.step():
            assert delta.error is None
            outputs[delta.request_id] += delta.token_ids
        if engine.blocked:
            engine.wait_for_transfers(0.25)
    assert list(outputs.values()) == expected * 3, "those that had it go on with it"
    settle_erasures(llm)
    free = engine._cache.pool._free
    assert not any(llm.built.pool.storage[b].any() for b in free), "free blocks hold zeros"
    assert cached(llm, secret) <= len(HEAD)
    assert restored(llm) == 0


def test_what_an_earlier_process_wrote_goes_when_nobody_can_vouch_for_it(
    make_tiered: MakeTiered,
    tmp_path: Path,
) -> None:
    settings = {"tiers__disk": str(tmp_path / "disk"), "tiers__disk_capacity": "64MiB",
                "tiers__disk_free_floor": "1MiB"}  # fmt: skip
    first = make_tiered(**settings)
    secret, other, foreign = HEAD + PACK, tokens_of(128, 8), tokens_of(128, 9)
    run(first, [secret], marks=MARKED)
    run(first, [other])
    run(first, [foreign], tenant="somebody else")
    settle(first)
    first.close()
    second = make_tiered(**settings)
    run(second, [[*other, 7]])  # this process has seen it, and it carries no mark
    settle(second)
    second.built.engine.prefixes.forget(Erasure(tenant="", labels=(SECRET,)))
    settle_erasures(second)
    second.built.engine.clear_cache()
    before = restored(second)
    run(second, [secret])
    assert restored(second) == before
    run(second, [[*other, 8]])
    assert restored(second) > before
    before = restored(second)
    run(second, [[*foreign, 8]], tenant="somebody else")
    assert restored(second) > before


def test_a_tier_that_fails_is_asked_again(make_tiered: MakeTiered) -> None:
    wrapped: list[FaultyTier] = []

    def wrap(name: TierName, tier: object) -> FaultyTier:
        wrapped.append(FaultyTier(tier))  # type: ignore[arg-type]
        return wrapped[-1]

    llm = make_tiered(tiers__host="8MiB", wrap_tier=wrap)
    secret = HEAD + PACK
    run(llm, [secret], marks=MARKED)
    settle(llm)
    needles = block_bytes(llm, secret, len(HEAD))
    wrapped[0].faults = Faults(fail_other=1.0)
    engine = llm.built.engine
    engine.prefixes.forget(Erasure(tenant="", labels=(SECRET,)))
    for _ in range(5):
        engine.wait_for_transfers(0.02)
        engine.tend()
    assert engine.prefixes.stats().erasing == 1
    wrapped[0].faults = Faults()
    settle_erasures(llm)
    arena = bytes(wrapped[0].inner._arena)  # type: ignore[attr-defined]
    assert not any(needle in arena for needle in needles)
