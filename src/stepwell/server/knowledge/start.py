"""Whether a server keeps knowledge, and what that needs: checked before a model is loaded."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection
from typing import TYPE_CHECKING

from stepwell.base.config import KnowledgeConfig
from stepwell.base.errors import ConfigError
from stepwell.server.knowledge.ports import Keeper, NoKeeper
from stepwell.server.ports import TokenizerLike

if TYPE_CHECKING:
    from stepwell.server.knowledge.service import KnowledgeService

_PACKAGES = ("dulwich", "numpy", "ahocorasick", "rapidfuzz", "sqlglot")
"""Modules of the extra `knowledge`."""
_TENANT = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")


def check_knowledge(settings: KnowledgeConfig, *, tenants: Collection[str]) -> None:
    """Raise ConfigError where knowledge is wanted and cannot be had. `tenants`: empty name: of a
    server without keys."""
    if not settings.folder:
        return
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"knowledge.folder is set, and what it needs is not installed: {', '.join(missing)}.",
            hint="pip install 'stepwell[knowledge]'.",
            param="knowledge.folder",
        )
    for tenant in sorted(filter(None, tenants)):
        if not _TENANT.match(tenant):
            raise ConfigError(
                f"the tenant {tenant!r} cannot have a knowledge base: its name is no folder's.",
                hint="Letters, digits, '_', '-'; at most 63.",
                param="server.api_keys",
            )


def make_knowledge(
    settings: KnowledgeConfig, *, tokenizer: TokenizerLike, keeper: Keeper | None = None
) -> KnowledgeService | None:
    """None where it is off. `keeper`: of the KV of packs. Raises ConfigError."""
    if not settings.folder:
        return None
    from stepwell.server.knowledge.service import KnowledgeService

    return KnowledgeService(settings, tokenizer=tokenizer, keeper=keeper or NoKeeper())
