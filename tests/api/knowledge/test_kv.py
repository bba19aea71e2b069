"""A real engine behind a server with knowledge: warm after a release, and erasing over HTTP leaves
no byte of K and V."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from stepwell.base.config import load_config  # noqa: E402
from stepwell.base.hierarchy import TierName  # noqa: E402
from stepwell.engine.loop import EngineLoop, build_engine_loop  # noqa: E402
from stepwell.evaluate.shapes import house_folder  # noqa: E402
from tests.api.knowledge.conftest import KEYS, METRIC, Shop  # noqa: E402
from tests.api.running import start_server  # noqa: E402

NOTE = "counted in cents since the move, refunds and test rows left out, " * 6


@pytest.fixture
def real_shop(tmp_path: Path) -> Iterator[Shop]:
    config = load_config(
        None,
        {
            "model.path": str(house_folder()), "cache.pool": "32MiB", "tiers.host": "32MiB",
            "tiers.disk": str(tmp_path / "disk"), "tiers.disk_capacity": "128MiB",
            "tiers.disk_free_floor": "1MiB",
        },
    )  # fmt: skip
    engine = build_engine_loop(config)
    chosen = {"folder": str(tmp_path / "kb"), "capture": "quarantine"}
    running = start_server(engine, api_keys=KEYS, knowledge=chosen)
    yield Shop(running)
    running.stop()


def told(shop: Shop, note: str = NOTE, name: str = "turnover") -> str:
    payload = METRIC["payload"] | {"note": note, "name": name}  # type: ignore[operator]
    made = shop.app.propose({"kind": "metric", "payload": payload})
    shop.ann.post(f"candidates/{made}/confirm")
    return made


def cached(reply: dict) -> tuple[int, int]:
    return reply["knowledge"]["cached_tokens"], reply["usage"]["prompt_tokens"]


def pool_of(engine: EngineLoop) -> bytes:
    return engine._built.pool.storage.view(torch.uint8).numpy().tobytes()


def held(shop: Shop, folder: Path, needles: list[bytes]) -> dict[str, int]:
    engine = shop.running.engine
    arena = bytes(engine._built.open_tiers.stores[TierName.HOST]._arena)
    files = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    places = {"device": pool_of(engine), "host": arena, "disk": files}
    return {name: sum(data.count(n) for n in needles) for name, data in places.items()}


def test_a_release_is_warm_for_its_first_request_and_so_is_going_back(real_shop: Shop) -> None:
    told(real_shop)
    first = real_shop.eve.post("releases")["name"]
    real_shop.read.chat()
    real_shop.read.chat()
    told(real_shop, name="other turnover")
    real_shop.eve.post("releases")
    hit, prompt = cached(real_shop.read.chat())
    assert prompt > 300 and hit >= prompt - 64, "the first request after a release"
    assert real_shop.running.engine.stats().prefixes.pins >= 1
    real_shop.eve.post("releases/rollback", {"to": first})
    hit, prompt = cached(real_shop.read.chat())
    assert hit >= prompt - 64


def test_erasing_over_http_leaves_no_byte_of_k_and_v(real_shop: Shop, tmp_path: Path) -> None:
    name = told(real_shop)
    real_shop.eve.post("releases")
    for workload in ("code", "batch"):
        body = {
            "messages": [{"role": "user", "content": "turnover?"}], "max_tokens": 2,
            "knowledge": {}, "workload": workload,
        }  # fmt: skip
        headers = {"authorization": "Bearer k-read"}
        reply = real_shop.running.post("/v1/chat/completions", body, headers=headers)
        assert reply.status_code == 200, reply.text
    engine = real_shop.running.engine
    manager = engine._engine._cache
    needles = []
    for key, block in list(manager.pool._index.items()):
        if key in manager.marks.roots("shop", [name]).blocks:
            needles.append(bytes(engine._built.pool.views([block])[0][-64:]))
    assert needles
    before = held(real_shop, tmp_path / "disk", needles)
    assert before["device"] and before["host"] and before["disk"], before
    reply = real_shop.eve.post("erase", {"id": name, "history": "erase"})
    assert reply["kv_chunks"] > 0
    assert sum(held(real_shop, tmp_path / "disk", needles).values()) == 0
    assert engine.stats().prefixes.erasing == 0
    after = real_shop.read.chat()
    assert name not in [entry["id"] for entry in after["knowledge"]["entries"]]
