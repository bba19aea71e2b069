"""Policies against naive versions, and the forecast against known return times."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest

from stepwell.base.hierarchy import TierName
from stepwell.cache.chunks import NO_ROW, ChunkTable
from stepwell.cache.forecast import Forecast, band_of
from stepwell.cache.policy import PolicyContext
from stepwell.cache.policy.lists import RowLists
from stepwell.cache.policy.lru import Lru
from stepwell.cache.policy.registry import POLICIES

HOST = TierName.HOST


def context(table: ChunkTable, forecast: Forecast | None = None) -> PolicyContext:
    return PolicyContext(
        table, HOST, table.leaves[HOST], 10, lambda position: 1.0, forecast or Forecast()
    )


def table_of(count: int) -> ChunkTable:
    table = ChunkTable(max_ghosts=count)
    for i in range(count):
        table.add(b"%d" % i, parent=NO_ROW, position=0, tenant=0, kind=0, now=0.0)
    return table


def test_lru_is_the_naive_one():
    source, table = random.Random(1), table_of(30)
    policy, naive = Lru(context(table)), []
    for step in range(2000):
        row = source.randrange(30)
        if row not in naive:
            policy.insert(row, step)
            naive.append(row)
        elif source.random() < 0.3:
            policy.remove(row, step)
            naive.remove(row)
        else:
            policy.touch(row, step)
            naive.remove(row)
            naive.append(row)
        assert list(policy.victims(step)) == naive


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_names_each_row_once_and_survives_evictions_between(name):
    source, table = random.Random(2), table_of(40)
    policy, held = POLICIES[name](context(table)), set()
    for step in range(1500):
        row = source.randrange(40)
        table.bucket[row] = 0
        if row not in held:
            policy.insert(row, step)
            held.add(row)
        else:
            policy.touch(row, step)
            policy.freshen(row, step)
        if len(held) > 20:
            for victim in policy.victims(step):
                if source.random() < 0.5:
                    policy.remove(victim, step)
                    held.remove(victim)
                    if len(held) <= 15:
                        break
        assert sorted(policy.rows()) == sorted(held)
        if not step % 50 and name != "s3fifo":  # it passes over rows that were used
            assert sorted(policy.victims(step)) == sorted(held)


def test_s3fifo_lets_one_off_rows_go_first():
    table = table_of(30)
    policy = POLICIES["s3fifo"](context(table))
    for row in range(10):
        policy.insert(row, 0)
        policy.touch(row, 1)
        policy.touch(row, 1)
    for row in range(10, 20):
        policy.insert(row, 2)
    assert next(policy.victims(3)) >= 10


def test_row_lists_against_plain_lists():
    source, lists, plain = random.Random(3), RowLists(3), [[], [], []]
    for _ in range(3000):
        row, which = source.randrange(50), source.randrange(3)
        home = next((i for i in range(3) if row in plain[i]), None)
        if home is None:
            lists.push_back(which, row)
            plain[which].append(row)
        else:
            lists.remove(row)
            plain[home].remove(row)
        assert [list(lists.walk(i)) for i in range(3)] == plain
        assert (row in lists) == (home is None)
        assert lists.list_of(row) == (which if home is None else -1)


def learn(forecast: Forecast, label: int, delay: float, share: float, count: int = 300) -> float:
    """One idle spell a second, of which a share returns after `delay`."""
    events = []
    for i in range(count):
        events.append((float(i), 0, i))
        if (i * 7919 % 100) / 100 < share:
            events.append((i + delay, 1, i))
    for now, kind, i in sorted(events):
        if kind:
            forecast.returned(label, float(i), 1.0, now)
        else:
            forecast.idle(label, 1.0, now)
    forecast._next_refresh = 0.0
    assert forecast.refresh(count + 2 * delay)
    return count + 2 * delay


def test_forecast_finds_how_many_return_and_when():
    forecast = Forecast()
    label = forecast.label((0, 1))
    learn(forecast, label, 20.0, 0.6)
    assert forecast.probability(label, 0.0, 40.0) == pytest.approx(0.6, abs=0.12)
    assert forecast.probability(label, 0.0, 10.0) < 0.1
    assert forecast.index(label, 0.0) == pytest.approx(0.6 / 20.0, rel=0.35)
    assert forecast.index(label, 60.0) < forecast.index(label, 0.0) / 3


def test_forecast_prefers_soon_over_late_and_often_over_seldom():
    forecast = Forecast()
    soon, late, seldom = (forecast.label((0, i)) for i in range(3))
    for label, delay, share in ((soon, 10.0, 0.6), (late, 100.0, 0.6), (seldom, 10.0, 0.1)):
        learn(forecast, label, delay, share)
    assert forecast.index(soon, 0.0) > 3 * forecast.index(late, 0.0)
    assert forecast.index(soon, 0.0) > 3 * forecast.index(seldom, 0.0)


def test_an_unseen_label_leans_on_its_parent():
    forecast = Forecast()
    learn(forecast, forecast.label((0, 1)), 10.0, 0.6)
    fresh = forecast.label((0, 1, 5))
    assert forecast.index(fresh, 0.0) == forecast.index(forecast.label((0, 1)), 0.0)


def test_bands_cover_every_age():
    assert band_of(-1.0) == band_of(0.0) == 0
    assert band_of(1e12) == band_of(3e5)


class Counting:
    """A column that counts how often it is read."""

    def __init__(self, column) -> None:
        self.column, self.reads = column, 0

    def __getitem__(self, row: int) -> int:
        self.reads += 1
        return self.column[row]


class Tier:
    """One policy over chains of a tier, as `ChunkStore` drives it, without limits of its own."""

    def __init__(self, name: str, *, chains: int, depth: int) -> None:
        self.table = ChunkTable(max_ghosts=chains * depth)
        self.column = Counting(self.table.leaves[HOST])
        self.policy = POLICIES[name](replace(context(self.table), children=self.column))
        self.chains = [self._chain(number, depth) for number in range(chains)]
        self.ordered = 0

    def _chain(self, number: int, depth: int) -> list[int]:
        rows: list[int] = []
        for position in range(depth):
            parent = rows[-1] if rows else NO_ROW
            rows.append(
                self.table.add(
                    b"%d.%d" % (number, position),
                    parent=parent,
                    position=position,
                    tenant=0,
                    kind=0,
                    now=0.0,
                )
            )
        return rows

    def put(self, rows: list[int], now: float) -> None:
        for row in rows:
            self.table.set_arriving(row, HOST)
            self.table.arrive(row, HOST, 1)
            self.table.touched[row] = now
            self.policy.insert(row, now)
        self.ordered += len(rows)

    def drop(self, row: int, now: float) -> None:
        self.policy.remove(row, now)
        self.table.remove_copy(row, HOST)
        parent = self.table.parent[row]
        if parent != NO_ROW and not self.table.leaves[HOST][parent]:
            self.policy.uncover(parent, now)

    def held(self) -> list[int]:
        return [row for row in self.table.index.values() if self.table.where[row]]


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_prefixes_that_cannot_go_are_not_walked_over_again_and_again(name):
    """All prefixes are older than all ends of chains, which was 4,096 rows a request once. A row is
    looked at once for each time that it is ordered or uncovered, and once when it goes."""
    tier = Tier(name, chains=400, depth=10)
    for position in range(10):
        tier.put([chain[position] for chain in tier.chains], float(position))
    evictions = 0
    while evictions < 2000:
        batch = tier.policy.victims(100.0)
        for row in (next(batch), next(batch)):
            assert not tier.table.leaves[HOST][row], "children go first"
            tier.drop(row, 100.0)
            evictions += 1
        batch.close()
    assert tier.column.reads <= tier.ordered + 2 * evictions
    assert sorted(tier.policy.rows()) == sorted(tier.held())


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_who_only_looks_ahead_sees_whole_chains_go(name):
    tier = Tier(name, chains=30, depth=4)
    for chain in tier.chains:
        tier.put(chain, 0.0)
    for _ in range(2):
        seen = list(tier.policy.victims(1.0))
        assert sorted(seen) == sorted(tier.held())
        assert all(seen.index(b) < seen.index(a) for c in tier.chains for a, b in pairwise(c))


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_victims_are_the_rows_without_children_whatever_happens(name):
    source, tier = random.Random(5), Tier(name, chains=30, depth=6)
    for step in range(3000):
        chain, now = source.choice(tier.chains), float(step)
        kept = [row for row in chain if tier.table.where[row]]
        if len(kept) < len(chain) and source.random() < 0.6:
            tier.put(chain[len(kept) :][: source.randrange(1, 4)], now)
        elif kept and source.random() < 0.5:
            for row in reversed(kept):
                tier.policy.touch(row, now)
                tier.table.touched[row] = now
                tier.policy.freshen(row, now)
        elif kept:
            tier.drop(kept[-1], now)
        for row in tier.policy.victims(now):
            assert not tier.table.leaves[HOST][row]
            tier.drop(row, now)
            if source.random() < 0.5:
                break
        assert sorted(tier.policy.rows()) == sorted(tier.held())
