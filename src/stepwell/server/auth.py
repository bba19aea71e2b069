"""API keys: the tenant and the person that each stands for, what they may do to the tenant's
knowledge, and the workload class of their requests.

Only SHA-256 digests of keys are kept, so a key cannot reach a log or a traceback from here.
A tenant's name salts the prefix cache: two tenants never share cached tokens.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stepwell.base.config import ServerConfig
from stepwell.base.errors import ConfigError, Unauthorized
from stepwell.base.hierarchy import WorkloadClass
from stepwell.server.errors import ForbiddenRole, UntrustedHost

_FIELDS = ("user", "roles", "workload")
_FORM = (
    "Write `tenant:key`, or a key alone; ` user=ann`, ` roles=propose,confirm,release,erase` and "
    "` workload=batch` may follow."
)
LOCAL = "local"
"""Tenant and person of everyone, to a server without keys."""


class Role(enum.Enum):
    """What a key may do to its tenant's knowledge beyond searching it and being given it."""

    PROPOSE = "propose"
    CONFIRM = "confirm"
    RELEASE = "release"
    ERASE = "erase"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a request comes from. `workload`: of requests that name none; None: inferred. `user`:
    empty where the key names nobody."""

    tenant: str
    workload: WorkloadClass | None = None
    user: str = ""
    roles: frozenset[Role] = field(default_factory=frozenset)

    @property
    def person(self) -> str:
        """Who signs what the key does."""
        return self.user or self.tenant

    def check_role(self, role: Role) -> None:
        """Raise ForbiddenRole without it."""
        if role not in self.roles:
            raise ForbiddenRole(
                f"this key has not the role {role.value!r}.",
                hint=f"Use a key whose line says roles={role.value} (or has it among others).",
            )


ANYONE = Caller("", user=LOCAL, roles=frozenset(Role))
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
    host = _host((header or "").rpartition("@")[2])
    if not is_loopback(host):
        raise UntrustedHost(
            f"this server has no API keys and does not answer to the host {host!r}.",
            hint="Use http://127.0.0.1 or http://localhost, or set server.api_keys_file.",
        )


def check_origin_header(header: str | None) -> None:
    """For a server without keys: raise UntrustedHost for what a page of another site sends. A
    browser lets any page post a text to loopback; it cannot choose the Origin header."""
    if header is not None and not is_loopback(_host(header.partition("://")[2])):
        raise UntrustedHost(
            f"this server has no API keys and takes nothing from the page of {header!r:.80}.",
            hint="Set server.api_keys_file to let pages of other sites call it.",
        )


def _host(name: str) -> str:
    """Of `host`, `host:port` or `[host]:port`."""
    return name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", errors="surrogateescape")).digest()


def _parse(text: str, *, where: str) -> _Entry:
    """`tenant:key`, or a key alone, whose tenant is named after its digest; then perhaps
    ` user=NAME`, ` roles=ROLE,ROLE` and ` workload=CLASS`, in any order."""
    tenant, separator, rest = text.strip().partition(":")
    words = (rest if separator else tenant).split()
    key = words[0] if words else ""
    if not separator:
        tenant = f"key-{_digest(key).hex()[:12]}"
    if not tenant or not key or key.startswith(tuple(f"{name}=" for name in _FIELDS)):
        raise _bad_entry(where, "is empty")
    fields: dict[str, str] = {}
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if name not in _FIELDS or not equals or name in fields:
            raise _bad_entry(where, "has more than a key and each of its fields once")
        fields[name] = value
    if "user" in fields and not fields["user"]:
        raise _bad_entry(where, "has a user without a name")
    caller = Caller(
        tenant,
        workload=_workload(fields.get("workload"), where=where),
        user=fields.get("user", ""),
        roles=_roles(fields.get("roles"), where=where),
    )
    return _Entry(_digest(key), caller)


def _workload(name: str | None, *, where: str) -> WorkloadClass | None:
    if name is None:
        return None
    for kind in WorkloadClass:
        if kind.value == name:
            return kind
    valid = ", ".join(kind.value for kind in WorkloadClass)
    raise _bad_entry(where, f"has the workload {name!r}", hint=f"Valid: {valid}.")


def _roles(names: str | None, *, where: str) -> frozenset[Role]:
    if names is None:
        return frozenset()
    known = {role.value: role for role in Role}
    for name in names.split(","):
        if name not in known:
            raise _bad_entry(where, f"has the role {name!r}", hint=f"Valid: {', '.join(known)}.")
    return frozenset(known[name] for name in names.split(","))


def _bad_entry(where: str, what: str, *, hint: str = _FORM) -> ConfigError:
    return ConfigError(f"{where}: the entry {what}.", hint=hint, param="server.api_keys")
