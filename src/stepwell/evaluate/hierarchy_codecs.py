"""A returning session restored from disk through each codec: time, bytes read, and the reply.

The sessions are held-out text, since a codec that is made for text does nothing for random tokens.
Replies are compared, token by token, with those of an engine whose context never left the device.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stepwell.base.hierarchy import TierName
from stepwell.codec.kvtc.artifact import save_calibration
from stepwell.engine.codecs import calibration_path
from stepwell.engine.llm import LLM
from stepwell.evaluate.calibrate import CalibrationOptions, calibrate, open_source
from stepwell.evaluate.codec_text import library_texts
from stepwell.evaluate.hierarchy_engine import differences, first_token, restored_tokens, settle
from stepwell.evaluate.page_cache import drop_page_cache
from stepwell.evaluate.statistics import median
from stepwell.model.identity import weights_hash
from stepwell.model.load import find_checkpoint

Say = Callable[[str], None]
CODECS: dict[str, dict[str, Any]] = {
    "raw": {"tiers__disk_codec": "raw"},
    "lossless": {"tiers__disk_codec": "lossless"},
    "int8": {"tiers__disk_codec": "int8"},
    "kvtc 16x": {"tiers__disk_codec": "kvtc", "tiers__kvtc_ratio": 16.0},
    "kvtc 32x": {"tiers__disk_codec": "kvtc", "tiers__kvtc_ratio": 32.0},
}


@dataclass(slots=True)
class CodecResult:
    """Seconds to the first token, session by session. `read`: bytes that came from disk, `tokens`:
    that they were for. `other`: of `replied` tokens, those that differ from a reply whose context
    stayed on the device; `first_other`: replies whose first token does. `kept_exact`: chunks that
    the codec would not take."""

    computed: list[float] = field(default_factory=list)
    restored: list[float] = field(default_factory=list)
    read: int = 0
    tokens: int = 0
    replied: int = 0
    other: int = 0
    first_other: int = 0
    kept_exact: int = 0

    def as_dict(self) -> dict[str, Any]:
        """With the ratios that people ask for."""
        return asdict(self) | {
            "speedup": median(self.computed) / median(self.restored),
            "bytes_per_token": self.read / max(1, self.tokens),
        }


def run_codecs(
    folder: Path, workdir: Path | None, *, pool: str, prompt: int, sessions: int, say: Say
) -> dict[str, dict[str, Any]]:
    """A result for each of CODECS. The model is calibrated first where it never was."""
    calibration = _calibrated(folder, say)
    results = {}
    for name, settings in CODECS.items():
        say(f"from disk through {name}")
        if name.startswith("kvtc"):
            settings = settings | {"tiers__kvtc_calibration": str(calibration)}
        with tempfile.TemporaryDirectory(dir=workdir) as place:
            llm = LLM(
                str(folder), cache__pool=pool, tiers__disk=f"{place}/disk",
                tiers__disk_capacity="4GiB", **settings,
            )  # fmt: skip
            texts = _sessions(llm, tokens=prompt, count=sessions + 1)
            results[name] = _returns(llm, texts, Path(place) / "disk").as_dict()
            llm.close()
    return results


def _returns(llm: LLM, texts: Sequence[Sequence[int]], folder: Path) -> CodecResult:
    """The first session is a warm-up."""
    result = CodecResult()
    engine = llm.built.engine
    assert engine.tiers is not None
    for number, text in enumerate(texts):
        computed, _ = first_token(llm, text)
        _, expected = first_token(llm, text)  # from the device
        settle(llm)
        engine.clear_cache()
        drop_page_cache(folder)
        before = _disk(llm), restored_tokens(llm)
        seconds, reply = first_token(llm, text)
        settle(llm)
        engine.clear_cache()
        if number:
            result.computed.append(computed)
            result.restored.append(seconds)
            result.read += _disk(llm).bytes_loaded - before[0].bytes_loaded
            result.tokens += restored_tokens(llm) - before[1]
            result.replied += len(reply)
            result.other += differences(expected, reply)
            result.first_other += expected[0] != reply[0]
    result.kept_exact = _disk(llm).kept_exact
    return result


def _disk(llm: LLM) -> Any:
    tiers = llm.built.engine.tiers
    assert tiers is not None
    return tiers.hierarchy.stats().tiers[TierName.DISK]


def _sessions(llm: LLM, *, tokens: int, count: int) -> list[list[int]]:
    """Held-out texts of so many tokens."""
    tokenizer = llm.built.loaded.tokenizer
    assert tokenizer is not None
    opening = tokenizer.encode("")
    found: list[int] = []
    for text in library_texts()[1]:
        found += tokenizer.encode(text, special_tokens=False)
        if len(found) >= count * tokens:
            break
    step = tokens - len(opening)
    return [[*opening, *found[at * step : (at + 1) * step]] for at in range(count)]


def _calibrated(folder: Path, say: Say) -> Path:
    """The file of this model's calibration, made now where there is none."""
    place = calibration_path(weights_hash(find_checkpoint(str(folder))))
    if not place.exists():
        source = open_source(str(folder))
        options = CalibrationOptions(model=str(folder))
        made, _ = calibrate(
            source, options, on_progress=lambda what, *_: say(f"calibrating: {what}")
        )
        place.parent.mkdir(parents=True, exist_ok=True)
        save_calibration(made, place)
    return place
