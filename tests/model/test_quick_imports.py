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

LEFT_OUT = (
    "torch._decomp",
    "torch._refs",
    "torch.utils._device",
    "trio._core",
    "scipy.linalg",
    "scipy.optimize",
    "sympy",
    "torch._dynamo",
    "torch.distributed.tensor",
)


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


@pytest.mark.parametrize(
    "use",
    [
        "with torch.device('meta'): x = torch.randn(2, 3)",
        "from stepwell.model.quick_imports import import_meta_operators as now; now();"
        "x = torch.randn(2, 3, device='meta')",
        "from torch._subclasses.fake_tensor import FakeTensorMode as fake\n"
        "with fake(): x = torch.randn(2, 3)",
    ],
)
def test_shapes_alone_can_be_computed_with(tmp_path: Path, use: str) -> None:
    """Operators of the meta device that torch has in Python only."""
    code = f"""
from stepwell.model.quick_imports import import_transformers
import_transformers()
import torch
{use}
print(tuple(torch.cdist(x, x).shape))
"""
    assert run(code, tmp_path) == "(2, 2)"


def test_random_numbers_with_a_generator_of_their_own(tmp_path: Path) -> None:
    draw = "print(torch.randn(2, generator=torch.Generator().manual_seed(3)).tolist())"
    quick = "from stepwell.model.quick_imports import import_transformers as i; i(); import torch\n"
    assert run(quick + draw, tmp_path) == run("import torch\n" + draw, tmp_path)


def test_parts_of_torch_that_come_later_come(tmp_path: Path) -> None:
    code = """
from stepwell.model.quick_imports import import_transformers
import_transformers()
import torch
assert torch.export.Dim("rows").__name__ == "rows"
assert torch.masked.masked_tensor is not None
from torch.ao.nn.quantized import Linear
assert torch.nn.quantized.Linear is Linear
print(torch.quantization.default_qconfig is not None)
"""
    assert run(code, tmp_path) == "True"


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
