"""From accepted tokens to the Deltas that leave the engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepwell.base.request import Delta, Timings, TokenLogprobs, Usage
from stepwell.engine.detokenizer import Detokenizer
from stepwell.engine.sequence import Sequence


@dataclass(slots=True)
class Emitter:
    """Builds the deltas of one sequence. Without a tokenizer, texts are empty."""

    detokenizer: Detokenizer | None
    sent_prompt_logprobs: bool = field(default=False, init=False)

    @property
    def stopped_by(self) -> str | None:
        """The stop string that is complete in the text, if any."""
        return self.detokenizer.stopped_by if self.detokenizer else None

    def push(self, token: int) -> str:
        """Text that this token makes certain."""
        return self.detokenizer.push(token) if self.detokenizer else ""

    def delta(
        self, sequence: Sequence, *, token: int, text: str, logprobs: tuple[TokenLogprobs, ...]
    ) -> Delta:
        """A delta in the middle."""
        return Delta(
            request_id=sequence.request.request_id,
            index=sequence.index,
            token_ids=(token,),
            text=text,
            logprobs=logprobs,
            prompt_logprobs=self._prompt_logprobs(sequence),
        )

    def final_delta(
        self,
        sequence: Sequence,
        *,
        token: int | None,
        text: str,
        logprobs: tuple[TokenLogprobs, ...],
        now: float,
    ) -> Delta:
        """The last delta: what was held back, the reason, usage and timings."""
        if self.detokenizer is not None:
            text += self.detokenizer.flush()
        return Delta(
            request_id=sequence.request.request_id,
            index=sequence.index,
            token_ids=() if token is None else (token,),
            text=text,
            logprobs=logprobs,
            prompt_logprobs=self._prompt_logprobs(sequence),
            finish_reason=sequence.finish_reason,
            stop_reason=sequence.stop_reason,
            error=sequence.error,
            usage=Usage(
                prompt_tokens=sequence.prompt_length,
                cached_tokens=sequence.cached or 0,
                completion_tokens=sequence.output_length,
            ),
            timings=Timings(
                arrival=sequence.request.arrival,
                scheduled=sequence.scheduled_at,
                first_token=sequence.first_token_at,
                finished=now,
                preemptions=sequence.preemptions,
            ),
        )

    def _prompt_logprobs(self, sequence: Sequence) -> tuple[TokenLogprobs | None, ...] | None:
        """With the first delta only."""
        if self.sent_prompt_logprobs or sequence.sampling.prompt_logprobs is None:
            return None
        self.sent_prompt_logprobs = True
        return tuple(sequence.prompt_logprobs)
