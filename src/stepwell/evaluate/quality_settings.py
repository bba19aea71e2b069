"""What is compared: codecs at ratios with so many exact tokens at both ends, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from stepwell.base.errors import ConfigError, unknown_name
from stepwell.codec.registry import CODECS
from stepwell.evaluate.quality_codecs import Coded

KVTC, PAPER = "kvtc", "kvtc-paper"
RATED = (KVTC, PAPER)
"""Codecs that take a nominal ratio; the others have the one that their form gives."""
BLOCK_CODECS = ("raw", "lossless", "fp8", "int8", "int4")
SERVED_TOKENS = 1_000_000
"""Cached tokens over which the artifact is spread in `session_with_artifact`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """`ratio`: nominal, None for codecs that take none. `sinks` oldest and `window` newest tokens
    of a context stay exact."""

    codec: str
    ratio: float | None
    sinks: int
    window: int

    @property
    def label(self) -> str:
        """For tables."""
        return self.codec if self.ratio is None else f"{self.codec} {self.ratio:g}x"


def make_settings(
    codecs: Sequence[str], ratios: Sequence[float], sinks: Sequence[int], windows: Sequence[int]
) -> list[Setting]:
    """All combinations. Raises ConfigError for an unknown codec or numbers without a meaning."""
    known = [name for name in CODECS if name in BLOCK_CODECS] + list(RATED)
    for name in codecs:
        if name not in known:
            message, hint = unknown_name("codec", name, known)
            raise ConfigError(message, hint=hint, param="codec")
    if not codecs:
        raise ConfigError("no codec to compare.", hint=f"Known: {', '.join(known)}.", param="codec")
    if any(ratio <= 1 for ratio in ratios) or (not ratios and set(codecs) & set(RATED)):
        raise ConfigError("a ratio is above 1.", hint="Such as --ratio 8,16,32.", param="ratio")
    for name, counts in (("sinks", sinks), ("window", windows)):
        if not counts or min(counts) < 0:
            raise ConfigError(f"--{name} is a number of tokens, 0 or more.", param=name)
    return [
        Setting(codec=name, ratio=ratio, sinks=first, window=last)
        for first in sinks
        for last in windows
        for name in codecs
        for ratio in (sorted(ratios) if name in RATED else (None,))
    ]


@dataclass(slots=True)
class Cost:
    """Real bytes over all contexts. `coded_tokens` of `tokens` went through the codec."""

    tokens: int = 0
    coded_tokens: int = 0
    sink_tokens: int = 0
    size: int = 0
    side: int = 0

    def add(self, coded: Coded, setting: Setting, *, tokens: int) -> None:
        """One context."""
        self.tokens += tokens
        self.coded_tokens += max(0, tokens - setting.window - setting.sinks)
        self.sink_tokens += min(tokens, setting.sinks)
        self.size += coded.size
        self.side += coded.side

    def __add__(self, other: Cost) -> Cost:
        """Of both."""
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def figures(self, *, raw: int, artifact_bytes: int, model_bytes: int) -> dict[str, Any]:
        """Ratios of the cache's bytes (`raw` a token) to stored ones: of the coded tokens without
        and with headers and side information; with the sinks (the paper's convention, window not
        counted); of the whole session with sinks and window; and with the artifact over a million
        cached tokens."""
        if not self.size:
            return {"ratio_session": 1.0}
        session = (self.size + raw * (self.tokens - self.coded_tokens)) / self.tokens
        return {
            "bytes_per_coded_token": round(self.size / self.coded_tokens, 3),
            "bytes_per_session_token": round(session, 3),
            "side_share": round(self.side / self.size, 4),
            "ratio_payload": _ratio(raw * self.coded_tokens, self.size - self.side),
            "ratio_coded": _ratio(raw * self.coded_tokens, self.size),
            "ratio_with_sinks": _ratio(
                raw * (self.coded_tokens + self.sink_tokens), self.size + raw * self.sink_tokens
            ),
            "ratio_session": _ratio(raw, session),
            "ratio_session_with_artifact": _ratio(raw, session + artifact_bytes / SERVED_TOKENS),
            "artifact_bytes": artifact_bytes,
            "artifact_share_of_model": round(artifact_bytes / model_bytes, 4),
        }


def _ratio(whole: float, part: float) -> float:
    return round(whole / part, 3) if part > 0 else 0.0
