"""From image file to picture, step by step; the command line and the web page compose the same functions."""

from .batch import Answer, explain_files, predict_files
from .paths import picture_paths, save_picture
from .render_options import FORMATS, PICTURES, RenderOptions
from .single import Explained, explain_image
from .units import UnitSheet, draw_unit

__all__ = [
    "FORMATS",
    "PICTURES",
    "Answer",
    "Explained",
    "RenderOptions",
    "UnitSheet",
    "draw_unit",
    "explain_files",
    "explain_image",
    "picture_paths",
    "predict_files",
    "save_picture",
]
