"""A real server with a knowledge base, seen as its clients see it: over HTTP, with keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from stepwell.evaluate.knowledge_drawn_context import SEPARATOR
from stepwell.evaluate.server_process import ServerProcess
from stepwell.knowledge.payload import Payload, kind_of, texts

TENANT, RELEASER, TESTER = "levelb", "releaser", "tester"
USERS = ("ann", "bob", "cem", "dora")
SYSTEM_MESSAGE = "Answer with one SQL query."
"""What the model was trained with (house/sql)."""
MOST_TOKENS = 48
_ROLES = {RELEASER: "propose,confirm,release", TESTER: ""}
_TIMEOUT = 300.0


@dataclass(frozen=True, slots=True)
class Reply:
    """`tokens`: of the answer. `prompt_tokens`, `cached_tokens`: by the server's account.
    `entries`: ids that the request was given."""

    id: str
    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    cached_tokens: int
    entries: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request. `context`: put in front of the question by the client. `area`: of the server's
    knowledge; None: it is not asked for any."""

    question: str
    context: str = ""
    area: str | None = None

    def body(self) -> dict[str, Any]:
        words = f"{self.context}{SEPARATOR}{self.question}" if self.context else self.question
        body: dict[str, Any] = {
            "model": TENANT,
            "messages": [
                {"role": "system", "content": SYSTEM_MESSAGE},
                {"role": "user", "content": words},
            ],
            "temperature": 0,
            "max_tokens": MOST_TOKENS,
            "return_token_ids": True,
        }
        if self.area is not None:
            body["knowledge"] = {"area": self.area}
        return body


class Serving:
    """`stepwell serve` with a base in `folder`; a context manager. `settings`: more of them."""

    def __init__(self, model: Path, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        keys = folder / "keys"
        keys.write_text("".join(f"{line}\n" for line in map(_key_line, (*USERS, *_ROLES))))
        base = {
            "server.api_keys_file": str(keys),
            "knowledge.folder": str(folder / "knowledge"),
            "knowledge.capture": "quarantine",
            "cache.pool": "128MiB",
            "model.dtype": "float32",  # figures that do not hang on a kernel's rounding
        }
        self._process = ServerProcess(
            model=str(model), name=TENANT, settings=base | dict(settings),
            log=folder / f"{name}.log",
        )  # fmt: skip
        self._clients: dict[str, httpx.Client] = {}

    def __enter__(self) -> Serving:
        self._process.__enter__()
        self._url = self._process.wait_ready().removesuffix("/v1")
        return self

    def __exit__(self, *exc: object) -> None:
        for client in self._clients.values():
            client.close()
        self._process.__exit__(*exc)

    def client(self, user: str) -> httpx.Client:
        """With the user's key."""
        if user not in self._clients:
            headers = {"Authorization": f"Bearer {_key(user)}"}
            self._clients[user] = httpx.Client(
                base_url=self._url, headers=headers, timeout=_TIMEOUT, trust_env=False
            )
        return self._clients[user]

    def ask(self, prompt: Prompt, *, user: str = TESTER) -> Reply:
        """Greedily. Raises httpx.HTTPError."""
        found = self._post("/v1/chat/completions", prompt.body(), user)
        choice, usage = found["choices"][0], found["usage"]
        details = usage.get("prompt_tokens_details") or {}
        return Reply(
            id=found["id"],
            text=choice["message"]["content"] or "",
            tokens=tuple(choice["token_ids"]),
            prompt_tokens=usage["prompt_tokens"],
            cached_tokens=details.get("cached_tokens", 0),
            entries=tuple(e["id"] for e in found.get("knowledge", {}).get("entries", ())),
        )

    def ask_all(self, prompts: Sequence[Prompt], *, at_once: int) -> list[Reply]:
        """In order; `at_once`: requests under way together."""
        self.client(TESTER)
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(self.ask, prompts))

    def tell(self, payload: Payload, *, area: str, user: str, triggers: Sequence[str] = ()) -> None:
        """A user enters and confirms."""
        body = {
            "kind": kind_of(payload).value,
            "payload": texts(payload),
            "area": area,
            "triggers": list(triggers),
        }
        found = self._post("/v1/knowledge/entries", body, user)
        if found["outcome"] != "retrieved" and not found["findings"]:
            self._post(f"/v1/knowledge/candidates/{found['id']}/confirm", {}, user)

    def release(self) -> str:
        """All that may be; the new release's name."""
        return str(self._post("/v1/knowledge/releases", {}, RELEASER)["name"])

    def metrics(self) -> str:
        return self.client(TESTER).get("/metrics").text

    def _post(self, path: str, body: Mapping[str, Any], user: str) -> dict[str, Any]:
        reply = self.client(user).post(path, json=body)
        if reply.is_error:
            raise httpx.HTTPStatusError(
                f"{path}: {reply.status_code} {reply.text[:400]}",
                request=reply.request,
                response=reply,
            )
        return dict(reply.json())


def _key(user: str) -> str:
    return f"key-of-{user}"


def _key_line(user: str) -> str:
    roles = _ROLES.get(user, "propose,confirm")
    return f"{TENANT}:{_key(user)} user={user}" + (f" roles={roles}" if roles else "")
