"""An engine that hangs in a step must not take the metrics page with it."""

from __future__ import annotations

import threading

from stepwell.server import async_engine
from tests.api.fake_engine import FakeEngine


class HangingEngine(FakeEngine):
    def __init__(self):
        super().__init__()
        self.go_on = threading.Event()
        self.go_on.set()
        self.asked = 0

    def stats(self):
        self.asked += 1
        self.go_on.wait(100)
        return super().stats()


def age(client):
    page = client.get("/metrics").text
    line = next(x for x in page.splitlines() if x.startswith("stepwell_stats_age_seconds{"))
    return float(line.split()[-1])


def test_the_page_shows_the_last_numbers_and_their_age(serve, monkeypatch):
    monkeypatch.setattr(async_engine, "_STATS_SECONDS", 60.0)
    engine = HangingEngine()
    client = serve(engine)
    assert age(client) == 0.0
    engine.go_on.clear()
    monkeypatch.setattr(async_engine, "_STATS_SECONDS", 0.05)
    asked = engine.asked
    assert [age(client) > 0 for _ in range(12)] == [True] * 12
    assert engine.asked == asked + 1, "one question is enough, and leaves threads for others"
    engine.go_on.set()
    monkeypatch.setattr(async_engine, "_STATS_SECONDS", 60.0)
    assert age(client) == 0.0
