"""Steps that are more than a call on the base: releasing, rolling back, erasing.

A release is planned, its packs are computed ahead (requests go on with the old ones), its cases are
judged, and only then it is written and pointed at, if the plan is still the same. The model answers
for cases in the engine's own queue, behind all other requests, while the tenant's thread is free.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from stepwell.base.errors import InvalidParameter
from stepwell.knowledge.context import Context
from stepwell.knowledge.erase import Erased, History
from stepwell.knowledge.errors import EntryErased, ReleaseBlocked
from stepwell.knowledge.harness import Case, Waiver
from stepwell.knowledge.note import QUOTED
from stepwell.knowledge.payload import texts as texts_of
from stepwell.knowledge.release import Plan
from stepwell.server.errors import KnowledgeBusy, PlanChanged, RequestTimeout
from stepwell.server.fields import Fields
from stepwell.server.knowledge import notes
from stepwell.server.knowledge.books import Book
from stepwell.server.knowledge.casefile import Golden, Reads
from stepwell.server.knowledge.desk import Answer, Ask, Desk, needed
from stepwell.server.knowledge.ports import Keeper
from stepwell.server.knowledge.reader import ModelReader
from stepwell.server.knowledge.review import check_plan, read_history
from stepwell.server.knowledge.tokens import TokenCounter

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_ANSWER_SECONDS = 60.0
"""For a case that the model answers."""
_WARM_SECONDS = 60.0
"""Packs that are not computed by then are computed by the first requests that need them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What POST releases says. `waive`: (case, reason)."""

    retire: tuple[str, ...]
    digest: str
    waive: tuple[tuple[str, str], ...]


def read_wanted(ask: Ask) -> Wanted:
    """Raises InvalidParameter."""
    fields = ask.fields("retire", "digest", "waive")
    waive = []
    items = fields.get("waive") or []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise fields.wrong("waive", "a list of objects with case and reason")
    for item in items:
        inner = Fields(item, prefix="waive.")
        inner.refuse_unknown(("case", "reason"))
        waive.append((needed(inner, "case"), needed(inner, "reason")))
    digest = fields.string("digest", "")
    if waive and not digest:
        raise InvalidParameter(
            "a waiver is for one plan.", hint="Give the plan's digest beside it.", param="digest"
        )
    return Wanted(retire=fields.strings("retire"), digest=digest, waive=tuple(waive))


class Answers:
    """Verdicts on (case, context), found by a first look and given at the second."""

    def __init__(self, cases: Mapping[str, Golden]) -> None:
        self._cases = cases
        self.wanted: dict[tuple[str, str], Context] = {}
        self.texts: dict[tuple[str, str], str] = {}

    def look(self, case: Case, context: Context) -> bool:
        """A reader that only notes what the model will be asked."""
        if self._cases[case.id].reads == Reads.ANSWER.value:
            self.wanted[case.id, context.text] = context
        return True

    def read(self, case: Case, context: Context) -> bool:
        """The reader. Raises PlanChanged for what was not looked at."""
        golden = self._cases[case.id]
        if golden.reads != Reads.ANSWER.value:
            return golden.holds_in(context)
        key = case.id, context.text
        if key not in self.texts:
            raise PlanChanged("knowledge changed while the cases ran.", hint="Release again.")
        return golden.holds(self.texts[key])


class Switch:
    """Belongs to the event loop."""

    def __init__(self, *, reader: ModelReader, patience: float) -> None:
        """`patience`: seconds that a step waits for its turn, then for the tenant's thread."""
        self._reader = reader
        self._patience = patience
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @contextlib.asynccontextmanager
    async def _turn(self, desk: Desk) -> AsyncIterator[None]:
        """One such step of a tenant at a time. Raises KnowledgeBusy."""
        turn = self._turns[desk.book.tenant]
        try:
            async with asyncio.timeout(self._patience):
                await turn.acquire()
        except TimeoutError:
            raise KnowledgeBusy(
                f"a release, rollback or erasure was under way for {self._patience:g} s.",
                hint="Nothing was done. Try again.",
            ) from None
        try:
            yield
        finally:
            turn.release()

    async def _run(self, desk: Desk, work: Callable[[Book], _T]) -> _T:
        return await desk.book.run(work, seconds=self._patience)

    async def release(self, desk: Desk, ask: Ask, *, keeper: Keeper) -> Answer:
        """POST releases."""
        wanted = read_wanted(ask)
        async with self._turn(desk):
            plan, answers, cases = await self._run(desk, lambda _: _look(desk, wanted))
            await _warm(keeper, desk.book.tenant, plan.contents.packs)
            if answers.wanted:
                await self._answer(answers, {case.id: case.question for case in cases})
            try:
                name = await self._run(
                    desk, lambda _: _release(desk, wanted, plan.digest, answers, cases)
                )
            except ReleaseBlocked:
                desk.counts.released("blocked")
                raise
            desk.counts.released("released")
            keeper.switched(desk.book.tenant, name, plan.contents.packs)
            return Answer(value={"name": name, "cases": len(cases)})

    async def _answer(self, answers: Answers, questions: Mapping[str, str]) -> None:
        """Ask the model; it comes behind all other requests, which may never end."""
        try:
            async with asyncio.timeout(_ANSWER_SECONDS * len(answers.wanted)):
                for key, context in answers.wanted.items():
                    answers.texts[key] = await self._reader.answer(questions[key[0]], context.text)
        except TimeoutError:
            raise RequestTimeout(
                f"the model answered {len(answers.texts)} of {len(answers.wanted)} cases in time.",
                hint="Nothing was released. Try again when the server is less busy.",
            ) from None

    async def rollback(self, desk: Desk, ask: Ask, *, keeper: Keeper) -> Answer:
        """POST releases/rollback."""
        to = needed(ask.fields("to"), "to")
        async with self._turn(desk):
            packs = await self._run(desk, lambda book: book.base.packs(to))
            await _warm(keeper, desk.book.tenant, packs)
            name = await self._run(desk, lambda book: book.base.rollback(to, by=desk.person))
            desk.counts.released("rolled_back")
            keeper.switched(desk.book.tenant, name, packs)
            return Answer(value={"name": name})

    async def erase(self, desk: Desk, ask: Ask, *, keeper: Keeper, counter: TokenCounter) -> Answer:
        """POST erase. Asked again for an erased entry, it looks for KV again."""
        name, history = _read_erase(ask)
        async with self._turn(desk):
            done, owed = await self._run(
                desk, lambda book: (_erase(desk, name, history), tuple(book.base.owed_notes()))
            )
            counter.forget()
            chunks = await self._drop_kv(desk, keeper, (name, *owed))
            return Answer(value=_erased_json(done, chunks))

    async def drop_notes(
        self, desk: Desk, ask: Ask, *, keeper: Keeper, counter: TokenCounter
    ) -> Answer:
        """DELETE notes, with the KV that holds them. Where there are none KV is looked for all the
        same: a disk tier may hold some of a session that was forgotten at a restart.

        It takes no turn: no plan and no pack holds a note, and the tenant's thread orders the rest.
        """
        gone, owed = await self._run(
            desk, lambda book: (notes.drop_notes(desk, ask), tuple(book.base.owed_notes()))
        )
        counter.forget()
        chunks = await self._drop_kv(desk, keeper, owed)
        return Answer(value={"removed": list(gone), "kv_chunks": chunks})

    async def _drop_kv(self, desk: Desk, keeper: Keeper, labels: tuple[str, ...]) -> int:
        """Where this fails the notes among `labels` stay owed: the next one drops them too."""
        chunks = await keeper.erased(desk.book.tenant, labels)
        with contextlib.suppress(KnowledgeBusy):
            await self._run(desk, lambda book: book.base.settle_notes(labels))
        return chunks


async def _warm(keeper: Keeper, tenant: str, packs: Mapping[str, str]) -> None:
    try:
        await asyncio.wait_for(keeper.warm(tenant, packs), _WARM_SECONDS)
    except TimeoutError:
        logger.warning("packs were not computed within %g s; switching", _WARM_SECONDS)


def _look(desk: Desk, wanted: Wanted) -> tuple[Plan, Answers, list[Case]]:
    plan = check_plan(desk, wanted.retire, wanted.digest)
    held = desk.cases.read()
    cases = [golden.case() for golden in held.values()]
    answers = Answers(held)
    if cases and (plan.added or plan.removed):
        most = desk.settings.max_tokens
        desk.base.judge(plan, cases, answers.look, budget_tokens=most)
    return plan, answers, cases


def _release(desk: Desk, wanted: Wanted, digest: str, answers: Answers, cases: list[Case]) -> str:
    plan = check_plan(desk, wanted.retire, digest)
    waivers: list[Waiver] = [
        desk.base.sign_waiver(plan, case_id=case, by=desk.person, reason=reason)
        for case, reason in wanted.waive
    ]
    return desk.base.release(
        by=desk.person,
        retire=wanted.retire,
        cases=cases,
        reader=answers.read,
        waivers=waivers,
        budget_tokens=desk.settings.max_tokens,
    )


def _read_erase(ask: Ask) -> tuple[str, History]:
    fields = ask.fields("id", "history")
    return needed(fields, "id"), read_history(fields)


def _erase(desk: Desk, name: str, history: History) -> Erased:
    """Of an entry that is erased already nothing is said."""
    try:
        entry = desk.base.entry(name)
        done = desk.base.erase(name, by=desk.person, history=history)
    except EntryErased:
        return Erased(derived=(), notes=())
    finally:
        desk.book.memory.forget((name, *desk.base.owed_notes()))
    said = [text for text in texts_of(entry.payload).values() if len(text) >= QUOTED]
    desk.cases.forget(said)
    return done


def _erased_json(done: Erased, chunks: int | None) -> dict[str, Any]:
    return {"derived": list(done.derived), "notes": len(done.notes), "kv_chunks": chunks}


def release_here(desk: Desk, ask: Ask) -> Answer:
    """Without a model: cases that read an answer are left out."""
    wanted = read_wanted(ask)
    plan, answers, cases = _look(desk, wanted)
    held = desk.cases.read()
    cases = [case for case in cases if held[case.id].reads == Reads.CONTEXT.value]
    name = _release(desk, wanted, plan.digest, answers, cases)
    return Answer(value={"name": name, "cases": len(cases)})


def rollback_here(desk: Desk, ask: Ask) -> Answer:
    """POST releases/rollback where no server runs."""
    name = desk.base.rollback(needed(ask.fields("to"), "to"), by=desk.person)
    return Answer(value={"name": name})


def erase_here(desk: Desk, ask: Ask) -> Answer:
    """POST erase where no server runs: there is no KV but what a disk tier holds, which forgets
    nothing by this."""
    return Answer(value=_erased_json(_erase(desk, *_read_erase(ask)), None))
