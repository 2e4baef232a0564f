"""What can go wrong between a server and its client: put into `server.faults` or `server.always`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Status:
    """Another status instead of the answer; nothing is done."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Redirect:
    """Elsewhere, by url or path; to the request's own url it is a loop."""

    to: str
    code: int = 302


@dataclass(frozen=True)
class Truncate:
    """The connection closes in good order after that many bytes; of a POST or PUT the work is done."""

    after: int = 0


@dataclass(frozen=True)
class Reset:
    """TCP RST after that many bytes: of the answer, or of an upload, which is then lost."""

    after: int = 0


@dataclass(frozen=True)
class Stall:
    """Nothing moves for some seconds after that many bytes of the answer or of an upload, then all goes on.

    after: None is before the answer's headers.
    """

    after: int | None = 0
    seconds: float = 60.0


@dataclass(frozen=True)
class WrongBytes:
    """The right number of bytes, every one of them inverted."""


@dataclass(frozen=True)
class WrongLength:
    """Content-Length is `by` bytes more, or less if negative, than the body has."""

    by: int


@dataclass(frozen=True)
class IgnoreRange:
    """All bytes with status 200, whatever range was asked for."""


Fault = Status | Redirect | Truncate | Reset | Stall | WrongBytes | WrongLength | IgnoreRange


@dataclass(frozen=True)
class When:
    """A fault for one method only, and for paths (with their query) in which `path`, a regex, is found."""

    fault: Fault
    method: str = "GET"
    path: str = ""

    def matches(self, method: str, path: str) -> bool:
        return method == self.method and re.search(self.path, path) is not None
