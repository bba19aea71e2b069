"""One table from error codes to HTTP, and the JSON shape that OpenAI clients read.

    {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}

A test holds the table against every class of `base/errors.py` and `knowledge/errors.py`.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from stepwell.base.errors import EngineError, RequestError, StepwellError


class RequestTimeout(EngineError):
    """The request did not finish within `server.request_timeout` seconds and was aborted."""

    code = "request_timeout"


class UnknownRoute(RequestError):
    """There is no such path here."""

    code = "unknown_url"


class MethodNotAllowed(RequestError):
    """The path exists, but not for this HTTP method."""

    code = "method_not_allowed"


class UntrustedHost(RequestError):
    """A server without keys was addressed by a name that is not this machine's own.

    A page in a browser can reach loopback under its own name (DNS rebinding); it cannot choose
    the Host header.
    """

    code = "untrusted_host"


class ForbiddenRole(RequestError):
    """The key may not do this to its tenant's knowledge. The message names the role."""

    code = "forbidden_role"


class KnowledgeOff(RequestError):
    """This server keeps no knowledge bases."""

    code = "knowledge_off"


class KnowledgeBusy(EngineError):
    """The tenant's knowledge was busy with other calls for too long; nothing was done."""

    code = "knowledge_busy"


class UnknownResponse(RequestError):
    """No reply of that id was given knowledge here, or it is forgotten."""

    code = "response_not_found"


class UnknownNote(RequestError):
    """The caller's session has no note of that id."""

    code = "note_not_found"


class PlanChanged(RequestError):
    """A release was asked for by the digest of its plan, and the plan is another now."""

    code = "plan_changed"


HTTP_STATUS: dict[str, HTTPStatus] = {
    "internal_error": HTTPStatus.INTERNAL_SERVER_ERROR,
    "invalid_config": HTTPStatus.INTERNAL_SERVER_ERROR,
    "invalid_request": HTTPStatus.BAD_REQUEST,
    "invalid_parameter": HTTPStatus.BAD_REQUEST,
    "context_length_exceeded": HTTPStatus.BAD_REQUEST,
    "model_not_found": HTTPStatus.NOT_FOUND,
    "unknown_url": HTTPStatus.NOT_FOUND,
    "untrusted_host": HTTPStatus.FORBIDDEN,
    "method_not_allowed": HTTPStatus.METHOD_NOT_ALLOWED,
    "invalid_api_key": HTTPStatus.UNAUTHORIZED,
    "body_too_large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "rate_limit_exceeded": HTTPStatus.TOO_MANY_REQUESTS,
    "queue_full": HTTPStatus.TOO_MANY_REQUESTS,
    "model_error": HTTPStatus.INTERNAL_SERVER_ERROR,
    "checkpoint_not_found": HTTPStatus.INTERNAL_SERVER_ERROR,
    "unsupported_architecture": HTTPStatus.INTERNAL_SERVER_ERROR,
    "unknown_architecture": HTTPStatus.INTERNAL_SERVER_ERROR,
    "unsafe_checkpoint": HTTPStatus.INTERNAL_SERVER_ERROR,
    "unsupported_checkpoint_format": HTTPStatus.INTERNAL_SERVER_ERROR,
    "weight_store_error": HTTPStatus.INTERNAL_SERVER_ERROR,
    "weight_store_damaged": HTTPStatus.INTERNAL_SERVER_ERROR,
    "hardware_error": HTTPStatus.INTERNAL_SERVER_ERROR,
    "pool_does_not_fit": HTTPStatus.INTERNAL_SERVER_ERROR,
    "weights_budget_too_small": HTTPStatus.INTERNAL_SERVER_ERROR,
    "tier_error": HTTPStatus.INTERNAL_SERVER_ERROR,
    "tier_in_use": HTTPStatus.INTERNAL_SERVER_ERROR,
    "tier_unusable": HTTPStatus.INTERNAL_SERVER_ERROR,
    "engine_error": HTTPStatus.INTERNAL_SERVER_ERROR,
    "engine_stopped": HTTPStatus.SERVICE_UNAVAILABLE,
    "step_failed": HTTPStatus.INTERNAL_SERVER_ERROR,
    "request_timeout": HTTPStatus.GATEWAY_TIMEOUT,
    "forbidden_role": HTTPStatus.FORBIDDEN,
    "knowledge_off": HTTPStatus.NOT_FOUND,
    "knowledge_busy": HTTPStatus.SERVICE_UNAVAILABLE,
    "response_not_found": HTTPStatus.NOT_FOUND,
    "note_not_found": HTTPStatus.NOT_FOUND,
    "plan_changed": HTTPStatus.CONFLICT,
    "knowledge_error": HTTPStatus.INTERNAL_SERVER_ERROR,
    "knowledge_format": HTTPStatus.INTERNAL_SERVER_ERROR,
    "knowledge_damaged": HTTPStatus.INTERNAL_SERVER_ERROR,
    "invalid_entry": HTTPStatus.BAD_REQUEST,
    "unsafe_entry": HTTPStatus.UNPROCESSABLE_ENTITY,
    "entry_not_found": HTTPStatus.NOT_FOUND,
    "release_not_found": HTTPStatus.NOT_FOUND,
    "entry_erased": HTTPStatus.GONE,
    "gate_closed": HTTPStatus.CONFLICT,
    "release_blocked": HTTPStatus.CONFLICT,
}

_TYPES: dict[HTTPStatus, str] = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    HTTPStatus.GATEWAY_TIMEOUT: "timeout_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "service_unavailable_error",
}

DEFAULT_RETRY_AFTER = 1
"""Seconds told to clients when the queue is full or the server is leaving."""


def http_status(error: StepwellError) -> HTTPStatus:
    """Status for an error; an unknown code is the server's fault."""
    return HTTP_STATUS.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR)


def error_body(error: StepwellError) -> dict[str, Any]:
    """The reply body in OpenAI's shape."""
    status = http_status(error)
    fallback = "server_error" if status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": str(error),
            "type": _TYPES.get(status, fallback),
            "param": error.param,
            "code": error.code,
        }
    }


def error_headers(error: StepwellError, *, retry_after: float | None = None) -> dict[str, str]:
    """Retry-After (whole seconds, at least 1) for 429 and 503; the challenge for 401."""
    status = http_status(error)
    if status == HTTPStatus.UNAUTHORIZED:
        return {"www-authenticate": "Bearer"}
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        seconds = DEFAULT_RETRY_AFTER if retry_after is None else retry_after
        return {"retry-after": str(max(1, round(seconds + 0.5)))}
    return {}
