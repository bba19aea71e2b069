"""The front of the brain's lower tiers: events in, orders out.

A body calls, for each request:

    plan      what to restore                       changes nothing
    begin     the request is admitted               pins; LoadChunks to carry out
    report    each order's end                      unpins; a load that is cancelled reports too
    close     the reply is over, or preempted       StoreChunks through `take_orders`

and once a step `tick` and `take_orders`. Time comes only through `now`, in seconds on the body's
clock. Not thread-safe: one thread of the body owns it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stepwell.base.hierarchy import (
    Event,
    Failure,
    LoadChunk,
    LookupChunks,
    LookupReport,
    Order,
    TierHealth,
    TierName,
    TransferReport,
)
from stepwell.base.tier_stats import HierarchyStats
from stepwell.cache.adopt import adopt_found, adopt_scan
from stepwell.cache.arrivals import Arrivals
from stepwell.cache.books import TierBooks
from stepwell.cache.chunks import CODED, RECENT
from stepwell.cache.cost import PrefillCost
from stepwell.cache.erasures import Erasures
from stepwell.cache.forecast import Forecast
from stepwell.cache.labels import label_idle, note_returns
from stepwell.cache.ledger import Ledger
from stepwell.cache.lifetime import Lifetimes
from stepwell.cache.marks import Roots
from stepwell.cache.pins import Pins
from stepwell.cache.placement import Placement
from stepwell.cache.plan import ChainRequest, RestoreMode, RestorePlan, Situation, choose
from stepwell.cache.policy import PolicyContext, PolicyFactory
from stepwell.cache.policy.value import ValueDensity
from stepwell.cache.sessions import Session, SessionTable
from stepwell.cache.settings import HierarchySettings, TierSpec
from stepwell.cache.shadow import ShadowCaches
from stepwell.cache.store import ChunkStore
from stepwell.cache.tenants import Tenants
from stepwell.cache.think import ThinkTimes

_EAGER = 64
"""Prefills between two looks at what a chunk costs, after the first ones."""


@dataclass(slots=True)
class _Open:
    """A request between begin and close."""

    session: Session


@dataclass(slots=True)
class _Lookup:
    """A LookupChunks under way."""

    request: ChainRequest
    tier: TierName
    since: float


class Hierarchy:
    """The lower tiers' books, costs and choices."""

    def __init__(
        self,
        tiers: Sequence[TierSpec],
        *,
        chunk_tokens: int,
        chunk_bytes: int,
        policy: PolicyFactory = ValueDensity,
        settings: HierarchySettings | None = None,
    ) -> None:
        self.settings = settings or HierarchySettings()
        self.chunk_tokens = chunk_tokens
        self.prefill = PrefillCost()
        self._seconds: dict[int, float] = {}
        self._observed = 0
        self.forecast = Forecast()
        self._tenants = Tenants()
        self._books: dict[TierName, TierBooks] = {}
        self._store = ChunkStore(
            self._books,
            max_ghosts=self.settings.max_ghosts,
            tenants=self._tenants.digests,
            chunk_bytes=chunk_bytes,
        )
        for spec in sorted(tiers, key=lambda spec: spec.name):
            self._books[spec.name] = self._make_books(spec, chunk_bytes, policy)
        self._lossy = any(spec.lossy for spec in tiers)
        self._sessions = SessionTable(max_sessions=self.settings.max_sessions)
        self._pins = Pins(self._store, self.settings)
        self._erasures = Erasures(self._store)
        self._placement = Placement(self._store, self.settings)
        self._think = ThinkTimes()
        self._lifetimes = Lifetimes(
            self._store, self._sessions, self._placement, self._think,
            probability=self.settings.promote_probability,
        )  # fmt: skip
        self._arrivals = Arrivals(
            self._store.table, self._sessions, self._tenants, self._think, self.settings
        )
        self._ledger = Ledger(self._books)
        room = sum(spec.capacity_bytes for spec in tiers) // chunk_bytes
        self._shadows = ShadowCaches(
            room, live=self._store.table, forecast=self.forecast,
            chunk_seconds=self._chunk_seconds,
        )  # fmt: skip
        self._requests: dict[str, _Open] = {}
        self._lookups: dict[int, _Lookup] = {}
        self._unknown_reports = 0
        self._best = self._nearest()

    # --- measurements -------------------------------------------------------------------------

    def computed(self, *, tokens: int, context: int, seconds: float, now: float) -> None:
        """A prefill of `tokens` tokens after `context` tokens took `seconds`. Start-up probes
        enter the same way."""
        self.prefill.observe(tokens=tokens, context=context, seconds=seconds)
        self._observed += 1
        if self._observed <= _EAGER or not self._observed % _EAGER:
            self._seconds.clear()

    def transferred(self, tier: TierName, *, size: int, seconds: float, now: float) -> None:
        """A start-up probe: `size` bytes came from `tier` in `seconds`."""
        self._books[tier].load.observe(size=size, seconds=seconds)
        self._books[tier].last_measured = now

    # --- requests -----------------------------------------------------------------------------

    def plan(self, request: ChainRequest, *, now: float, waiting_tokens: int = 0) -> RestorePlan:
        """What to restore for a request. Changes nothing. `waiting_tokens`: prompt tokens that
        are to be computed before this request's, so that a load meanwhile is free."""
        rows = self._store.table.find(request.keys)
        tiers, sizes = self._located(rows, request.device_chunks)
        situation = Situation(
            now=now, chunk_tokens=self.chunk_tokens, tiers=tiers, sizes=sizes,
            waiting_tokens=waiting_tokens, known=len(rows), prefill=self.prefill,
            transfer={tier: books.load for tier, books in self._books.items()},
            probe_due=lambda tier: self._probe_due(tier, now),
        )  # fmt: skip
        return choose(request, situation, self.settings.plan)

    def begin(self, plan: RestorePlan, now: float) -> list[LoadChunk]:
        """The request is admitted with this plan: touch its chunks, pin what is loaded and give
        the orders, in the order in which they are wanted. Every admitted request begins, also one
        that loads nothing. A plan made before other calls may have gone stale: chunks evicted
        since are left out, as if their load had failed."""
        request, table = plan.request, self._store.table
        rows = table.find(request.keys)
        session = self._arrivals.enter(request, rows, now)
        lost = self._lost_seconds(request, rows)
        ahead = {tier: books.load.in_flight for tier, books in self._books.items()}
        orders: list[LoadChunk] = []
        for span in plan.spans:
            for index in range(span.start, min(span.stop, len(rows))):
                if table.where[rows[index]] >> span.tier & 1:
                    order = self._store.load(
                        rows[index], span.tier, index=index, request_id=request.request_id,
                        now=now, deadline=self._deadline(plan, index, now),
                    )  # fmt: skip
                    orders.append(order)
        if plan.probe and plan.spans:
            self._probed(plan.spans[0].tier, now)
        if plan.mode is RestoreMode.SPLIT:
            orders.reverse()
        self._shadows.begin(request.keys, now)
        self._recomputed(rows, orders, first=request.device_chunks)
        note_returns(table, self.forecast, rows, now)
        self._store.touch(rows, now)
        self._requests[request.request_id] = _Open(session)
        self._ledger.begin(plan, orders, ahead, lost=lost, now=now)
        return orders

    def lookup(self, request: ChainRequest, now: float) -> LookupChunks | None:
        """Ask a shared tier about the rest of a chain, where that may pay. Ask once a request,
        before `plan`; report the answer; then plan."""
        books = next((b for b in self._books.values() if b.spec.shared and b.healthy), None)
        if books is None:
            return None
        known = len(self._store.table.find(request.keys))
        first = max(known, request.device_chunks)
        keys = tuple(request.keys[first:])
        if not keys:
            return None
        size = self.chunk_tokens
        recompute = self.prefill.marginal(tokens=len(keys) * size, context=first * size)
        load = books.load.estimate(round(len(keys) * books.expected)).seconds
        if self.prefill.known and load >= recompute and not self._probe_due(books.name, now):
            return None
        order = LookupChunks(
            order_id=self._store.next_order_id(), tier=books.name, keys=keys,
            deadline=now + self.settings.plan.stall_share * recompute,
        )  # fmt: skip
        self._lookups[order.order_id] = _Lookup(request, books.name, now)
        return order

    def report(self, event: Event) -> None:
        """An order ended, or a tier's breaker switched."""
        if isinstance(event, TierHealth):
            self._books[event.tier].healthy = event.healthy
            self._best = self._nearest()
        elif isinstance(event, LookupReport):
            self._looked_up(event)
        else:
            self._transfer_ended(event)

    def close(
        self,
        request_id: str,
        keys: Sequence[bytes],
        device_chunks: int,
        now: float,
    ) -> None:
        """The reply is over, or the request was preempted. `keys`: chunk keys of prompt and
        output; the first `device_chunks` of them are on the device and can be stored until the
        body reuses their blocks. A request that never began is ignored."""
        open_request = self._requests.pop(request_id, None)
        if open_request is None:
            return
        session = open_request.session
        session.running -= 1
        rows = self._store.know(keys[:device_chunks], session, now)
        rows += self._store.table.find(keys)[len(rows) :]
        if rows:
            session.tail, session.length = rows[-1], len(rows)
        self._set_window(rows, last=len(keys))
        label_idle(self._store.table, self.forecast, rows, session, now=now)
        for row in rows:
            self._store.table.touched[row] = now
            self._store.table.foreign[row] = 0
        self._shadows.close(keys, now)
        self._placement.place(rows, device_chunks, kind=session.kind, now=now)
        if session.pin:
            self._pins.pin(rows, now, seconds=session.ttl)
            session.pin = False
        for row in reversed(rows):
            self._store.table.settle(row)
        self._sessions.touch(session, now)
        self._think.replied(session)
        self._lifetimes.idle(session, now)

    # --- prefixes -----------------------------------------------------------------------------

    def pin_prefix(self, name: str, keys: Sequence[bytes], now: float) -> int:
        """Protect the chunks of a prefix, those that some tier has, until `unpin_prefix`; returns
        how many, from the first on. Again: what has come since is protected too."""
        return self._pins.hold(name, self._store.table.find(keys), now)

    def unpin_prefix(self, name: str, now: float) -> None:
        """Unknown names are ignored."""
        self._pins.let_go(name, now)

    def forget(self, tenant: str, roots: Roots, now: float) -> int:
        """Chunks that hold what was erased, or may, leave the books now and the tiers as soon as
        they can (`erasing`). Returns how many copies."""
        number = self._tenants.number(tenant)
        rows = self._erasures.doomed(roots, tenant=number)
        for name in self._pins.holding(rows):
            self._pins.let_go(name, now)
        digest = self._tenants.digests[number]
        return self._erasures.erase(rows, tenant=number, digest=digest, now=now)

    @property
    def erasing(self) -> int:
        """Erasures that some tier has not carried out yet."""
        return self._erasures.pending

    # --- housekeeping -------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Once a step: ends of pins, expiry, promotion, copies down. Costs what is due, whoever
        else is idle."""
        self.forecast.refresh(now)
        self._erasures.tick(now)
        self._pins.tick(now)
        self._lifetimes.tick(now)
        self._placement.clean(now)

    def take_orders(self) -> list[Order]:
        """Orders since the last call, to be carried out in this order."""
        orders, self._store.orders = self._store.orders, []
        return orders

    def adopt(self, tier: TierName, found: Iterable[tuple[bytes, int, bytes]], now: float) -> int:
        """Take over what a tier holds after a restart: (key, size, meta) of a scan. Chunks of
        another metadata version or beyond the capacity are evicted. Returns how many stayed."""
        return adopt_scan(self._store, self._tenants, tier, found, now)

    def stats(self) -> HierarchyStats:
        """What has been done so far. O(tiers)."""
        return HierarchyStats(
            tiers={tier: books.stats() for tier, books in self._books.items()},
            ledger=self._ledger.sums,
            chunks=len(self._store.table),
            sessions=len(self._sessions),
            open_orders=len(self._store.open) + len(self._lookups),
            promotions=self._lifetimes.promotions,
            expired=self._lifetimes.expired,
            unknown_reports=self._unknown_reports,
            chunk_recompute_seconds=self._chunk_seconds(0) if self.prefill.known else 0.0,
            shadows=self._shadows.results(),
            decisions=tuple(self._ledger.decisions),
        )

    def check(self) -> None:
        """Re-count everything; raises AssertionError with what is wrong."""
        self._store.check()
        self._pins.check()
        self._shadows.check()

    # --- inside -------------------------------------------------------------------------------

    def _make_books(self, spec: TierSpec, chunk_bytes: int, policy: PolicyFactory) -> TierBooks:
        context = PolicyContext(
            self._store.table,
            spec.name,
            self._store.table.leaves[spec.name],
            spec.capacity_bytes // chunk_bytes,
            self._chunk_seconds,
            self.forecast,
        )
        quota = {
            self._tenants.number(tenant): limits[spec.name]
            for tenant, limits in self.settings.quota.items()
            if spec.name in limits
        }
        books = TierBooks(spec, policy(context), chunk_bytes=chunk_bytes, quota=quota)
        books.probe_wait = self.settings.probe_seconds
        return books

    def _chunk_seconds(self, position: int) -> float:
        """Seconds to recompute the chunk at a position; 1.0 while nothing was measured."""
        seconds = self._seconds.get(position)
        if seconds is None:
            size = self.chunk_tokens
            seconds = 1.0
            if self.prefill.known:
                seconds = self.prefill.marginal(tokens=size, context=position * size)
            self._seconds[position] = seconds
        return seconds

    def _nearest(self) -> list[int]:
        """Nearest healthy tier by residency mask; 0 for none."""
        healthy = [tier for tier, books in self._books.items() if books.healthy]
        return [next((int(t) for t in healthy if mask >> t & 1), 0) for mask in range(16)]

    def _located(self, rows: Sequence[int], first: int) -> tuple[list[int], list[int]]:
        """Tier and size of each chunk from `first` on, up to the first that no tier has."""
        table, best = self._store.table, self._best
        where, size = table.where, table.size
        tiers: list[int] = []
        sizes: list[int] = []
        for row in rows[first:]:
            tier = best[where[row]]
            if not tier:
                break
            tiers.append(tier)
            sizes.append(size[tier][row])
        return tiers, sizes

    def _lost_seconds(self, request: ChainRequest, rows: Sequence[int]) -> float:
        """Recompute seconds of chunks in the books that no tier has any more."""
        table, lost = self._store.table, 0.0
        for row in rows[request.device_chunks :]:
            if not table.where[row]:
                lost += self._chunk_seconds(table.position[row])
        return lost if self.prefill.known else 0.0

    def _deadline(self, plan: RestorePlan, index: int, now: float) -> float:
        """LOAD: the plan's. SPLIT: twice the time that computing needs to get to the chunk, as
        after it the chunk is of no use."""
        if plan.mode is not RestoreMode.SPLIT or plan.probe:
            return plan.deadline
        size, first = self.chunk_tokens, plan.request.device_chunks
        reach = self.prefill.marginal(tokens=(index - first + 1) * size, context=first * size)
        return now + 2.0 * reach

    def _recomputed(self, rows: Sequence[int], orders: Sequence[LoadChunk], *, first: int) -> None:
        """What a request computes again has been through no codec, unless a tier still has a copy
        that was."""
        if not self._lossy:
            return
        table, loaded = self._store.table, {order.index for order in orders}
        for index in range(first, len(rows)):
            if index not in loaded and not table.where[rows[index]]:
                table.flags[rows[index]] &= ~CODED & 0xFF

    def _set_window(self, rows: Sequence[int], *, last: int) -> None:
        """The chunks of a chain of `last` chunks that a lossy tier must hold exactly: the window
        of whoever used the chain last."""
        if not self._lossy:
            return
        table, edge = self._store.table, last - self.settings.window_chunks
        for index, row in enumerate(rows):
            if index >= edge:
                table.flags[row] |= RECENT
            else:
                table.flags[row] &= ~RECENT & 0xFF

    def _probe_due(self, tier: TierName, now: float) -> bool:
        books = self._books[tier]
        return books.healthy and now - books.last_measured >= books.probe_wait

    def _probed(self, tier: TierName, now: float) -> None:
        books = self._books[tier]
        books.last_measured = now
        books.probe_wait = min(2.0 * books.probe_wait, self.settings.probe_seconds_max)

    def _transfer_ended(self, event: TransferReport) -> None:
        if self._erasures.ended(event):
            return
        order = self._store.finish(event)
        if order is None:
            self._unknown_reports += 1
            return
        if order.source is not None and order.target is None:
            self._ledger.report(event, order.source)
            if event.failure is None:
                self._books[order.source].probe_wait = self.settings.probe_seconds
        self._erasures.arrived(order, event.now)
        if order.target is not None:
            if event.failure is None and order.source is None:
                self._books[order.target].store.observe(size=order.size, seconds=event.seconds)
            self._store.shrink(order.target, event.now)

    def _looked_up(self, event: LookupReport) -> None:
        lookup = self._lookups.pop(event.order_id, None)
        if lookup is None:
            self._unknown_reports += 1
            return
        books = self._books[lookup.tier]
        if event.failure is not None:
            books.failures += event.failure is not Failure.CANCELLED
            return
        tenant = self._tenants.number(lookup.request.tenant)
        adopt_found(
            self._store, lookup.request, books.name, event.found, tenant=tenant, now=event.now
        )
        self._store.forget_beyond(books.name, self.settings.max_shared_chunks, event.now)
