"""Packs as KV: computed ahead for the heads that come, pinned, switched, let go of, erased."""

from __future__ import annotations

import asyncio
from typing import Any

from stepwell.base.errors import EngineStopped
from stepwell.base.prefix import Erased, Erasure, PinState, PrefixPin
from stepwell.base.request import GenerationRequest
from stepwell.base.sampling import SamplingParams
from stepwell.server.knowledge.heads import PackTokens
from stepwell.server.knowledge.packs import PackKeeper
from stepwell.server.knowledge.ports import Served
from tests.api.fake_engine import FakeTokenizer

TOKENIZER = FakeTokenizer()
PREAMBLE = "Reference about the data. Lines that begin with '|' are quoted.\n"
OLD = PREAMBLE + "[gotcha-1]\n| caution status: stale\n[metric-2]\n| metric revenue = sum(x)\n"
NEW = PREAMBLE + "[gotcha-3]\n| caution state: use it\n[metric-2]\n| metric revenue = sum(x)\n"


class Engine:
    """Writes down what it is asked."""

    def __init__(self) -> None:
        self.prefilled: list[GenerationRequest] = []
        self.pins: dict[str, PrefixPin] = {}
        self.erasures: list[Erasure] = []
        self.left = 2
        self.fails = False

    async def prefill(self, request: GenerationRequest) -> None:
        if self.fails:
            raise EngineStopped("stopping")
        await asyncio.sleep(0)
        self.prefilled.append(request)

    async def pin(self, pin: PrefixPin) -> PinState:
        self.pins[pin.name] = pin
        return PinState(tokens=0, kept=0, on_device=0, in_tiers=0, bytes=0)

    async def unpin(self, name: str) -> None:
        self.pins.pop(name, None)

    async def forget(self, erasure: Erasure) -> Erased:
        self.erasures.append(erasure)
        return Erased(blocks=3, chunks=4, live=0)

    async def erasing(self) -> int:
        self.left -= 1
        return self.left


def served(
    pack: str, *, system: str = "Be brief.", chosen: str = "", ids: tuple[str, ...] = ()
) -> Served:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": system},
        {"role": "user", "content": f"{pack}{chosen}\nHow many?"},
    ]
    request = GenerationRequest(
        request_id="r", prompt_token_ids=tuple(TOKENIZER.encode_chat(messages)),
        sampling=SamplingParams(max_tokens=1), arrival=0.0, tenant="shop",
    )  # fmt: skip
    return Served(
        tenant="shop", area="", release="r1", pack=pack, ids=ids, messages=messages, request=request
    )


def text_of(request: GenerationRequest) -> str:
    return TOKENIZER.decode(request.prompt_token_ids)


def test_a_pack_is_found_in_a_prompt_whatever_is_around_it() -> None:
    tokens = PackTokens(TOKENIZER)
    prompt = served(OLD).request.prompt_token_ids
    place = tokens.place(prompt, OLD)
    assert place is not None
    assert TOKENIZER.decode(prompt[: place.start]) in "system: Be brief.\nuser: "
    assert TOKENIZER.decode(prompt[: place.end]).endswith("sum")
    assert tokens.place(prompt, NEW) is None
    assert tokens.place(prompt, "x") is None, "too short to tell"


def test_marks_cover_every_token_of_an_entry() -> None:
    keeper = PackKeeper(Engine(), TOKENIZER)
    chosen = "[template-9]\n| question q\n"
    seen = served(OLD, chosen=chosen, ids=("gotcha-1", "metric-2", "template-9"))
    marks = keeper.saw(seen)
    starts = {label: mark.start for mark in marks for label in mark.labels}
    prompt = seen.request.prompt_token_ids
    for label in ("gotcha-1", "metric-2", "template-9"):
        assert f"[{label}]" not in TOKENIZER.decode(prompt[: starts[label]])
        assert f"[{label}]" in TOKENIZER.decode(prompt[starts[label] :])
    assert starts["template-9"] > starts["gotcha-1"], "the pack in front of it is good still"


def test_what_cannot_be_found_may_be_anywhere() -> None:
    keeper = PackKeeper(Engine(), TOKENIZER)
    request = served("no pack at all", ids=("metric-2",))
    (mark,) = keeper.saw(
        Served(
            tenant="shop", area="", release="r1", pack=OLD, ids=("metric-2",), messages=(),
            request=request.request,
        )
    )  # fmt: skip
    assert mark.start == 0


def test_a_release_is_computed_for_the_heads_that_came_and_then_pinned() -> None:
    engine = Engine()
    keeper = PackKeeper(engine, TOKENIZER)

    async def go() -> None:
        keeper.start()
        for system, times in (("rare", 1), ("Be brief.", 5)):
            for _ in range(times):
                keeper.saw(served(OLD, system=system))
        await keeper.warm("shop", {"": NEW, "other area": NEW})
        keeper.switched("shop", "r2", {"": NEW})
        await asyncio.sleep(0.01)
        await keeper.close()

    asyncio.run(go())
    asked = [text_of(request) for request in engine.prefilled]
    assert asked[0].startswith("system: Be brief.\nuser: Reference"), "the busiest first"
    assert asked[1].startswith("system: rare\nuser: Reference") and len(asked) == 2
    after = served(NEW).request.prompt_token_ids
    first = engine.prefilled[0]
    assert after[: len(first.prompt_token_ids)] == first.prompt_token_ids, "a prefix of requests"
    assert len(first.prompt_token_ids) > len(after) - 40
    assert first.sampling.max_tokens == 0 and first.priority > 1000
    labels = {label for mark in first.marks for label in mark.labels}
    assert labels == {"gotcha-3", "metric-2"}
    worth = {pin.token_ids: pin.worth for pin in engine.pins.values()}
    assert worth[engine.prefilled[0].prompt_token_ids] > worth[engine.prefilled[1].prompt_token_ids]


def test_the_release_before_stays_and_the_one_before_that_goes() -> None:
    engine = Engine()
    keeper = PackKeeper(engine, TOKENIZER)
    texts = [OLD, NEW, OLD + "[x-1]\n| more\n"]

    async def go() -> list[int]:
        keeper.start()
        keeper.saw(served(OLD))
        counts = []
        for number, text in enumerate(texts):
            await keeper.warm("shop", {"": text})
            keeper.switched("shop", f"r{number}", {"": text})
            await asyncio.sleep(0.01)
            counts.append(len(engine.pins))
        await keeper.close()
        return counts

    assert asyncio.run(go()) == [1, 2, 2]
    kept = [TOKENIZER.decode(pin.token_ids) for pin in engine.pins.values()]
    assert not any("gotcha-1" in text and "x-1" not in text for text in kept)
    old, new = sorted(engine.pins.values(), key=lambda pin: pin.worth)
    assert "gotcha-3" in TOKENIZER.decode(old.token_ids)
    assert "x-1" in TOKENIZER.decode(new.token_ids)


def test_a_busy_head_is_pinned_without_a_release_and_only_now_and_then() -> None:
    engine, now = Engine(), [0.0]
    keeper = PackKeeper(engine, TOKENIZER, clock=lambda: now[0])
    calls = []

    async def go() -> None:
        keeper.start()
        pin = engine.pin

        async def counted(order: PrefixPin) -> PinState:
            calls.append(order)
            return await pin(order)

        engine.pin = counted  # type: ignore[method-assign]
        for _ in range(5):
            keeper.saw(served(OLD))
            await asyncio.sleep(0.001)
        now[0] = 60.0
        keeper.saw(served(OLD))
        await asyncio.sleep(0.001)
        await keeper.close()

    asyncio.run(go())
    assert len(calls) == 2 and not engine.prefilled


def test_erasing_reaches_the_engine_and_waits_for_the_tiers() -> None:
    engine = Engine()
    keeper = PackKeeper(engine, TOKENIZER)

    async def go() -> int:
        keeper.start()
        for _ in range(3):
            keeper.saw(served(OLD, ids=("gotcha-1",)))
        await asyncio.sleep(0.01)
        assert keeper.pinned == 1
        count = await keeper.erased("shop", ["gotcha-1"])
        await keeper.close()
        return count

    assert asyncio.run(go()) == 7
    assert engine.erasures == [Erasure(tenant="shop", labels=("gotcha-1",))]
    assert not engine.pins and not keeper.pinned


def test_without_pins_nothing_is_computed_but_marks_and_erasing_work() -> None:
    engine = Engine()
    keeper = PackKeeper(engine, TOKENIZER, pins=False)

    async def go() -> int:
        keeper.start()
        assert keeper.saw(served(OLD, ids=("gotcha-1",)))
        await keeper.warm("shop", {"": NEW})
        return await keeper.erased("shop", ["gotcha-1"])

    assert asyncio.run(go()) == 7
    assert not engine.prefilled and not engine.pins


def test_an_engine_that_stops_does_not_stop_a_release() -> None:
    engine = Engine()
    engine.fails = True
    keeper = PackKeeper(engine, TOKENIZER)

    async def go() -> None:
        keeper.start()
        keeper.saw(served(OLD))
        await keeper.warm("shop", {"": NEW})

    asyncio.run(go())
    assert not engine.pins
