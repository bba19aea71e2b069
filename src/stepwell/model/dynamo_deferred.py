"""A stand-in for TorchDynamo while transformers, which only decorates functions with it, is
imported.

Its decorators take effect if TorchDynamo is imported later.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from stepwell.model.after_import import after_import

DYNAMO = "torch._dynamo"
_ITEMS = "torch._dynamo._trace_wrapped_higher_order_op"


@contextmanager
def dynamo_deferred() -> Iterator[None]:
    """Inside, `torch._dynamo` is a stand-in that has what transformers decorates with."""
    import torch

    marked: list[tuple[str, Any]] = []
    stand_in, items = ModuleType(DYNAMO), ModuleType(_ITEMS)
    stand_in.__path__ = []
    for name in ("allow_in_graph", "assume_constant_result"):
        setattr(stand_in, name, _marker(name, marked))
    stand_in.__dict__["disable"] = _disable
    items.__dict__["TransformGetItemToIndex"] = _transform_get_item_to_index
    sys.modules[DYNAMO], sys.modules[_ITEMS] = stand_in, items
    torch._dynamo = stand_in
    try:
        yield
    finally:
        del sys.modules[DYNAMO], sys.modules[_ITEMS], torch._dynamo
        after_import(DYNAMO, lambda real: _mark(real, marked))


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
