"""Logits to tokens.

Greedy rows without processors are one argmax over the batch; the others go row by row through
the order written in `base/sampling.py`. Every sampling sequence has its own generator, so that a
seed gives the same tokens whatever else is in the batch. Logprobs are of the model's own
distribution (float32 log-softmax of the raw logits).
"""

from __future__ import annotations

import random
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stepwell.base.request import TokenLogprobs
from stepwell.base.sampling import SamplingParams
from stepwell.engine.grammar import GrammarMatcher
from stepwell.kernels.argmax import argmax_rows


@dataclass(slots=True, eq=False)
class SamplerState:
    """What sampling remembers of one sequence. `token_ids` is the sequence's own list, which
    grows; `index` is the choice's, so that choices of one seed differ."""

    params: SamplingParams
    token_ids: list[int]
    prompt_length: int
    stop_ids: frozenset[int]
    grammar: GrammarMatcher | None = None
    index: int = 0
    generator: torch.Generator | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not self.params.is_greedy:
            seed = self.params.seed
            self.generator = torch.Generator()
            start = random.getrandbits(62) if seed is None else seed
            self.generator.manual_seed((start + self.index) % (1 << 63))


@torch.inference_mode()
def sample_greedy(logits: Tensor) -> list[int]:
    """argmax of each row of [rows, vocabulary]; the first of equals."""
    return argmax_rows(logits)


@torch.inference_mode()
def sample_one(logits: Tensor, state: SamplerState) -> int:
    """Choose a token from one row [vocabulary] by the sequence's settings."""
    scores = logits.float().cpu()
    if state.params.changes_logits:
        scores = _apply_processors(scores.clone(), state)
    if state.params.is_greedy:
        return int(scores.argmax())
    return _draw(_truncate(scores / state.params.temperature, state.params), state.generator)


def _apply_processors(scores: Tensor, state: SamplerState) -> Tensor:
    """Grammar mask, logit bias, minimum length, penalties; in place."""
    params = state.params
    if state.grammar is not None:
        state.grammar.mask(scores)
    for token, bias in params.logit_bias.items():
        scores[token] += bias
    output = state.token_ids[state.prompt_length :]
    if len(output) < params.min_tokens and state.stop_ids:
        scores[list(state.stop_ids)] = float("-inf")
    if params.repetition_penalty != 1.0:
        seen = torch.tensor(sorted(set(state.token_ids)))
        values = scores[seen]
        factor = params.repetition_penalty
        scores[seen] = torch.where(values > 0, values / factor, values * factor)
    if output and (params.frequency_penalty or params.presence_penalty):
        counts = torch.bincount(torch.tensor(output), minlength=scores.numel())
        scores -= params.frequency_penalty * counts + params.presence_penalty * (counts > 0)
    return scores


def _truncate(scores: Tensor, params: SamplingParams) -> Tensor:
    """min-p, top-k, top-p: what is cut off becomes -inf."""
    if params.min_p > 0:
        floor = scores.max() + torch.log(torch.tensor(params.min_p))
        scores = scores.masked_fill(scores < floor, float("-inf"))
    if 0 < params.top_k < scores.numel():
        values, tokens = scores.topk(params.top_k)
        scores = torch.full_like(scores, float("-inf")).scatter(0, tokens, values)
    if params.top_p < 1.0:
        ordered, tokens = scores.sort(descending=True)
        probabilities = ordered.softmax(dim=-1)
        before = probabilities.cumsum(dim=-1) - probabilities
        cut = tokens[before >= params.top_p]
        scores = scores.index_fill(0, cut, float("-inf"))
    return scores


def _draw(scores: Tensor, generator: torch.Generator | None) -> int:
    probabilities = scores.softmax(dim=-1, dtype=torch.float64)
    return int(torch.multinomial(probabilities, 1, generator=generator))


@torch.inference_mode()
def logprobs_of(logits: Tensor, chosen: Seq[int], *, count: int) -> list[TokenLogprobs]:
    """Logprobs of `chosen`, and of the `count` likeliest tokens, at each row of [rows, vocab]."""
    table = logits.float().log_softmax(dim=-1)
    picked = torch.tensor(chosen, device=table.device).unsqueeze(1)
    values = table.gather(1, picked)
    ranks = (table > values).sum(dim=-1) + 1
    top_values, top_tokens = table.topk(count, dim=-1) if count else (None, None)
    result = []
    for row, token in enumerate(chosen):
        top: tuple[tuple[int, float], ...] = ()
        if top_values is not None and top_tokens is not None:
            top = tuple(zip(top_tokens[row].tolist(), top_values[row].tolist(), strict=True))
        result.append(TokenLogprobs(token, float(values[row]), int(ranks[row]), top))
    return result
