"""`stepwell bench knowledge`: does the knowledge base help, find, refuse, forget, and how fast."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from stepwell.base.errors import ConfigError
from stepwell.cli.bench_result import chosen_parts, result_document, show_section, write_document
from stepwell.cli.output import moving_line

_SEEDS, _WORLDS = 5, 4
_QUICK_WORLDS = 3


class Level(StrEnum):
    """What reads the context: a deterministic reader, or a small model behind a real server."""

    A = "a"
    B = "b"


def knowledge(
    quick: Annotated[
        bool, typer.Option("--quick", help="One seed, the main arms: at most 50 seconds.")
    ] = False,
    only: Annotated[
        str,
        typer.Option(
            metavar="PARTS", help="arms, retrieval, edits, safety, prefix, speed: comma-separated."
        ),
    ] = "",
    seeds: Annotated[int, typer.Option(min=0, help="Of worlds and people; 0: 5, quick 1.")] = 0,
    worlds: Annotated[
        int | None, typer.Option(min=3, max=6, help="Of each seed. Default 4, quick 3.")
    ] = None,
    level: Annotated[
        Level, typer.Option(help="a: no model; b: a small model, through a server of its own.")
    ] = Level.A,
    embedder: Annotated[
        str, typer.Option(help="A sentence-transformers model, for vectors beside words.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Write all figures to this JSON file.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw accuracy over time: FILE.png or FILE.svg.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all figures as one JSON line, no table.")
    ] = False,
) -> None:
    """Measure the knowledge base without a model, on seeded worlds with traps.

    Example: [bold]stepwell bench knowledge --quick[/bold]

    Everything: [bold]stepwell bench knowledge --out knowledge.json --plot knowledge.svg[/bold]

    With a model that reads: [bold]stepwell bench knowledge --level b --quick[/bold]
    """
    if level is Level.B:
        if only or seeds or worlds or embedder or plot:
            raise ConfigError(
                "--level b has parts, seeds and worlds of its own.",
                hint="It takes --quick, --out and --json.",
                param="level",
            )
        _level_b(quick=quick, out=out, as_json=as_json)
        return
    from stepwell.evaluate.knowledge_bench import Part, run_knowledge_bench
    from stepwell.evaluate.knowledge_sections import KnowledgeOptions
    from stepwell.knowledge.embed import sentence_embedder

    vectors = sentence_embedder(embedder) if embedder else None
    if embedder and vectors is None:
        raise ConfigError("--embedder needs sentence-transformers.",
                          hint="pip install sentence-transformers", param="embedder")  # fmt: skip
    options = KnowledgeOptions(
        parts=chosen_parts(only, Part) if only else tuple(Part),
        quick=quick,
        seeds=tuple(range(1, (seeds or (1 if quick else _SEEDS)) + 1)),
        worlds=worlds or (_QUICK_WORLDS if quick else _WORLDS),
        embedder=vectors,
    )
    show = (lambda section: None) if as_json else show_section
    with moving_line() as say:
        result = run_knowledge_bench(options, on_section=show, say=say)
    document = result_document(result, model="none: a deterministic reader", quick=quick)
    write_document(document, out)
    if plot is not None:
        from stepwell.evaluate.knowledge_plot import plot_knowledge

        plot_knowledge(document, plot)
    print(json.dumps(document if as_json else result["summary"], ensure_ascii=False))


def _level_b(*, quick: bool, out: Path | None, as_json: bool) -> None:
    from stepwell.evaluate.knowledge_model_report import run_knowledge_model_bench

    show = (lambda section: None) if as_json else show_section
    with moving_line() as say:
        result = run_knowledge_model_bench(quick=quick, seed=1, on_section=show, say=say)
    document = result_document(result, model="house-sql", quick=quick)
    write_document(document, out)
    print(json.dumps(document if as_json else result["summary"], ensure_ascii=False))
