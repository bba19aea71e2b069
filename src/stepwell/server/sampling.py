"""Which fields a body may have, and the ones about sampling -> SamplingParams.

Four kinds of fields: used; accepted without effect (documented here); known to OpenAI clients but
not served, refused unless they ask for nothing; unknown, refused with the nearest valid name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from stepwell.base.errors import InvalidParameter
from stepwell.base.sampling import SamplingParams
from stepwell.server.fields import Fields

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's default of `max_tokens` for /v1/completions."""

SAMPLING_FIELDS = frozenset(
    {
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "logit_bias",
        "seed",
        "stop",
        "stop_token_ids",
        "n",
        "best_of",
        "logprobs",
        "prompt_logprobs",
        "max_tokens",
        "min_tokens",
        "ignore_eos",
        "response_format",
        "skip_special_tokens",
        "include_stop_str_in_output",
    }
)
COMMON_FIELDS = SAMPLING_FIELDS | {
    "model",
    "stream",
    "stream_options",
    "priority",
    "return_token_ids",
    "add_special_tokens",
}

IGNORED_FIELDS = frozenset(
    {
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "parallel_tool_calls",
    }
)
"""Accepted without effect: labels and hints that change no token."""

_EMPTY: tuple[Any, ...] = ([], {}, "", False, "none", "auto")
UNSUPPORTED_FIELDS: dict[str, tuple[Any, ...]] = {
    "tools": _EMPTY,
    "tool_choice": _EMPTY,
    "functions": _EMPTY,
    "function_call": _EMPTY,
    "audio": _EMPTY,
    "modalities": (["text"], []),
    "suffix": ("",),
    "prediction": _EMPTY,
    "web_search_options": _EMPTY,
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "use_beam_search": (False,),
    "length_penalty": (1, 1.0),
    "moderation": _EMPTY,
}
"""Known to clients but not served: name -> values that ask for nothing."""


@dataclass(frozen=True, slots=True)
class LogprobsWanted:
    """How many alternatives the reply shows, for output and prompt (None: not asked for)."""

    output: int | None
    prompt: int | None


def refuse_unserved(fields: Fields) -> None:
    """Raise InvalidParameter for a field that OpenAI has and this server does not serve."""
    for name, harmless in UNSUPPORTED_FIELDS.items():
        if name in fields and fields.get(name) not in harmless:
            raise InvalidParameter(f"{name} is not supported.", hint="Leave it out.", param=name)


def read_sampling(
    fields: Fields, *, max_tokens: int | None, logprobs: LogprobsWanted
) -> SamplingParams:
    """Sampling settings of a body. Raises InvalidParameter."""
    n = fields.integer("n", 1)
    if fields.integer("best_of", n) != n:
        raise InvalidParameter(
            "best_of is only supported when equal to n.", hint="Leave it out.", param="best_of"
        )
    top_k = fields.integer("top_k", 0) or 0
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=fields.integer("min_tokens", 0) or 0,
        temperature=fields.number("temperature", 1.0),
        top_k=0 if top_k == -1 else top_k,
        top_p=fields.number("top_p", 1.0),
        min_p=fields.number("min_p", 0.0),
        presence_penalty=fields.number("presence_penalty", 0.0),
        frequency_penalty=fields.number("frequency_penalty", 0.0),
        repetition_penalty=fields.number("repetition_penalty", 1.0),
        logit_bias=_logit_bias(fields),
        seed=fields.integer("seed"),
        n=n if n is not None else 1,
        stop=fields.strings("stop"),
        stop_token_ids=fields.integers("stop_token_ids"),
        include_stop=fields.boolean("include_stop_str_in_output", False),
        ignore_eos=fields.boolean("ignore_eos", False),
        logprobs=logprobs.output,
        prompt_logprobs=logprobs.prompt,
        json_schema=_json_schema(fields),
        skip_special_tokens=fields.boolean("skip_special_tokens", True),
    )


def _logit_bias(fields: Fields) -> dict[int, float]:
    """`{"token id": bias}` with number keys."""
    table = fields.table("logit_bias") or {}
    biases = Fields(table, prefix="logit_bias.")
    try:
        return {int(token): biases.number(token, 0.0) for token in table}
    except ValueError as error:
        raise InvalidParameter(
            "logit_bias must map token ids to numbers.", param="logit_bias"
        ) from error


def _json_schema(fields: Fields) -> str | None:
    """JSON text of the schema that `response_format` asks for, None for plain text."""
    table = fields.table("response_format")
    if table is None:
        return None
    choice = Fields(table, prefix="response_format.")
    kind = choice.string("type", "")
    if kind == "text":
        return None
    if kind == "json_object":
        return json.dumps({"type": "object"})
    if kind == "json_schema":
        wrapper = choice.table("json_schema")
        if wrapper is None or not isinstance(wrapper.get("schema"), dict):
            raise InvalidParameter(
                "response_format.json_schema.schema must be an object.", param="response_format"
            )
        return json.dumps(wrapper["schema"])
    raise InvalidParameter(
        f"response_format.type is {kind!r}.",
        hint="Valid: text, json_object, json_schema.",
        param="response_format",
    )
