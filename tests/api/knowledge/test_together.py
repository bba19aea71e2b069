"""Many at once: requests, captures, confirmations and releases of two tenants, and the end."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

from tests.api.knowledge.conftest import ASK

ALLOWED = {200, 201, 404, 409, 410}


def entry(tenant, number):
    return about(f"{tenant}{number % 12}.status", f"use {tenant}{number}")


def about(what, rule):
    return {"kind": "gotcha", "payload": {"about": what, "rule": rule}}


def one(shop, number):
    """A call of some key; its status and whatever it shows."""
    chance = random.Random(number)
    keys = chance.choice([("app", "ann", "eve"), ("rival",) * 3])
    app, confirmer, releaser = (getattr(shop, key) for key in keys)
    tenant = "rival" if keys[0] == "rival" else "shop"
    what = chance.choice(["propose", "confirm", "chat", "chat", "release", "reject", "erase"])
    if what == "propose":
        return tenant, app.call("POST", "entries", entry(tenant, number))
    if what == "chat":
        reply = app.chat(f"{ASK} {tenant}{number % 12}.status", session=f"s{number % 3}")
        return tenant, reply["knowledge"]["entries"]
    waiting = confirmer.get("candidates?limit=3")["data"]
    if what == "release" or not waiting:
        return tenant, releaser.call("POST", "releases", {})
    name = waiting[0]["entry"]["id"]
    if what == "erase":
        return tenant, releaser.call("POST", "erase", {"id": name})
    return tenant, confirmer.call("POST", f"candidates/{name}/{what}", {})


def release_one(tenant, confirmer, releaser):
    """What was erased meanwhile depends on time: this entry is there whatever happened before."""
    name = confirmer.propose(about(f"{tenant}_last.status", f"{tenant} alone"))
    confirmer.post(f"candidates/{name}/confirm", {})
    releaser.post("releases", {})
    return name


def released(key):
    return {row["id"] for row in key.get("entries?limit=200")["data"]}


def test_calls_at_once_end_in_one_sensible_reply_each_and_tenants_stay_apart(shop):
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda number: one(shop, number), range(160)))
    for tenant, result in results:
        if isinstance(result, list):
            continue
        assert result.status_code in ALLOWED, result.text
        other = "shop" if tenant == "rival" else "rival"
        assert f"{other}1" not in result.text and f"use {other}" not in result.text
    own, foreign = release_one("shop", shop.ann, shop.eve), release_one("rival", *[shop.rival] * 2)
    ours, theirs = released(shop.ann), released(shop.rival)
    assert own in ours and foreign in theirs and ours.isdisjoint(theirs)
    assert shop.ann.get("releases")["current"]
