"""API keys, the tenants they stand for, and the workload class that a key may carry.

Only SHA-256 digests of keys are kept, so a key cannot reach a log or a traceback from here.
A tenant's name salts the prefix cache: two tenants never share cached tokens.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stepwell.base.config import ServerConfig
from stepwell.base.errors import ConfigError, Unauthorized
from stepwell.base.hierarchy import WorkloadClass
from stepwell.server.errors import UntrustedHost

_WORKLOAD = "workload="
_FORM = "Write `tenant:key`, or a key alone; ` workload=batch` may follow."


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a request comes from. `workload`: of requests that name none; None: inferred."""

    tenant: str
    workload: WorkloadClass | None = None


ANYONE = Caller("")
"""Everyone, to a server without keys."""


@dataclass(frozen=True, slots=True)
class _Entry:
    digest: bytes
    caller: Caller


class KeyRing:
    """Known keys, from lines by the place where they were written. Without any, everyone is
    ANYONE. Raises ConfigError for a line that is no entry; the message holds no key."""

    def __init__(self, entries: Mapping[str, str]) -> None:
        self._entries = tuple(_parse(text, where=where) for where, text in entries.items())

    def __len__(self) -> int:
        return len(self._entries)

    def tenants(self) -> frozenset[str]:
        """Names of all tenants."""
        names = frozenset(entry.caller.tenant for entry in self._entries)
        return names or frozenset({ANYONE.tenant})

    def caller_of(self, authorization: str | None) -> Caller:
        """Of an `Authorization` header. Compares with every key, each in constant time.

        Raises Unauthorized.
        """
        if not self._entries:
            return ANYONE
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthorized(
                "no API key was given.", hint="Send the header `Authorization: Bearer KEY`."
            )
        digest = _digest(key.strip())
        found: Caller | None = None
        for entry in self._entries:
            if hmac.compare_digest(entry.digest, digest):
                found = entry.caller
        if found is None:
            raise Unauthorized("the API key is not known.", hint="Check the key.")
        return found


def load_keys(config: ServerConfig) -> KeyRing:
    """Keys of `server.api_keys` and of `server.api_keys_file` (`#` starts a comment line).

    Raises ConfigError for an entry that cannot be read, or a file that cannot be or holds no key.
    """
    entries = {f"server.api_keys, entry {n}": text for n, text in enumerate(config.api_keys, 1)}
    if config.api_keys_file:
        try:
            text = Path(config.api_keys_file).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"cannot read server.api_keys_file {config.api_keys_file}: {error.strerror}.",
                param="server.api_keys_file",
            ) from error
        found = {
            f"{config.api_keys_file}, line {number}": line
            for number, line in enumerate(text.splitlines(), 1)
            if line.strip() and not line.strip().startswith("#")
        }
        if not found:
            raise ConfigError(
                f"server.api_keys_file {config.api_keys_file} holds no key.",
                hint=f"One entry a line. {_FORM}",
                param="server.api_keys_file",
            )
        entries |= found
    return KeyRing(entries)


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


def _parse(text: str, *, where: str) -> _Entry:
    """`tenant:key`, or a key alone, whose tenant is named after its digest; then perhaps
    ` workload=CLASS`."""
    tenant, separator, rest = text.strip().partition(":")
    words = (rest if separator else tenant).split()
    key = words[0] if words else ""
    if not separator:
        tenant = f"key-{_digest(key).hex()[:12]}"
    if not tenant or not key or key.startswith(_WORKLOAD):
        raise _bad_entry(where, "is empty")
    if len(words) > 2 or not all(word.startswith(_WORKLOAD) for word in words[1:]):
        raise _bad_entry(where, "has more than a key and its workload")
    return _Entry(_digest(key), Caller(tenant, _workload(words[1:], where=where)))


def _workload(words: Sequence[str], *, where: str) -> WorkloadClass | None:
    if not words:
        return None
    name = words[0].removeprefix(_WORKLOAD)
    for kind in WorkloadClass:
        if kind.value == name:
            return kind
    valid = ", ".join(kind.value for kind in WorkloadClass)
    raise _bad_entry(where, f"has the workload {name!r}", hint=f"Valid: {valid}.")


def _bad_entry(where: str, what: str, *, hint: str = _FORM) -> ConfigError:
    return ConfigError(f"{where}: the entry {what}.", hint=hint, param="server.api_keys")
