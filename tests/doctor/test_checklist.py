"""Every item of the checklist: passing, failing and unknown, from real servers, pages, settings."""

from __future__ import annotations

import dataclasses
import json
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("uvicorn")

from stepwell.base.config import load_config
from stepwell.cli.doctor import app
from stepwell.doctor.checklist.evidence import (
    BenchFile,
    Evidence,
    Live,
    is_loopback,
    look,
    read_results,
)
from stepwell.doctor.checklist.item import Item, Status
from stepwell.doctor.checklist.probe import Pair, ProbeRefused, ProbeResult, probe
from stepwell.doctor.checklist.run import RULES, check
from stepwell.doctor.errors import DoctorError
from stepwell.doctor.fetch import ModelCard, Server, connected
from stepwell.doctor.leaks.process import listening_addresses
from stepwell.doctor.page import read_page
from stepwell.doctor.reading import read
from tests.api.fake_engine import FakeEngine, FakeInfo
from tests.api.running import Running, start_server

PAGES = Path(__file__).parent / "fixtures"


class Prefilling(FakeEngine):
    """Takes time for prompt tokens that it has not seen."""

    def __init__(self, *, reuses: bool = True) -> None:
        super().__init__(step_seconds=0.0005)
        self.info = FakeInfo(max_model_len=16384)
        self._reuses = reuses
        self._start_at: dict[str, float] = {}

    def _cached(self, tenant, prompt):
        known = tuple(prompt) in {ids for _, ids in self._seen}
        return len(prompt) // 16 * 16 - 16 if known and self._reuses and len(prompt) > 32 else 0

    def submit(self, request):
        super().submit(request)
        running = self._running[-1]
        wait = (len(request.prompt_token_ids) - running.cached) * 10e-6
        self._start_at[request.request_id] = time.monotonic() + wait

    def _step(self):
        with self._lock:
            waiting = [
                r for r in self._running
                if self._start_at.get(r.request.request_id, 0) > time.monotonic()
            ]  # fmt: skip
            self._running = [r for r in self._running if r not in waiting]
        deltas = super()._step()
        with self._lock:
            self._running += waiting
        return deltas


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    running = start_server(Prefilling())
    yield running
    running.stop()


def looked(running: Running, key: str = "") -> Live:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with connected(running.root, headers=headers) as server:
        return look(server)


def recorded(name: str, **changes: object) -> Live:
    """A look made of a recorded page."""
    page = read_page((PAGES / name).read_text())
    server = Server("http://127.0.0.1:9")
    engine = server.engine(page)
    server.close()
    live = Live(
        root="http://gpu.example:8000", engine=engine, page=page,
        reading=read(page, engine, at=0.0), card=ModelCard("m", "m", 8192), health=200,
        keyless=200, listens=(), version="0.33.0", now=time.time(),
    )  # fmt: skip
    return dataclasses.replace(live, **changes)


def item(code: str, **evidence: object) -> Item:
    (found,) = [item for item in check(Evidence(**evidence)).items if item.code == code]
    return found


def status(code: str, **evidence: object) -> Status:
    return item(code, **evidence).status


def test_each_rule_is_judged_once_and_without_evidence_unknown() -> None:
    items = check(Evidence()).items
    assert sorted(item.code for item in items) == sorted(rule.code for rule in RULES)
    known = {item.code for item in items if item.status is not Status.UNKNOWN}
    assert known == {"versions"}  # of this environment


def test_what_does_not_pass_says_what_to_do(server: Running) -> None:
    for evidence in (Evidence(), Evidence(live=looked(server)), Evidence(config=load_config())):
        for found in check(evidence).items:
            assert found.evidence
            assert bool(found.action) == (found.status is not Status.PASS), found


def test_a_running_server(server: Running) -> None:
    live = looked(server)
    assert status("health", live=live) is Status.PASS
    assert status("metrics_reachable", live=live) is Status.PASS
    assert status("prefix_caching", live=live) is Status.PASS
    assert "stepwell 0." in item("versions", live=live).evidence
    assert "127.0.0.1" in item("keys", live=live).evidence
    assert status("keys", live=live) is Status.PASS
    assert status("tiers_configured", live=live) is Status.FAIL
    assert status("disk_floor", live=live) is Status.PASS
    assert status("ttft_reuse", live=live) is Status.UNKNOWN


def test_keys_are_seen(server: Running) -> None:
    locked = start_server(FakeEngine(), api_keys=["ada:key-ada"])
    try:
        live = looked(locked, "key-ada")
        assert live.keyless == 401 and live.card.name == "fake"
        assert status("keys", live=live) is Status.PASS
        with pytest.raises(DoctorError):
            looked(locked)
    finally:
        locked.stop()
    exposed = dataclasses.replace(looked(server), listens=("0.0.0.0",))
    assert status("keys", live=exposed) is Status.FAIL


@pytest.mark.parametrize(
    ("address", "local"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("[::1]", True), ("0.0.0.0", False),
     ("::", False), ("::ffff:127.0.0.1", True), ("10.0.0.7", False), ("gpu.example", False)],
)  # fmt: skip
def test_what_is_reached_from_outside(address: str, local: bool) -> None:
    assert is_loopback(address) is local


def test_where_a_port_listens_is_seen() -> None:
    for family, address, seen in (
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"), (socket.AF_INET, "0.0.0.0", "0.0.0.0"),
        (socket.AF_INET6, "::1", "::1"),
    ):  # fmt: skip
        try:
            server = socket.create_server((address, 0), family=family)
        except OSError:  # no IPv6 here
            continue
        with server:
            assert listening_addresses(server.getsockname()[1]) == (seen,)


def test_reuse_is_tested(server: Running) -> None:
    live = looked(server)
    probed = probe(server.root, model="fake", headers={}, max_model_len=live.card.max_model_len)
    found = item("ttft_reuse", live=live, probe=probed)
    assert found.status is Status.PASS, found
    assert found.numbers["speedup"] > 1.3 and found.numbers["reused_tokens"] > 1000
    assert status("limits", live=live, probe=probed) is Status.PASS
    assert status("kv_profiled", live=looked(server), probe=probed) is Status.PASS


def test_no_reuse_fails() -> None:
    running = start_server(Prefilling(reuses=False))
    try:
        live = looked(running)
        probed = probe(running.root, model="fake", headers={}, max_model_len=None, rounds=1)
    finally:
        running.stop()
    assert status("ttft_reuse", live=live, probe=probed) is Status.FAIL
    assert probed.refused_too_long is None and status("limits", probe=probed) is Status.UNKNOWN


def test_a_server_too_small_for_a_probe_is_said() -> None:
    engine = FakeEngine()
    engine.info = FakeInfo(max_model_len=64)
    running = start_server(engine)
    try:
        with pytest.raises(ProbeRefused, match="too long"):
            probe(running.root, model="fake", headers={}, max_model_len=64)
    finally:
        running.stop()


def test_reuse_that_gains_nothing_fails() -> None:
    pair = Pair(prompt_tokens=2000, first=0.1, second=0.095, reused_tokens=1984)
    assert status("ttft_reuse", probe=ProbeResult(pairs=(pair,), refused_too_long=400)) is (
        Status.FAIL
    )


@pytest.mark.parametrize(
    ("page", "changes", "code", "expected"),
    [
        ("vllm_v1_load_2.txt", {}, "keys", Status.FAIL),
        ("vllm_v1_load_2.txt", {"keyless": 401}, "keys", Status.PASS),
        ("vllm_v1_load_2.txt", {}, "tiers_configured", Status.FAIL),
        ("vllm_v1_load_2.txt", {}, "prefix_caching", Status.PASS),
        ("vllm_v1_load_2.txt", {}, "hit_rates_monitored", Status.UNKNOWN),
        ("vllm_v1_idle.txt", {}, "kv_profiled", Status.UNKNOWN),
        ("vllm_v1_idle.txt", {"health": 503}, "health", Status.FAIL),
        ("vllm_v1_idle.txt", {"version": ""}, "versions", Status.UNKNOWN),
        ("tgi.txt", {}, "hit_rates_monitored", Status.FAIL),
        ("tgi.txt", {}, "kv_profiled", Status.UNKNOWN),
        ("sglang.txt", {}, "tiers_configured", Status.PASS),
        ("sglang.txt", {}, "session_eviction", Status.UNKNOWN),
    ],
)
def test_recorded_pages(page: str, changes: dict, code: str, expected: Status) -> None:
    assert status(code, live=recorded(page, **changes)) is expected


def test_scrapes_are_counted(server: Running) -> None:
    live = looked(server)
    rows = dict(live.page.samples)

    def scraped(times: float, uptime: float) -> Status:
        rows["stepwell_http_replies"] = (({"route": "/metrics", "status": "200"}, times),)
        rows["process_start_time_seconds"] = (({}, live.now - uptime),)
        page = dataclasses.replace(live.page, samples=rows)
        return status("hit_rates_monitored", live=dataclasses.replace(live, page=page))

    assert scraped(241, 3600) is Status.PASS
    assert scraped(3, 3600) is Status.FAIL
    assert scraped(1, 60) is Status.UNKNOWN


def with_page(live: Live, **samples: list) -> Live:
    rows = dict(live.page.samples) | {name: tuple(found) for name, found in samples.items()}
    page = dataclasses.replace(live.page, samples=rows)
    return dataclasses.replace(live, page=page, reading=read(page, live.engine, at=0.0))


def test_tiers_that_restore(server: Running) -> None:
    tier = {"tier": "host"}
    live = with_page(
        looked(server),
        stepwell_tier_bytes=[
            ({**tier, "kind": "capacity"}, 4 << 30), ({**tier, "kind": "used"}, 1 << 30)
        ],
        stepwell_tier_healthy=[(tier, 1.0)],
        stepwell_tier_sessions=[({}, 12.0)],
        stepwell_tier_loaded_bytes=[(tier, 5e9)],
        stepwell_restore=[({"mode": "load"}, 40.0), ({"mode": "none"}, 7.0)],
        stepwell_restore_seconds_saved=[({}, 90.0)],
        stepwell_restore_regret_seconds=[({}, 1.5)],
    )  # fmt: skip
    for code in ("tiers_configured", "thresholds_measured", "restore_benchmarked",
                 "session_eviction"):  # fmt: skip
        assert status(code, live=live) is Status.PASS, code
    sick = with_page(live, stepwell_tier_healthy=[(tier, 0.0)])
    assert status("tiers_configured", live=sick) is Status.FAIL
    loses = with_page(live, stepwell_restore_regret_seconds=[({}, 100.0)])
    assert status("restore_benchmarked", live=loses) is Status.FAIL
    idle = with_page(live, stepwell_restore=[({"mode": "none"}, 7.0)])
    assert status("thresholds_measured", live=idle) is Status.UNKNOWN


def test_settings(tmp_path: Path) -> None:
    good = load_config(None, {"tiers.host": "4GiB", "tiers.disk": str(tmp_path / "disk")})
    for code in ("tiers_configured", "session_eviction", "limits", "keys", "prefix_caching",
                 "disk_floor"):  # fmt: skip
        assert status(code, config=good) is Status.PASS, code
    bad = load_config(None, {
        "server.host": "0.0.0.0", "server.request_timeout": 0.0, "cache.prefix_caching": False,
        "tiers.disk": str(tmp_path), "tiers.disk_free_floor": "1MiB",
    })  # fmt: skip
    for code in ("limits", "keys", "prefix_caching", "disk_floor"):
        assert status(code, config=bad) is Status.FAIL, code
    keyed = load_config(None, {"server.host": "0.0.0.0", "server.api_keys_file": "keys.txt"})
    assert status("keys", config=keyed) is Status.PASS
    full = load_config(None, {"tiers.disk": str(tmp_path), "tiers.disk_free_floor": "900TiB"})
    assert status("disk_floor", config=full) is Status.FAIL


def result(days: float, **content: float) -> BenchFile:
    date = (datetime.now(UTC) - timedelta(days=days)).isoformat()
    return BenchFile("hierarchy.json", {"date": date, **content})


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        (None, Status.UNKNOWN),
        ((), Status.FAIL),
        ((result(3, ttft_speedup_host=9.0, ttft_speedup_disk=0.8),), Status.PASS),
        ((result(3, ttft_speedup_disk=0.8),), Status.FAIL),
        ((result(365, ttft_speedup_host=9.0),), Status.FAIL),
        ((result(3, tokens_per_second=9.0),), Status.FAIL),
    ],
)
def test_bench_results(results: tuple[BenchFile, ...] | None, expected: Status) -> None:
    assert status("restore_benchmarked", results=results) is expected


def test_results_of_another_model_say_nothing(server: Running) -> None:
    files = (BenchFile("a.json", {**result(3, ttft_speedup_host=9.0).content, "model": "qwen"}),)
    assert status("restore_benchmarked", live=looked(server), results=files) is Status.UNKNOWN
    live = dataclasses.replace(looked(server), card=ModelCard("qwen2.5-0.5b", "", 1))
    assert status("restore_benchmarked", live=live, results=files) is Status.PASS
    other = recorded("vllm_v1_idle.txt", card=ModelCard("qwen", "", 1))
    assert status("restore_benchmarked", live=other, results=files) is Status.UNKNOWN


def test_result_files_are_read_and_others_left(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"ttft_speedup_host": 3}')
    (tmp_path / "b.json").write_text("[]")
    (tmp_path / "c.json").write_text("{")
    assert [file.name for file in read_results(tmp_path)] == ["a.json"]


def run(*args: str) -> Result:
    return CliRunner().invoke(app, ["checklist", *args])


def test_command_on_a_server(server: Running, tmp_path: Path) -> None:
    done = run(server.root, "--probe", "--json")
    shown = json.loads(done.stdout)
    assert done.exit_code == 1 and shown["counts"]["fail"] == len(shown["findings"]) >= 1
    assert {found["code"] for found in shown["items"]} == {rule.code for rule in RULES}
    table = run(server.root)
    assert "production checklist" in table.stdout and "FAIL" in table.stdout


def test_command_on_settings(tmp_path: Path) -> None:
    path = tmp_path / "stepwell.toml"
    path.write_text(f'[tiers]\nhost = "4GiB"\ndisk = "{tmp_path}"\n')
    assert run("--config", str(path)).exit_code == 3


@pytest.mark.parametrize("args", [(), ("--config", "x.toml", "--probe"), ("http://127.0.0.1:9",)])
def test_wrong_usage_and_no_server(args: tuple[str, ...]) -> None:
    assert run(*args).exit_code not in (0, 3)


def test_rules_are_explained() -> None:
    assert "--probe" in run("--explain").stdout
    assert len(json.loads(run("--explain", "--json").stdout)) == len(RULES)
