"""`stepwell evaluate precision`: a model in low bits against itself in bfloat16.

    unquantized: texts, questions  ->  each arm: the same texts, the same questions, in pairs

Unlike in `stepwell evaluate quality`, contexts are computed by each arm for itself: weights in low
bits take part in every token.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepwell.base.errors import ConfigError
from stepwell.evaluate.calibrate import OnProgress
from stepwell.evaluate.precision_arms import Opened, open_arm, open_plain
from stepwell.evaluate.precision_report import ArmFindings, Unquantized, make_document
from stepwell.evaluate.precision_settings import Arm
from stepwell.evaluate.precision_text import (
    Passage,
    Reference,
    TextResult,
    compare,
    make_passages,
)
from stepwell.evaluate.quality_cache import Caches
from stepwell.evaluate.quality_model import Subject, held_out_tokens
from stepwell.evaluate.quality_report import Answers
from stepwell.evaluate.quality_tasks import Question, make_material, make_question
from stepwell.kernels.paged_attention import KVFormat

CONTINUATION = 129  # tokens after a context, of which the first is not predicted
_ROOM = 512  # tokens for a question and its answer
_HELD_OUT = 200_000  # tokens of text are enough


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionOptions:
    """`n` questions in all, evenly over `tasks`; `texts` contexts with continuation; `length`
    tokens of a context."""

    model: str
    arms: tuple[Arm, ...]
    tasks: tuple[str, ...]
    n: int
    texts: int
    length: int
    seed: int = 1
    text: tuple[Path, ...] = ()
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class _Work:
    """What every arm is asked, in the same order."""

    passages: list[Passage]
    questions: list[tuple[str, Question]]


def evaluate_precision(options: PrecisionOptions, *, on_progress: OnProgress) -> dict[str, Any]:
    """The document for JSON. Raises ConfigError and ModelError."""
    began = time.perf_counter()
    on_progress("loading the model", 0, 1)
    plain = open_plain(options.model, device=options.device)
    work = _make_work(plain, options)
    reference = Reference()
    base = Unquantized(
        model=options.model,
        parameters=plain.loaded.parameters,
        length=options.length,
        text=reference.found,
    )
    caches = _caches(plain, options)
    for done, passage in enumerate(work.passages):
        on_progress("text, unquantized", done, len(work.passages))
        reference.add(caches, passage)
    base.answers = _ask(plain, caches, work, options, "unquantized", on_progress)
    seconds = {"unquantized_s": time.perf_counter() - began}
    found = []
    for arm in options.arms:
        on_progress(f"loading {arm.label}", 0, 1)
        before = time.perf_counter()
        with open_arm(plain, arm, model=options.model) as opened:
            found.append(_run_arm(arm, opened, work, reference, options, on_progress))
        seconds[f"{arm.label}_s"] = time.perf_counter() - before
    document = make_document(base, found)
    return document | {"seconds": {name: round(value, 1) for name, value in seconds.items()}}


def _run_arm(
    arm: Arm,
    opened: Opened,
    work: _Work,
    reference: Reference,
    options: PrecisionOptions,
    on_progress: OnProgress,
) -> ArmFindings:
    caches = _caches(opened.subject, options, form=arm.kv)
    text = TextResult()
    for done, passage in enumerate(work.passages):
        on_progress(f"text, {arm.label}", done, len(work.passages))
        compare(caches, passage, reference.kept[done], text)
    answers = _ask(opened.subject, caches, work, options, arm.label, on_progress)
    return ArmFindings(arm=arm, opened=opened, text=text, answers=answers)


def _make_work(subject: Subject, options: PrecisionOptions) -> _Work:
    if options.length + _ROOM > subject.longest:
        raise ConfigError(
            f"a context of {options.length} tokens and {_ROOM} for what follows exceed the "
            f"{subject.longest} that {options.model} takes.",
            hint=f"Give --length {subject.longest - _ROOM} or less.",
            param="length",
        )
    filler = held_out_tokens(subject, options.text, enough=_HELD_OUT)
    passages = make_passages(
        filler, opening=subject.opening, count=options.texts, context=options.length,
        following=CONTINUATION,
    )  # fmt: skip
    if options.texts and not passages:
        raise ConfigError(
            "the text is shorter than a context and its continuation.",
            hint="Give more --text, or a shorter --length.",
            param="text",
        )
    material = make_material(subject.encode, opening=subject.opening, filler=filler)
    questions = []
    for number in range(options.n if options.tasks else 0):
        index, place = divmod(number, len(options.tasks))
        name = options.tasks[place]
        asked = make_question(name, material, seed=options.seed, index=index, length=options.length)
        questions.append((name, asked))
    return _Work(passages, questions)


def _caches(
    subject: Subject, options: PrecisionOptions, *, form: KVFormat = KVFormat.MODEL
) -> Caches:
    return Caches(subject.loaded, sequences=1, tokens=options.length + _ROOM, form=form)


def _ask(
    subject: Subject,
    caches: Caches,
    work: _Work,
    options: PrecisionOptions,
    label: str,
    on_progress: OnProgress,
) -> Answers:
    """Greedy answers, right or wrong, in the form that `stepwell evaluate quality` keeps."""
    seed = str(options.seed)
    found: Answers = {name: {seed: ""} for name in options.tasks}
    for done, (name, asked) in enumerate(work.questions):
        on_progress(f"questions, {label}", done, len(work.questions))
        caches.feed(asked.context)
        answer = caches.generate(
            asked.question, start=len(asked.context), new_tokens=asked.new_tokens
        )[0]
        found[name][seed] += "1" if asked.is_right(subject.decode(answer)) else "0"
    return found
