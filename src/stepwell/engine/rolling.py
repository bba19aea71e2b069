"""Rolling compression: a live sequence longer than its share of the pool goes on.

Before a step, a sequence that would hold more than `resident_tokens` has its oldest chunks packed
(`model/packed.py`) and their blocks given back, as far as they are computed and older than the
window. So a sequence may be longer than the pool; each of its steps then costs the arithmetic of
decoding its front. The packed front lives and dies with the sequence: preempted, it is computed
again; finished, it goes to no tier, and blocks computed behind it are shown to nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stepwell.base.errors import ConfigError
from stepwell.cache.manager import CacheManager
from stepwell.codec.contract import Buffer
from stepwell.engine.sequence import Sequence as Seq
from stepwell.model.packed import PackedFront, Packing

_SHARE = 0.5
"""Of the pool, what one rolling sequence may hold."""


class Rolling:
    """Decides what is packed when, and has it done."""

    def __init__(
        self,
        packing: Packing,
        cache: CacheManager,
        *,
        block_bytes: Callable[[Sequence[int]], list[Buffer]],
        window: int,
        max_step_tokens: int,
    ) -> None:
        """`window`: last tokens that stay exact. ConfigError for a pool that is too small."""
        self._packing = packing
        self._cache = cache
        self._block_bytes = block_bytes
        self._window = window
        self._step = max_step_tokens
        pool = cache.pool.num_blocks * cache.block_size
        self.resident_tokens = int(_SHARE * pool) // cache.block_size * cache.block_size
        least = window + max_step_tokens + packing.tokens
        if self.resident_tokens < least:
            raise ConfigError(
                f"cache.rolling: half of the pool holds {self.resident_tokens} tokens, and window, "
                f"step and chunk need {least}.",
                hint="Enlarge cache.pool, or lower scheduler.max_step_tokens.",
                param="cache.rolling",
            )

    def rolls(self, sequence: Seq) -> bool:
        """Whether it holds, or will hold, more than its share."""
        return len(sequence.token_ids) > self.resident_tokens

    def tokens_held(self, sequence: Seq, resident: int) -> int:
        """The most tokens that the pool holds of it until its prompt is computed, given those that
        it holds now."""
        left = len(sequence.token_ids) - sequence.packed_tokens
        return min(left, max(self.resident_tokens, resident) + self._step)

    def shrink(self, sequence: Seq, tokens: int) -> None:
        """Before a step after which it has `tokens` tokens: pack what exceeds its share."""
        size = self._packing.tokens
        while tokens - sequence.packed_tokens > self.resident_tokens:
            end = sequence.packed_tokens + size
            if end + self._window > sequence.computed or sequence.restore is not None:
                return
            if sequence.packed is None:
                sequence.packed = PackedFront(self._packing)
            blocks = self._cache.blocks_of(sequence.sequence_id)[: self._packing.blocks]
            sequence.packed.add(self._block_bytes(blocks))
            self._cache.drop_front(sequence.sequence_id, blocks=self._packing.blocks)
