"""What the command line leaves out at import is really left out, and nothing else changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from stepwell.model import model_files

LEFT_OUT = ("scipy.linalg", "scipy.optimize", "sympy", "torch._dynamo", "torch.distributed.tensor")


def run(code: str, cache: Path) -> str:
    """The last line that a fresh process prints."""
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip().splitlines()[-1]


def test_what_serving_never_uses_is_not_imported(tmp_path: Path) -> None:
    code = f"""
from stepwell.model.quick_imports import import_transformers
import_transformers()
from stepwell.model.load import find_checkpoint, load_model, read_hf_config
from stepwell.base.config import load_config
import json, sys, torch
folder = find_checkpoint("house")
load_model(load_config().model, folder, read_hf_config(folder),
           dtype=torch.bfloat16, device=torch.device("cpu"))
print(json.dumps([name for name in {LEFT_OUT} if name in sys.modules]))
"""
    assert json.loads(run(code, tmp_path)) == []


def test_torch_compile_works_afterwards(tmp_path: Path) -> None:
    """Marks that transformers made on a stand-in are made on TorchDynamo when that is imported."""
    code = """
from stepwell.model.quick_imports import import_transformers
import_transformers()
import torch, transformers
from transformers.integrations.finegrained_fp8 import *
from transformers.integrations import deepgemm
from transformers.masking_utils import TransformGetItemToIndex
from torch._dynamo.trace_rules import is_callable_allowed
from transformers.modeling_utils import PreTrainedModel
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item() == 2
with TransformGetItemToIndex():
    pass
marked = [f for f in vars(deepgemm).values() if callable(f) and is_callable_allowed(f)]
print(len(marked))
"""
    assert int(run(code, tmp_path)) >= 1


def test_same_classes_as_without(tmp_path: Path) -> None:
    listing = "import transformers, json; print(json.dumps(sorted(transformers.__all__)))"
    plain = run(listing, tmp_path)
    quick = "from stepwell.model.quick_imports import import_transformers as i; i();" + listing
    first = run(quick, tmp_path)
    assert list((tmp_path / "stepwell").glob("model-files-*.json"))
    second = run(quick, tmp_path)
    assert plain == first == second


def test_a_broken_list_is_read_again(tmp_path: Path) -> None:
    quick = (
        "from stepwell.model.quick_imports import import_transformers as i; i();"
        "import transformers; print(transformers.LlamaConfig.__name__)"
    )
    run(quick, tmp_path)
    (file,) = (tmp_path / "stepwell").glob("model-files-*.json")
    for broken in ("", "[[1]]", "{}"):
        file.write_text(broken)
        assert run(quick, tmp_path) == "LlamaConfig"
        assert file.stat().st_size > 1000


def test_list_comes_back_as_it_was() -> None:
    structure = {
        "llama": {
            frozenset(): {"configuration_llama": {"LlamaConfig"}},
            frozenset({"torch", "vision"}): {"modeling_llama": {"A", "B"}},
        },
        "deprecated": {"old": {frozenset({"torch"}): {"modeling_old": set()}}},
    }
    form = json.loads(json.dumps(model_files.encode(structure)))
    assert model_files.decode(form) == structure
