"""What is asked of a server: kinds of traffic, how many users, how fast.

A user sends a request of `prompt` new tokens behind the session's history, reads `output` tokens,
and thinks for `think` seconds. Presets are assumptions, each field of which can be set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from stepwell.base.errors import ConfigError, unknown_name

DEFAULT_CONTEXT = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """Seconds; 0.0: none asked for. `ttft`: to the first token, `tpot`: for each further one."""

    ttft: float = 0.0
    tpot: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """`context`: tokens of a session at a typical request, its prompt included; `longest`: what a
    sequence may grow to. `users`: open sessions, 0 where as many as fit are asked for."""

    name: str
    prompt: int
    output: int
    think: float
    context: int
    longest: int
    slo: Slo
    users: int = 0

    @property
    def active(self) -> int:
        """Tokens of a sequence when its reply is done."""
        return min(self.context + self.output, self.longest)

    @property
    def history(self) -> int:
        """Tokens that were there before the request."""
        return max(0, self.context - self.prompt)


@dataclass(frozen=True, slots=True)
class _Preset:
    prompt: int
    output: int
    think: float
    slo: Slo
    why: str


PRESETS: Mapping[str, _Preset] = {
    "chat": _Preset(200, 300, 60.0, Slo(ttft=1.0, tpot=0.05), "short turns, a minute of reading"),
    "code": _Preset(
        1500, 400, 20.0, Slo(ttft=1.0, tpot=0.03), "files and tool results, quick turns"
    ),
    "document": _Preset(8000, 500, 120.0, Slo(ttft=10.0, tpot=0.1), "a long text, few questions"),
    "batch": _Preset(2000, 500, 0.0, Slo(), "nobody waits"),
}


def make_workload(
    name: str, *, context: int, longest: int, users: int = 0, slo: Slo | None = None
) -> Workload:
    """A preset at a context length. Raises ConfigError for an unknown name."""
    preset = PRESETS.get(name)
    if preset is None:
        message, hint = unknown_name("workload", name, PRESETS)
        raise ConfigError(message, hint=hint, param="workload")
    return Workload(
        name=name,
        prompt=min(preset.prompt, context),
        output=preset.output,
        think=preset.think,
        context=context,
        longest=max(longest, context),
        slo=preset.slo if slo is None else slo,
        users=users,
    )


_TIME = re.compile(r"^(\d+(?:\.\d+)?)\s*(ms|s)$")


def parse_slo(text: str, base: Slo) -> Slo:
    """From `ttft=1s,tpot=50ms`; what is not named stays as in `base`. Raises ConfigError."""
    found = {"ttft": base.ttft, "tpot": base.tpot}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = item.partition("=")
        match = _TIME.match(value.strip())
        if name not in found or match is None or float(match[1]) == 0:
            raise ConfigError(
                f"cannot read {item!r} as an objective.",
                hint="Write ttft=1s,tpot=50ms; ttft and tpot, in s or ms.",
                param="slo",
            )
        found[name] = float(match[1]) * (1e-3 if match[2] == "ms" else 1.0)
    return Slo(**found)


_TOKENS = re.compile(r"^(\d+(?:\.\d+)?)\s*([km]?)$", re.IGNORECASE)
_THOUSANDS = {"": 1, "k": 1 << 10, "m": 1 << 20}


def parse_tokens(text: str) -> int:
    """`32k` -> 32,768, `1m` -> 1,048,576, or a plain number. Raises ConfigError."""
    match = _TOKENS.match(text.strip())
    count = int(float(match[1]) * _THOUSANDS[match[2].lower()]) if match else 0
    if count < 1:
        raise ConfigError(
            f"cannot read {text!r} as a number of tokens.", hint="32k or 32768.", param="context"
        )
    return count


def format_tokens(count: int) -> str:
    """`32768` -> `32K`."""
    for size, unit in ((1 << 20, "M"), (1 << 10, "K")):
        if count >= size and count % size == 0:
            return f"{count // size}{unit}"
    return f"{count:,}"
