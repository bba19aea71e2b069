"""A server with knowledge and its one client, for `knowledge_kv`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from stepwell.evaluate.server_process import ServerProcess
from stepwell.model.tokenizer import Tokenizer

_STORED = "stepwell_tier_stored_bytes_total"
_SETTLE_SECONDS = 30.0
_FLUSH_SECONDS = 1.5  # an idle lane flushes a second after its last store


@dataclass(frozen=True, slots=True)
class Heard:
    """One reply: seconds to its first token, its tokens, and the prompt's tokens and those of them
    that were cached, by the server's account."""

    seconds: float
    tokens: tuple[int, ...]
    prompt: int
    cached: int


class KvServer:
    """`stepwell serve` without keys: its one user may do everything. A context manager."""

    def __init__(
        self, model: Path, folder: Path, settings: Mapping[str, Any], name: str = "kv"
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        base = {
            "knowledge.folder": str(folder / "knowledge"),
            "knowledge.capture": "quarantine",
            "knowledge.releaser": "anyone",
        }
        self._process = ServerProcess(
            model=str(model), name="kv", settings=base | dict(settings), log=folder / f"{name}.log"
        )
        self._model = model

    def __enter__(self) -> KvServer:
        self._process.__enter__()
        try:
            self._tokenizer = Tokenizer.load(self._model, eos_token_ids=frozenset())  # meanwhile
            url = self._process.wait_ready().removesuffix("/v1")
        except BaseException:
            self._process.__exit__()
            raise
        self._client = httpx.Client(base_url=url, timeout=300, trust_env=False)
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.close()
        self._process.__exit__(*exc)

    def kill(self) -> None:
        """SIGKILL: nothing is tidied up."""
        self._process.kill()

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Below /v1/knowledge. Raises httpx.HTTPStatusError."""
        reply = self._client.post(f"/v1/knowledge/{path}", json=body)
        if reply.is_error:
            raise httpx.HTTPStatusError(reply.text, request=reply.request, response=reply)
        return dict(reply.json())

    def chat(self, system: str, question: str, *, knowledge: bool, output: int) -> Heard:
        """Greedy, streamed."""
        body = self._body(system, question, output) | {
            "stream": True, "ignore_eos": True, "return_token_ids": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        if knowledge:
            body["knowledge"] = {"mode": "on"}
        began, first = time.monotonic(), 0.0
        usage: dict[str, Any] = {}
        tokens: tuple[int, ...] = ()
        with self._client.stream("POST", "/v1/chat/completions", json=body) as reply:
            if reply.is_error:
                raise httpx.HTTPStatusError(
                    str(reply.read()), request=reply.request, response=reply
                )
            for line in reply.iter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line.removeprefix("data: "))
                for choice in event["choices"]:
                    found = tuple(choice.get("token_ids") or ())
                    first = first or (time.monotonic() - began if found else 0.0)
                    tokens += found
                usage = event.get("usage") or usage
        details = usage.get("prompt_tokens_details") or {}
        return Heard(first, tokens, usage["prompt_tokens"], details.get("cached_tokens", 0))

    def pack_tokens(self, system: str, question: str) -> int:
        """Tokens of what a question that calls for nothing is given: the pack."""
        body = self._body(system, question, 1) | {"knowledge": {"mode": "shadow"}}
        reply = self._client.post("/v1/chat/completions", json=body)
        reply.raise_for_status()
        return int(reply.json()["knowledge"]["context_tokens"])

    def head_tokens(self, system: str) -> int:
        """Tokens in front of the first user's words."""
        one, other = (
            self._tokenizer.encode_chat(
                [{"role": "system", "content": system}, {"role": "user", "content": words}]
            )
            for words in ("Reference", "zzz")
        )
        same = [a == b for a, b in zip(one, other, strict=False)]
        return same.index(False) if False in same else len(same)

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self._tokenizer.encode(text, special_tokens=False))

    def wait_until_stored(self) -> None:
        """Until nothing more arrives in a tier, and it has been flushed."""
        deadline, before = time.monotonic() + _SETTLE_SECONDS, -1.0
        while (stored := self._stored()) != before and time.monotonic() < deadline:
            before = stored
            time.sleep(0.3)
        time.sleep(_FLUSH_SECONDS)

    def _stored(self) -> float:
        lines = self._client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(_STORED))

    @staticmethod
    def _body(system: str, question: str, output: int) -> dict[str, Any]:
        return {
            "model": "kv", "max_tokens": output, "temperature": 0,
            "messages": [
                {"role": "system", "content": system}, {"role": "user", "content": question},
            ],
        }  # fmt: skip
