"""Importing transformers without what serving never uses.

Its modelling code takes two seconds to import, most of it for TorchDynamo, distributed tensors,
FlexAttention and SciPy. Serving uses none of them: transformers only decorates functions with the
first, and checks types or computes training losses with the others. So here the first is replaced
while transformers is imported, its decorators taking effect if TorchDynamo is imported later, and
transformers is told that the others are not installed.

That holds for the whole process: it is for processes of our own, the command line. A program that
imports Stepwell as a library imports transformers as ever.
"""

from __future__ import annotations

import functools
import gc
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from stepwell.model.model_files import remember_model_files

_BLAS = "numba.np.linalg"
_SCANNER = "transformers.utils.import_utils"
_DYNAMO = "torch._dynamo"
_ITEMS = "torch._dynamo._trace_wrapped_higher_order_op"
_ABSENT = (
    "is_scipy_available",
    "is_torch_distributed_available",
    "is_torch_flex_attn_available",
)


def import_transformers() -> None:
    """Import what loading and running a causal language model needs.

    Nothing happens where transformers or TorchDynamo is imported already. A failure is left to the
    ordinary import, which follows and reports it.
    """
    if "transformers" in sys.modules or _DYNAMO in sys.modules:
        return
    after_import(_SCANNER, remember_model_files)
    after_import(_BLAS, _hide_blas)
    try:
        from transformers import utils
        from transformers.utils import import_utils

        for module in (utils, import_utils):
            for name in _ABSENT:
                setattr(module, name, _no)
        with dynamo_deferred():
            from transformers import (  # noqa: F401
                AttentionInterface,
                AutoModelForCausalLM,
                GenerationMixin,
            )
        gc.freeze()  # later collections need not look through what the imports made
    except (ImportError, AttributeError):
        for name in [n for n in sys.modules if n.partition(".")[0] == "transformers"]:
            del sys.modules[name]


def _no() -> bool:
    return False


def _hide_blas(linalg: ModuleType) -> None:
    """numba imports SciPy for its matrix products in compiled code. The kernels have none."""

    def ensure_blas() -> None:
        raise ImportError("hidden by stepwell.model.quick_imports")

    linalg.__dict__["ensure_blas"] = ensure_blas


class _AfterImport(importlib.abc.MetaPathFinder):
    def __init__(self, name: str, action: Callable[[ModuleType], None]) -> None:
        self.name, self.action = name, action

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """Part of the import protocol."""
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_then(module: ModuleType) -> None:
            execute(module)
            self.action(module)

        spec.loader.exec_module = execute_then  # type: ignore[method-assign]
        return spec


def after_import(name: str, action: Callable[[ModuleType], None]) -> None:
    """Call `action(module)` once the module of this name has been executed."""
    sys.meta_path.insert(0, _AfterImport(name, action))


@contextmanager
def dynamo_deferred() -> Iterator[None]:
    """Inside, `torch._dynamo` is a stand-in that has what transformers decorates with."""
    import torch

    marked: list[tuple[str, Any]] = []
    stand_in, items = ModuleType(_DYNAMO), ModuleType(_ITEMS)
    stand_in.__path__ = []
    for name in ("allow_in_graph", "assume_constant_result"):
        setattr(stand_in, name, _marker(name, marked))
    stand_in.__dict__["disable"] = _disable
    items.__dict__["TransformGetItemToIndex"] = _transform_get_item_to_index
    sys.modules[_DYNAMO], sys.modules[_ITEMS] = stand_in, items
    torch._dynamo = stand_in
    try:
        yield
    finally:
        del sys.modules[_DYNAMO], sys.modules[_ITEMS], torch._dynamo
        after_import(_DYNAMO, lambda real: _mark(real, marked))


def _marker(name: str, marked: list[tuple[str, Any]]) -> Callable[[Any], Any]:
    """A decorator that notes the function and leaves it as it is, as the real ones do."""

    def decorate(function: Any) -> Any:
        marked.append((name, function))
        return function

    return decorate


def _mark(real: ModuleType, marked: list[tuple[str, Any]]) -> None:
    for name, function in marked:
        getattr(real, name)(function)


def _disable(function: Any = None, *args: Any, **options: Any) -> Any:
    """As `torch._dynamo.disable`, which wraps; here at the first call."""
    if function is None:
        return functools.partial(_disable, **options)
    real: list[Any] = []

    @functools.wraps(function)
    def call(*inputs: Any, **named: Any) -> Any:
        if not real:
            import torch._dynamo

            disable: Any = torch._dynamo.disable
            real.append(disable(function, *args, **options))
        return real[0](*inputs, **named)

    return call


def _transform_get_item_to_index() -> Any:
    from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

    return TransformGetItemToIndex()
