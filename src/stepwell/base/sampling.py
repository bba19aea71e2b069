"""How tokens are chosen from logits: the settings of one request, checked when built.

Order of application (engine/sampler.py): grammar mask, logit bias, penalties, temperature, min-p,
top-k, top-p. Reported logprobs are of the model's own distribution, before any of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stepwell.base.errors import InvalidParameter

MAX_LOGPROBS = 20
MAX_CHOICES = 128
MAX_STOP_STRINGS = 16
_WHOLE = ("max_tokens", "min_tokens", "top_k", "seed", "n", "logprobs", "prompt_logprobs")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Settings of one request. `temperature` 0 is greedy; `top_k` 0 and `min_p` 0 are off.

    `logprobs` and `prompt_logprobs` count the alternatives reported beside the chosen token
    (0 reports the chosen token alone, None reports nothing). `json_schema` is JSON text; an empty
    schema `{}` means any JSON value. Raises InvalidParameter.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop: bool = False
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    json_schema: str | None = None
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            _check("max_tokens", self.max_tokens, low=0)
        _check("min_tokens", self.min_tokens, low=0)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidParameter(
                f"min_tokens {self.min_tokens} exceeds max_tokens {self.max_tokens}.",
                param="min_tokens",
            )
        if self.seed is not None:
            _check("seed", self.seed, low=-(2**63), high=2**63 - 1)
        for name in _WHOLE:
            value = getattr(self, name)
            if isinstance(value, float):
                raise InvalidParameter(f"{name} must be a whole number, not {value}.", param=name)
        _check("temperature", self.temperature, low=0.0, high=100.0)
        _check("top_k", self.top_k, low=0)
        _check("top_p", self.top_p, low=0.0, high=1.0, open_low=True)
        _check("min_p", self.min_p, low=0.0, high=1.0)
        _check("presence_penalty", self.presence_penalty, low=-2.0, high=2.0)
        _check("frequency_penalty", self.frequency_penalty, low=-2.0, high=2.0)
        _check("repetition_penalty", self.repetition_penalty, low=0.0, high=100.0, open_low=True)
        _check("n", self.n, low=1, high=MAX_CHOICES)
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            if value is not None:
                _check(name, value, low=0, high=MAX_LOGPROBS)
        for token, bias in self.logit_bias.items():
            _check(f"logit_bias[{token}]", bias, low=-100.0, high=100.0)
        if len(self.stop) > MAX_STOP_STRINGS or any(not text for text in self.stop):
            raise InvalidParameter(
                "stop must be non-empty strings.",
                hint=f"Give at most {MAX_STOP_STRINGS}.",
                param="stop",
            )

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0.0

    @property
    def takes_likeliest(self) -> bool:
        """Whether one argmax over the raw logits decides."""
        return self.is_greedy and not self.changes_logits

    @property
    def changes_logits(self) -> bool:
        """Whether anything but temperature and truncation touches the logits."""
        return bool(
            self.presence_penalty
            or self.frequency_penalty
            or self.repetition_penalty != 1.0
            or self.logit_bias
            or self.json_schema is not None
            or self.min_tokens
        )


def _check(
    name: str,
    value: float,
    *,
    low: float,
    high: float = float("inf"),
    open_low: bool = False,
) -> None:
    """Raise InvalidParameter unless low <= value <= high (low < value if `open_low`)."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and (low < value if open_low else low <= value) and value <= high:
        return
    bounds = f"{'above' if open_low else 'at least'} {low:g}"
    if high != float("inf"):
        bounds += f" and at most {high:g}"
    raise InvalidParameter(f"{name} must be {bounds}, not {value!r}.", param=name.split("[")[0])
