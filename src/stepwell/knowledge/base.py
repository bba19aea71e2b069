"""The knowledge base of one tenant: the one way in."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import time

from stepwell.knowledge.context import Asking, Context
from stepwell.knowledge.embed import Embedder
from stepwell.knowledge.entry import ALWAYS, Entry, Source, Status, Validity
from stepwell.knowledge.erase import Eraser, History
from stepwell.knowledge.errors import GateClosed, InvalidEntry, KnowledgeError, ReleaseBlocked
from stepwell.knowledge.gate import Gate
from stepwell.knowledge.harness import Case, Reader, Verdict, Waiver, judge, sign
from stepwell.knowledge.index import Index
from stepwell.knowledge.markdown import from_markdown
from stepwell.knowledge.payload import ErrorRule, Payload
from stepwell.knowledge.policy import Capture, Captured, Evidence, Policy, Scope, Session
from stepwell.knowledge.records import Event, Records
from stepwell.knowledge.release import Plan, Planner, asker
from stepwell.knowledge.render import CountTokens, estimated_tokens
from stepwell.knowledge.retrieve import Found
from stepwell.knowledge.session import Sessions
from stepwell.knowledge.truth import Truth

_TENANT = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")
_SESSION_TOKENS = 16384
_NO_FIX = "Seen more than once; what avoids it is not known yet."


class Knowledge:
    """Not safe for several threads; one process at a time. Methods raise `knowledge.errors`."""

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
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(folder)
        self._policy, self._count, self._clock = policy, count_tokens, clock
        self._key = _key(folder / "key")
        self._embedder = embedder
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, self._lock)
            self._truth = Truth(folder / "truth.git")
            undo.callback(self._truth.close)
            self._records = Records(folder / "records.sqlite")
            undo.callback(self._records.close)
            self._index = Index(folder / "index.sqlite", embedder=embedder)
            undo.callback(self._index.close)
            self._sessions = Sessions()
            self._gate = Gate(
                records=self._records,
                index=self._index,
                sessions=self._sessions,
                policy=policy,
                now=self._now,
            )
            if self._truth.current():
                self._truth.contents(self._truth.current())
            if self._index.built() != self._newest():
                self.rebuild()
            self._refresh()
            self._undo = undo.pop_all()

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
        self,
        payload: Payload,
        *,
        by: str,
        evidence: Evidence,
        source: Source = Source.MODEL,
        area: str = "",
        triggers: Sequence[str] = (),
        depends_on: Sequence[str] = (),
        parents: Sequence[str] = (),
        validity: Validity = ALWAYS,
        session: Session | None = None,
    ) -> Captured:
        """Store a candidate: in nobody's context until it is confirmed.

        `depends_on`: `table` or `table.column`; what a template's SQL names is added, and hashes
        are those last given to `drift`. `parents`: entries it was made from. `session`: where the
        answer was given; what its context already said is not captured again.
        Raises GateClosed, UnsafeEntry, InvalidEntry, EntryErased.
        """
        return self._gate.capture(
            payload,
            by=by,
            evidence=evidence,
            source=source,
            area=area,
            triggers=triggers,
            depends_on=depends_on,
            parents=parents,
            validity=validity,
            session=session,
        )

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
        if name != entry_id and self._records.get(entry_id) is not None:
            self._gate.reject(entry_id, by=by, reason="edited")
        self._refresh_drift()
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
        """Retire a candidate, or a confirmed entry that is not released."""
        return self._gate.reject(entry_id, by=by, reason=reason)

    def entry(self, entry_id: str) -> Entry:
        """With its status of now. Raises UnknownEntry, EntryErased."""
        return self._gate.entry(entry_id)

    def entries(self, status: Status) -> tuple[Entry, ...]:
        """In order of id. RETIRED: those that were never released."""
        if status is Status.RELEASED:
            return tuple(self._gate.entry(name) for name in sorted(self._index.live()))
        return tuple(self._records.with_status(status))

    def findings(self, entry_id: str) -> tuple[str, ...]:
        """Codes of the lint, which keep a candidate from being confirmed."""
        return self._records.findings(entry_id)

    def evidence(self, entry_id: str) -> tuple[tuple[Evidence, str], ...]:
        """(what, by whom), oldest first."""
        return self._records.evidence(entry_id)

    def suggestions(self, limit: int = 10) -> tuple[Entry, ...]:
        """Candidates most worth a person's look: captured often, unlike what is released."""

        def worth(entry: Entry) -> float:
            return self._records.times(entry.id) * self._novelty(entry)

        found = self._records.with_status(Status.CANDIDATE)
        return tuple(sorted(found, key=lambda entry: (-worth(entry), entry.id))[:limit])

    def _novelty(self, entry: Entry) -> float:
        scope = Scope(area=entry.area)
        text = entry.payload.subject
        near = self._index.by_words(text, scope, self._day(), kinds=(entry.kind,), limit=1)
        asked = set(text.split())
        shared = max((len(asked & self._index.vocabulary(name)) for name in near), default=0)
        return 1.0 - shared / (1 + len(asked))

    def search(self, text: str, scope: Scope, budget_tokens: int = 1024) -> tuple[Found, ...]:
        """Best first, at most `budget_tokens` of rendered text. Changes nothing."""
        return self._asking().find(text, scope, budget_tokens)

    def context(self, question: str, session: Session, budget_tokens: int = 1024) -> Context:
        """What the request is to be given; remembers in the session what was shown.

        `budget_tokens`: for the part that this question selects.
        """
        asking, scope = self._asking(), session.scope
        shown = self._sessions.get(session, asking.release)
        seen = self._index.visible(shown.ids, scope, asking.day)
        self._sessions.refresh(
            shown,
            asking.release,
            still=seen.__contains__,
            limit=_SESSION_TOKENS,
            size=self._count(shown.text),
        )
        return asking.assemble(
            question, scope, pack=self._pack(scope.area), shown=shown, budget_tokens=budget_tokens
        )

    def note(self, session: Session, text: str) -> None:
        """Add a line of state to a session (what its last result was, say). In memory only."""
        self._sessions.note(session, self._truth.current(), text)

    def failed(
        self, error: str, *, question: str, by: str, area: str = "", fix: str = ""
    ) -> Captured | None:
        """Log a failure. The same one (but for literals) a second time becomes a candidate for an
        error rule where capture is on. `fix`: what avoids it, when that is known."""
        signature = self._gate.failed(error, question, by=by)
        if signature is None or self._policy.capture is Capture.OFF:
            return None
        return self.capture(
            ErrorRule(signature=signature, fix=fix or _NO_FIX),
            by=by,
            evidence=Evidence.FAILED_TWICE,
            source=Source.TOOL,
            area=area,
        )

    def plan(self, *, by: str, retire: Collection[str] = ()) -> Plan:
        """What `release` would do: what comes in, goes out and stays behind, and a diff."""
        planner = Planner(
            records=self._records,
            truth=self._truth,
            gate=self._gate,
            policy=self._policy,
            count_tokens=self._count,
        )
        return planner.plan(by=by, retire=retire, unusable=self._unusable())

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
        for name in retire:
            self._gate.entry(name)
        plan = self.plan(by=by, retire=retire)
        current = self._truth.current()
        if current and not plan.added and not plan.removed:
            return current
        if reader is not None:
            self._check(plan, list(cases), reader, waivers, budget_tokens)
        name = self._truth.write(plan.contents, by=by, at=self._clock())
        self._truth.point(name)
        self._index.put(plan.entries[added] for added in plan.added)
        self._index.set_built(name)
        for added in plan.added:
            self._records.drop(added)
        self._records.log(Event(at=self._now(), what="released", id=name, by=by))
        self._refresh()
        return name

    def _check(
        self,
        plan: Plan,
        cases: list[Case],
        reader: Reader,
        waivers: Sequence[Waiver],
        budget_tokens: int,
    ) -> None:
        verdict = self.judge(plan, cases, reader, waivers=waivers, budget_tokens=budget_tokens)
        if verdict.blocking:
            raise ReleaseBlocked(
                f"{len(verdict.blocking)} cases pass now and would fail:"
                f" {', '.join(verdict.blocking[:5])}.",
                hint="Leave out what breaks them, or sign a waiver for each.",
            )

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
        current, unusable = self._truth.current(), self._unusable()
        live = {name: self._index.get(name) for name in self._index.live() - unusable}
        packs = self._truth.contents(current).packs if current else {}
        make = self._scratch
        base = self._asking()
        coming = {name: entry for name, entry in plan.entries.items() if name not in unusable}
        before, old = asker(
            live, packs=packs, base=base, make_index=make, budget_tokens=budget_tokens
        )
        after, new = asker(
            coming,
            packs=plan.contents.packs,
            base=base,
            make_index=make,
            budget_tokens=budget_tokens,
        )
        try:
            return judge(
                cases,
                before=before,
                after=after,
                reader=reader,
                waivers=waivers,
                key=self._key,
                digest=plan.digest,
            )
        finally:
            old.close()
            new.close()

    def _scratch(self) -> Index:
        return Index(None, embedder=self._embedder)

    def sign_waiver(self, plan: Plan, *, case_id: str, by: str, reason: str) -> Waiver:
        """Accept that a case breaks with exactly this plan."""
        if not reason.strip():
            raise GateClosed("a waiver needs a reason.", hint="Say why the case may break.")
        self._records.log(Event(at=self._now(), what="waived", id=case_id, by=by, detail=reason))
        return sign(self._key, case_id=case_id, by=by, reason=reason, digest=plan.digest)

    def releases(self) -> tuple[str, ...]:
        """Oldest first."""
        return self._truth.names()

    @property
    def current(self) -> str:
        """The release in force; empty before the first."""
        return self._truth.current()

    def diff(self, old: str, new: str) -> str:
        """Unified diff of two releases; `old` may be empty."""
        return self._truth.diff(old, new)

    def history(self, entry_id: str) -> tuple[tuple[str, str], ...]:
        """(release, markdown) where an entry came, changed or (empty) went."""
        return self._truth.history(entry_id)

    def rollback(self, to: str, *, by: str) -> str:
        """Make an earlier release current again; rendered bytes are those of then, without what was
        erased since."""
        self._truth.contents(to)
        self._truth.point(to)
        self._records.log(Event(at=self._now(), what="rolled_back", id=to, by=by))
        self._refresh()
        return to

    def erase(self, entry_id: str, *, by: str, history: History = History.KEEP) -> tuple[str, ...]:
        """Remove an entry from all files, and with `History.ERASE` from older releases too; only a
        tombstone with its id stays. Returns entries that were made from it, which are not erased.
        """
        entry = self._gate.entry(entry_id)
        eraser = Eraser(
            records=self._records,
            index=self._index,
            truth=self._truth,
            sessions=self._sessions,
            policy=self._policy,
            count_tokens=self._count,
        )
        eraser.erase(entry, by=by, at=self._clock(), now=self._now(), history=history)
        self._records.log(Event(at=self._now(), what="erased", id=entry_id, by=by))
        self._refresh()
        known = [self._index.get(name) for name in sorted(self._index.ids())]
        for status in (Status.CANDIDATE, Status.RETIRED):
            known += self._records.with_status(status)
        return eraser.derived(entry_id, known)

    def drift(self, schema_hashes: Mapping[str, str]) -> tuple[str, ...]:
        """Tell what the schema is now: `table` or `table.column` -> hash, all of it. Entries that
        depend on something that changed or is gone are given to nobody until `revalidate` or until
        the schema is as it was; returns their ids."""
        self._records.set_hashes({k.casefold(): v for k, v in schema_hashes.items()})
        self._refresh_drift()
        return tuple(sorted(self._unusable()))

    def revalidate(self, entry_id: str, *, by: str) -> None:
        """A person vouches that an entry still holds under the schema of now."""
        entry, now = self._gate.entry(entry_id), self._records.hashes()
        gone = [item.name for item in entry.depends_on if item.hash and item.name not in now]
        if gone:
            raise GateClosed(f"{', '.join(gone)} is gone.", hint="Edit or retire the entry.")
        found = {item.name: now[item.name] for item in entry.depends_on if item.name in now}
        self._records.validate(entry_id, found)
        self._records.log(Event(at=self._now(), what="revalidated", id=entry_id, by=by))
        self._refresh_drift()

    def events(self) -> tuple[Event, ...]:
        """What happened, oldest first."""
        return self._records.events()

    def rebuild(self) -> None:
        """Build the index anew from released truth and confirmed entries."""
        self._index.clear()
        gone = self._records.tombstones()
        released = {k: v for k, v in self._truth.all_entries().items() if k not in gone}
        self._index.put(from_markdown(text) for text in released.values())
        confirmed = self._records.with_status(Status.CONFIRMED)
        self._index.put(entry for entry in confirmed if entry.id not in released)
        self._index.set_built(self._newest())
        self._refresh()

    def _refresh(self) -> None:
        """Bring what is visible in line with the pointer, confirmations and the schema."""
        current = self._truth.current()
        held = self._truth.ids(current) if current else frozenset()
        self._index.set_live(held - self._records.tombstones())
        for entry in self._records.with_status(Status.CONFIRMED):
            if entry.id in held:  # killed between the pointer and this
                self._records.drop(entry.id)
            elif entry.id in self._index:
                self._index.set_confirmers(entry.id, self._gate.confirmers(entry.id))
        self._packs: dict[str, str] = {}
        self._release = current
        self._refresh_drift()

    def _refresh_drift(self) -> None:
        self._index.set_unusable(self._unusable())

    def _unusable(self) -> frozenset[str]:
        now = self._records.hashes()
        if not now:
            return frozenset()
        validated = self._records.validated()
        found = set()
        for name in self._index.ids():
            known = validated.get(name, {})
            for item in self._index.get(name).depends_on:
                if item.hash and now.get(item.name) not in (item.hash, known.get(item.name, "")):
                    found.add(name)
        return frozenset(found)

    def _pack(self, area: str) -> str:
        if not self._release:
            return ""
        if area not in self._packs:
            own = self._truth.pack(self._release, area)
            self._packs[area] = own or self._truth.pack(self._release, "")
        return self._packs[area]

    def _asking(self) -> Asking:
        return Asking(
            index=self._index,
            policy=self._policy,
            count_tokens=self._count,
            day=self._day(),
            release=self._release,
        )

    def _newest(self) -> str:
        names = self._truth.names()
        return names[-1] if names else "none"

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _day(self) -> str:
        return self._now()[:10]


def _lock(folder: Path) -> int:
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise KnowledgeError(f"{folder.name} is open elsewhere.", hint="Close it there.") from None
    return handle


def _key(path: Path) -> bytes:
    """The tenant's own, made once; signs waivers."""
    if not path.exists():
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(32))
    return path.read_bytes()
