"""How to reach the server of the network tier."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stepwell.base.errors import ConfigError

_SCHEMES = ("redis://", "rediss://", "unix://")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteConfig:
    """`url`: redis://host:port/db, rediss://... (TLS) or unix:///path. Fields win over what the
    URL says. Times in seconds; neither secrets nor the URL, which may hold one, are printed.

    `ttl_seconds`: how long an entry lives after it was written or found present; 0: until the
    server evicts it. `ca_file`, `cert_file`, `key_file`: PEM files, for TLS only. Certificates are
    always verified. `max_value_bytes`: larger values are refused (the server's own limit is
    512 MiB).
    """

    url: str = field(repr=False)
    prefix: str = "stepwell:"
    ttl_seconds: int = 7 * 24 * 3600
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = field(default=None, repr=False)
    connect_timeout: float = 2.0
    socket_timeout: float = 10.0
    max_value_bytes: int = 512 << 20

    def __post_init__(self) -> None:
        if not self.url.startswith(_SCHEMES):
            raise ConfigError(
                "the network tier's URL has an unknown scheme.",
                hint=f"Use one of {', '.join(_SCHEMES)}.",
            )
        tls = self.url.startswith("rediss://")
        if not tls and (self.ca_file or self.cert_file or self.key_file):
            raise ConfigError(
                "certificates are given, but the network tier's URL does not ask for TLS.",
                hint="Use rediss://.",
            )
        if self.ttl_seconds < 0 or self.connect_timeout <= 0 or self.socket_timeout <= 0:
            raise ConfigError("ttl_seconds must be at least 0 and timeouts above 0.")

    def client_options(self) -> dict[str, Any]:
        """Keyword arguments for redis-py."""
        options: dict[str, Any] = {
            "socket_connect_timeout": self.connect_timeout,
            "socket_timeout": self.socket_timeout,
            "protocol": 2,  # no push messages between the replies
        }
        for name, value in (("username", self.username), ("password", self.password)):
            if value is not None:
                options[name] = value
        if self.url.startswith("rediss://"):
            options["ssl_cert_reqs"] = "required"
            options["ssl_check_hostname"] = True
        for name, path in (
            ("ssl_ca_certs", self.ca_file),
            ("ssl_certfile", self.cert_file),
            ("ssl_keyfile", self.key_file),
        ):
            if path is not None:
                options[name] = path
        return options
