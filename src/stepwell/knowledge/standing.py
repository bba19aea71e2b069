"""What is in force now: the pointer, confirmations and the schema, brought into the index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from stepwell.knowledge.context import Asking
from stepwell.knowledge.entry import Dependency, Status
from stepwell.knowledge.errors import GateClosed
from stepwell.knowledge.gate import Gate
from stepwell.knowledge.markdown import from_markdown
from stepwell.knowledge.parts import Parts


class Standing:
    """Owner of what is visible, of the packs in use and of drift."""

    def __init__(self, parts: Parts, gate: Gate) -> None:
        self._parts, self._gate = parts, gate
        self._packs: dict[str, str] = {}
        self._unusable: frozenset[str] = frozenset()
        self.release = ""

    def load(self) -> None:
        """At opening. Raises KnowledgeDamaged when the current release is not what was released."""
        truth = self._parts.truth
        if truth.current():
            truth.contents(truth.current())
        if self._parts.index.built() != self._newest():
            self.rebuild()
        self.refresh()

    def rebuild(self) -> None:
        """Build the index anew from released truth and confirmed entries."""
        index, records = self._parts.index, self._parts.records
        index.clear()
        gone = records.tombstones()
        released = {k: v for k, v in self._parts.truth.all_entries().items() if k not in gone}
        index.put(from_markdown(text) for text in released.values())
        confirmed = records.with_status(Status.CONFIRMED)
        index.put(entry for entry in confirmed if entry.id not in released)
        index.set_built(self._newest())
        self.refresh()

    def refresh(self) -> None:
        """After the pointer moved or entries went."""
        truth, records, index = self._parts.truth, self._parts.records, self._parts.index
        self.release = truth.current()
        held = truth.ids(self.release) if self.release else frozenset()
        index.set_live(held - records.tombstones())
        for entry in records.with_status(Status.CONFIRMED):
            if entry.id in held:  # killed between the pointer and this
                records.drop(entry.id)
            elif entry.id in index:
                self._gate.show(entry.id)
        self._packs = {}
        self.recheck()

    def recheck(self, ids: Iterable[str] | None = None) -> None:
        """Compare what entries depend on with the schema of now. `ids`: only these changed."""
        some = self._parts.index.ids() if ids is None else frozenset(ids)
        self._take_as_it_is(some)
        bad = self._outdated(some, self._parts.records.hashes())
        self._unusable = bad if ids is None else (self._unusable - some) | bad
        self._parts.index.set_unusable(self._unusable)

    @property
    def unusable(self) -> frozenset[str]:
        """What depends on something that changed."""
        return self._unusable

    def drift(self, schema_hashes: Mapping[str, str]) -> tuple[str, ...]:
        """See `base.Knowledge.drift`."""
        self._parts.records.set_hashes(_folded(schema_hashes))
        self.recheck()
        return tuple(sorted(self._unusable))

    def outdated(self, schema_hashes: Mapping[str, str]) -> tuple[str, ...]:
        """See `base.Knowledge.outdated`."""
        return tuple(sorted(self._outdated(self._parts.index.ids(), _folded(schema_hashes))))

    def revalidate(self, entry_id: str, *, by: str) -> None:
        """See `base.Knowledge.revalidate`."""
        records = self._parts.records
        entry, now = self._gate.entry(entry_id), records.hashes()
        known = records.validated().get(entry_id, {})
        names = [item.name for item in entry.depends_on if item.hash or item.name in known]
        gone = [name for name in names if name not in now]
        if gone:
            raise GateClosed(f"{', '.join(gone)} is gone.", hint="Edit or retire the entry.")
        found = {item.name: now[item.name] for item in entry.depends_on if item.name in now}
        records.validate({entry_id: found})
        self._parts.log("revalidated", entry_id, by=by)
        self.recheck([entry_id])

    def pack(self, area: str) -> str:
        """Of the release in force."""
        if not self.release:
            return ""
        if area not in self._packs:
            truth = self._parts.truth
            self._packs[area] = truth.pack(self.release, area) or truth.pack(self.release, "")
        return self._packs[area]

    def asking(self) -> Asking:
        """What a context depends on, as of now."""
        return Asking(
            index=self._parts.index,
            policy=self._parts.policy,
            count_tokens=self._parts.count_tokens,
            day=self._parts.day(),
            release=self.release,
        )

    def _outdated(self, ids: frozenset[str], now: Mapping[str, str]) -> frozenset[str]:
        index = self._parts.index
        if not now:
            return frozenset()
        validated = self._parts.records.validated()

        def holds(item: Dependency, known: str) -> bool:
            seen = {item.hash, known} - {""}
            return not seen or now.get(item.name) in seen

        return frozenset(
            name
            for name in ids
            if name in index
            for known in (validated.get(name, {}),)
            if not all(holds(d, known.get(d.name, "")) for d in index.get(name).depends_on)
        )

    def _take_as_it_is(self, ids: frozenset[str]) -> None:
        """What an entry depends on and what no schema named when it was captured counts, from the
        first schema on that names it, as it is there."""
        records, index = self._parts.records, self._parts.index
        now, validated = records.hashes(), records.validated()
        fresh: dict[str, dict[str, str]] = {}
        for name in ids if now else ():
            for item in index.get(name).depends_on if name in index else ():
                if not item.hash and item.name in now.keys() - validated.get(name, {}).keys():
                    fresh.setdefault(name, {})[item.name] = now[item.name]
        if fresh:
            records.validate(fresh)

    def _newest(self) -> str:
        names = self._parts.truth.names()
        return names[-1] if names else "none"


def _folded(hashes: Mapping[str, str]) -> dict[str, str]:
    return {name.casefold(): value for name, value in hashes.items()}
