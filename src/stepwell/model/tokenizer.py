"""Text to tokens and back, and the chat template. transformers does the work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stepwell.base.errors import InvalidParameter


class Tokenizer:
    """A transformers tokenizer with the few calls that the engine and the server need.

    Calls are thread-safe as far as the underlying fast tokenizer is (it is for encode and decode).
    """

    def __init__(self, hf_tokenizer: Any, *, eos_token_ids: frozenset[int]) -> None:
        self.hf = hf_tokenizer
        self.eos_token_ids = eos_token_ids
        self._bytes: dict[int, bytes] = {}

    @classmethod
    def load(cls, folder: Path, *, eos_token_ids: frozenset[int]) -> Tokenizer:
        """Read the tokenizer of a checkpoint folder or GGUF file; no code of it is run."""
        from transformers import AutoTokenizer

        if folder.suffix == ".gguf":
            place: dict[str, Any] = {
                "pretrained_model_name_or_path": folder.parent,
                "gguf_file": folder.name,
            }
        else:
            place = {"pretrained_model_name_or_path": folder}
        hf_tokenizer = AutoTokenizer.from_pretrained(**place, trust_remote_code=False)
        own = hf_tokenizer.eos_token_id
        ids = eos_token_ids | ({own} if own is not None else set())
        return cls(hf_tokenizer, eos_token_ids=frozenset(ids))

    @property
    def has_chat_template(self) -> bool:
        """Whether chat requests can be served."""
        return self.hf.chat_template is not None

    def encode(self, text: str, *, special_tokens: bool = True) -> list[int]:
        """Token ids of a text; with `special_tokens`, those the model expects around it."""
        return self.hf.encode(text, add_special_tokens=special_tokens)

    def encode_chat(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[Any] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_kwargs: dict[str, Any] | None = None,
    ) -> list[int]:
        """Token ids of a conversation. Raises InvalidParameter if there is no template or the
        template refuses the messages."""
        if not self.has_chat_template:
            raise InvalidParameter(
                "this model has no chat template.", hint="Use /v1/completions.", param="messages"
            )
        try:
            text = self.hf.apply_chat_template(
                messages,
                tools=tools,
                tokenize=False,
                add_generation_prompt=add_generation_prompt and not continue_final_message,
                continue_final_message=continue_final_message,
                **(template_kwargs or {}),
            )
        except Exception as error:  # templates raise whatever their author chose
            raise InvalidParameter(
                f"the chat template refuses these messages: {error}", param="messages"
            ) from error
        return self.hf.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of these tokens."""
        if not ids:
            return ""
        return self.hf.decode(
            list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )

    def token_text(self, token_id: int) -> str:
        """One token as text, replacement characters where it is not whole characters."""
        return self.hf.decode([token_id], skip_special_tokens=False)

    def token_bytes(self, token_id: int) -> bytes:
        """One token as UTF-8 bytes: exact for byte-level vocabularies, else of its text."""
        if token_id not in self._bytes:
            piece = self.hf.convert_ids_to_tokens(token_id)
            table = _byte_level_table()
            if piece is not None and self._is_byte_level and all(c in table for c in piece):
                self._bytes[token_id] = bytes(table[c] for c in piece)
            else:
                self._bytes[token_id] = self.token_text(token_id).encode()
        return self._bytes[token_id]

    @property
    def _is_byte_level(self) -> bool:
        backend = getattr(self.hf, "backend_tokenizer", None)
        return backend is not None and "ByteLevel" in repr(backend.decoder)


_TABLE: dict[str, int] = {}


def _byte_level_table() -> dict[str, int]:
    """Printable stand-ins of byte-level BPE (GPT-2's convention) back to bytes: printable Latin-1
    characters stand for themselves, the other bytes for code points from 256 on, in order."""
    if not _TABLE:
        visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        hidden = [b for b in range(256) if b not in visible]
        _TABLE.update({chr(b): b for b in visible})
        _TABLE.update({chr(256 + i): b for i, b in enumerate(hidden)})
    return _TABLE
