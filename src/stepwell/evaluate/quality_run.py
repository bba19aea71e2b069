"""`stepwell evaluate quality`: the same model on its own cache and on what codecs made of it.

    prefill a context once -> for each setting: encode, decode -> go on, all side by side

Going on means teacher-forced text (fidelity) or a question answered greedily (recall). Nothing is
scored in the pass that computed the cache: there, compressed keys and values are never read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from stepwell.base.errors import ConfigError
from stepwell.evaluate.calibrate import OnProgress
from stepwell.evaluate.quality_cache import Caches
from stepwell.evaluate.quality_codecs import CacheCodec, Context, restore
from stepwell.evaluate.quality_fidelity import Fidelity
from stepwell.evaluate.quality_model import (
    Subject,
    Training,
    held_out_tokens,
    make_codecs,
    open_subject,
)
from stepwell.evaluate.quality_report import Answers, Findings, Row, make_document
from stepwell.evaluate.quality_settings import Cost, Setting
from stepwell.evaluate.quality_tasks import Material, make_material, make_question

CONTINUATION = 128  # tokens of text after a context
_PIECE = 32  # of them in one step: a large vocabulary's logits are large
_ROOM = 512  # tokens for a question and its answer
_POOL_BYTES = 2 << 30
_HELD_OUT = 200_000  # tokens of text are enough


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityOptions:
    """`n` questions in all, evenly over `tasks`; `texts` contexts with continuation; `length`
    tokens of a context."""

    model: str
    settings: tuple[Setting, ...]
    tasks: tuple[str, ...]
    n: int
    texts: int
    length: int
    seed: int = 1
    calibration: Path | None = None
    text: tuple[Path, ...] = ()
    device: str = "cpu"
    training: Training = field(default_factory=Training)


def evaluate_quality(options: QualityOptions, *, on_progress: OnProgress) -> dict[str, Any]:
    """The document for JSON. Raises ConfigError and ModelError."""
    began = time.perf_counter()
    on_progress("loading the model", 0, 1)
    subject = open_subject(options.model, device=options.device)
    _check_length(subject, options)
    filler = held_out_tokens(subject, options.text, enough=_HELD_OUT)
    codecs = make_codecs(
        subject,
        options.settings,
        calibration=options.calibration,
        training=options.training,
        on_progress=on_progress,
    )
    seconds = {"preparing_s": time.perf_counter() - began}
    run = _Run(subject, options, codecs)
    fidelity = run.fidelity(filler, on_progress)
    seconds["text_s"] = time.perf_counter() - began - sum(seconds.values())
    material = make_material(subject.encode, opening=subject.opening, filler=filler)
    answers = run.recall(material, on_progress)
    seconds["recall_s"] = time.perf_counter() - began - sum(seconds.values())
    head = {
        "model": options.model,
        "parameters": subject.loaded.parameters,
        "uncompressed_bytes_per_token": subject.bytes_per_token,
        "context_tokens": options.length,
    }
    rows = [
        Row(
            setting=setting,
            cost=cost,
            artifact_bytes=codec.artifact_bytes,
            fidelity=found.as_dict() if found.kl else None,
            answers=given,
        )
        for setting, cost, codec, found, given in zip(
            options.settings, run.costs, codecs, fidelity[1:], answers[1:], strict=True
        )
    ]
    perplexity = fidelity[0].as_dict()["perplexity"] if fidelity[0].kl else None
    document = make_document(Findings(head, rows, answers[0], perplexity))
    return document | {"seconds": {name: round(value, 1) for name, value in seconds.items()}}


def _check_length(subject: Subject, options: QualityOptions) -> None:
    if options.length + _ROOM > subject.longest:
        raise ConfigError(
            f"a context of {options.length} tokens and {_ROOM} for what follows exceed the "
            f"{subject.longest} that {options.model} takes.",
            hint=f"Give --length {subject.longest - _ROOM} or less.",
            param="length",
        )
    spared = min(setting.sinks + setting.window for setting in options.settings)
    if spared >= options.length:
        raise ConfigError(
            f"sinks and window leave nothing of {options.length} tokens to encode.",
            hint="Give a longer --length, or fewer exact tokens.",
            param="window",
        )


class _Run:
    """Caches for vanilla and a group of settings, as many as the pool's memory allows."""

    def __init__(
        self, subject: Subject, options: QualityOptions, codecs: Sequence[CacheCodec]
    ) -> None:
        self._subject, self._options, self._codecs = subject, options, codecs
        tokens = options.length + _ROOM
        fitting = _POOL_BYTES // (tokens * subject.bytes_per_token) - 1
        self._group = max(1, min(len(codecs), fitting))
        self._caches = Caches(subject.loaded, sequences=1 + self._group, tokens=tokens)
        self.costs = [Cost() for _ in codecs]

    def fidelity(self, text: Sequence[int], on_progress: OnProgress) -> list[Fidelity]:
        """Vanilla first, then each setting, over the same continuations."""
        options, opening = self._options, self._subject.opening
        size = options.length - len(opening)
        starts = _spread(len(text) - size - CONTINUATION, options.texts)
        found = [Fidelity() for _ in range(1 + len(options.settings))]
        for done, start in enumerate(starts):
            on_progress("text on restored caches", done, len(starts))
            context = [*opening, *text[start : start + size]]
            following = text[start + size : start + size + CONTINUATION]
            for places in self._restored(context):
                self._continue(following, len(context), places, found)
        return found

    def recall(self, made: Material, on_progress: OnProgress) -> list[Answers]:
        """Vanilla's answers and each setting's; the questions go through the tasks in turn."""
        options, seed = self._options, str(self._options.seed)
        asked_of = 1 + len(options.settings)
        found = [{name: {seed: ""} for name in options.tasks} for _ in range(asked_of)]
        for number in range(options.n if options.tasks else 0):
            on_progress("questions on restored caches", number, options.n)
            index, place = divmod(number, len(options.tasks))
            name = options.tasks[place]
            asked = make_question(name, made, seed=options.seed, index=index, length=options.length)
            right = [False] * asked_of
            for places in self._restored(asked.context):
                answers = self._caches.generate(
                    asked.question, start=len(asked.context), new_tokens=asked.new_tokens
                )
                for at, answer in zip(places, answers, strict=False):
                    right[at] = asked.is_right(self._subject.decode(answer))
            for at, is_right in enumerate(right):
                found[at][name][seed] += "1" if is_right else "0"
        return found

    def _restored(self, tokens: Sequence[int]) -> Iterator[list[int]]:
        """Prefill, then group by group: caches written, and which result each sequence is for
        (0 is vanilla, which every group has beside it)."""
        context = Context(self._caches.prefill(tokens))
        settings = self._options.settings
        for first in range(0, len(settings), self._group):
            places = [0]
            for at in range(first, min(first + self._group, len(settings))):
                setting = settings[at]
                coded = restore(
                    context, self._codecs[at], sinks=setting.sinks, window=setting.window
                )
                self._caches.write(len(places), coded.restored)
                self.costs[at].add(coded, setting, tokens=len(tokens))
                places.append(at + 1)
            yield places

    def _continue(
        self, tokens: Sequence[int], start: int, places: Sequence[int], found: Sequence[Fidelity]
    ) -> None:
        """Teacher-forced: each token but the last is fed, each but the first predicted."""
        for at in range(0, len(tokens) - 1, _PIECE):
            stop = min(at + _PIECE, len(tokens) - 1)
            fed = [list(tokens[at:stop])] * self._caches.sequences
            logits = self._caches.extend(fed, start=start + at)
            targets = torch.tensor(tokens[at + 1 : stop + 1])
            for sequence, place in enumerate(places):
                if place or places[1] == 1:  # vanilla counts once, with the first group
                    found[place].add(logits[0], logits[sequence], targets)


def _spread(last: int, count: int) -> list[int]:
    """`count` places from 0 to `last`, evenly."""
    if count and last < 0:
        raise ConfigError(
            "the text is shorter than a context and its continuation.",
            hint="Give more --text, or a shorter --length.",
            param="text",
        )
    return [round(i * last / max(1, count - 1)) for i in range(count)]
