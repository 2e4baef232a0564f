"""Explanations in files: the arrays of an `.npz` or a bundle, read without trusting anything in them."""

from __future__ import annotations

import json
import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..errors import InputError, reason

AXES = {"logits": 2, "targets": 2, "weights": 5, "contributions": 4, "bias": 2}
SETTINGS = ("smooth", "percentile", "output")
DTYPES = ("float16", "bfloat16", "float32", "float64", "int64")
MOST_TEXT = 1 << 20  # bytes of settings or metadata
METADATA = "metadata.json"  # of a bundle
MOST_BYTES = 4 << 30  # of all arrays together
DAMAGE = (  # what the readers of zip, numpy (which parses its headers as Python does) and JSON raise
    *(zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError, RuntimeError, TypeError, OSError),
    *(MemoryError, OverflowError, AttributeError, SyntaxError, tokenize.TokenError),
)
Labels: TypeAlias = tuple[tuple[str, ...], ...] | None


def check_size(size: int, said: str = "holds") -> None:
    """Raise InputError for more bytes than `read` takes. said: the beginning of the message."""
    if size > MOST_BYTES:
        raise InputError(f"{said} {size} bytes; at most {MOST_BYTES} are allowed: save fewer images at once")


def read(path: Path) -> tuple[dict[str, np.ndarray], Labels, dict[str, Any], dict[str, str]]:
    """Arrays, labels, settings and dtypes of the explanation in a file, checked to fit each other.

    Raises InputError for a file that is missing, damaged, or not an explanation.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = _read(archive)
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file; give one that Explanation.save wrote, or a bundle"
        ) from error
    except InputError as error:
        raise InputError(f"{path} {error}") from error
    except DAMAGE as error:
        raise InputError(
            f"{path} is not an explanation, or is damaged ({reason(error)}); "
            "give one that Explanation.save wrote, or a bundle"
        ) from error
    return found


def _read(archive: zipfile.ZipFile) -> tuple[dict[str, np.ndarray], Labels, dict[str, Any], dict[str, str]]:
    names = {entry.filename for entry in archive.infolist()}
    if missing := [name for name in AXES if f"{name}.npy" not in names]:
        raise InputError(
            f"holds no {', '.join(missing)}, so no explanation; give one that Explanation.save wrote"
        )
    if len(names) != len(archive.infolist()):
        raise InputError("holds a name twice; give a file that Explanation.save wrote")
    check_size(sum(entry.file_size for entry in archive.infolist()))
    arrays = {name: read_array(archive, name) for name in AXES}
    settings: dict[str, Any] = {}
    labels: Labels = None
    if METADATA in names:
        claim = json.loads(_text(archive, METADATA))
        labels = (tuple(str(label) for label in claim["labels"]),)
        settings = dict(claim.get("explanation", {}))
    elif "settings.npy" in names:  # not in files from before 0.2
        settings = json.loads(str(_small(archive, "settings", ())))
    if "labels.npy" in names:
        labels = tuple(tuple(str(label) for label in row) for row in _small(archive, "labels", None))
    dtypes = settings.pop("dtypes", None) or {name: str(array.dtype) for name, array in arrays.items()}
    _check(arrays, labels, settings, dtypes)
    return arrays, labels, {name: settings[name] for name in SETTINGS if name in settings}, dtypes


def _check(
    arrays: dict[str, np.ndarray], labels: Labels, settings: dict[str, Any], dtypes: dict[str, str]
) -> None:
    n, targets = arrays["targets"].shape
    classes = arrays["logits"].shape[1]
    _, _, channels, height, width = arrays["weights"].shape
    shapes = {
        "logits": (n, classes),
        "targets": (n, targets),
        "weights": (n, targets, channels, height, width),
        "contributions": (n, targets, height, width),
        "bias": (n, targets),
    }
    wrong = [name for name, shape in shapes.items() if arrays[name].shape != shape]
    picked = arrays["targets"]
    if labels is not None and (len(labels) != n or {len(row) for row in labels} != {targets}):
        wrong.append("labels")
    if not picked.size or picked.min() < 0 or picked.max() >= classes:
        wrong.append("targets")
    if dtypes.keys() != AXES.keys() or not all(value in DTYPES for value in dtypes.values()):
        wrong.append("dtypes")
    if not settings_fit(settings):
        wrong.append("settings")
    if wrong:
        raise InputError(f"has {', '.join(dict.fromkeys(wrong))} that do not fit the rest; save it again")


def settings_fit(settings: object) -> bool:
    """Whether a file's settings are valid for an explanation; any of them may be missing."""
    if not isinstance(settings, dict):
        return False
    smooth, percentile = settings.get("smooth", 0), settings.get("percentile", 100.0)
    kinds = (
        type(smooth) is int and type(percentile) in (int, float) and type(settings.get("output", "")) is str
    )
    return kinds and smooth >= 0 and 0 < percentile <= 100


def _text(archive: zipfile.ZipFile, member: str) -> bytes:
    if archive.getinfo(member).file_size > MOST_TEXT:
        raise InputError(f"has {member} of more than {MOST_TEXT} bytes; save it again")
    return archive.read(member)


def _small(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...] | None) -> np.ndarray:
    """An array of texts."""
    with archive.open(f"{name}.npy") as file:
        found, dtype = _header(archive, file, name)
        if dtype.kind != "U" or (shape is not None and found != shape) or len(found) > 2:
            raise InputError(f"has {name} of {dtype}, {found}; allowed are texts: save it again")
    return _values(archive, name)


def read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One of the arrays of AXES. Raises DAMAGE, and InputError without the path, which the caller adds."""
    with archive.open(f"{name}.npy") as file:
        shape, dtype = _header(archive, file, name)
    kinds = ("<i8",) if name == "targets" else ("<f4", "<f8")
    if dtype.str not in kinds or len(shape) != AXES[name]:
        raise InputError(
            f"has {name} of {dtype}, {shape}; allowed are {', '.join(kinds)} of {AXES[name]} axes"
        )
    return _values(archive, name)


def _values(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        file.read()  # to the end, where zipfile checks the checksum
    return array


def _header(archive: zipfile.ZipFile, file: Any, name: str) -> tuple[tuple[int, ...], Any]:
    """Shape and dtype of a member, checked against its size: a false header could demand any memory."""
    if np.lib.format.read_magic(file) != (1, 0):
        raise InputError(f"has {name}.npy of another version; save it again")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    size = archive.getinfo(f"{name}.npy").file_size
    if dtype.hasobject or file.tell() + math.prod(shape) * dtype.itemsize != size:
        raise InputError(f"says {name} is {dtype} of {shape}, which is not its size; save it again")
    return shape, dtype
