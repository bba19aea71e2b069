"""Which layers of one checkpoint stay in a higher precision than `--weights` asks for.

Written by `stepwell evaluate sensitivity`, read at load. One small JSON file for each checkpoint
and format, in the cache folder:

    {"kind": "stepwell-weight-recipe", "version": 1, "weights": <hash of the weights files>,
     "format": "int4", "exceptions": {<module name>: "int8" | "bfloat16", ...},
     "measured": {...}}

The hash covers the files' headers and samples of them, so that loading does not read every byte a
second time. Mistaking a fine-tune for its origin is harmless here: a recipe says how many bytes a
layer gets, never what is in it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepwell.base.decisions import Decision
from stepwell.base.errors import ConfigError
from stepwell.kernels.linear.quantize import WeightFormat
from stepwell.model.identity import Coverage, weights_manifest

KIND, VERSION = "stepwell-weight-recipe", 1
_MAX_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Recipe:
    """`exceptions`: formats by module name, each with more bits than `format`. `measured`: figures
    of the pass that chose them, for people; `kl_plain` and `kl_mean` are nats without and with the
    exceptions."""

    weights: str
    format: WeightFormat
    exceptions: Mapping[str, WeightFormat] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)

    @property
    def decision(self) -> Decision:
        """For `--explain`."""
        kinds = sorted({str(kept) for kept in self.exceptions.values()})
        value = f"{len(self.exceptions)} layers in {' and '.join(kinds)}" if kinds else "none"
        because = "stepwell evaluate sensitivity"
        before, after = self.measured.get("kl_plain"), self.measured.get("kl_mean")
        if before is not None and after is not None:
            because += f": KL {before:.2g} to {after:.2g} nats on its text"
        return Decision(f"weights.{self.format}.exceptions", value, because)


def checkpoint_hash(folder: Path) -> str:
    """32 hexadecimal digits of a checkpoint's weights files; see above for what it covers."""
    manifest = weights_manifest(folder, Coverage.SAMPLED)
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()[:32]


def recipe_path(weights: str, format: WeightFormat) -> Path:
    """Where the recipe of these weights (`checkpoint_hash`) is kept unless told otherwise."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "stepwell" / "recipes" / f"{weights}-{format}.json"


def save_recipe(recipe: Recipe, path: Path) -> int:
    """Write the file whole or not at all; its bytes."""
    document = {
        "kind": KIND,
        "version": VERSION,
        "weights": recipe.weights,
        "format": str(recipe.format),
        "exceptions": {name: str(kept) for name, kept in sorted(recipe.exceptions.items())},
        "measured": dict(recipe.measured),
    }
    data = (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)
    return len(data)


def load_recipe(
    folder: Path | None, format: WeightFormat, *, path: Path | None = None
) -> Recipe | None:
    """The recipe of a checkpoint for a format, None where none was made.

    `path`: a file instead of the cache folder's. Raises ConfigError for a file that is damaged, of
    another version, format or checkpoint, or that is named and missing.
    """
    if folder is None or format.is_exact:
        return None
    weights = checkpoint_hash(folder)
    place = path or recipe_path(weights, format)
    try:
        with place.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        if path is None:
            return None
        raise _refused(place, "there is no such file") from None
    except OSError as error:
        raise _refused(place, error.strerror or str(error)) from None
    recipe = _parse(data, place)
    if recipe.weights != weights:
        raise _refused(place, "it was made for other weights")
    if recipe.format is not format:
        raise _refused(place, f"it was made for {recipe.format}")
    return recipe


def _parse(data: bytes, place: Path) -> Recipe:
    if len(data) > _MAX_BYTES:
        raise _refused(place, "far too large")
    try:
        document = json.loads(data)
        if document["kind"] != KIND:
            raise _refused(place, "it is something else")
        if document["version"] != VERSION:
            raise _refused(place, f"it has version {document['version']}, known is {VERSION}")
        format = WeightFormat(document["format"])
        exceptions = {
            str(name): WeightFormat(kept) for name, kept in dict(document["exceptions"]).items()
        }
        if any(kept.bits <= format.bits for kept in exceptions.values()):
            raise _refused(place, f"an exception has no more bits than {format}")
        measured = {str(name): _finite(value) for name, value in document["measured"].items()}
        return Recipe(str(document["weights"]), format, exceptions, measured)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _refused(place, f"its contents do not fit together: {error!r}") from None


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a figure is not finite")
    return value


def _refused(place: Path, why: str) -> ConfigError:
    return ConfigError(
        f"the weight recipe {place} cannot be used: {why}.",
        hint="Make it anew with `stepwell evaluate sensitivity MODEL`, or remove the file.",
        param="model.weights",
    )
