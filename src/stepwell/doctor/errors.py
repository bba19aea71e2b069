"""What can go wrong while a server is looked at."""

from __future__ import annotations

from stepwell.base.errors import StepwellError


class DoctorError(StepwellError):
    """The server cannot be examined."""

    code = "doctor_error"


class ServerUnreachable(DoctorError):
    """Nothing answers at the address, or not in time."""

    code = "server_unreachable"


class MetricsRefused(DoctorError):
    """The metrics page wants a key, or is not there."""

    code = "metrics_refused"


class NotMetrics(DoctorError):
    """What answers is not a page of metrics."""

    code = "not_a_metrics_page"


class UnknownEngine(DoctorError):
    """The page has metrics, but of no engine that is known here."""

    code = "unknown_engine"
