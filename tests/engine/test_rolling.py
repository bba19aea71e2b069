"""A live sequence longer than the pool: it goes on, and what is packed without loss changes
nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from stepwell.base.errors import ConfigError, ContextLengthExceeded  # noqa: E402
from stepwell.codec.contract import Buffer, KeepExact  # noqa: E402
from stepwell.codec.kvtc.chunk import KvtcCodec, KvtcTarget  # noqa: E402
from stepwell.codec.lossless import LosslessCodec  # noqa: E402
from stepwell.engine.llm import LLM  # noqa: E402
from stepwell.kernels.paged_attention import AttentionSpec, merge_partials  # noqa: E402
from stepwell.model.packed import PackedFront, Packing, attend_packed  # noqa: E402
from tests.codec.test_kvtc_chunk import LAYOUT, SHAPE, TOKENS, chunk  # noqa: E402
from tests.codec.test_kvtc_chunk import calibration as tiny_calibration  # noqa: E402
from tests.engine.test_tiers import run, tokens_of  # noqa: E402

SMALL = {
    "cache__pool": "192KiB",  # 24 blocks, 384 tokens; a sequence may hold 192 of them
    "scheduler__max_step_tokens": 48,
    "tiers__exact_window": 64,
    "tiers__kvtc_ratio": 8.0,
}
Make = Callable[..., LLM]


@pytest.fixture
def rolling(make_llm: Make, calibrated: Path) -> Make:
    def make(**settings: Any) -> LLM:
        fixed = {"cache__rolling": "kvtc", "tiers__kvtc_calibration": str(calibrated)}
        return make_llm(**(SMALL | fixed | settings))

    return make


def keep_everything_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise KeepExact("for this test")

    monkeypatch.setattr(KvtcCodec, "encode", refuse)


def test_what_is_packed_without_loss_changes_no_token(
    rolling: Make, make_llm: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_everything_exact(monkeypatch)
    prompts = [tokens_of(450, 1), tokens_of(60, 2), tokens_of(300, 3)]
    expected = run(make_llm(scheduler__max_step_tokens=48), prompts)
    llm = rolling()
    assert run(llm, prompts) == expected
    llm.built.engine.check()
    assert llm.built.engine.stats().blocks_used == 0


def test_a_coded_front_goes_on_too(rolling: Make) -> None:
    llm = rolling()
    (first,) = run(llm, [tokens_of(480, 4)])
    assert len(first) == 6
    llm.built.engine.clear_cache()  # with a prefix hit, other tokens would meet a packed front
    assert run(llm, [tokens_of(480, 4)]) == [first], "coding is deterministic"
    llm.built.engine.check()


def test_without_rolling_the_pool_is_the_limit(make_llm: Make) -> None:
    llm = make_llm(**SMALL)
    with pytest.raises(ContextLengthExceeded, match="KV pool"):
        run(llm, [tokens_of(450, 1)])


def test_blocks_behind_a_packed_front_are_shown_to_nobody(rolling: Make) -> None:
    llm = rolling()
    prompt = tokens_of(480, 5)
    run(llm, [prompt])
    match = llm.built.engine._cache.lookup(prompt, tenant="", keys=[])
    assert match.tokens <= 192 + 48


def test_a_pool_too_small_for_the_window_is_refused(rolling: Make) -> None:
    with pytest.raises(ConfigError, match="half of the pool"):
        rolling(tiers__exact_window=200)


def test_a_preempted_sequence_is_computed_again(
    rolling: Make, make_llm: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two long ones that do not fit together."""
    keep_everything_exact(monkeypatch)
    prompts = [tokens_of(440, 6), tokens_of(430, 7), tokens_of(200, 8)]
    expected = run(make_llm(scheduler__max_step_tokens=48), prompts)
    assert run(rolling(), prompts) == expected


# --- the packed front by itself -----------------------------------------------------------------


def packing(limit: float = 2.0) -> Packing:
    codec = KvtcCodec(
        tiny_calibration(joint=True), shape=SHAPE, target=KvtcTarget(ratio=4.0, limit=limit)
    )
    exact = LosslessCodec(SHAPE.dtype, shape=SHAPE)
    return Packing(codec=codec, exact=exact, shape=SHAPE, blocks=2)


def decoded(codec: KvtcCodec, parts: Sequence[Buffer], index: int) -> torch.Tensor:
    out = [memoryview(bytearray(part.nbytes)) for part in parts]
    codec.decode([memoryview(bytes(p)) for p in codec.encode(parts, index=index)], out)
    return torch.frombuffer(bytearray(b"".join(out)), dtype=SHAPE.dtype).view(len(parts), -1)


def test_layers_of_an_opened_front_are_what_decoding_gives() -> None:
    """A coded chunk with sinks, one that is kept exact, and a coded one."""
    made = packing()
    front, expected = PackedFront(made), []
    for index in range(3):
        numbers, parts = chunk(2, index=index, seed=index)
        if index == 1:
            numbers = numbers + 50 * torch.randn(numbers.shape, generator=_seeded())
            parts = [memoryview(row) for row in numbers.view(torch.uint8).numpy()]
            expected.append(numbers)
        else:
            expected.append(decoded(made.codec, parts, index))
        front.add(parts)
    assert front.kept_exact == 1 and front.tokens == 6 * TOKENS
    opened = front.open()
    for number in range(2):
        keys, values = opened.layer(number)
        for index, numbers in enumerate(expected):
            part = slice(index * 2 * TOKENS, (index + 1) * 2 * TOKENS)
            wanted = LAYOUT.layer(numbers, number)
            assert torch.allclose(keys[part], wanted[0], atol=0.03, rtol=0.02)
            assert torch.allclose(values[part], wanted[1], atol=0.03, rtol=0.02)
    assert opened.layer(0)[0][:4].equal(LAYOUT.layer(chunk(2, index=0, seed=0)[0], 0)[0][:4])


@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_attention_over_two_parts_is_attention_over_the_whole(
    window: int | None, softcap: float | None
) -> None:
    spec = AttentionSpec(scale=0.3, window=window, softcap=softcap)
    keys, values = (torch.randn(50, 2, 8, generator=_seeded(s)) for s in (1, 2))
    query = torch.randn(3, 4, 8, generator=_seeded(3))
    whole, lse = attend_packed(query, keys, values, spec, first=50)
    halves = [
        attend_packed(query, keys[:20], values[:20], spec, first=50),
        _behind(query, keys[20:], values[20:], spec, first=50, offset=20),
    ]
    out, total = merge_partials([half[0] for half in halves], [half[1] for half in halves])
    assert torch.allclose(out, whole, atol=1e-5) and torch.allclose(total, lse, atol=1e-5)


def _behind(query, keys, values, spec, *, first: int, offset: int):  # type: ignore[no-untyped-def]
    """Keys from `offset` on: windows count from there."""
    return attend_packed(query, keys, values, spec, first=first - offset)


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
