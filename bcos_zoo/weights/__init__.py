"""Checkpoints: their records in the manifest, and their files, fetched, checked and read."""

from .fetching import MIRROR, Verdict, cached, fetch, filename, location, verify

__all__ = ["MIRROR", "Verdict", "cached", "fetch", "filename", "location", "verify"]
