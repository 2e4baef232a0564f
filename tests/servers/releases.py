"""A server of release files, such as GitHub's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from .base import Request, Response, Server


class ReleaseServer(Server):
    """Serves files by name, in ranges too, to anyone; `files` may change while it serves."""

    def __init__(self, files: Mapping[str, bytes], host: str = "127.0.0.1") -> None:
        super().__init__(host)
        self.files = dict(files)

    def respond(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return Response(405, headers={"Allow": "GET, HEAD"})
        data = self.files.get(unquote(urlsplit(request.path).path).lstrip("/"))
        if data is None:
            return Response(404, b"Not Found", {"Content-Type": "text/plain"})
        headers = {"Content-Type": "application/octet-stream"}
        return Response(200, data, headers, etag=hashlib.sha256(data).hexdigest())
