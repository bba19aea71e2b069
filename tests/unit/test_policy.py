"""Policies against naive versions, and the forecast against known return times."""

from __future__ import annotations

import random

import pytest

from stepwell.base.hierarchy import TierName
from stepwell.cache.chunks import NO_ROW, ChunkTable
from stepwell.cache.forecast import Forecast, band_of
from stepwell.cache.policy import PolicyContext
from stepwell.cache.policy.lists import RowLists
from stepwell.cache.policy.lru import Lru
from stepwell.cache.policy.registry import POLICIES


def context(table: ChunkTable, forecast: Forecast | None = None) -> PolicyContext:
    return PolicyContext(table, TierName.HOST, 10, lambda position: 1.0, forecast or Forecast())


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
            lists.remove(home, row)
            plain[home].remove(row)
        assert [list(lists.walk(i)) for i in range(3)] == plain
        assert (row in lists) == (home is None)


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
