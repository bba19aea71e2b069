"""The knowledge base of one tenant: the one way in."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from time import time
from typing import Unpack

from stepwell.knowledge.claim import Claim, Details
from stepwell.knowledge.contents import Made
from stepwell.knowledge.context import Context
from stepwell.knowledge.embed import Embedder
from stepwell.knowledge.entry import Entry, Source, Status
from stepwell.knowledge.erase import Erased, Eraser, History
from stepwell.knowledge.errors import EntryErased, InvalidEntry, KnowledgeError, UnsafeEntry
from stepwell.knowledge.events import Event
from stepwell.knowledge.gate import Gate
from stepwell.knowledge.harness import Case, Reader, Verdict, Waiver
from stepwell.knowledge.note import Note, make_note
from stepwell.knowledge.parts import open_parts
from stepwell.knowledge.payload import ErrorRule, Payload
from stepwell.knowledge.policy import Capture, Captured, Evidence, Policy, Scope, Session
from stepwell.knowledge.release import Plan
from stepwell.knowledge.releases import Releases
from stepwell.knowledge.render import CountTokens, estimated_tokens
from stepwell.knowledge.retrieve import Found
from stepwell.knowledge.session import Shown
from stepwell.knowledge.standing import Standing
from stepwell.knowledge.suggest import suggestions
from stepwell.knowledge.useful import Usefulness, usefulness

_TENANT = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")
_SESSION_TOKENS = 16384
_NO_FIX = "Seen more than once; what avoids it is not known yet."


class Knowledge:
    """One call at a time, from any thread (hold a lock of your own); one process at a time. Methods
    raise `knowledge.errors`."""

    def __init__(
        self,
        folder: Path,
        *,
        policy: Policy,
        embedder: Embedder | None,
        count_tokens: CountTokens,
        clock: Callable[[], float],
    ) -> None:
        """`folder`: of the tenant. Use `open`."""
        self._parts, self._undo = open_parts(
            folder, policy=policy, embedder=embedder, count_tokens=count_tokens, clock=clock
        )
        try:
            self._gate = Gate(self._parts)
            self._standing = Standing(self._parts, self._gate)
            self._releases = Releases(self._parts, self._gate, self._standing)
            self._standing.load()
        except BaseException:
            self._undo.close()
            raise

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        tenant: str,
        policy: Policy | None = None,
        embedder: Embedder | None = None,
        count_tokens: CountTokens = estimated_tokens,
        clock: Callable[[], float] = time,
    ) -> Knowledge:
        """Open or create `folder/<tenant>`; tenants share nothing. `embedder`: adds vectors to
        words and names (`embed.sentence_embedder`). `clock`: seconds since 1970.

        Raises KnowledgeDamaged when the current release is not what was released.
        """
        if not _TENANT.match(tenant):
            raise InvalidEntry(
                f"tenant {tenant!r} is not a name.",
                hint="Letters, digits, '_', '-'; at most 63.",
                param="tenant",
            )
        return cls(
            Path(folder) / tenant,
            policy=policy or Policy(),
            embedder=embedder,
            count_tokens=count_tokens,
            clock=clock,
        )

    def close(self) -> None:
        """Close the files and let another process in."""
        self._undo.close()

    def __enter__(self) -> Knowledge:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def capture(
        self, payload: Payload, *, by: str, evidence: Evidence, **details: Unpack[Details]
    ) -> Captured:
        """Store a candidate: in nobody's context until it is confirmed.

        Raises GateClosed, UnsafeEntry, InvalidEntry, EntryErased.
        """
        return self._gate.capture(Claim(payload=payload, by=by, evidence=evidence, **details))

    def confirm(
        self,
        entry_id: str,
        *,
        by: str,
        evidence: Evidence = Evidence.USER_CONFIRMED,
        edited: Payload | None = None,
        supersedes: Sequence[str] = (),
    ) -> Entry:
        """A person vouches for a candidate: it is in `by`'s context from the next request on.

        `edited`: what the person made of it; the candidate is retired and the edit confirmed.
        `supersedes`: entries that it replaces: for `by` at once, for everybody once released.
        """
        name = entry_id
        if edited is not None:
            name, evidence = self._edit(entry_id, edited, by), Evidence.ACCEPTED_EDIT
        entry = self._gate.confirm(name, by=by, evidence=evidence, supersedes=supersedes)
        if name != entry_id and self._parts.records.get(entry_id) is not None:
            self._gate.reject(entry_id, by=by, reason="edited")
        self._standing.recheck([name])
        return entry

    def _edit(self, entry_id: str, edited: Payload, by: str) -> str:
        old = self._gate.entry(entry_id)
        made = self.capture(
            edited,
            by=by,
            evidence=Evidence.ACCEPTED_EDIT,
            source=Source.USER,
            area=old.area,
            triggers=old.triggers,
            depends_on=[item.name for item in old.depends_on],
            parents=(entry_id,),
            validity=old.validity,
        )
        return made.id

    def reject(self, entry_id: str, *, by: str, reason: str = "") -> Entry:
        """A person's word against what is not released: it leaves that person's context, and is
        retired when nobody vouches for it any more. Captured or confirmed again it comes back, with
        its history."""
        return self._gate.reject(entry_id, by=by, reason=reason)

    def entry(self, entry_id: str) -> Entry:
        """With its status of now. Raises UnknownEntry, EntryErased."""
        return self._gate.entry(entry_id)

    def entries(self, status: Status) -> tuple[Entry, ...]:
        """In order of id. RETIRED: those that were never released."""
        if status is Status.RELEASED:
            return tuple(self._gate.entry(name) for name in sorted(self._parts.index.live()))
        return tuple(self._parts.records.with_status(status))

    def findings(self, entry_id: str) -> tuple[str, ...]:
        """Codes of the lint, which keep a candidate from being confirmed."""
        return self._parts.records.findings(entry_id)

    def evidence(self, entry_id: str) -> tuple[tuple[Evidence, str], ...]:
        """(what, by whom), oldest first."""
        return self._parts.records.evidence(entry_id)

    def waiting(self) -> int:
        """Candidates that nobody has decided on."""
        return self._parts.records.how_many(Status.CANDIDATE)

    def times(self, entry_id: str) -> int:
        """How often it was captured, while it is not released."""
        return self._parts.records.times(entry_id)

    def suggestions(self, limit: int = 10) -> tuple[Entry, ...]:
        """Candidates most worth a person's look: captured often, unlike what is released."""

        return suggestions(self._parts, limit)

    def search(self, text: str, scope: Scope, budget_tokens: int = 1024) -> tuple[Found, ...]:
        """Best first, at most `budget_tokens` of rendered text. Changes nothing."""
        return self._standing.asking().find(text, scope, budget_tokens)

    def context(self, question: str, session: Session, budget_tokens: int = 1024) -> Context:
        """What the request is to be given; remembers in the session what was shown.

        `budget_tokens`: for the part that this question selects.
        """
        asking, scope = self._standing.asking(), session.scope
        shown = self._parts.sessions.get(session, asking.release)
        seen = self._parts.index.visible(shown.ids, scope, asking.day)
        self._parts.sessions.refresh(
            shown,
            asking.release,
            still=seen.__contains__,
            limit=_SESSION_TOKENS,
            size=self._parts.count_tokens(shown.text),
        )
        return asking.assemble(
            question,
            scope,
            pack=self._standing.pack(scope.area),
            shown=shown,
            budget_tokens=budget_tokens,
        )

    def context_once(self, question: str, scope: Scope, budget_tokens: int = 1024) -> Context:
        """What the first request of a session would be given; nothing of it is remembered."""
        asking = self._standing.asking()
        return asking.assemble(
            question,
            scope,
            pack=self._standing.pack(scope.area),
            shown=Shown(asking.release),
            budget_tokens=budget_tokens,
        )

    def context_of(
        self, release: str, question: str, *, area: str = "", budget_tokens: int = 1024
    ) -> Context:
        """What a request would be given if `release` were in force, for somebody who confirmed
        nothing; what was erased since, or is unusable, is left out. Changes nothing. An index of
        the release is made for it each time: for a look at the past, not for serving."""
        return self._releases.context_of(release, question, area, budget_tokens=budget_tokens)

    def visible(self, ids: Collection[str], scope: Scope) -> frozenset[str]:
        """Those of `ids` that a request of this scope may be shown now."""
        return frozenset(self._parts.index.visible(tuple(ids), scope, self._parts.day()))

    def note(self, session: Session, text: str) -> Note:
        """Add to a session's state (what its last result was, say): behind all that it was given so
        far, in its own requests only. In memory only. Raises InvalidEntry, UnsafeEntry, GateClosed.
        """
        note = make_note(text)
        self._parts.sessions.note(session, self._parts.truth.current(), note)
        return note

    def notes(self, session: Session) -> tuple[Note, ...]:
        """Oldest first."""
        return self._parts.sessions.notes(session)

    def drop_notes(self, session: Session, ids: Collection[str]) -> tuple[str, ...]:
        """Take notes of a session away; those that were there."""
        return self._parts.sessions.drop_notes(session, ids)

    def owed_notes(self) -> Mapping[str, Session]:
        """Id -> session of notes that are gone (taken away, erased, or with a session that was
        pushed out), until `settle_notes`. Who computed KV of notes drops it by these ids."""
        return self._parts.sessions.owed()

    def settle_notes(self, ids: Collection[str]) -> None:
        """Nothing that was computed of these notes is left."""
        self._parts.sessions.settle(ids)

    def failed(
        self, error: str, *, question: str, by: str, area: str = "", fix: str = ""
    ) -> Captured | None:
        """Log a failure. The same one (but for literals) a second time becomes a candidate for an
        error rule where capture is on. `fix`: what avoids it, when that is known."""
        signature = self._gate.failed(error, question, by=by)
        if signature is None or self._parts.policy.capture is Capture.OFF:
            return None
        return self.capture(
            ErrorRule(signature=signature, fix=fix or _NO_FIX),
            by=by,
            evidence=Evidence.FAILED_TWICE,
            source=Source.TOOL,
            area=area,
        )

    def outcome(self, ids: Iterable[str], *, by: str, good: bool) -> None:
        """A request whose context held these entries ended well or badly, says `by`."""
        for name in ids:
            if self.entry(name).status is Status.RELEASED:
                self._parts.records.count_outcome(name, by=by, good=good)

    def usefulness(self, entry_id: str) -> Usefulness:
        """What `outcome` counted of an entry."""
        return usefulness(entry_id, self._parts.records.outcomes(entry_id))

    def retirements(self) -> tuple[Usefulness, ...]:
        """Released entries that probably do more harm than good, for a person to look at; worst
        first."""
        live = self._parts.index.live()
        found = [self.usefulness(n) for n in self._parts.records.with_outcomes() if n in live]
        bad = [item for item in found if item.discredited]
        return tuple(sorted(bad, key=lambda item: (-item.doubt, item.id)))

    def seed(
        self, payloads: Iterable[Payload], *, by: str, area: str = ""
    ) -> tuple[Captured | KnowledgeError, ...]:
        """Capture what `seed` found as candidates; an error stands for what is refused."""
        made: list[Captured | KnowledgeError] = []
        for payload in payloads:
            try:
                made.append(
                    self.capture(
                        payload, by=by, evidence=Evidence.SEED, source=Source.DOCUMENT, area=area
                    )
                )
            except (InvalidEntry, UnsafeEntry, EntryErased) as error:
                made.append(error)
        return tuple(made)

    def plan(self, *, by: str, retire: Collection[str] = ()) -> Plan:
        """What `release` would do: what comes in, goes out and stays behind, and a diff."""
        return self._releases.plan(by=by, retire=retire)

    def release(
        self,
        *,
        by: str,
        retire: Collection[str] = (),
        cases: Iterable[Case] = (),
        reader: Reader | None = None,
        waivers: Sequence[Waiver] = (),
        budget_tokens: int = 1024,
    ) -> str:
        """Make what is confirmed and ready everybody's; the name of the release. Without a change
        it is the current one.

        `cases` with `reader`: raises ReleaseBlocked when one passes before and fails after, unless
        a waiver (`sign_waiver`) covers it. `retire`: released entries to leave out from now on.
        """
        plan = self.plan(by=by, retire=retire)
        if self.current and not plan.added and not plan.removed:
            return self.current
        if reader is not None:
            self._releases.check(
                self.judge(plan, cases, reader, waivers=waivers, budget_tokens=budget_tokens)
            )
        return self._releases.release(plan, by=by)

    def judge(
        self,
        plan: Plan,
        cases: Iterable[Case],
        reader: Reader,
        *,
        waivers: Sequence[Waiver] = (),
        budget_tokens: int = 1024,
    ) -> Verdict:
        """Run the cases that a plan touches, before and after."""
        return self._releases.judge(
            plan, cases, reader, waivers=waivers, budget_tokens=budget_tokens
        )

    def culprits(
        self, plan: Plan, cases: Iterable[Case], reader: Reader, *, budget_tokens: int = 1024
    ) -> Mapping[str, tuple[str, ...]]:
        """Id of each case that fails with a plan -> entries of its context without each of which it
        would pass."""
        return self._releases.culprits(plan, cases, reader, budget_tokens=budget_tokens)

    def sign_waiver(self, plan: Plan, *, case_id: str, by: str, reason: str) -> Waiver:
        """Accept that a case breaks with exactly this plan."""
        return self._releases.sign_waiver(plan, case_id=case_id, by=by, reason=reason)

    def releases(self) -> tuple[str, ...]:
        """Oldest first."""
        return self._parts.truth.names()

    def release_log(self) -> tuple[Made, ...]:
        """All releases with who made them, oldest first."""
        return tuple(self._parts.truth.made(name) for name in self._parts.truth.names())

    def packs(self, release: str) -> Mapping[str, str]:
        """Area -> what its requests are given in front; no area has the empty name."""
        return self._parts.truth.contents(release).packs

    @property
    def current(self) -> str:
        """The release in force; empty before the first."""
        return self._parts.truth.current()

    def diff(self, old: str, new: str) -> str:
        """Unified diff of two releases; `old` may be empty."""
        return self._parts.truth.diff(old, new)

    def history(self, entry_id: str) -> tuple[tuple[str, str], ...]:
        """(release, markdown) where an entry came, changed or (empty) went."""
        return self._parts.truth.history(entry_id)

    def rollback(self, to: str, *, by: str) -> str:
        """Make an earlier release current again; rendered bytes are those of then, without what was
        erased since."""
        return self._releases.rollback(to, by=by)

    def erase(self, entry_id: str, *, by: str, history: History = History.KEEP) -> Erased:
        """Remove an entry from all files, and with `History.ERASE` from older releases too; only a
        tombstone with its id stays. Notes that repeat it go with it."""
        done = Eraser(self._parts).erase(self._gate.entry(entry_id), by=by, history=history)
        self._standing.refresh()
        return done

    def drift(self, schema_hashes: Mapping[str, str]) -> tuple[str, ...]:
        """Tell what the schema is now: `table` or `table.column` -> hash, all of it. Entries that
        depend on something that changed or is gone are given to nobody until `revalidate` or until
        the schema is as it was; returns their ids. What no schema named when an entry was captured
        is compared with the first that does."""
        return self._standing.drift(schema_hashes)

    def outdated(self, schema_hashes: Mapping[str, str]) -> tuple[str, ...]:
        """What `drift` would return. Changes nothing."""
        return self._standing.outdated(schema_hashes)

    def schema(self) -> Mapping[str, str]:
        """What the schema is, as `drift` was told last; empty before."""
        return self._parts.records.hashes()

    def revalidate(self, entry_id: str, *, by: str) -> None:
        """A person vouches that an entry still holds under the schema of now."""
        self._standing.revalidate(entry_id, by=by)

    def events(self) -> tuple[Event, ...]:
        """What happened, oldest first."""
        return self._parts.records.events.all()

    def rebuild(self) -> None:
        """Build the index anew from released truth and confirmed entries."""
        self._standing.rebuild()
