"""`stepwell evaluate precision` and `sensitivity`: what low bits do to a model's answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stepwell.base.decisions import Decision
from stepwell.base.errors import ConfigError
from stepwell.cli import options
from stepwell.cli.bench_result import result_document, write_document
from stepwell.cli.evaluate_precision_table import show_precision, show_sensitivity
from stepwell.cli.output import note, phase_bar, print_decisions, print_json

Model = Annotated[str, typer.Argument(help="`house`, a folder, or a Hugging Face name.")]
Out = Annotated[Path | None, typer.Option(help="Write all figures to this JSON file.")]
Device = Annotated[str, typer.Option(help="cpu or cuda: where the model runs.")]
Text = Annotated[
    list[Path] | None,
    typer.Option("--text", help="UTF-8 text; repeat. Default: Python's library."),
]


def precision(
    model: Model = "house",
    weights: Annotated[
        str, typer.Option(help="int8, int4, nf4; bfloat16 is the control.")
    ] = "bfloat16,int8,int4",
    kv: Annotated[str, typer.Option(help="model, int8, int4: the KV pool, with each format.")] = (
        "model"
    ),
    on: Annotated[
        str,
        typer.Option(
            "--on",
            help="`engine`: what `stepwell serve --weights` computes; `simulated`: restored "
            "weights in transformers' layers; both: engine,simulated.",
        ),
    ] = "engine",
    tasks: Annotated[
        str | None,
        typer.Option(
            help="pairs, codes, needle, multikey, multivalue, variables; `none` for text alone. "
            "Default: pairs,codes for `house`, the others for any other model."
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Questions in all.")] = 2000,
    texts: Annotated[
        int, typer.Option(min=0, help="Contexts that text goes on after, 128 tokens each.")
    ] = 90,
    length: Annotated[int, typer.Option(min=16, help="Tokens of a context.")] = 1024,
    text: Text = None,
    no_recipe: Annotated[
        bool, typer.Option("--no-recipe", help="All layers in the format, whatever hurts.")
    ] = False,
    device: Device = "cpu",
    seed: Annotated[int, typer.Option(help="Of the questions.")] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="Under a minute: a check that it works, no result.")
    ] = False,
    out: Out = None,
    explain: options.Explain = False,
    as_json: options.Json = False,
) -> None:
    """Compare a model whose weights or KV are in low bits with itself in bfloat16, in pairs.

    Divergence on text, answers to the same questions, and bytes. Layers that `stepwell evaluate
    sensitivity` found to hurt stay in higher precision.

    Example: [bold]stepwell evaluate precision --quick[/bold]

    K and V: [bold]stepwell evaluate precision --weights bfloat16 --kv int8,int4[/bold]

    Your model: [bold]stepwell evaluate precision ./llama --weights int8,int4 --text mine.txt[/bold]
    """
    _check_device(device)
    from stepwell.evaluate.precision_run import PrecisionOptions, evaluate_precision
    from stepwell.evaluate.precision_settings import make_arms, make_formats, make_hows, make_kvs
    from stepwell.evaluate.quality_tasks import HOUSE_TASKS, LARGE_TASKS, check_tasks

    usual = HOUSE_TASKS if model == "house" else LARGE_TASKS
    names = tuple(usual if tasks is None else () if tasks == "none" else _words(tasks))
    check_tasks(names)
    sizes = {"n": n, "texts": texts, "length": length}
    if quick:
        sizes = {"n": min(n, 40), "texts": min(texts, 4), "length": min(length, 512)}
    formats, hows = make_formats(_words(weights)), make_hows(_words(on), device=device)
    wanted = PrecisionOptions(
        model=model,
        arms=make_arms(
            model,
            formats,
            make_kvs(_words(kv), hows=hows),
            hows=hows,
            with_recipes=not no_recipe,
        ),
        tasks=names,
        seed=seed,
        text=tuple(text or ()),
        device=device,
        **sizes,
    )
    with phase_bar() as on_progress:
        result = evaluate_precision(wanted, on_progress=on_progress)
    document = result_document(result, model=model, quick=quick)
    _finish(document, out=out, as_json=as_json)
    if not as_json:
        show_precision(document)
        if explain:
            found = [Decision(**d) for arm in document["arms"] for d in arm["decisions"]]
            print_decisions(found, as_json=False)


def sensitivity(
    model: Model = "house",
    weights: Annotated[str, typer.Option(help="int8, int4 or nf4; several: one after another.")] = (
        "int4"
    ),
    budget: Annotated[
        float | None,
        typer.Option(
            help="Most bytes of linear layers and head, % of bfloat16. Default: 53 for int8, "
            "28.5 for 4 bits."
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(min=256, help="Tokens of text to use.")] = 2048,
    length: Annotated[int, typer.Option(min=16, help="Tokens of a piece.")] = 512,
    units: Annotated[
        int, typer.Option(min=1, help="Most measurements: neighbouring layers are joined.")
    ] = 64,
    text: Text = None,
    device: Device = "cpu",
    recipe: Annotated[
        Path | None, typer.Option(help="The file; default: by the weights' hash in the cache.")
    ] = None,
    out: Out = None,
    explain: options.Explain = False,
    as_json: options.Json = False,
) -> None:
    """Find the layers that low bits hurt most, and keep them in higher precision from now on.

    Writes a small recipe that `stepwell serve --weights` reads.

    Example: [bold]stepwell evaluate sensitivity house --weights int4[/bold]
    """
    _check_device(device)
    from stepwell.evaluate.precision_sensitivity import SensitivityOptions, evaluate_sensitivity
    from stepwell.evaluate.precision_settings import make_formats
    from stepwell.model.weight_recipe import recipe_path, save_recipe

    formats = make_formats(_words(weights))
    if recipe is not None and len(formats) > 1:
        raise ConfigError("one recipe file holds one format.", hint="Leave --recipe out.")
    documents, decisions = [], []
    for format in formats:
        wanted = SensitivityOptions(
            model=model,
            format=format,
            budget=None if budget is None else budget / 100,
            tokens=tokens,
            length=length,
            units=units,
            text=tuple(text or ()),
            device=device,
        )
        with phase_bar() as on_progress:
            made, result = evaluate_sensitivity(wanted, on_progress=on_progress)
        place = recipe or recipe_path(made.weights, format)
        size = save_recipe(made, place)
        note(f"{place}: {size} bytes")
        documents.append(result)
        decisions.append(made.decision)
    document = result_document({"formats": documents}, model=model, quick=False)
    _finish(document, out=out, as_json=as_json)
    if not as_json:
        for result in documents:
            show_sensitivity(result)
        if explain:
            print_decisions(decisions, as_json=False)


def finish_joined(
    documents: list[dict[str, Any]], runs: list[Any], *, out: Path | None, as_json: bool
) -> None:
    """`stepwell evaluate join` of what `precision` wrote."""
    from stepwell.evaluate.precision_report import join

    try:
        joined = join(documents) | {"runs": runs}
    except (KeyError, TypeError, AttributeError) as error:
        message = f"one of these is no result of `stepwell evaluate precision`: {error}."
        raise ConfigError(message, hint="Write one with --out.", param="files") from None
    document = result_document(joined, model=joined["model"], quick=False)
    _finish(document, out=out, as_json=as_json)
    if not as_json:
        show_precision(document)


def _finish(document: dict[str, Any], *, out: Path | None, as_json: bool) -> None:
    write_document(document, out)
    if as_json:
        print_json(document)


def _check_device(device: str) -> None:
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"{device!r} is no device.", hint="cpu or cuda.", param="device")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
