"""Level B: the loop with a model that reads, through a real server.

Held-out drawn worlds, whose names no weights can know the meaning of: people ask, correct and
confirm over HTTP, a release follows every `RELEASE_EVERY` requests, and then a person who confirmed
nothing asks other wordings, with and without the server's knowledge. Answers count by the rows
that they bring. The same questions again, from a hot prefix cache, without one, and after a restart
from the disk tier, must bring the same tokens.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stepwell.evaluate.knowledge_drawn_ask import sql, traps
from stepwell.evaluate.knowledge_drawn_context import context_of
from stepwell.evaluate.knowledge_drawn_course import Asked, Course, Judge, make_course
from stepwell.evaluate.knowledge_drawn_world import World
from stepwell.evaluate.knowledge_model_server import USERS, Prompt, Reply, Serving
from stepwell.evaluate.quality_stats import Pairs, mcnemar_exact, tango_interval
from stepwell.evaluate.shapes import model_folder
from stepwell.knowledge.payload import Payload, Template

RELEASE_EVERY = 20
_STORED = "stepwell_tier_stored_bytes_total"
_SETTLE_SECONDS = 30.0
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """`requests`: learnt from. `trapped`, `untouched`: test questions of each world. `repeated`:
    how many of the test are asked again for their tokens. `at_once`: requests under way. `tables`:
    of a world. `templates`: whether queries that are right are captured, beside facts."""

    worlds: int
    requests: int
    trapped: int
    untouched: int
    repeated: int
    at_once: int = 4
    tables: int = 1
    templates: bool = False


FULL = Size(worlds=12, requests=200, trapped=36, untouched=16, repeated=200)
QUICK = Size(worlds=3, requests=40, trapped=16, untouched=8, repeated=20)


def run_level_b(
    *, size: Size = FULL, seed: int = 1, model: Path | None = None, say: Say
) -> dict[str, Any]:
    """Figures. `model`: a checkpoint trained for this; by default the one that is shipped. Raises
    StepwellError, httpx.HTTPError, OSError."""
    began = time.monotonic()
    course = make_course(
        seed=seed, worlds=size.worlds, requests=size.requests, trapped=size.trapped,
        untouched=size.untouched, tables=size.tables,
    )  # fmt: skip
    judge = Judge(course.worlds)
    try:
        with TemporaryDirectory(prefix="level-b-") as folder:
            found = _Run(
                course, judge, size, seed, model or model_folder("house-sql"), Path(folder), say
            ).run()
    finally:
        judge.close()
    return found | {"seconds": round(time.monotonic() - began, 1)}


@dataclass(slots=True)
class _Run:
    course: Course
    judge: Judge
    size: Size
    seed: int
    model: Path
    folder: Path
    say: Say

    def run(self) -> dict[str, Any]:
        disk = {
            "tiers.disk": str(self.folder / "disk"),
            "tiers.disk_capacity": "2GiB",
            "tiers.chunk_blocks": 1,  # prompts of some hundred tokens are less than a usual chunk
        }
        again = self._prompts()[: self.size.repeated]
        with self._serving("first", disk) as serving:
            curve = self._learn(serving)
            replies = {name: self._ask(serving, name) for name in ("none", "oracle", "placebo",
                                                                   "loop")}  # fmt: skip
            self.say("the same again: hot")
            hot = serving.ask_all(again, at_once=1)
            _wait_until_stored(serving)
        with self._serving("restarted", disk) as serving:
            self.say("the same again: after a restart")
            restored = serving.ask_all(again, at_once=1)
        with self._serving("uncached", {"cache.prefix_caching": False}) as serving:
            self.say("the same again: without a prefix cache")
            plain = serving.ask_all(again, at_once=1)
        return {
            "worlds": len(self.course.worlds),
            "learnt_requests": len(self.course.stream),
            "while_learning": curve,
            "arms": self._arms(replies),
            "prefix_cache": _same_tokens(
                plain, {"first": replies["loop"][: len(again)], "hot": hot, "restored": restored}
            ),
        }

    def _serving(self, name: str, settings: dict[str, Any]) -> Serving:
        return Serving(self.model, self.folder, name, settings)

    def _learn(self, serving: Serving) -> list[float]:
        """Share of right answers in each quarter of the stream, scored before it is learnt from."""
        right = []
        for place, asked in enumerate(self.course.stream, start=1):
            if place % RELEASE_EVERY == 1:
                self.say(f"learning: request {place} of {len(self.course.stream)}")
            world, user = self.course.worlds[asked.world], USERS[place % len(USERS)]
            reply = serving.ask(Prompt(asked.text, area=world.area), user=user)
            is_right = self.judge.right(asked, reply.text)
            right.append(is_right)
            self._teach(serving, asked, user, is_right=is_right)
            if place % RELEASE_EVERY == 0 or place == len(self.course.stream):
                serving.release()
        step = max(1, len(right) // 4)
        return [round(sum(right[i : i + step]) / step, 3) for i in range(0, step * 4, step)]

    def _teach(self, serving: Serving, asked: Asked, user: str, *, is_right: bool) -> None:
        """Where the answer was wrong, why; and the right query where those are captured."""
        world = self.course.worlds[asked.world]
        if self.size.templates:
            worked = sql(asked.query, traps(asked.query, world), worked=True)
            query = Template(question=asked.text, sql=worked)
            serving.tell(query, area=world.area, user=user)
        for fact in () if is_right else traps(asked.query, world):
            serving.tell(fact.payload, area=world.area, user=user, triggers=fact.triggers)

    def _ask(self, serving: Serving, arm: str) -> list[Reply]:
        self.say(f"arm: {arm}")
        makers: dict[str, Callable[[Asked], Prompt]] = {
            "none": lambda asked: Prompt(asked.text),
            "oracle": self._oracle,
            "placebo": self._placebo,
            "loop": self._from_loop,
        }
        prompts = [makers[arm](asked) for asked in self.course.test]
        return serving.ask_all(prompts, at_once=self.size.at_once)

    def _prompts(self) -> list[Prompt]:
        return [self._from_loop(asked) for asked in self.course.test]

    def _from_loop(self, asked: Asked) -> Prompt:
        return Prompt(asked.text, area=self.course.worlds[asked.world].area)

    def _oracle(self, asked: Asked) -> Prompt:
        """Exactly the facts that the question needs."""
        world = self.course.worlds[asked.world]
        return _told(asked, world, [fact.payload for fact in traps(asked.query, world)])

    def _placebo(self, asked: Asked) -> Prompt:
        """As many facts, and at least one, of the next world."""
        own = self.course.worlds[asked.world]
        other = self.course.worlds[(asked.world + 1) % len(self.course.worlds)]
        draw = random.Random(f"placebo {self.seed} {asked.text}")
        count = max(1, len(traps(asked.query, own)))
        return _told(asked, other, [f.payload for f in draw.sample(other.facts, count)])

    def _arms(self, replies: dict[str, list[Reply]]) -> dict[str, dict[str, Any]]:
        right = {
            name: [
                self.judge.right(a, r.text) for a, r in zip(self.course.test, given, strict=True)
            ]
            for name, given in replies.items()
        }
        return {
            name: _compare(self.course, right["none"], right[name])
            | _cost(given)
            | {"by_trap": self._by_trap(right[name])}
            for name, given in replies.items()
        }

    def _by_trap(self, right: Sequence[bool]) -> dict[str, list[int]]:
        """Traps that a question needs -> right answers, questions."""
        found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for asked, is_right in zip(self.course.test, right, strict=True):
            needed = traps(asked.query, self.course.worlds[asked.world])
            name = "+".join(sorted(fact.trap.value for fact in needed)) or "untouched"
            found[name][0] += is_right
            found[name][1] += 1
        return dict(sorted(found.items()))


def _told(asked: Asked, world: World, payloads: Sequence[Payload]) -> Prompt:
    return Prompt(asked.text, context=context_of(payloads, world.area) if payloads else "")


def _compare(course: Course, none: Sequence[bool], arm: Sequence[bool]) -> dict[str, Any]:
    """Trap questions: points gained, exact McNemar. Untouched ones: answers that turned."""
    before = [r for r, asked in zip(none, course.test, strict=True) if asked.trapped]
    after = [r for r, asked in zip(arm, course.test, strict=True) if asked.trapped]
    plain = [
        (a, b) for a, b, asked in zip(none, arm, course.test, strict=True) if not asked.trapped
    ]
    pairs = Pairs.of(before, after)
    low, high = tango_interval(pairs)
    return {
        "trap_questions": pairs.n,
        "trap_accuracy": round(sum(after) / pairs.n, 4),
        "trap_gain_points": round(100 * pairs.difference, 2),
        "gain_tango_95": [round(100 * low, 2), round(100 * high, 2)],
        "mcnemar_exact_p": float(f"{mcnemar_exact(pairs):.4g}"),
        "gained": pairs.gained,
        "lost": pairs.lost,
        "untouched_questions": len(plain),
        "untouched_accuracy": round(sum(b for _, b in plain) / max(1, len(plain)), 4),
        "untouched_flips": sum(a != b for a, b in plain),
    }


def _cost(replies: Sequence[Reply]) -> dict[str, Any]:
    prompt = sum(reply.prompt_tokens for reply in replies)
    cached = sum(reply.cached_tokens for reply in replies)
    return {
        "prompt_tokens": prompt,
        "cached_tokens": cached,
        "cached_share": round(cached / prompt, 4),
        "entries_a_request": round(sum(len(r.entries) for r in replies) / len(replies), 2),
    }


def _same_tokens(plain: Sequence[Reply], others: dict[str, Sequence[Reply]]) -> dict[str, Any]:
    """Against the server without a prefix cache: answers whose tokens differ, and what was served
    from the cache."""
    return {
        "questions": len(plain),
        "answer_tokens": sum(len(reply.tokens) for reply in plain),
        "cached_tokens_without": sum(reply.cached_tokens for reply in plain),
    } | {
        name: {
            "answers_that_differ": sum(
                a.tokens != b.tokens for a, b in zip(plain, replies, strict=True)
            ),
            "prompts_that_differ": sum(
                (a.prompt_tokens, a.entries) != (b.prompt_tokens, b.entries)
                for a, b in zip(plain, replies, strict=True)
            ),
        }
        | _cost(replies)
        for name, replies in others.items()
    }


def _wait_until_stored(serving: Serving) -> None:
    """Until nothing more arrives on the disk; a lane that is idle flushes after a second."""
    deadline, before = time.monotonic() + _SETTLE_SECONDS, -1.0
    while (stored := _stored(serving)) != before and time.monotonic() < deadline:
        before = stored
        time.sleep(2.0)


def _stored(serving: Serving) -> float:
    lines = serving.metrics().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(_STORED))
