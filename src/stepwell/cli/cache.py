"""`stepwell cache`: lower tiers of a running server, or a disk tier that no server has open."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepwell.base.errors import StepwellError, TierError, TierUnusable
from stepwell.base.units import format_bytes, format_seconds, parse_bytes
from stepwell.cli import options
from stepwell.cli.output import note, print_json, print_table

if TYPE_CHECKING:
    from stepwell.tier.disk import DiskTier
    from stepwell.tier.disk.admin import ListedChunk, Shrunk

app = typer.Typer(add_completion=False, rich_markup_mode="rich", no_args_is_help=True)

Directory = Annotated[Path, typer.Argument(help="Directory of the disk tier.")]
OnProgress = Callable[[int, int], None]


class TierDamaged(StepwellError):
    """Chunks failed verification and are still there."""

    code = "tier_damaged"


@app.callback()
def cache() -> None:
    """Lower tiers: `stats` of a running server; list, verify, shrink or empty a disk tier that no
    server has open.

    Example: [bold]stepwell cache stats[/bold]
    """


@app.command()
def stats(
    url: Annotated[str, typer.Option(help="The server.")] = "http://127.0.0.1:8000",
    api_key: Annotated[
        str | None, typer.Option(envvar="STEPWELL_API_KEY", help="Key, where it needs one.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """What the lower tiers of a running server hold, what they moved, and what that was worth.

    Example: [bold]stepwell cache stats --url http://127.0.0.1:8000[/bold]
    """
    from stepwell.cli.remote import RemoteChat
    from stepwell.cli.tier_report import TIER_COLUMNS, read_report

    server = RemoteChat(url, api_key=api_key)
    try:
        report = read_report(server.metrics_page())
    finally:
        server.close()
    if as_json:
        print_json(report.as_dict())
    elif not report.tiers:
        print("This server has no lower tiers; see `stepwell serve --help`: --host-tier.")
    else:
        print_table(url, TIER_COLUMNS, report.tier_rows())
        print_table("restores since the start", ("what", ""), report.total_rows())


@app.command()
def ls(
    directory: Directory,
    limit: Annotated[int, typer.Option(help="Show the newest N chunks; 0: all.")] = 20,
    as_json: options.Json = False,
) -> None:
    """List chunks, oldest first: key, size, age order, meta.

    Example: [bold]stepwell cache ls ~/.cache/stepwell/disk --limit 5[/bold]
    """
    from stepwell.tier.disk.admin import list_chunks

    with _open(directory) as tier:
        usage = tier.usage()
        chunks = list(list_chunks(tier))
        dead = tier.dead_bytes()
    shown = chunks[-limit:] if limit > 0 else chunks
    totals = {
        "chunks": len(chunks),
        "payload_bytes": sum(chunk.size for chunk in chunks),
        "disk_bytes": usage.used,
        "dead_bytes": dead,
    }
    if as_json:
        print_json(totals | {"listed": [_plain(chunk) for chunk in shown]})
        return
    rows = [
        (c.sequence, c.key.hex()[:16], format_bytes(c.size), c.segment, _meta(c.meta))
        for c in shown
    ]
    print_table(str(directory), ("age order", "key", "size", "segment", "meta"), rows)
    hidden = len(chunks) - len(shown)
    print(
        f"{len(chunks)} chunks ({hidden} older ones not shown), "
        f"{format_bytes(totals['payload_bytes'])} in {format_bytes(usage.used)} on disk, "
        f"{format_bytes(dead)} of them dead"
    )


@app.command()
def verify(
    directory: Directory,
    repair: Annotated[
        bool, typer.Option("--repair", help="Quarantine what fails: it will be recomputed.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Read every chunk and check it against its checksum. Exit code 1 if any failed and stayed.

    Example: [bold]stepwell cache verify ~/.cache/stepwell/disk --repair[/bold]
    """
    from stepwell.tier.disk import admin

    with _open(directory) as tier, _progress("verifying") as heard:
        verdict = admin.verify(tier, repair=repair, on_progress=heard)
    if as_json:
        print_json(dataclasses.asdict(verdict))
    else:
        rows = [
            ("chunks", verdict.chunks),
            ("bytes", format_bytes(verdict.bytes)),
            ("damaged", verdict.damaged),
            ("quarantined", verdict.repaired),
            *((f"fault: {name}", count) for name, count in sorted(verdict.faults.items())),
        ]
        print_table(str(directory), ("verified", ""), rows)
    if verdict.damaged > verdict.repaired:
        raise TierDamaged(
            f"{verdict.damaged} of {verdict.chunks} chunks are damaged.",
            hint="Run it again with --repair. No read ever returns them.",
        )


@app.command()
def gc(
    directory: Directory,
    to: Annotated[str, typer.Option("--to", help="Bytes on disk to come down to, such as 10GiB.")],
    as_json: options.Json = False,
) -> None:
    """Drop the oldest chunks and compact until the files take no more than --to.

    Example: [bold]stepwell cache gc ~/.cache/stepwell/disk --to 10GiB[/bold]
    """
    from stepwell.tier.disk import admin

    target = parse_bytes(to)
    with _open(directory) as tier:
        shrunk = admin.gc(tier, target=target)
    _report(directory, shrunk, as_json=as_json)


@app.command()
def clear(
    directory: Directory,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: options.Json = False,
) -> None:
    """Drop every chunk.

    Example: [bold]stepwell cache clear ~/.cache/stepwell/disk --yes[/bold]
    """
    from stepwell.tier.disk import admin

    if not yes:
        typer.confirm(f"Drop every chunk in {directory}?", abort=True, err=True)
    with _open(directory) as tier:
        shrunk = admin.clear(tier)
    _report(directory, shrunk, as_json=as_json)


@contextmanager
def _open(directory: Path) -> Iterator[DiskTier]:
    """The tier that is there; none is made. OSErrors become TierErrors with the path."""
    from stepwell.tier.disk import DiskOptions, DiskTier
    from stepwell.tier.disk.lock import FORMAT_FILE
    from stepwell.tier.disk.options import UNLIMITED

    directory = directory.expanduser()
    if not (directory / FORMAT_FILE).exists() and not any(directory.glob("segment-*.stw")):
        raise TierUnusable(
            f"there is no disk tier in {directory}.", hint="Name the directory of one."
        )
    chosen = DiskOptions(capacity=UNLIMITED, free_floor=0)
    try:
        with _progress("recovering") as heard:
            tier = DiskTier(directory, options=chosen, on_progress=heard)
        found = tier.recovery
        if found.reasons or found.recovered or found.dropped:
            note(
                f"recovered in {format_seconds(found.seconds)}: {found.found} chunks found, "
                f"{found.dropped} dropped. {'; '.join(found.reasons)}"
            )
        try:
            yield tier
        finally:
            tier.close()
    except OSError as error:
        raise TierError(f"{directory}: {error.strerror or error}.") from error


@contextmanager
def _progress(what: str) -> Iterator[OnProgress]:
    """A bar on stderr where that is a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), DownloadColumn(True), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _report(directory: Path, shrunk: Shrunk, *, as_json: bool) -> None:
    if as_json:
        print_json(dataclasses.asdict(shrunk))
        return
    print(
        f"{directory}: {shrunk.dropped} chunks dropped, "
        f"{format_bytes(shrunk.before)} -> {format_bytes(shrunk.after)} on disk"
    )


def _plain(chunk: ListedChunk) -> dict[str, Any]:
    return dataclasses.asdict(chunk) | {"key": chunk.key.hex(), "meta": _meta(chunk.meta)}


def _meta(meta: bytes) -> str:
    """Text where it is text, hex where it is not."""
    try:
        text = meta.decode("utf-8")
    except UnicodeDecodeError:
        return meta.hex()
    return text if text.isprintable() else meta.hex()
