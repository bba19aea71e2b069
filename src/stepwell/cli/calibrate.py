"""`stepwell calibrate MODEL`: learn how a model's KV cache can be coded small."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepwell.base.errors import ConfigError
from stepwell.base.units import format_bytes, format_seconds
from stepwell.cli import options
from stepwell.cli.output import note, phase_bar, print_json, print_table

if TYPE_CHECKING:
    from stepwell.codec.kvtc.calibration import Calibration
    from stepwell.evaluate.calibrate import Rate, Source

app = typer.Typer(add_completion=False, rich_markup_mode="rich")
Text = Annotated[
    list[Path] | None,
    typer.Option("--text", help="UTF-8 file or folder; repeat. Default: Python's library."),
]


@app.command(no_args_is_help=True)
def calibrate(
    model: Annotated[str, typer.Argument(help="`house`, a folder, or a Hugging Face name.")],
    text: Text = None,
    tokens: Annotated[int, typer.Option(min=1024, help="Tokens of text to use.")] = 65_536,
    apart: Annotated[
        bool, typer.Option("--apart", help="Keys and values with a budget each.")
    ] = False,
    group_layers: Annotated[
        int, typer.Option(min=0, help="Layers of one transform; 0: all together.")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="The file; default: by the weights' hash in the cache.")
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="Do not calibrate: does the file fit this text?")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Learn from text how a model's keys and values can be coded, or check what was learned.

    Example: [bold]stepwell calibrate house[/bold]

    Your own prompts: [bold]stepwell calibrate house --text prompts/[/bold]

    Still right for these? [bold]stepwell calibrate house --check new-prompts.txt[/bold]
    """
    from stepwell.codec.kvtc.train import TrainingOptions
    from stepwell.engine.codecs import calibration_path
    from stepwell.evaluate.calibrate import CalibrationOptions, open_source

    note("loading the model")
    source = open_source(model)
    place = out or calibration_path(source.weights)
    wanted = CalibrationOptions(
        model=model,
        texts=tuple([check] if check is not None else text or ()),
        tokens=tokens,
        training=TrainingOptions(joint=not apart, group_layers=group_layers),
    )
    if check is not None:
        _check(source, place, wanted, as_json=as_json)
    else:
        _calibrate(source, place, wanted, as_json=as_json)


def _calibrate(source: Source, place: Path, wanted: Any, *, as_json: bool) -> None:
    from stepwell.codec.kvtc.artifact import save_calibration
    from stepwell.evaluate.calibrate import calibrate as run

    with phase_bar() as on_progress:
        made, report = run(source, wanted, on_progress=on_progress)
    place.parent.mkdir(parents=True, exist_ok=True)
    size = save_calibration(made, place)
    model_bytes = 2 * source.loaded.parameters
    document = {
        "model": wanted.model,
        "file": str(place),
        "bytes": size,
        "share_of_model": size / model_bytes,
    } | report
    if as_json:
        print_json(document)
        return
    _show([_row(**rate) for rate in report["rates"]], "Held-out text")
    print(
        f"{report['tokens']:,} tokens, {report['statistics']}, "
        f"{format_seconds(report['seconds']['all_s'])}. "
        f"{place}: {format_bytes(size)}, {size / model_bytes:.1%} of the model in 16 bits."
    )


def _check(source: Source, place: Path, wanted: Any, *, as_json: bool) -> None:
    from stepwell.evaluate.calibrate import check as run
    from stepwell.evaluate.calibrate import shifted

    with phase_bar() as on_progress:
        rates = run(source, _read(place, source.weights), wanted, on_progress=on_progress)
    bad = shifted(rates)
    if as_json:
        print_json({"file": str(place), "shifted": bad,
                    "rates": [asdict(rate) | {"shift": rate.shift} for rate in rates]})  # fmt: skip
    else:
        _show([_row(**asdict(rate), shift=rate.shift) for rate in rates], "This text")
        print(_verdict(rates, bad))
    if bad:
        raise typer.Exit(1)


def _verdict(rates: list[Rate], bad: bool) -> str:
    worst = max(rate.shift for rate in rates)
    if not bad:
        return f"The calibration fits: at most {worst:.2f} times what it expects."
    return (
        f"Domain shift: {worst:.2f} times what the calibration expects. Calibrate with such text "
        "(--text), or expect larger errors than those asked for."
    )


def _read(place: Path, weights: bytes) -> Calibration:
    from stepwell.codec.kvtc.artifact import read_calibration
    from stepwell.codec.kvtc.container import ArtifactError

    try:
        return read_calibration(place, weights=weights)
    except FileNotFoundError:
        message = f"there is no calibration of this model at {place}."
        raise ConfigError(message, hint="Make one: `stepwell calibrate MODEL`.") from None
    except (ArtifactError, OSError) as error:
        hint = "Make it anew: `stepwell calibrate MODEL`."
        raise ConfigError(f"{place} cannot be used: {error}.", hint=hint) from None


def _row(
    *,
    nominal: float,
    expected_ratio: float,
    expected_error: float,
    measured_ratio: float,
    measured_error: float,
    shift: float,
) -> tuple[str, ...]:
    return (
        f"{nominal:.0f}x", f"{expected_ratio:.1f}x", f"{measured_ratio:.1f}x",
        f"{expected_error:.2%}", f"{measured_error:.2%}", f"{shift:.2f}",
    )  # fmt: skip


def _show(rows: list[tuple[str, ...]], title: str) -> None:
    columns = ("nominal", "ratio expected", "measured", "error expected", "measured", "shift")
    print_table(f"{title}: bytes and error energy", columns, rows)
