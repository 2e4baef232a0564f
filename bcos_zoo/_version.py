"""The version, in a file that imports nothing, so that any file may import it."""

__version__ = "0.1.0.dev0"
