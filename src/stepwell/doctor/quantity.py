"""The one set of quantities that the names of every engine are translated into."""

from __future__ import annotations

import enum


class Kind(enum.Enum):
    """How samples of several label sets become one: sums, but the largest of ratios and ages."""

    GAUGE = enum.auto()
    WORST = enum.auto()
    COUNTER = enum.auto()
    HISTOGRAM = enum.auto()


class Quantity(enum.Enum):
    """(kind, meaning). Tokens, seconds, bytes and shares from 0 to 1; counters since the start."""

    RUNNING = (Kind.GAUGE, "requests in the batch")
    WAITING = (Kind.GAUGE, "requests not started")
    WAITING_CAPACITY = (Kind.GAUGE, "of those, waiting for room in the KV pool")
    SWAPPED = (Kind.GAUGE, "requests moved to host memory")
    KV_USAGE = (Kind.WORST, "share of the KV pool that running requests hold")
    KV_CAPACITY = (Kind.GAUGE, "tokens that the KV pool holds")
    BLOCK_TOKENS = (Kind.WORST, "tokens of a block")
    KV_USED_TOKENS = (Kind.GAUGE, "tokens that running requests hold")
    KV_CACHED_TOKENS = (Kind.GAUGE, "tokens that only the prefix cache holds")
    KV_FREE_TOKENS = (Kind.GAUGE, "tokens of room that holds nothing")
    KV_POOL_BYTES = (Kind.GAUGE, "size of the KV pool")
    KV_USED_BYTES = (Kind.GAUGE, "bytes that running requests hold")
    KV_CACHED_BYTES = (Kind.GAUGE, "bytes that only the prefix cache holds")
    KV_FREE_BYTES = (Kind.GAUGE, "bytes of the pool that hold nothing")
    KV_WASTE_BYTES = (Kind.GAUGE, "bytes of used blocks that hold no token")
    WEIGHTS_BYTES = (Kind.GAUGE, "weights on the device")
    WORKSPACE_BYTES = (Kind.GAUGE, "step buffers and graphs")
    PREFIX_CACHING = (Kind.WORST, "1 where equal prefixes are reused, else 0")
    HIT_RATE = (Kind.WORST, "the engine's own figure of the prefix hit rate")
    OLDEST_RUNNING = (Kind.WORST, "seconds since the oldest running request started")
    LONGEST_SILENCE = (Kind.WORST, "longest time that a started request has had no token")
    STATS_AGE = (Kind.WORST, "age of the engine's numbers on the page")
    CHUNK_RECOMPUTE = (Kind.WORST, "expected seconds to compute one chunk of context")
    START_TIME = (Kind.WORST, "when the process started, epoch seconds")

    PREEMPTIONS = (Kind.COUNTER, "running requests set back for want of room")
    PREFIX_QUERIES = (Kind.COUNTER, "prompt tokens looked up")
    PREFIX_HITS = (Kind.COUNTER, "prompt tokens found on the device")
    EXTERNAL_QUERIES = (Kind.COUNTER, "prompt tokens looked up below the device")
    EXTERNAL_HITS = (Kind.COUNTER, "prompt tokens found below the device")
    HITS_HOST = (Kind.COUNTER, "prompt tokens from host memory")
    HITS_DISK = (Kind.COUNTER, "prompt tokens from disk or other storage")
    HITS_REMOTE = (Kind.COUNTER, "prompt tokens from other machines")
    PROMPT_TOKENS = (Kind.COUNTER, "prompt tokens processed")
    GENERATION_TOKENS = (Kind.COUNTER, "tokens generated")
    EVICTED_TOKENS = (Kind.COUNTER, "cached tokens evicted for want of room")
    RETURNED_TOKENS = (Kind.COUNTER, "prompt tokens that the device had held and evicted")
    SHARED_TEXT = (Kind.COUNTER, "sampled pieces of prompts seen in an earlier prompt")
    TEXT = (Kind.COUNTER, "sampled pieces of prompts")
    RESTORED_TOKENS = (Kind.COUNTER, "prompt tokens loaded instead of computed")
    RESTORE_SAVED = (Kind.COUNTER, "seconds that loading saved")
    RESTORE_REGRET = (Kind.COUNTER, "seconds by which loads took longer than computing")
    FINISHED = (Kind.COUNTER, "requests that ended well")
    FAILED = (Kind.COUNTER, "requests that ended with an error of the server")
    REPLIES = (Kind.COUNTER, "replies to requests for text")
    BROKEN = (Kind.COUNTER, "replies that blame the server (5xx)")
    REFUSED = (Kind.COUNTER, "replies that blame the request (4xx)")
    REFUSED_CONTEXT = (Kind.COUNTER, "requests refused as too long")
    REFUSED_QUEUE = (Kind.COUNTER, "requests refused because too many wait")
    STORED = (Kind.COUNTER, "tokens or bytes written below the device")

    TTFT = (Kind.HISTOGRAM, "seconds to the first token")
    ITL = (Kind.HISTOGRAM, "seconds between tokens")
    E2E = (Kind.HISTOGRAM, "seconds of a whole request")
    QUEUE_TIME = (Kind.HISTOGRAM, "seconds from arrival to start")
    PREFILL_TIME = (Kind.HISTOGRAM, "seconds from start to first token")
    DECODE_TIME = (Kind.HISTOGRAM, "seconds from first token to the end")
    PROMPT_LENGTH = (Kind.HISTOGRAM, "prompt tokens of a request")
    OUTPUT_LENGTH = (Kind.HISTOGRAM, "output tokens of a request")
    IDLE_BEFORE_EVICT = (Kind.HISTOGRAM, "seconds that a block lay unused before its eviction")
    LOAD_TIME = (Kind.HISTOGRAM, "seconds of a load from below the device")

    def __init__(self, kind: Kind, meaning: str) -> None:
        self.kind = kind
        self.meaning = meaning

    @property
    def label(self) -> str:
        """As it is shown and as JSON's key."""
        return self.name.lower()
