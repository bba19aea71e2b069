"""One measurement of one contestant: what is asked, and the rate that the answer means.

All prompts are random tokens that change from round to round: nobody finds one in a prefix cache.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stepwell.evaluate.contestants import Contestant, ContestantFailed
from stepwell.evaluate.speed_options import Part, Sizes
from stepwell.evaluate.statistics import median
from stepwell.evaluate.workload import random_tokens

_WARM_TURNS = 2
_LONG_TURNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What all contestants of a round are asked. `share`: of the mixed requests' lengths."""

    sizes: Sizes
    vocab_size: int
    seed: int
    turn: int
    share: float = 1.0

    def prompt(self, length: int) -> list[int]:
        """Random tokens of this round; other lengths have other tokens."""
        source = random.Random(f"speed/{self.seed}/{self.turn}/{length}")
        return list(random_tokens(source, length, vocab_size=self.vocab_size))

    def requests(self) -> list[dict[str, Any]]:
        """The mixed requests."""
        mix = self.sizes.mix(self.share, vocab_size=self.vocab_size)
        return mix.draw(turn=self.turn).as_dicts()


def warm_up(contestant: Contestant, asked: Asked, *, batch: bool) -> None:
    """Short work of each kind, so that nobody compiles or allocates while it is measured."""
    contestant.ask("ttft", prompts=[asked.prompt(asked.sizes.warm)], max_tokens=8, warm=1)
    if batch:
        requests = [request | {"max_tokens": 8} for request in asked.requests()[:4]]
        contestant.ask("run", requests=requests)


def measure(part: Part, contestant: Contestant, asked: Asked, *, own: bool) -> dict[str, Any]:
    """Figures with `tokens_per_s` among them. `own`: Stepwell, whose decoding is held against the
    reading of memory beside it (`pieces`). Raises ContestantFailed."""
    return (_OWN_MEASURES if own else _MEASURES)[part](contestant, asked)


def _decode(contestant: Contestant, asked: Asked) -> dict[str, Any]:
    """Tokens a second after the first, one sequence with a short context."""
    sizes = asked.sizes
    prompt = asked.prompt(sizes.short)
    found = contestant.ask("ttft", prompts=[prompt], max_tokens=1 + sizes.decode, warm=0)
    return {"tokens_per_s": found["decode_rate"]}


def _decode_beside_reading(contestant: Contestant, asked: Asked) -> dict[str, Any]:
    """The same, in pieces."""
    sizes = asked.sizes
    found = contestant.ask("decode", prompt=asked.prompt(sizes.short), max_tokens=1 + sizes.decode)
    return {"tokens_per_s": found["decode_rate"], "pieces": found["pieces"]}


def _prefill(contestant: Contestant, asked: Asked) -> dict[str, Any]:
    """Prompt tokens a second up to the first token, and seconds to it when it comes again."""
    length = asked.sizes.prefill
    found = contestant.ask("ttft", prompts=[asked.prompt(length)], max_tokens=2, warm=_WARM_TURNS)
    return {"tokens_per_s": length / found["cold"][0], "warm_ttft_s": median(found["warm"])}


def _batch(contestant: Contestant, asked: Asked) -> dict[str, Any]:
    """Output tokens a second of all requests at once."""
    found = contestant.ask("run", requests=asked.requests())
    if not found["complete"]:
        raise ContestantFailed(f"{contestant.name}: an output has the wrong length.")
    rate = found["output_tokens"] / found["seconds"]
    return {"tokens_per_s": rate, "seconds": found["seconds"], "lengths": asked.share}


def _long(contestant: Contestant, asked: Asked) -> dict[str, Any]:
    """Tokens a second after a long prompt, which is computed once."""
    sizes = asked.sizes
    found = contestant.ask(
        "ttft", prompts=[asked.prompt(sizes.long)], max_tokens=1 + sizes.long_decode,
        warm=_LONG_TURNS - 1,
    )  # fmt: skip
    return {"tokens_per_s": found["decode_rate"], "cold_ttft_s": found["cold"][0]}


def _long_beside_reading(contestant: Contestant, asked: Asked) -> dict[str, Any]:
    """The same, in pieces."""
    sizes = asked.sizes
    found = contestant.ask(
        "decode", prompt=asked.prompt(sizes.long), max_tokens=1 + sizes.long_decode,
        turns=_LONG_TURNS,
    )  # fmt: skip
    figures = {"tokens_per_s": found["decode_rate"], "cold_ttft_s": found["ttft"][0]}
    return figures | {"pieces": found["pieces"]}


_MEASURES: dict[Part, Callable[[Contestant, Asked], dict[str, Any]]] = {
    Part.DECODE: _decode,
    Part.PREFILL: _prefill,
    Part.BATCH: _batch,
    Part.LONG: _long,
}
_OWN_MEASURES = _MEASURES | {Part.DECODE: _decode_beside_reading, Part.LONG: _long_beside_reading}
