"""Clips and webcams, explained frame by frame: the photograph beside W(x) in colour. Needs PyAV."""

from .explaining import FOLLOW, Clip, SteadyScale, explain_clip
from .reading import SUFFIXES, is_clip

__all__ = ["FOLLOW", "SUFFIXES", "Clip", "SteadyScale", "explain_clip", "is_clip"]
