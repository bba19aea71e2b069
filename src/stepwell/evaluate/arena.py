"""The processes of one run: Stepwell's worker, its server, the rivals; started together.

Everything starts and loads at once (that is most of the waiting); measuring happens afterwards,
one contestant at a time.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from stepwell.base.errors import ConfigError
from stepwell.evaluate.ceiling import Ceiling, ModelCost
from stepwell.evaluate.contestants import (
    Contestant,
    ContestantFailed,
    rival_contestant,
    stepwell_contestant,
)
from stepwell.evaluate.options import BenchOptions, OnProgress
from stepwell.evaluate.server_process import ServerProcess
from stepwell.evaluate.shapes import house_folder, is_shape, make_checkpoint

_NAME = "bench"
_NEEDS_ENGINE = frozenset({"memory", "throughput", "budget", "ttft", "http", "load", "soak"})


@dataclass(slots=True)
class Arena:
    """Use as a context manager. `missing`: rivals that cannot take part, with the reason."""

    options: BenchOptions
    say: OnProgress
    workdir: Path = Path()
    folder: Path = Path()
    loaded: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    rivals: dict[str, Contestant] = field(default_factory=dict)
    server: ServerProcess | None = None
    ceiling: Ceiling | None = None
    started: float = field(default_factory=time.monotonic)
    _own: Contestant | None = None
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> Arena:
        self.workdir = self.options.workdir.expanduser()
        self.workdir.mkdir(parents=True, exist_ok=True)
        self.folder = find_model(self.options.model, workdir=self.workdir, say=self.say)
        try:
            self._start_all()
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
    def own(self) -> Contestant:
        """Stepwell's worker."""
        assert self._own is not None, "not started"
        return self._own

    @property
    def cost(self) -> ModelCost:
        """What the model costs, as the worker found it."""
        return ModelCost(**self.loaded["stepwell"]["cost"])

    @property
    def vocab_size(self) -> int:
        """Of the model."""
        return int(self.loaded["stepwell"]["vocab_size"])

    def time_for(self, seconds: float, *, until: float) -> bool:
        """Whether so much more fits into the first `until` (a share) of the planned time."""
        spent = time.monotonic() - self.started
        return spent + seconds <= until * self.options.seconds

    def measure_ceiling(self) -> Ceiling:
        """What the machine does now; keeps the best seen in this run."""
        now = Ceiling(**self.own.ask("ceiling", quick=self.options.quick))
        self.ceiling = now if self.ceiling is None else self.ceiling.best(now)
        return self.ceiling

    def start_budgeted(self, tokens: int) -> Contestant:
        """A second worker whose pool holds this many tokens and no more."""
        contestant = stepwell_contestant(name="stepwell-budget", workdir=self.workdir)
        self._stack.enter_context(contestant)
        settings = self.options.settings | {"cache.pool": str(tokens * self.cost.kv_bytes)}
        contestant.ask("load", model=str(self.folder), settings=settings)
        return contestant

    def start_server(self) -> ServerProcess:
        """The server, awaited."""
        assert self.server is not None, "no section needs it"
        self.say("waiting for the server")
        self.server.wait_ready()
        return self.server

    def _start_all(self) -> None:
        options = self.options
        self._own = stepwell_contestant(name="stepwell", workdir=self.workdir)
        self._stack.enter_context(self._own)
        self._own.send("load", model=str(self.folder), settings=options.settings)
        if {"http", "load"} & set(options.sections):
            server = ServerProcess(
                str(self.folder), _NAME, options.settings, self.workdir / "logs" / "server.log"
            )
            self.server = self._stack.enter_context(server)
        if {"throughput", "budget", "ttft"} & set(options.sections):
            self._start_rivals()
        self.say("loading Stepwell")
        self.loaded["stepwell"] = self._own.receive(timeout=600)
        self._await_rivals()

    def _start_rivals(self) -> None:
        for name in self.options.rivals:
            try:
                contestant = rival_contestant(
                    name,
                    workdir=self.workdir,
                    environments=self.options.environments.expanduser(),
                )
            except ContestantFailed as error:
                self.missing[name] = str(error)
                continue
            self.rivals[name] = self._stack.enter_context(contestant)
            contestant.send("load", model=str(self.folder))

    def _await_rivals(self) -> None:
        for name, contestant in list(self.rivals.items()):
            self.say(f"loading {name}")
            try:
                self.loaded[name] = contestant.receive(timeout=900)
            except ContestantFailed as error:
                self.drop(name, error)

    def drop(self, name: str, error: ContestantFailed) -> None:
        """A rival that failed takes no further part."""
        self.missing[name] = str(error)
        self.rivals.pop(name).__exit__(None, None, None)


def find_model(model: str, *, workdir: Path, say: OnProgress) -> Path:
    """Folder of the model; a shape's checkpoint is made where it is missing."""
    if model == "house":
        return house_folder()
    if is_shape(model):
        say("looking for (else writing, once) the random weights of this shape")
        return make_checkpoint(model, workdir=workdir, tokenizer=house_folder())
    if (folder := Path(model).expanduser()).is_dir():
        return folder
    from stepwell.model.load import find_checkpoint  # brings torch: only for names of the hub

    return find_checkpoint(model)


def check_sections(names: tuple[str, ...]) -> None:
    """Raises ConfigError for a section that does not exist."""
    unknown = [name for name in names if name not in _NEEDS_ENGINE]
    if unknown:
        raise ConfigError(
            f"no such section: {', '.join(unknown)}.",
            hint=f"Valid: {', '.join(sorted(_NEEDS_ENGINE))}.", param="only",
        )  # fmt: skip
