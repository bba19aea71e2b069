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

import gc
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from stepwell.model.after_import import after_import
from stepwell.model.dynamo_deferred import DYNAMO, dynamo_deferred
from stepwell.model.import_later import import_later, import_now
from stepwell.model.load_beside import load_torch_beside
from stepwell.model.model_files import remember_model_files

_BLAS = "numba.np.linalg"
_SCANNER = "transformers.utils.import_utils"
# Imported before torch's library is opened, since they load libraries of their own.
_BEFORE_TORCH = ("numpy", "regex", "asyncio", "jinja2", "yaml", "PIL.Image")
# What torch registers, in Python, for computing with shapes alone: 0.3 s.
_META_OPERATORS = ("torch._meta_registrations", "torch.distributed._meta_registrations")
# Parts of torch that take for granted that those have been imported.
_NEED_META_OPERATORS = (
    "torch._decomp",
    "torch._dynamo",
    "torch._export",
    "torch._inductor",
    "torch._prims",
    "torch._refs",
    "torch.utils._content_store",
    "torch.utils._device",  # `with torch.device("meta")`
)
_LATER = (
    *_META_OPERATORS,
    "torch.export",
    "torch.masked",
    "torch.nn.intrinsic",
    "torch.nn.qat",
    "torch.nn.quantizable",
    "torch.nn.quantized",
    "torch.quantization",
    "trio",
)
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
    if "transformers" in sys.modules or DYNAMO in sys.modules:
        return
    import_later(_LATER, before={name: _META_OPERATORS for name in _NEED_META_OPERATORS})
    after_import(_SCANNER, _look_at_less)
    after_import(_BLAS, _hide_blas)
    with _no_collection():
        _import_transformers()


@contextmanager
def _no_collection() -> Iterator[None]:
    """Imports leave no garbage worth looking for; what they made is not looked through later."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def _import_transformers() -> None:
    try:
        for name in _BEFORE_TORCH:
            if importlib.util.find_spec(name.partition(".")[0]) is not None:
                importlib.import_module(name)
        load_torch_beside()
        import transformers.utils  # noqa: F401  # which does not import torch

        with dynamo_deferred():
            from transformers import (  # noqa: F401
                AttentionInterface,
                AutoModelForCausalLM,
                GenerationMixin,
            )
        _allow_generators()
    except (ImportError, AttributeError):
        for name in [n for n in sys.modules if n.partition(".")[0] == "transformers"]:
            del sys.modules[name]


def _allow_generators() -> None:
    """`torch.Generator` refuses to be made until those operators have given it a metaclass."""
    from torch import _C
    from torch._opaque_base import OpaqueBaseMeta

    _C._set_generator_metaclass(OpaqueBaseMeta)


def import_meta_operators() -> None:
    """To be called before a tensor is made on the meta device."""
    for name in _META_OPERATORS:
        import_now(name)


def _look_at_less(import_utils: ModuleType) -> None:
    """Before the rest of transformers asks it what is installed."""
    remember_model_files(import_utils)
    for name in _ABSENT:
        if not hasattr(import_utils, name):
            raise AttributeError(name)
        setattr(import_utils, name, _no)


def _no() -> bool:
    return False


def _hide_blas(linalg: ModuleType) -> None:
    """numba imports SciPy for its matrix products in compiled code. The kernels have none."""

    def ensure_blas() -> None:
        raise ImportError("hidden by stepwell.model.quick_imports")

    linalg.__dict__["ensure_blas"] = ensure_blas
