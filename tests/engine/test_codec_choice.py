"""`auto`: the codec through which a tier gives chunks back fastest, within an error limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from stepwell.base.config import TiersConfig  # noqa: E402
from stepwell.base.hierarchy import TierName  # noqa: E402
from stepwell.engine.codecs import TierCodecs, make_codecs  # noqa: E402
from stepwell.engine.llm import LLM  # noqa: E402
from stepwell.tier.contract import Buffer, ReadOutcome  # noqa: E402
from stepwell.tier.host import HostTier  # noqa: E402

HOST = TierName.HOST


class SlowHost(HostTier):
    """A link of so many bytes a second."""

    rate = 4e5

    def read(self, key: bytes, out: Sequence[Buffer]) -> ReadOutcome:
        time.sleep(sum(part.nbytes for part in out) / self.rate)
        return super().read(key, out)


class BrokenHost(HostTier):
    def read(self, key: bytes, out: Sequence[Buffer]) -> ReadOutcome:
        raise OSError("gone")


def codecs(llm: LLM, **settings: Any) -> TierCodecs:
    config = TiersConfig(host="1MiB", **settings)
    return make_codecs(config, llm.built.loaded, llm.built.pool)


def settle(llm: LLM, made: TierCodecs, kind: type[HostTier]) -> str:
    store = kind(capacity=4 << 20)
    decision = made.settle(HOST, store, llm.built.pool, blocks=2)
    store.close()
    assert decision.value == made.chosen[HOST].spec.name
    return f"{decision.value}: {decision.because}"


def names(made: TierCodecs) -> list[str]:
    return [codec.spec.name for codec in made.allowed[HOST]]


def test_only_exact_codecs_without_a_limit(llm: LLM) -> None:
    made = codecs(llm, host_codec="auto")
    assert names(made) == ["raw", "lossless"] and made.lossy == ""


def test_a_slow_link_gets_the_fewest_bytes_and_a_fast_one_the_least_work(
    llm: LLM, calibrated: Path
) -> None:
    limits = {"auto_error": 0.9, "kvtc_ratio": 16.0, "kvtc_calibration": str(calibrated)}
    made = codecs(llm, host_codec="auto", **limits)
    assert {"raw", "lossless", "int8", "kvtc"} <= set(names(made))
    assert settle(llm, made, SlowHost).startswith("kvtc")
    assert made.is_lossy(HOST)
    assert not settle(llm, made, HostTier).startswith("kvtc")


def test_the_limit_bounds_what_is_lost(llm: LLM, calibrated: Path) -> None:
    limits = {"kvtc_ratio": 64.0, "kvtc_calibration": str(calibrated)}
    strict = names(codecs(llm, host_codec="auto", auto_error=1e-4, **limits))
    loose = names(codecs(llm, host_codec="auto", auto_error=0.9, **limits))
    assert "kvtc" not in strict and "int4" not in strict and "int8" in strict
    assert {"kvtc", "int4"} <= set(loose)


def test_the_namespace_names_what_may_be_chosen_not_what_was(
    llm: LLM,
    calibrated: Path,
) -> None:
    """So that a choice that turns out otherwise at the next start loses nothing."""
    limits = {"auto_error": 0.9, "kvtc_calibration": str(calibrated)}
    first, second = (codecs(llm, host_codec="auto", **limits) for _ in range(2))
    settle(llm, first, SlowHost)
    settle(llm, second, HostTier)
    assert first.lossy == second.lossy and "kvtc" in first.lossy
    assert codecs(llm, host_codec="auto", auto_error=1e-4).lossy != first.lossy


def test_a_tier_that_cannot_be_measured_gets_the_first_codec(llm: LLM) -> None:
    assert settle(llm, codecs(llm, host_codec="auto"), BrokenHost).startswith(
        "raw: auto: the probe"
    )


def test_it_serves(make_llm: Callable[..., LLM], tmp_path: Path) -> None:
    llm = make_llm(
        tiers__disk=str(tmp_path / "disk"), tiers__disk_capacity="64MiB", tiers__disk_codec="auto"
    )
    found = {d.name: d for d in llm.built.decisions}
    assert found["tiers.disk.codec"].value in ("raw", "lossless")
    assert "ms" in found["tiers.disk.codec"].because
    llm.close()
