"""Every error that Stepwell raises on purpose.

    StepwellError
    ├── ConfigError                  a setting is unknown, of the wrong type or out of range
    ├── RequestError                 one request is wrong; the others go on
    │   ├── InvalidParameter         a field of the request
    │   ├── ContextLengthExceeded    the prompt (plus output) can never fit
    │   ├── UnknownModel             the server serves another model
    │   ├── Unauthorized             no key, or one that is not known
    │   ├── BodyTooLarge             more bytes than the server reads
    │   ├── RateLimited              this tenant sent too much in the last minute
    │   └── QueueFull                the server has all the waiting requests that it takes
    ├── ModelError                   a model cannot be loaded
    │   ├── CheckpointNotFound       there is no such folder or repository
    │   ├── UnsupportedArchitecture  its layers need what the engine does not have
    │   ├── UnknownArchitecture      the planner does not know what its layers hold
    │   ├── UnsafeCheckpoint         it would run code or unpickle
    │   ├── UnsupportedCheckpointFormat  quantized in a way that is not read here
    │   └── WeightStoreError         weights cannot be written for streaming, or not be read back
    │       └── WeightStoreDamaged   the file is not what was written
    ├── HardwareError                the machine lacks what was asked for
    │   ├── PoolDoesNotFit           the KV pool and the weights exceed the memory
    │   └── WeightsBudgetTooSmall    weights cannot be streamed through that little memory
    ├── TierError                    a tier cannot be opened; a running one reports outcomes instead
    │   ├── TierInUse                another process holds its directory
    │   └── TierUnusable             what is there is not a tier of this version, or not writable
    └── EngineError                  the engine failed, not the request
        ├── EngineStopped            it is shutting down or has shut down
        └── StepFailed               a forward pass raised

Each carries a stable `code` for programs, a message for people and a `hint` that says what to do.
The server maps codes to HTTP in `server/errors.py`; a test holds this tree against the classes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StepwellError(Exception):
    """Base of all errors here. `hint` says what the reader can do about it."""

    code = "internal_error"

    def __init__(self, message: str, *, hint: str = "", param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class ConfigError(StepwellError):
    """A setting is unknown, of the wrong type or out of range."""

    code = "invalid_config"


class RequestError(StepwellError):
    """One request is wrong; it is refused and the others go on."""

    code = "invalid_request"


class InvalidParameter(RequestError):
    """A field of a request has a value that cannot be served. `param` names the field."""

    code = "invalid_parameter"


class ContextLengthExceeded(RequestError):
    """The prompt, or prompt plus requested output, can never fit."""

    code = "context_length_exceeded"


class UnknownModel(RequestError):
    """The request names a model that is not served here."""

    code = "model_not_found"


class Unauthorized(RequestError):
    """The API key is missing or not known."""

    code = "invalid_api_key"


class BodyTooLarge(RequestError):
    """The request body has more bytes than the server reads."""

    code = "body_too_large"


class RateLimited(RequestError):
    """The tenant exceeded its requests or tokens per minute."""

    code = "rate_limit_exceeded"


class QueueFull(RequestError):
    """The engine already holds as many waiting requests as it accepts."""

    code = "queue_full"


class ModelError(StepwellError):
    """A model cannot be loaded."""

    code = "model_error"


class CheckpointNotFound(ModelError):
    """There is no checkpoint at that place."""

    code = "checkpoint_not_found"


class UnsupportedArchitecture(ModelError):
    """The architecture has layers that the engine cannot serve from paged memory."""

    code = "unsupported_architecture"


class UnknownArchitecture(ModelError):
    """The planner does not know this kind of model or layer, and does not guess."""

    code = "unknown_architecture"


class UnsafeCheckpoint(ModelError):
    """Loading would execute code: pickled weights or remote modelling code."""

    code = "unsafe_checkpoint"


class UnsupportedCheckpointFormat(ModelError):
    """The weights are quantized in a way that is not read here, or a package for it is missing."""

    code = "unsupported_checkpoint_format"


class WeightStoreError(ModelError):
    """The file that weights are streamed from cannot be written, or not be read while serving."""

    code = "weight_store_error"


class WeightStoreDamaged(WeightStoreError):
    """The file that weights are streamed from is not what was written."""

    code = "weight_store_damaged"


class HardwareError(StepwellError):
    """The machine lacks what was asked for."""

    code = "hardware_error"


class PoolDoesNotFit(HardwareError):
    """Weights, KV pool and workspace together exceed the memory of the device."""

    code = "pool_does_not_fit"


class WeightsBudgetTooSmall(HardwareError):
    """`model.weights_budget` is below what streaming needs; the message says the least."""

    code = "weights_budget_too_small"


class TierError(StepwellError):
    """A tier cannot be opened. One that runs answers with outcomes and OSErrors instead."""

    code = "tier_error"


class TierInUse(TierError):
    """Another process holds the tier's directory; the message names its process id."""

    code = "tier_in_use"


class TierUnusable(TierError):
    """The directory holds something else, another format version, or cannot be written."""

    code = "tier_unusable"


class EngineError(StepwellError):
    """The engine failed, not the request."""

    code = "engine_error"


class EngineStopped(EngineError):
    """The engine is shutting down or has shut down."""

    code = "engine_stopped"


class StepFailed(EngineError):
    """A forward pass raised; the requests of that batch end with this error."""

    code = "step_failed"


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> tuple[str, str]:
    """Message and hint for a name that is not among `valid`, with the nearest suggestion."""
    names = sorted(valid)
    near = difflib.get_close_matches(name, names, n=1)
    suggestion = f"Did you mean {near[0]!r}? " if near else ""
    return f"unknown {kind} {name!r}.", f"{suggestion}Valid: {', '.join(names)}."
