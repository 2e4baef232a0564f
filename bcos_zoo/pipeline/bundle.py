"""An explanation as evidence: a file that holds it with its origins, and the recomputation that verifies it.

A bundle is a zip file of `metadata.json` and one `.npy` file per array, which `numpy.load` reads as well. The
same explanation always gives the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import platform
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor

from .. import zoo
from .._version import __version__
from ..classifier import Classifier, load
from ..errors import BcosZooError, InputError, UnknownModelError, reason
from ..explanations.engine import explain
from ..explanations.explanation import Explanation
from ..explanations.saved import AXES, DAMAGE, METADATA, MOST_TEXT, SETTINGS, read_array, settings_fit
from ..files import replacing, writing
from ..layers.functional import at_least_float32
from ..weights import checksums, state_dicts

FORMAT, VERSION = "bcos_zoo explanation bundle", 1
ENDINGS = (".zip", ".npz")
DTYPES = {"float32": torch.float32, "float64": torch.float64}
TOLERANCE = 1e-3  # of an array's largest absolute value: float32 on another machine differs by less
GAP = 1e-3  # of the sum of the absolute contributions; rounding on another machine stays far below
MOST_BYTES = 1 << 30  # in all arrays together
# The settings that timm's transform is made from; other entries of a later timm do not count.
CARD = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
EPOCH = (1980, 1, 1, 0, 0, 0)  # the date of every file in a bundle


@dataclass(frozen=True)
class Bundle:
    """What a bundle holds: the metadata of an explanation, and its arrays."""

    metadata: dict[str, Any]
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class Check:
    """One line of a verdict."""

    what: str
    holds: bool
    detail: str


def write(
    path: str | os.PathLike[str],
    classifier: Classifier,
    image: str | os.PathLike[str],
    explanation: Explanation,
    *,
    model: str,
) -> Path:
    """Write the explanation of one image file as a bundle, whole or not at all; returns its path.

    image: the file that was explained. model: the name from which `bcos_zoo.load` made the classifier.
    Raises InputError for another ending than .zip or .npz, an unreadable image, a path that cannot be
    written, and an explanation that is not of one image, not of this classifier's classes or in half
    precision, in which no two machines agree.
    """
    path = Path(path)
    if path.suffix not in ENDINGS:
        raise InputError(f"{path}: a bundle ends in {' or '.join(ENDINGS)}; give such a name")
    if explanation.logits.shape != (1, len(classifier.class_names)):
        raise InputError(
            f"got logits of shape {tuple(explanation.logits.shape)}; a bundle holds one image and the "
            f"logits of all {len(classifier.class_names)} classes: explain the image by itself, no contrast"
        )
    if (dtype := _dtype(explanation)) not in DTYPES:
        raise InputError(f"the explanation is in {dtype}; a bundle holds {' or '.join(DTYPES)}")
    arrays = _arrays(explanation)
    members = {f"{name}.npy": _npy(array) for name, array in arrays.items()}
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}
    metadata = _describe(classifier, Path(image), explanation, model) | {"arrays": hashes}
    members = {METADATA: (json.dumps(metadata, indent=2) + "\n").encode()} | members
    _check_size(sum(map(len, members.values())), f"{path} would hold")
    with (
        writing(path, "give another folder"),
        replacing(path) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
    ):
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), data, zipfile.ZIP_DEFLATED)
    return path


def _check_size(size: int, said: str = "holds") -> None:
    if size > MOST_BYTES:
        raise InputError(f"{said} {size} bytes; at most {MOST_BYTES} are allowed: take fewer targets")


def _arrays(explanation: Explanation) -> dict[str, np.ndarray]:
    tensors: dict[str, Tensor] = {name: getattr(explanation, name).detach() for name in AXES}
    return {name: at_least_float32(value).cpu().numpy() for name, value in tensors.items()}


def _dtype(explanation: Explanation) -> str:
    return str(explanation.contributions.dtype).removeprefix("torch.")


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _describe(classifier: Classifier, image: Path, explanation: Explanation, model: str) -> dict[str, Any]:
    picked = explanation.targets[0].tolist()
    return {
        "format": FORMAT,
        "version": VERSION,
        "image": {"file": image.name, "sha256": _image_sha256(image)},
        "model": {"name": model, "weights_sha256": state_dicts.sha256(classifier.model.state_dict())},
        "preprocessing": _preprocessing(classifier, image),
        "dtype": _dtype(explanation),
        "explanation": {name: getattr(explanation, name) for name in SETTINGS},  # needed by Explanation.load
        "targets": picked,
        "labels": [classifier.class_names[i] for i in picked],
        "logits": [explanation.logits[0, i].item() for i in picked],
        "completeness_gap": explanation.completeness().abs().max().item(),
        "versions": _versions(),
    }


def _image_sha256(image: Path) -> str:
    try:
        return checksums.sha256(image)
    except BcosZooError as error:
        raise InputError(f"{str(image)!r} cannot be read; give the image file: {error}") from error


def _preprocessing(classifier: Classifier, image: Path) -> dict[str, Any]:
    """The card's numbers, from which timm makes the transform, and the hash of the image it transformed."""
    card = resolve_model_data_config(classifier.model)
    # through JSON, so that it equals what is read back
    numbers: dict[str, Any] = json.loads(json.dumps({key: card[key] for key in CARD if key in card}))
    tensor = classifier.preprocess(image)[0].float().cpu()
    return {"card": numbers, "tensor_sha256": hashlib.sha256(_npy(tensor.numpy())).hexdigest()}


def _versions() -> dict[str, str]:
    import PIL

    return {
        "bcos_zoo": __version__,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "pillow": PIL.__version__,
        "python": platform.python_version(),
    }


def read(path: str | os.PathLike[str]) -> Bundle:
    """What a bundle says, unchecked: `verify` tells whether it is true.

    Nothing in it is run, and nothing is unpacked before its size is known to be allowed. Raises InputError
    for a file that is missing, damaged, larger than a GiB unpacked, or not a bundle of this version.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; give a bundle that `bcos-zoo explain` wrote") from error
    except InputError as error:
        raise InputError(f"{path} {error}") from error
    except DAMAGE as error:
        raise InputError(
            f"{path} is not a bundle, or is damaged ({reason(error)}); "
            "`bcos-zoo explain IMAGE --format bundle` writes one"
        ) from error


def _read(archive: zipfile.ZipFile) -> Bundle:
    sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    wanted = [METADATA, *(f"{name}.npy" for name in AXES)]
    if sorted(sizes) != sorted(wanted) or len(archive.infolist()) != len(wanted):
        raise InputError(f"holds {', '.join(sorted(sizes))[:200]}; a bundle holds {', '.join(wanted)}")
    if sizes[METADATA] > MOST_TEXT:
        raise InputError(
            f"holds more than {MOST_TEXT} bytes of metadata; write it anew with `bcos-zoo explain`"
        )
    _check_size(sum(sizes.values()))
    metadata = json.loads(archive.read(METADATA))
    if not isinstance(metadata, dict) or (metadata.get("format"), metadata.get("version")) != (
        FORMAT,
        VERSION,
    ):
        raise InputError(f"is not a bundle of version {VERSION}; write it anew with `bcos-zoo explain`")
    if fault := _misfit(metadata):
        raise InputError(f"has metadata without {fault}; write it anew with `bcos-zoo explain`")
    return Bundle(metadata, {name: read_array(archive, name) for name in AXES})


def _misfit(metadata: Mapping[str, Any]) -> str | None:
    """The first entry that `verify` needs and that is missing or of another type."""
    needed: dict[tuple[str, ...], type | tuple[type, ...]] = {
        ("image", "sha256"): str,
        ("model", "name"): str,
        ("model", "weights_sha256"): str,
        ("preprocessing",): dict,
        ("dtype",): str,
        ("targets",): list,
        ("labels",): list,
        ("logits",): list,
        ("completeness_gap",): (int, float),
        ("versions",): dict,
        ("arrays",): dict,
    }
    for keys, kind in needed.items():
        value: Any = metadata
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, kind):
            return ".".join(keys)
    return None if settings_fit(metadata.get("explanation", {})) else "explanation"


def verify(
    path: str | os.PathLike[str],
    image: str | os.PathLike[str],
    *,
    model: str | None = None,
    tolerance: float = TOLERANCE,
    device: str | torch.device = "cpu",
) -> list[Check]:
    """Recompute a bundle from the image and the network, and say line by line whether it holds.

    model: what to recompute it with; by default the checkpoint of the manifest that the bundle names.
    tolerance: how much an array may differ, relative to its largest absolute value.
    device: where to recompute.
    Raises InputError for a file that is not a bundle or not an image, and for a bundle that names a network
    from elsewhere, which is only fetched if `model` asks for it; UnknownModelError and WeightsError as `load`
    does.
    """
    if not 0 <= tolerance < math.inf:
        raise InputError(f"tolerance={tolerance}: allowed are finite numbers from 0 on")
    bundle = read(path)
    name = model or bundle.metadata["model"]["name"]
    if model is None:
        name = _of_the_manifest(name, path)
    return check(bundle, load(name).to(device), Path(image), tolerance=tolerance)


def _of_the_manifest(name: str, path: str | os.PathLike[str]) -> str:
    """The checkpoint of that name; a folder so named may hold any network. Raises InputError for others."""
    try:
        return zoo.find_checkpoint(name).name
    except UnknownModelError as error:
        raise InputError(
            f"{path} names {name[:200]!r}, from outside the zoo; if you trust it, say --model {name[:200]}"
        ) from error


def check(
    bundle: Bundle, classifier: Classifier, image: Path, *, tolerance: float = TOLERANCE
) -> list[Check]:
    """`verify` for a bundle already read and a network already loaded."""
    claim, arrays = bundle.metadata, bundle.arrays
    lines = [
        _same("image", _image_sha256(image), claim["image"]["sha256"]),
        _same("network", state_dicts.sha256(classifier.model.state_dict()), claim["model"]["weights_sha256"]),
        _same_preprocessing(classifier, image, claim["preprocessing"]),
    ]
    hashes = {f"{name}.npy": hashlib.sha256(_npy(array)).hexdigest() for name, array in arrays.items()}
    changed = [name for name in hashes if claim["arrays"].get(name) != hashes[name]]
    lines.append(
        Check(
            "arrays", not changed, f"changed since written: {', '.join(changed)}" if changed else "as written"
        )
    )
    lines.append(_metadata_agrees(claim, arrays, classifier))
    lines += _recomputed(claim, arrays, classifier, image, tolerance)
    lines.append(_complete(arrays, claim))
    lines.append(_versions_note(claim["versions"]))
    return lines


def _versions_note(said: Mapping[str, Any]) -> Check:
    """What else could make a difference; it is no fault in itself, and cannot be verified."""
    here = _versions()
    other = [
        f"{name} {said.get(name)!s:.20}, here {here[name]}" for name in here if said.get(name) != here[name]
    ]
    return Check("versions", True, f"written with {'; '.join(other)}" if other else "as here")


def _same(what: str, got: str, said: str) -> Check:
    holds = got == said
    return Check(what, holds, f"sha256 {got[:16]}" + ("" if holds else f", the bundle says {said[:16]}"))


def _unequal(what: str, holds: bool, detail: str) -> Check:
    return Check(what, holds, detail if holds else f"not {detail}")


def _same_preprocessing(classifier: Classifier, image: Path, said: Mapping[str, Any]) -> Check:
    """Whether card and image still give the numbers and the tensor that were explained."""
    try:
        here = _preprocessing(classifier, image)
    except InputError as error:
        return Check("preprocessing", False, f"cannot be recomputed: {error}")
    card = said["card"] if isinstance(said.get("card"), dict) else {}
    if other := [key for key in CARD if card.get(key) != here["card"].get(key)]:
        return Check("preprocessing", False, f"the card has another {', '.join(other)} here")
    # Older bundles list torchvision's steps instead, whose wording changes: the recomputation decides.
    holds = said.get("tensor_sha256", here["tensor_sha256"]) == here["tensor_sha256"]
    return _unequal("preprocessing", holds, "by the card's numbers, to the same tensor")


def _metadata_agrees(
    claim: Mapping[str, Any], arrays: Mapping[str, np.ndarray], classifier: Classifier
) -> Check:
    """Whether targets, labels and logits in the metadata agree with the arrays and the class names."""
    picked, logits = arrays["targets"][:1].flatten().tolist(), arrays["logits"][:1].flatten()
    if not all(0 <= i < min(len(logits), len(classifier.class_names)) for i in picked):
        return Check("labels", False, f"targets {picked[:5]} are no classes of this network")
    names = [classifier.class_names[i] for i in picked]
    holds = (claim["targets"], claim["labels"]) == (picked, names)
    holds = holds and claim["logits"] == [logits[i].item() for i in picked]
    return _unequal("labels", holds, "those of the targets: " + ", ".join(names[:5]))


def _recomputed(
    claim: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    classifier: Classifier,
    image: Path,
    tolerance: float,
) -> list[Check]:
    names = ("logits", "weights", "contributions", "bias")
    try:
        if (dtype := DTYPES.get(claim["dtype"])) is None:
            raise InputError(f"dtype {claim['dtype']!r}; allowed are {', '.join(DTYPES)}")
        targets = torch.from_numpy(arrays["targets"])
        output = claim.get("explanation", {}).get("output", "logit")  # older bundles do not state it
        options = {"output": output, "class_names": classifier.outputs, "dtype": dtype}
        again = _arrays(explain(classifier.model, classifier.preprocess(image), targets, **options))
    except InputError as error:
        return [Check(name, False, f"cannot be recomputed: {error}") for name in names]
    return [_close(name, arrays[name], again[name], tolerance) for name in names]


def _close(name: str, said: np.ndarray, again: np.ndarray, tolerance: float) -> Check:
    if said.shape != again.shape:
        return Check(name, False, f"of shape {said.shape}, recomputed {again.shape}")
    size = float(np.abs(again).max()) or 1.0
    share = float(np.abs(said.astype(np.float64) - again).max()) / size
    return Check(
        name, share <= tolerance, f"off by {share:.1e} of the largest value, allowed {tolerance:.1e}"
    )


def _complete(arrays: Mapping[str, np.ndarray], claim: Mapping[str, Any]) -> Check:
    """Whether the contributions in the bundle sum to its logits, and its gap is the one it states."""
    try:
        chosen = np.take_along_axis(arrays["logits"].astype(np.float64), arrays["targets"], 1)
        contributions = arrays["contributions"].astype(np.float64)
        gap = np.abs(chosen - contributions.sum((-1, -2)) - arrays["bias"])
        total = np.abs(contributions).sum((-1, -2)) + np.abs(arrays["bias"])
        share = float((gap / np.maximum(total, 1e-30)).max())
        stated = abs(claim["completeness_gap"] - float(gap.max())) <= GAP * float(total.max())
    except (IndexError, ValueError, OverflowError):  # OverflowError: JSON has integers of any size
        return Check("completeness", False, "the arrays and the stated gap do not fit each other")
    holds = share <= GAP and stated
    return Check("completeness", holds, f"gap {gap.max():.1e} logits, {share:.1e} of all contributions")
