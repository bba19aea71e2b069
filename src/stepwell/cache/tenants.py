"""Small numbers for tenants, for columns and books; the digest is what is stored."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepwell.cache.meta import tenant_digest


@dataclass(slots=True)
class Tenants:
    """Numbers are given in the order of first sight and never change. `digests`: by number."""

    numbers: dict[bytes, int] = field(default_factory=dict)
    digests: list[bytes] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)

    def number(self, tenant: str) -> int:
        """By name."""
        known = self.names.get(tenant)
        if known is None:
            known = self.names[tenant] = self.of_digest(tenant_digest(tenant))
        return known

    def of_digest(self, digest: bytes) -> int:
        """By what a stored chunk says."""
        if digest not in self.numbers:
            self.numbers[digest] = len(self.digests)
            self.digests.append(digest)
        return self.numbers[digest]
