"""What the server needs of an engine and its tokenizer: the seam that tests replace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from stepwell.base.account import MemoryAccount
from stepwell.base.decisions import Decision
from stepwell.base.prefix import Erased, Erasure, PinState, PrefixPin
from stepwell.base.request import Delta, EngineStats, GenerationRequest


class ModelInfoLike(Protocol):
    """Facts about the served model."""

    @property
    def name(self) -> str: ...
    @property
    def max_model_len(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...


class TokenizerLike(Protocol):
    """Text to tokens and back. Safe to call from several threads."""

    def encode(self, text: str, *, special_tokens: bool = True) -> list[int]: ...

    def encode_chat(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[Any] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_kwargs: dict[str, Any] | None = None,
    ) -> list[int]: ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str: ...

    def token_bytes(self, token_id: int) -> bytes: ...

    def token_text(self, token_id: int) -> str: ...


class EngineLike(Protocol):
    """A thread that generates. Every method may be called from any thread."""

    @property
    def info(self) -> ModelInfoLike: ...
    @property
    def tokenizer(self) -> TokenizerLike | None: ...
    @property
    def decisions(self) -> Sequence[Decision]: ...

    def start(self, deliver: Callable[[Sequence[Delta]], None]) -> None:
        """Begin; `deliver` is called from the engine thread once per step."""

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request. After a return each of its `n` choices ends in exactly one final
        Delta. Raises RequestError subclasses and EngineStopped."""

    def abort(self, request_id: str) -> None:
        """End the request's choices with FinishReason.ABORT and free their memory."""

    def pin_prefix(self, pin: PrefixPin) -> PinState:
        """Keep the KV of a prefix until `unpin_prefix`. Computes nothing."""

    def unpin_prefix(self, name: str) -> None:
        """Unknown names are ignored."""

    def forget(self, erasure: Erasure) -> Erased:
        """Nobody is given what this names any more."""

    def stats(self) -> EngineStats:
        """Counters and gauges at this moment."""

    def account(self) -> MemoryAccount | None:
        """Who holds this process's memory now, without waiting for a step; None where the system
        cannot tell."""

    def stop(self, *, grace: float) -> None:
        """Refuse new requests, let running ones finish for `grace` seconds, abort the rest."""
