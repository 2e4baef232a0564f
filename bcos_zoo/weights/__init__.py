"""Checkpoints: their records in the manifest; fetching, checking and reading their files."""

from .fetching import MIRROR, Verdict, cached, fetch, filename, location, verify

__all__ = ["MIRROR", "Verdict", "cached", "fetch", "filename", "location", "verify"]
