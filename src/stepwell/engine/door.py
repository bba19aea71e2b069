"""The door: what can never be served is refused here, before it costs anything.

Also compiles a request's grammar, and equips each sequence with its sampler and detokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass

from stepwell.base.errors import ContextLengthExceeded, InvalidParameter, QueueFull
from stepwell.base.request import GenerationRequest
from stepwell.engine.detokenizer import Detokenizer
from stepwell.engine.emit import Emitter
from stepwell.engine.grammar import GrammarCompiler, GrammarMatcher
from stepwell.engine.sampler import SamplerState
from stepwell.engine.sequence import Sequence
from stepwell.model.tokenizer import Tokenizer

_CONTEXT_TOKENS = 6  # of the prompt, so that the first new token decodes as in running text


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that can be served: its output limit in tokens, and its grammar."""

    max_output: int
    grammar: GrammarMatcher | None


class Door:
    """Checks requests against the limits of one engine."""

    def __init__(
        self,
        *,
        vocab_size: int,
        max_model_len: int,
        pool_tokens: int,
        max_waiting: int,
        tokenizer: Tokenizer | None,
        eos_token_ids: frozenset[int],
    ) -> None:
        self._vocab_size = vocab_size
        self._limit = min(max_model_len, pool_tokens)
        self._limit_name = "the model's context" if max_model_len <= pool_tokens else "the KV pool"
        self._max_waiting = max_waiting
        self._tokenizer = tokenizer
        self._eos_token_ids = eos_token_ids
        self._grammars = (
            GrammarCompiler(tokenizer.hf, vocab_size=vocab_size) if tokenizer is not None else None
        )

    def admit(self, request: GenerationRequest, *, waiting: int) -> Admitted:
        """Raises ContextLengthExceeded, InvalidParameter or QueueFull."""
        prompt, sampling = request.prompt_token_ids, request.sampling
        if not prompt:
            raise InvalidParameter("the prompt is empty.", param="prompt")
        if min(prompt) < 0 or max(prompt) >= self._vocab_size:
            raise InvalidParameter(
                f"the prompt has token ids outside 0..{self._vocab_size - 1}.", param="prompt"
            )
        wanted = sampling.max_tokens if sampling.max_tokens is not None else 1
        if len(prompt) + wanted > self._limit:
            raise ContextLengthExceeded(
                f"{len(prompt)} prompt tokens and {wanted} output tokens exceed "
                f"{self._limit_name} of {self._limit} tokens.",
                hint="Shorten the prompt or lower max_tokens.",
                param="prompt",
            )
        if waiting + sampling.n > self._max_waiting:
            raise QueueFull(
                f"{waiting} requests are waiting; the limit is {self._max_waiting}.",
                hint="Try again later.",
            )
        self._check_token_ids(request)
        room = self._limit - len(prompt)
        limit = room if sampling.max_tokens is None else min(room, sampling.max_tokens)
        return Admitted(max_output=limit, grammar=self._compile(request))

    def equip(self, sequence: Sequence, admitted: Admitted) -> tuple[SamplerState, Emitter]:
        """Sampler and emitter of one choice."""
        sampling = sequence.sampling
        stop_ids = frozenset(sampling.stop_token_ids)
        if not sampling.ignore_eos:
            stop_ids |= self._eos_token_ids
        grammar = admitted.grammar.copy() if admitted.grammar is not None else None
        state = SamplerState(
            params=sampling,
            token_ids=sequence.token_ids,
            prompt_length=sequence.prompt_length,
            stop_ids=stop_ids,
            grammar=grammar,
            index=sequence.index,
        )
        return state, Emitter(self._detokenizer(sequence))

    def _detokenizer(self, sequence: Sequence) -> Detokenizer | None:
        tokenizer = self._tokenizer
        if tokenizer is None:
            return None
        skip = sequence.sampling.skip_special_tokens
        detokenizer = Detokenizer(
            decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=skip),
            stop=sequence.sampling.stop,
            include_stop=sequence.sampling.include_stop,
        )
        detokenizer.begin(sequence.token_ids[-_CONTEXT_TOKENS:])
        return detokenizer

    def _compile(self, request: GenerationRequest) -> GrammarMatcher | None:
        schema = request.sampling.json_schema
        if schema is None:
            return None
        if self._grammars is None:
            raise InvalidParameter(
                "JSON output needs a tokenizer, and this model has none.", param="response_format"
            )
        return self._grammars.compile(schema)

    def _check_token_ids(self, request: GenerationRequest) -> None:
        for name in ("logit_bias", "stop_token_ids"):
            for token in getattr(request.sampling, name):
                if not 0 <= token < self._vocab_size:
                    raise InvalidParameter(
                        f"{name} names token {token}; the vocabulary ends at "
                        f"{self._vocab_size - 1}.",
                        param=name,
                    )
        if request.sampling.stop and self._tokenizer is None:
            raise InvalidParameter(
                "stop strings need a tokenizer, and this model has none.", param="stop"
            )
