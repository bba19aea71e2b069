"""Output that must match a JSON schema, through llguidance (Rust; no compiler needed).

A grammar is compiled at the door, so that a schema that cannot be compiled refuses its request
alone. One matcher belongs to one sequence.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import llguidance
import llguidance.hf
import llguidance.numpy
import numpy as np
import torch

from stepwell.base.errors import InvalidParameter

if TYPE_CHECKING:
    from torch import Tensor

# llguidance.torch compiles its mask with torch.compile: a second at import, more inside the first
# request. Its numpy half fills the bits, and unpacking them is all that is left.


class GrammarCompiler:
    """Compiles schemas for one tokenizer. The tokenizer table is built at first use."""

    def __init__(self, hf_tokenizer: Any, *, vocab_size: int) -> None:
        self._hf_tokenizer = hf_tokenizer
        self._vocab_size = vocab_size
        self._table: Any = None

    def compile(self, json_schema: str) -> GrammarMatcher:
        """A matcher for JSON text that fits the schema. Raises InvalidParameter."""
        try:
            schema = json.loads(json_schema)
        except ValueError as error:
            raise InvalidParameter(
                f"the JSON schema is not JSON: {error}.", param="response_format"
            ) from error
        if self._table is None:
            self._table = llguidance.hf.from_tokenizer(self._hf_tokenizer, n_vocab=self._vocab_size)
        grammar = llguidance.LLMatcher.grammar_from_json_schema(schema)
        matcher = llguidance.LLMatcher(self._table, grammar, log_level=0)
        if matcher.is_error():
            raise InvalidParameter(
                f"the JSON schema cannot be compiled: {matcher.get_error().splitlines()[0]}",
                hint="See llguidance's JSON schema support.",
                param="response_format",
            )
        return GrammarMatcher(matcher, vocab_size=self._vocab_size)


class GrammarMatcher:
    """Where one sequence stands in its grammar."""

    def __init__(self, matcher: Any, *, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._bitmask = llguidance.numpy.allocate_token_bitmask(1, vocab_size)

    def mask(self, scores: Tensor) -> None:
        """Set the scores [vocabulary] of tokens that cannot come next to -inf, in place."""
        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._bitmask, 0)
        bits = np.unpackbits(self._bitmask.view(np.uint8)[0], bitorder="little")
        forbidden = torch.from_numpy(bits[: len(scores)] == 0)
        scores.masked_fill_(forbidden.to(scores.device), float("-inf"))

    def accept(self, token_id: int) -> None:
        """Step over a token that was chosen under the mask."""
        if not self._matcher.is_stopped() and not self._matcher.consume_token(token_id):
            raise InvalidParameter(
                f"token {token_id} does not fit the grammar: {self._matcher.get_error()}",
                param="response_format",
            )

    def copy(self) -> GrammarMatcher:
        """An independent matcher at the same place (for n > 1)."""
        return GrammarMatcher(self._matcher.deep_copy(), vocab_size=self._vocab_size)

    @property
    def is_finished(self) -> bool:
        """Whether nothing but the end may follow."""
        return bool(self._matcher.is_stopped())
