"""Which options of `open_task` apply to which kind of source; the others are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InputError

STREAMS = "a stream"
KINDS = {  # option -> the kinds of source it applies to; one not listed here applies to all
    "root": ("hfds/", STREAMS + " of hfids/", "torch/"),
    "download": ("torch/",),
    "image_key": ("hfds/", STREAMS + " of hfids/"),
    "label_key": ("hfds/", "wds/", STREAMS + " of hfids/", STREAMS),
}
DIVIDING = ("val_share", "folds", "fold", "seed")  # for sets without a validation part


def is_stream(source: str) -> bool:
    """Whether a source is read from start to end."""
    return source.startswith(("hfids/", "wds/pipe:")) or (source.startswith("wds/") and "://" in source)


def kind_of(source: str) -> str:
    """What kind of source a text names: "hfds/", "torch/", "wds/", a stream, or "a file or folder"."""
    if is_stream(source):
        return STREAMS + (" of hfids/" if source.startswith("hfids/") else "")
    return next((one for one in ("hfds/", "torch/", "wds/") if source.startswith(one)), "a file or folder")


def check_kind(source: str, given: Mapping[str, Any]) -> None:
    """Raise InputError for an option that this kind of source does not have. given: those not at default."""
    kind = kind_of(source)
    for name, value in given.items():
        if name in KINDS and kind not in KINDS[name]:
            raise InputError(
                f"{source}: {name}={value!r} applies to {', '.join(KINDS[name])}, and this is {kind}; "
                "leave it out"
            )
    if given.get("download") and source.lower() in ("torch/image_folder", "torch/folder"):
        raise InputError(f"{source}: a local folder cannot be downloaded; leave download out")


def check_division(source: str, given: Mapping[str, Any], *, divided: bool) -> None:
    """Raise InputError for options about a division that is not made, or not made in that way.

    given: those not at default. divided: whether validation is held out of the training images.
    """
    idle = [name for name in DIVIDING if name in given]
    if not divided and idle:
        if "folds" in idle:
            raise InputError(
                f"{source} has a validation split, so folds={given['folds']} cannot be made: leave folds out"
            )
        raise InputError(
            f"{source} has a validation split, so {idle[0]}={given[idle[0]]!r} changes nothing: leave it out"
        )
    if "folds" in given and "val_share" in given:
        raise InputError(f"val_share={given['val_share']} beside folds={given['folds']}: give one of them")
    if "fold" in given and "folds" not in given:
        raise InputError(f"fold={given['fold']} without folds: say of how many")
