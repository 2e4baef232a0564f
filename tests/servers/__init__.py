"""Servers on loopback for real clients: release files, and an imitation of the Hugging Face Hub."""

from .base import Request, Response, Server
from .clients import clean_environment, run_python
from .faults import (
    Fault,
    IgnoreRange,
    Redirect,
    Reset,
    Stall,
    Status,
    Truncate,
    When,
    WrongBytes,
    WrongLength,
)
from .hub import HubServer
from .releases import ReleaseServer
from .repositories import Blob, Commit, Repository

__all__ = [
    "Blob",
    "Commit",
    "Fault",
    "HubServer",
    "IgnoreRange",
    "Redirect",
    "ReleaseServer",
    "Repository",
    "Request",
    "Reset",
    "Response",
    "Server",
    "Stall",
    "Status",
    "Truncate",
    "When",
    "WrongBytes",
    "WrongLength",
    "clean_environment",
    "run_python",
]
