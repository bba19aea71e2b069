"""`stepwell doctor leaks`: watch a process, a server or a command, and say what grows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from stepwell.base.errors import ConfigError
from stepwell.cli import options
from stepwell.cli.output import note, phase_bar, print_json, print_table

if TYPE_CHECKING:
    from stepwell.doctor.leaks.report import LeakReport
    from stepwell.doctor.leaks.watch import Look

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

GROWS_EXIT, UNDECIDED_EXIT = 1, 3
_STOP_SECONDS = 10.0
_STDERR = 2
_LOCAL = ("127.0.0.1", "localhost", "::1")

Target = Annotated[
    list[str] | None,
    typer.Argument(metavar="[URL | -- COMMAND...]", help="A server, or a command to start."),
]


@app.command()
def leaks(
    target: Target = None,
    pid: Annotated[int | None, typer.Option(help="A process, with its children.")] = None,
    seconds: Annotated[float, typer.Option(min=1.0, help="How long to watch.")] = 300.0,
    every: Annotated[float, typer.Option(min=0.05, help="Seconds between two looks.")] = 2.0,
    api_key: Annotated[
        str | None, typer.Option(envvar="STEPWELL_API_KEY", help="Key, where a URL needs one.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="How it is judged, and stop.")] = False,
    as_json: options.Json = False,
) -> None:
    """Watch memory, threads and open files of a process (Linux) or a server's gauges, and say what
    grows, with a confidence interval; without enough evidence it says so.

    A server of this machine is watched as a process too. Give it load meanwhile: idle servers do
    not leak. Exit code 0: steady; 1: something grows; 3: undecided.

    Example: [bold]stepwell doctor leaks http://127.0.0.1:8000 --seconds 600[/bold]
    """
    if explain:
        from stepwell.doctor.leaks import trend

        print((trend.__doc__ or "").strip())
        return
    if (pid is None) == (not target):
        hint = "Give one of --pid N, a URL, or -- and a command."
        raise ConfigError("what is to be watched?", hint=hint)
    if every * 8 > seconds:
        raise ConfigError(f"--seconds {seconds:g} leaves no room for looks {every:g} s apart.")
    report = _watch(target or [], pid, seconds=seconds, every=every, api_key=api_key)
    if as_json:
        print_json(report.as_dict())
    else:
        _print(report)
    code = {"grows": GROWS_EXIT, "undecided": UNDECIDED_EXIT}.get(report.verdict.value, 0)
    if code:
        sys.exit(code)


def _watch(
    target: list[str], pid: int | None, *, seconds: float, every: float, api_key: str | None
) -> LeakReport:
    from stepwell.doctor.leaks.report import make_report
    from stepwell.doctor.leaks.watch import observe, process_look
    from stepwell.hardware.machine import read_machine

    is_over = None
    with ExitStack() as stack:
        if pid is not None:
            looks, name, is_local = [process_look(pid)], f"process {pid}", True
        elif len(target) == 1 and "://" in target[0]:
            name = target[0]
            looks, is_local = _server_looks(stack, name, api_key)
        else:
            name, is_local = " ".join(target), True
            command = stack.enter_context(_started(target))
            looks = [process_look(command.pid)]
            is_over = lambda: command.poll() is not None  # noqa: E731
        say = stack.enter_context(phase_bar())
        observed = observe(
            looks,
            seconds=seconds,
            every=every,
            on_look=lambda at: say(f"watching {name}", int(at), int(seconds)),
            is_over=is_over,
        )
    left = read_machine().memory_available if is_local else None
    return make_report(observed, target=name, memory_left=left)


def _server_looks(stack: ExitStack, url: str, api_key: str | None) -> tuple[list[Look], bool]:
    """The server's page; where it runs on this machine, its process too."""
    from stepwell.doctor.fetch import connected
    from stepwell.doctor.leaks.process import listener
    from stepwell.doctor.leaks.watch import process_look, server_look

    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    server = stack.enter_context(connected(url, headers=headers))
    looks = [server_look(server)]
    address = urlsplit(server.root)
    pid = None
    if address.hostname in _LOCAL:
        pid = listener(address.port or (443 if address.scheme == "https" else 80))
    if pid is None:
        note("not watched as a process: it runs elsewhere, or belongs to another user.")
        return looks, False
    return [*looks, process_look(pid)], True


@contextmanager
def _started(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A command whose output goes to stderr, and that ends with the block."""
    try:
        process = subprocess.Popen(command, stdout=_STDERR)
    except OSError as error:
        raise ConfigError(f"cannot start {command[0]}: {error.strerror}.") from error
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _print(report: LeakReport) -> None:
    from stepwell.doctor.leaks.report import can_leak, shown

    rows, still = [], 0
    for name, trend in report.trends.items():
        if trend.first == trend.last and trend.verdict.value != "grows":
            still += 1
            continue
        unknown = "unknown"
        bounds = [
            unknown if abs(bound) == float("inf") else shown(name, bound * 60)
            for bound in (trend.low, trend.high)
        ]
        verdict = trend.verdict.value + ("" if can_leak(name) else " (no leak)")
        rows.append((name, shown(name, trend.first), shown(name, trend.last),
                     shown(name, trend.slope * 60), f"{bounds[0]} to {bounds[1]}", verdict,
                     trend.because))  # fmt: skip
    columns = ("", "first", "last", "a minute", "99 % interval", "verdict", "because")
    print_table(f"{report.target}, {report.seconds:.0f} s, {report.looks} looks", columns, rows)
    print(f"{still} series ended where they began and are not shown.")
    if report.ended:
        print("It ended before the time was over.")
    if report.finished == 0:
        print("No request was finished meanwhile: growth under load was not tested.")
    for finding in report.findings:
        print(f"\n{finding.title}. {finding.symptom}\n  {finding.diagnosis}\n  {finding.action}")
        if finding.gain:
            print(f"  ({finding.gain})")
    told = {"grows": "Something grows.", "steady": "Nothing grows."}
    print(f"\n{told.get(report.verdict.value, 'Undecided: watch longer, and under load.')}")
