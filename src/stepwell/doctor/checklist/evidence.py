"""What a checklist can look at: one server, one settings file, result files of benches."""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from stepwell.base.config import Config
from stepwell.base.units import format_bytes
from stepwell.doctor.alias import Engine
from stepwell.doctor.checklist.probe import ProbeResult
from stepwell.doctor.fetch import ModelCard, Server
from stepwell.doctor.leaks.process import listening_addresses
from stepwell.doctor.page import Page
from stepwell.doctor.reading import Reading, read

_WITHOUT_KEY = "/v1/models"


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """One look at a server. `health`: status of /health, None: no answer. `keyless`: status of
    /v1/models without a key. `listens`: addresses that its port listens on, empty where that cannot
    be seen. `version`: as the server says it, empty where it does not."""

    root: str
    engine: Engine
    page: Page
    reading: Reading
    card: ModelCard
    health: int | None
    keyless: int | None
    listens: tuple[str, ...]
    version: str
    now: float

    @property
    def uptime(self) -> float | None:
        """Seconds since the process started."""
        started = self.page.find("process_start_time_seconds")
        return max(0.0, self.now - started[0][1]) if started else None


@dataclass(frozen=True, slots=True)
class BenchFile:
    """A result file of a bench: its content and its name."""

    name: str
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What there is; None and empty: was not given."""

    live: Live | None = None
    config: Config | None = None
    probe: ProbeResult | None = None
    results: tuple[BenchFile, ...] | None = None


def look(server: Server) -> Live:
    """Raises DoctorError where the metrics page cannot be read: nothing else would tell either."""
    page = server.page()
    engine = server.engine(page)
    return Live(
        root=server.root,
        engine=engine,
        page=page,
        reading=read(page, engine, at=time.monotonic()),
        card=server.model(),
        health=_status(server.root + "/health"),
        keyless=_status(server.root + _WITHOUT_KEY),
        listens=_listens(server.root),
        version=_version(server, page),
        now=time.time(),
    )


def read_results(folder: Path) -> tuple[BenchFile, ...]:
    """Every readable JSON object in a folder, by name."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict):
            found.append(BenchFile(path.name, content))
    return tuple(found)


def capacity(measures: Mapping[str, float]) -> str:
    """Of a tier, for people."""
    size = measures.get("capacity")
    return format_bytes(size) if size else "(shared)"


def is_loopback(address: str) -> bool:
    """Whether an address is reached from the same machine only."""
    if address == "localhost":
        return True
    try:
        parsed = ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        return False
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


def _status(url: str) -> int | None:
    """Without any key, as a stranger would ask."""
    try:
        return httpx.get(url, trust_env=False, timeout=5.0).status_code
    except httpx.HTTPError:
        return None


def _listens(root: str) -> tuple[str, ...]:
    address = urlsplit(root)
    if not is_loopback(address.hostname or ""):
        return ()
    return listening_addresses(address.port or (443 if address.scheme == "https" else 80))


def _version(server: Server, page: Page) -> str:
    """From the page, else from the path where each engine says it."""
    for labels, _ in page.find("stepwell_build_info"):
        return f"stepwell {labels.get('version', '')}"
    for path in ("/version", "/get_server_info", "/info"):
        found = server.json(path)
        if isinstance(found, dict) and isinstance(found.get("version"), str):
            return str(found["version"])
    return ""
