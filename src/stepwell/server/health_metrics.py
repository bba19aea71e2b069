"""What /metrics shows for whoever looks for the cause of trouble (`stepwell doctor` reads it)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from stepwell.base.request import EngineStats

_PIECE = 16
_LONGEST = 16384
_REMEMBERED = 1 << 16


class PromptPieces:
    """How much of the prompts was seen in earlier prompts, wherever it stood in them.

    Of each prompt's first 16,384 tokens about one in 16 begins a piece of 16 tokens; which ones is
    told by the tokens themselves, so that equal text is cut alike at any position. The prefix cache
    cannot know this: it says what an equal beginning would save. A tenant's prompts are compared
    with its own only. Hashes of the last 65,536 pieces are kept, no text.
    """

    def __init__(self) -> None:
        self.pieces = 0
        self.seen = 0
        self._memory: OrderedDict[int, None] = OrderedDict()

    def add(self, tokens: Sequence[int], *, tenant: str) -> None:
        """Count a prompt, then remember it."""
        tokens = tokens[:_LONGEST]
        found = {
            hash((tenant, tuple(tokens[at : at + _PIECE])))
            for at in range(len(tokens) - _PIECE + 1)
            if not ((tokens[at] * 0x9E3779B1 ^ tokens[at + 1] * 0x85EBCA6B) >> 7) % _PIECE
        }
        self.pieces += len(found)
        self.seen += sum(piece in self._memory for piece in found)
        for piece in found:
            self._memory[piece] = None
            self._memory.move_to_end(piece)
        while len(self._memory) > _REMEMBERED:
            self._memory.popitem(last=False)


def health_metrics(
    stats: EngineStats,
    pieces: PromptPieces,
    labels: Mapping[str, str],
    *,
    silence: float,
    stats_age: float,
) -> Iterator[Metric]:
    """`silence`: seconds since the last token of the choice that waits longest for its next.
    `stats_age`: seconds since the engine gave these numbers."""
    gauges = (
        ("kv_tokens", "Tokens that the KV pool holds.", stats.kv_tokens),
        ("oldest_running_seconds", "Age of the oldest running sequence.", stats.oldest_running),
        (
            "longest_silence_seconds",
            "Longest time that a started choice has had no token.",
            max(silence, stats.oldest_prefill),
        ),
        ("stats_age_seconds", "Age of the engine's numbers on this page.", stats_age),
        ("pinned_prefixes", "Prefixes that are kept by name.", stats.prefixes.pins),
        ("pinned_blocks", "Cached blocks that pins protect.", stats.prefixes.pinned_blocks),
        ("kv_erasing", "Erasures that some tier has yet to do.", stats.prefixes.erasing),
    )
    counters = (
        ("kv_evicted_tokens", "Cached tokens evicted for want of room.", stats.evicted_tokens),
        (
            "kv_returned_tokens",
            "Prompt tokens that the device had held and evicted.",
            stats.returned_tokens,
        ),
        ("prompt_pieces", "Sampled pieces of prompts.", pieces.pieces),
        (
            "pin_evictions",
            "Pinned blocks that a request needed the room of.",
            stats.prefixes.pin_evictions,
        ),
        ("erased_blocks", "Blocks of the device erased.", stats.prefixes.erased_blocks),
        ("erased_chunks", "Chunks of lower tiers erased.", stats.prefixes.erased_chunks),
        ("prompt_pieces_seen", "Those that an earlier prompt had, at any place.", pieces.seen),
    )
    for name, text, value in gauges:
        gauge = GaugeMetricFamily(f"stepwell_{name}", text, labels=list(labels))
        gauge.add_metric(list(labels.values()), value)
        yield gauge
    for name, text, value in counters:
        counter = CounterMetricFamily(f"stepwell_{name}", text, labels=list(labels))
        counter.add_metric(list(labels.values()), value)
        yield counter
