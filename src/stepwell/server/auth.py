"""API keys and the tenants they stand for.

Only SHA-256 digests of keys are kept, so a key cannot reach a log or a traceback from here.
A tenant's name salts the prefix cache: two tenants never share cached tokens.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from stepwell.base.config import ServerConfig
from stepwell.base.errors import ConfigError, Unauthorized
from stepwell.server.errors import UntrustedHost

OPEN_TENANT = ""
"""The one tenant of a server without keys."""


@dataclass(frozen=True, slots=True)
class _Entry:
    digest: bytes
    tenant: str


class KeyRing:
    """Known keys. Without any, everyone is the open tenant."""

    def __init__(self, entries: tuple[str, ...]) -> None:
        self._entries = tuple(_parse(entry) for entry in entries)

    def __len__(self) -> int:
        return len(self._entries)

    def tenants(self) -> frozenset[str]:
        """Names of all tenants."""
        return frozenset(entry.tenant for entry in self._entries) or frozenset({OPEN_TENANT})

    def tenant_of(self, authorization: str | None) -> str:
        """Tenant of an `Authorization` header. Compares with every key, each in constant time.

        Raises Unauthorized.
        """
        if not self._entries:
            return OPEN_TENANT
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthorized(
                "no API key was given.", hint="Send the header `Authorization: Bearer KEY`."
            )
        digest = _digest(key.strip())
        found: str | None = None
        for entry in self._entries:
            if hmac.compare_digest(entry.digest, digest):
                found = entry.tenant
        if found is None:
            raise Unauthorized("the API key is not known.", hint="Check the key.")
        return found


def load_keys(config: ServerConfig) -> KeyRing:
    """Keys of `server.api_keys` and of `server.api_keys_file` (`#` starts a comment line).

    Raises ConfigError for a file that cannot be read or holds no key.
    """
    entries = list(config.api_keys)
    if config.api_keys_file:
        try:
            text = Path(config.api_keys_file).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"cannot read server.api_keys_file {config.api_keys_file}: {error.strerror}.",
                param="server.api_keys_file",
            ) from error
        lines = [line.strip() for line in text.splitlines()]
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise ConfigError(
                f"server.api_keys_file {config.api_keys_file} holds no key.",
                hint="Write one `tenant:key` a line.",
                param="server.api_keys_file",
            )
        entries += found
    return KeyRing(tuple(entries))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, *, keys: KeyRing) -> None:
    """Raise ConfigError when other machines could reach a server without keys."""
    if not is_loopback(host) and not len(keys):
        raise ConfigError(
            f"server.host is {host!r}, which other machines can reach, and there is no API key.",
            hint="Set server.api_keys_file (or server.api_keys), or listen on 127.0.0.1.",
            param="server.host",
        )


def check_host_header(header: str | None) -> None:
    """For a server without keys: raise UntrustedHost unless Host names loopback."""
    name = (header or "").rpartition("@")[2]
    host = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    if not is_loopback(host):
        raise UntrustedHost(
            f"this server has no API keys and does not answer to the host {host!r}.",
            hint="Use http://127.0.0.1 or http://localhost, or set server.api_keys_file.",
        )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", errors="surrogateescape")).digest()


def _parse(entry: str) -> _Entry:
    """`tenant:key`, or a key alone, whose tenant is named after its digest."""
    tenant, separator, key = entry.strip().partition(":")
    if not separator:
        key = tenant
        tenant = f"key-{_digest(key).hex()[:12]}"
    if not tenant or not key:
        raise ConfigError(
            "an API key entry is empty.",
            hint="Write `tenant:key`, or a key alone.",
            param="server.api_keys",
        )
    return _Entry(digest=_digest(key), tenant=tenant)
