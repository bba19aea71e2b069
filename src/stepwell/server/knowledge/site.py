"""The review page: static files, which hold nothing of any tenant and need no key.

`page/index.html` is GET /knowledge, the files beside it GET /knowledge/NAME. The page asks for a
key and takes all it shows from /v1/knowledge.
"""

from __future__ import annotations

from pathlib import Path

from stepwell.server.errors import UnknownRoute
from stepwell.server.http import Exchange

PATH = "/knowledge"
_FOLDER = Path(__file__).parent / "page"
_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class Site:
    """Files by path, read once."""

    def __init__(self, folder: Path = _FOLDER) -> None:
        self._files: dict[str, tuple[bytes, bytes]] = {}
        for file in sorted(folder.glob("*")) if folder.is_dir() else ():
            if file.suffix in _TYPES:
                path = PATH if file.name == "index.html" else f"{PATH}/{file.name}"
                self._files[path] = file.read_bytes(), _TYPES[file.suffix]

    @property
    def paths(self) -> frozenset[str]:
        return frozenset(self._files)

    async def __call__(self, exchange: Exchange, path: str) -> None:
        """Reply with a file. Raises UnknownRoute."""
        if path not in self._files:
            raise UnknownRoute(f"there is no {path} here.", hint=f"The page is {PATH}.")
        data, kind = self._files[path]
        headers = ((b"content-type", kind),)
        await exchange.reply(data, status=200, content_headers=headers, headers=_HEADERS)
