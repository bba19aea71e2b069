"""/metrics about lower tiers, and `stepwell cache stats` over it."""

from __future__ import annotations

import json
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from stepwell.base.config import load_config
from stepwell.base.hierarchy import TierName
from stepwell.base.request import EngineStats
from stepwell.base.tier_stats import HierarchyStats, LedgerStats, ShadowResult, TierStats
from stepwell.cli.cache import app
from tests.api.conftest import HOUSE
from tests.api.fake_engine import FakeEngine


def tier(**changed):
    values = {
        "capacity": 4096, "used": 1024, "chunks": 2, "healthy": True, "loads": 3, "stores": 4,
        "bytes_loaded": 300, "bytes_stored": 400, "evictions": 1, "dropped": 0, "failures": 0,
        "kept_exact": 0, "refused": 5, "expected_chunk_bytes": 512,
    }  # fmt: skip
    return TierStats(**(values | changed))


TIERS = HierarchyStats(
    tiers={TierName.HOST: tier(), TierName.DISK: tier(healthy=False, failures=7, capacity=0)},
    ledger=LedgerStats(
        plans=10, loads=3, splits=2, probes=1, seconds_saved=4.0, seconds_lost=1.5, regret=0.5
    ),
    chunks=4,
    sessions=2,
    open_orders=0,
    promotions=6,
    expired=1,
    unknown_reports=0,
    shadows=(ShadowResult(policy="lru", scale=0.5, lookups=8, hits=2),),
)


class TieredEngine(FakeEngine):
    def stats(self):
        return EngineStats(restored_tokens=640, tiers=TIERS)


def samples(text):
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k not in ("model_name", "engine")}
            found[sample.name, tuple(sorted(labels.items()))] = sample.value
    return found


def test_every_figure_has_its_metric(serve):
    page = samples(serve(TieredEngine()).get("/metrics").text)

    def value(name, **labels):
        return page["stepwell_" + name, tuple(sorted(labels.items()))]

    assert value("tier_bytes", tier="host", kind="used") == 1024
    assert value("tier_bytes", tier="host", kind="capacity") == 4096
    assert value("tier_chunks", tier="disk") == 2
    assert value("tier_healthy", tier="host") == 1
    assert value("tier_healthy", tier="disk") == 0
    assert value("tier_loaded_bytes_total", tier="host") == 300
    assert value("tier_stored_bytes_total", tier="disk") == 400
    assert value("tier_failures_total", tier="disk") == 7
    assert [value("restore_total", mode=m) for m in ("load", "split", "probe", "none")] == [
        3, 2, 1, 4,
    ]  # fmt: skip
    assert value("restore_seconds_saved_total") == 4.5  # 4.5 gained, 0.5 of it lost again
    assert value("restore_regret_seconds_total") == 0.5
    assert value("restore_seconds_lost_total") == 1.5
    assert value("restored_tokens_total") == 640
    assert value("shadow_hit_rate", policy="lru", scale="0.5") == 0.25
    assert value("shadow_lookups", policy="lru", scale="0.5") == 8


def test_without_tiers_there_are_no_tier_metrics(serve):
    text = serve().get("/metrics").text
    assert "stepwell_tier" not in text
    assert "stepwell_restore" not in text


@pytest.mark.parametrize("suffix", ["", "/v1"])
def test_cache_stats_prints_tables(serve, suffix):
    running = serve(TieredEngine())
    result = CliRunner().invoke(app, ["stats", "--url", running.root + suffix])
    assert result.exit_code == 0, result.output
    for text in ("host", "disk", "no", "1.0 KiB", "3 load, 2 split, 1 probe, 4 none", "25.0%"):
        assert text in result.output, result.output


def test_cache_stats_as_json(serve):
    running = serve(TieredEngine())
    result = CliRunner().invoke(app, ["stats", "--url", running.root, "--json"])
    report = json.loads(result.output)
    assert report["tiers"]["host"]["used"] == 1024
    assert report["tiers"]["disk"]["failures"] == 7
    assert report["restores"]["load"] == 3
    assert report["totals"]["restored_tokens"] == 640
    assert report["shadow_hit_rates"] == {"lru": {"0.5": 0.25}}


def test_cache_stats_of_a_server_without_tiers(serve):
    result = CliRunner().invoke(app, ["stats", "--url", serve().root])
    assert result.exit_code == 0
    assert "no lower tiers" in result.output


def test_cache_stats_where_nobody_answers():
    result = CliRunner().invoke(app, ["stats", "--url", "http://127.0.0.1:9"])
    assert result.exit_code
    assert "no answer" in str(result.exception)


def test_a_real_server_reports_its_tiers(serve, tmp_path):
    """The house model over a host and a disk tier: what was stored shows up in both places."""
    if not (HOUSE / "model.safetensors").exists():
        pytest.skip("models/house has not been trained yet")
    pytest.importorskip("torch")
    from stepwell.engine.loop import build_engine_loop

    overrides = {
        "model.path": str(HOUSE), "cache.pool": "16MiB", "tiers.host": "16MiB",
        "tiers.disk": str(tmp_path / "disk"), "tiers.disk_capacity": "1GiB",
        "tiers.disk_free_floor": "1MiB",
    }  # fmt: skip
    running = serve(build_engine_loop(load_config(None, overrides)))
    text = " ".join(f"Line {i}: the river runs past the mill." for i in range(30))
    body = {"prompt": text, "max_tokens": 4, "workload": "code", "session_id": "s"}
    assert running.post("/v1/completions", body).status_code == 200

    deadline = time.monotonic() + 20
    while True:
        page = samples(running.get("/metrics").text)
        stored = [
            page["stepwell_tier_stored_bytes_total", (("tier", tier),)] for tier in ("host", "disk")
        ]
        if all(stored):
            break
        assert time.monotonic() < deadline, page
        time.sleep(0.05)
    assert page["stepwell_tier_sessions", ()] >= 1
    result = CliRunner().invoke(app, ["stats", "--url", running.root])
    assert result.exit_code == 0, result.output
    assert "host" in result.output and "disk" in result.output
