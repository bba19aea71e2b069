"""Planted leaks are found from outside, and a healthy process is left in peace."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner, Result

from stepwell.cli.doctor import app
from stepwell.doctor.leaks.process import NoSuchProcess, descendants, listener, sample_tree
from stepwell.doctor.leaks.report import make_report
from stepwell.doctor.leaks.trend import Verdict
from stepwell.doctor.leaks.watch import Observed, observe, process_look

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MIB = 1 << 20
GROWS = "import time\nkept=[]\nwhile True:\n    kept.append(bytearray(400_000)); time.sleep(.02)"
HEALTHY = (
    "import time\nwhile True:\n    made = [bytearray(400_000) for _ in range(9)]; time.sleep(.02)"
)
OPENS = "import time\nkept=[]\nwhile True:\n    kept.append(open('/dev/null')); time.sleep(.03)"
PARENT = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {GROWS!r}])"


@contextmanager
def running(code: str) -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", f"print(flush=True)\n{code}"], stdout=-1)
    try:
        assert process.stdout is not None and process.stdout.readline()  # it has begun
        yield process.pid
    finally:
        for child in descendants(process.pid):
            subprocess.run(["kill", str(child)], check=False)
        process.kill()
        process.wait()
        process.stdout.close()


def watched(code: str, *, seconds: float = 2.5, tries: int = 3) -> dict[str, Verdict]:
    """Verdicts by series, "" for all. Longer where a busy machine left too few looks."""
    with running(code) as pid:
        observed = observe([process_look(pid)], seconds=seconds, every=0.06)
    report = make_report(observed, target="test", memory_left=1 << 30)
    if report.verdict is Verdict.UNDECIDED and tries > 1:
        return watched(code, seconds=2 * seconds, tries=tries - 1)
    return {"": report.verdict} | {name: t.verdict for name, t in report.trends.items()}


def test_a_process_that_grows_is_found() -> None:
    found = watched(GROWS)
    assert found[""] is found["own memory"] is Verdict.GROWS
    assert found["threads"] is Verdict.STEADY


def test_a_healthy_process_is_steady() -> None:
    found = watched(HEALTHY)
    assert found["own memory"] is not Verdict.GROWS
    assert found["open files"] is Verdict.STEADY


def test_files_that_stay_open_are_found() -> None:
    assert watched(OPENS)["open files"] is Verdict.GROWS


def test_a_child_that_grows_is_found() -> None:
    found = watched(PARENT)
    assert found["own memory"] is Verdict.GROWS


def test_a_short_look_is_undecided() -> None:
    assert watched(GROWS, seconds=0.5, tries=1)["own memory"] is Verdict.UNDECIDED


def test_own_memory_is_measured_to_the_megabyte() -> None:
    with running("import time; kept = bytearray(64 << 20); time.sleep(600)") as p:
        with running("import time; time.sleep(600)") as q:
            observe([process_look(p), process_look(q)], seconds=1.0, every=0.5)
            difference = sample_tree(p).anon - sample_tree(q).anon
    assert difference == pytest.approx(64 * MIB, abs=2 * MIB)


def test_no_such_process() -> None:
    with pytest.raises(NoSuchProcess):
        sample_tree(2**22 + 1)


def test_the_process_behind_a_port_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        import os

        assert listener(server.getsockname()[1]) == os.getpid()
    assert listener(1) is None


def test_growth_of_pools_and_files_is_not_called_a_leak() -> None:
    points = [(float(n), n * 1e8) for n in range(100)]
    observed = Observed(
        {"mapped files": points, "stepwell_kv_cached_bytes": points}, 99, 100, False
    )
    report = make_report(observed, target="x", memory_left=None)
    assert not report.findings and report.verdict is Verdict.UNDECIDED


def test_containers_that_grew_meanwhile_are_named() -> None:
    grows = [(float(n), 1e9 + n * MIB) for n in range(100)]
    inside = {
        f"items in {name}": [(0.0, 1000.0), (90.0, 1000.0 + more)]
        for name, more in (("Cache.seen", 9000), ("Cache.names", 5), ("Server.log", 200))
    }
    observed = Observed({"own memory": grows, **inside}, 99, 100, False)
    (finding,) = make_report(observed, target="x", memory_left=None).findings
    assert "Cache.seen (1,000 to 10,000 items), Server.log (1,000 to 1,200" in finding.diagnosis
    assert "Cache.names" not in finding.diagnosis and "Cache" not in finding.symptom


def test_books_of_a_pool_that_fills_are_no_leak_yet() -> None:
    grows = [(float(n), 1e9 + n * MIB) for n in range(100)]
    still = [(float(n), 1e9) for n in range(100)]
    for pool, verdict in ((grows, Verdict.UNDECIDED), (still, Verdict.GROWS)):
        series = {"own memory": grows, "stepwell_kv_cached_bytes": pool}
        report = make_report(Observed(series, 99, 100, False), target="x", memory_left=None)
        assert report.verdict is report.trends["own memory"].verdict is verdict


def test_a_finding_says_how_long_memory_lasts() -> None:
    points = [(float(n), 1e9 + n * MIB) for n in range(100)]
    counted = [(float(n), 10.0 * n) for n in range(100)]
    observed = Observed({"own memory": points, "requests finished": counted}, 99, 100, False)
    (finding,) = make_report(observed, target="x", memory_left=3600 * MIB).findings
    assert finding.evidence["seconds_until_full"] == pytest.approx(3600, rel=0.01)
    assert finding.evidence["per_request"] == pytest.approx(MIB / 10, rel=0.01)
    assert "60.0 MiB a minute" in finding.title


def run(*args: str) -> Result:
    return CliRunner().invoke(app, ["leaks", *args])


def test_a_command_is_started_watched_and_ended() -> None:
    for seconds in ("3", "6", "12", "24"):  # longer where a busy machine left too few looks
        command = (sys.executable, "-c", GROWS)
        done = run("--seconds", seconds, "--every", "0.1", "--json", "--", *command)
        shown = json.loads(done.stdout)
        if shown["verdict"] != "undecided":
            break
    assert done.exit_code == 1 and shown["verdict"] == "grows"
    assert shown["findings"][0]["code"] == "leak_own_memory"


def test_a_command_that_ends_early_is_undecided() -> None:
    done = run("--seconds", "4", "--every", "0.1", "--", sys.executable, "-c", "pass")
    assert done.exit_code == 3 and "ended before" in done.stdout


@pytest.mark.parametrize("args", [(), ("--pid", "1", "http://x"), ("--seconds", "9", "x")])
def test_wrong_usage(args: tuple[str, ...]) -> None:
    assert run(*args).exit_code != 0


def test_the_method_is_explained() -> None:
    assert "Sen" in run("--explain").stdout
