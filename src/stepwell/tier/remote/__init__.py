"""The network tier: chunks in a Valkey or Redis server that any number of processes share.

    config  where it is and how to log in
    wire    gathered sends and scattered receives over redis-py's connections
    tier    RemoteTier

Owns: connections and the keys under its prefix. Does not own: the server, its memory limit and its
eviction. Entries live as long as their time to live and the server's memory allow.
"""

from __future__ import annotations

from stepwell.tier.remote.config import RemoteConfig
from stepwell.tier.remote.tier import RemoteTier

__all__ = ["RemoteConfig", "RemoteTier"]
