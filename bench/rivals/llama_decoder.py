"""llama.cpp's `llama_decode`, driven with token ids: feed rows, decode, read the greedy tokens.

Owns the model, its context and the one batch that is filled and run again and again. Who is fed
when is the adapter's business (`llama_cpp`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import llama_cpp as api
import numpy as np


class Decoder:
    """A context with so many sequences, each with a KV cache of its own: f16, flash attention.

    `threads`: for prompts and for generating alike. `batch`: tokens that one decode may take.
    """

    def __init__(
        self, file: Path, *, sequences: int, max_context: int, threads: int, batch: int
    ) -> None:
        api.llama_backend_init()
        self._model = api.llama_model_load_from_file(
            str(file).encode(), api.llama_model_default_params()
        )
        if not self._model:
            raise RuntimeError(f"llama.cpp does not load {file}")
        self.context = min(max_context, api.llama_model_n_ctx_train(self._model))
        params = api.llama_context_default_params()
        params.n_ctx = self.context * sequences
        params.n_seq_max = sequences
        params.n_batch = params.n_ubatch = batch
        params.n_outputs_max = sequences
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = api.GGML_TYPE_F16
        params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_ENABLED
        # One cache for all would have every token look at everyone's: with 32 sequences of 256
        # tokens on two cores a step took 0.8 to 1.4 s instead of 0.23.
        params.kv_unified = False
        params.no_perf = True
        self._context = api.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError("llama.cpp makes no context of this size")
        self._memory = api.llama_get_memory(self._context)
        self._vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))
        self._batch = api.llama_batch_init(batch, 0, 1)
        self._tokens = np.ctypeslib.as_array(self._batch.token, (batch,))
        self._positions = np.ctypeslib.as_array(self._batch.pos, (batch,))
        self._wanted = np.ctypeslib.as_array(self._batch.logits, (batch,))
        self._size = batch
        np.ctypeslib.as_array(self._batch.n_seq_id, (batch,))[:] = 1

    @property
    def threads(self) -> int:
        """That it computes with."""
        return int(api.llama_n_threads_batch(self._context))

    @property
    def room(self) -> int:
        """Tokens that still fit into this decode."""
        return self._size - self._batch.n_tokens

    def feed(self, sequence: int, tokens: Sequence[int], *, position: int, wanted: bool) -> None:
        """Add tokens of one sequence from `position` on. `wanted`: what follows the last one."""
        begin = self._batch.n_tokens
        end = begin + len(tokens)
        assert end <= self._size, "the batch is full"
        self._tokens[begin:end] = tokens
        self._positions[begin:end] = np.arange(position, position + len(tokens))
        self._wanted[begin:end] = 0
        self._wanted[end - 1] = wanted
        for row in range(begin, end):
            self._batch.seq_id[row][0] = sequence
        self._batch.n_tokens = end

    def decode(self) -> list[int]:
        """Run what was fed; the likeliest token after each row that wanted one, in their order."""
        wanted = int(self._wanted[: self._batch.n_tokens].sum())
        status = api.llama_decode(self._context, self._batch)
        self._batch.n_tokens = 0
        if status != 0:
            raise RuntimeError(f"llama_decode: {status}")
        if not wanted:
            api.llama_synchronize(self._context)
            return []
        logits = api.llama_get_logits(self._context)
        return np.ctypeslib.as_array(logits, (wanted, self._vocabulary)).argmax(axis=1).tolist()

    def forget(self, sequence: int, *, position: int = 0) -> None:
        """Drop what the sequence holds from `position` on."""
        if not api.llama_memory_seq_rm(self._memory, sequence, position, -1):
            raise RuntimeError("llama.cpp cannot drop a part of this sequence")
