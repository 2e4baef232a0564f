"""How the imitated Hub answers: JSON, and refusals with its own words for what is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .base import Response


def answer(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """As JSON."""
    body = json.dumps(data).encode()
    return Response(status, body, {"Content-Type": "application/json; charset=utf-8", **(headers or {})})


class Refused(Exception):
    """An error answer; code: the Hub's own word for it; headers: with _ for -."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(status, message, code)
        plain = " ".join(message.encode("ascii", "replace").decode().split())  # as headers must be
        fields = {"X-Error-Message": plain} | ({"X-Error-Code": code} if code else {})
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.response = answer({"error": message}, status, fields | named)
