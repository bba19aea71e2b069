"""The contestants of one group: a process for each variant, started together, measured in turn."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from stepwell.evaluate.ceiling import Ceiling, ModelCost
from stepwell.evaluate.contestants import (
    Contestant,
    ContestantFailed,
    rival_contestant,
    stepwell_contestant,
)
from stepwell.evaluate.options import OnProgress
from stepwell.evaluate.quiet import wait_until_quiet
from stepwell.evaluate.speed_options import PLAIN, SpeedOptions, Variant, load_arguments

_LOAD_SECONDS = 900.0
_TOLD = (
    "engine", "versions", "threads", "seconds", "startup_seconds", "convert_seconds",
    "compile_seconds",
    "weight_bytes", "weights", "cost", "pool_bytes",
)  # fmt: skip


@dataclass(slots=True)
class Field:
    """Use as a context manager. `missing`: variants that cannot take part, with the reason.
    `loaded`: what the others told of themselves."""

    options: SpeedOptions
    folder: Path
    variants: Sequence[Variant]
    say: OnProgress
    contestants: dict[Variant, Contestant] = field(default_factory=dict)
    loaded: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    vocab_size: int = 0
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> Field:
        try:
            for variant in self.variants:
                self._start(variant)
            for variant in list(self.contestants):
                self._await(variant)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._stack.close()

    @property
    def cost(self) -> ModelCost:
        """Of the reference: what bounds prompts is the same for all."""
        return ModelCost(**self.loaded[PLAIN.label]["cost"])

    @property
    def compile_seconds(self) -> float:
        """That Stepwell's kernels took on their first use on this machine, by the engine that
        compiled longest: they load at the same time. 0 from then on."""
        return max(told.get("compile_seconds", 0.0) for told in self.loaded.values())

    def measure_ceiling(self) -> Ceiling:
        """What the machine does now, once it is quiet."""
        wait_until_quiet(most=self.options.patience)
        return Ceiling(**self.contestants[PLAIN].ask("ceiling", quick=True))

    def drop(self, variant: Variant, error: ContestantFailed) -> None:
        """Takes no further part. The reference cannot be missed: then its error is raised."""
        if variant == PLAIN:
            raise error
        self.missing[variant.label] = error.message
        self.contestants.pop(variant).__exit__(None, None, None)

    def _start(self, variant: Variant) -> None:
        workdir = self.options.workdir.expanduser()
        if variant.own:
            if reason := variant.missing():
                self.missing[variant.label] = reason
                return
            name = variant.label.replace(" ", "-")
            contestant = stepwell_contestant(name=name, workdir=workdir)
        else:
            environments = self.options.environments.expanduser()
            try:
                contestant = rival_contestant(
                    variant.engine, workdir=workdir, environments=environments
                )
            except ContestantFailed as error:
                self.missing[variant.label] = error.message
                return
        self.contestants[variant] = self._stack.enter_context(contestant)
        contestant.send(
            "load", model=str(self.folder), **load_arguments(variant, quick=self.options.quick)
        )

    def _await(self, variant: Variant) -> None:
        self.say(f"loading {variant.label}")
        try:
            found = self.contestants[variant].receive(timeout=_LOAD_SECONDS)
        except ContestantFailed as error:
            self.drop(variant, error)
            return
        self.loaded[variant.label] = {key: found[key] for key in _TOLD if key in found}
        if variant == PLAIN:
            self.vocab_size = int(found["vocab_size"])
