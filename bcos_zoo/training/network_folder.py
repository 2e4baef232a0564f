"""The network of a run in its folder: ready to be loaded, explained and pushed, even if the run is killed.

A folder holds one network. During a run its weights change, but config.json does not: so new weights, which
replace the old ones in one step, always fit the config.json beside them. A converted network may lose its
constants at the end: while both change then, there is no config.json.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import timm
import torch
from PIL import Image
from timm.data import resolve_model_data_config
from torch import Tensor

from .. import zoo
from .._version import __version__
from ..classifier import Classifier
from ..conversion import plan
from ..errors import InputError, WeightsError
from ..explanations.explanation import DEFAULT_SMOOTH
from ..explanations.inputs import unwrapped
from ..files import passing_folder
from ..hub import card
from ..hub import folder as hub_folder
from ..hub.folder import CARD, CONFIG, OWN_SAMPLE, PICTURE, VALIDATION, WEIGHTS
from ..images import image_like, own_info
from ..images.image_like import ImageLike
from ..models.interface import Network
from ..outputs import Outputs
from ..weights import config_json, state_dicts
from ..weights.config_json import Training
from .runs import writing

SAMPLE_SIDE = 1024  # pixels, at most
MADE_AT = 224  # pixels: the images that DEFAULT_SMOOTH is for
BUILDS = ("architecture", "num_classes", "global_pool", "model_args", "label_names")  # keys of a config.json
PREPARES = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")  # keys of its card


def classifier_of(model: Network, class_names: Sequence[str] | Outputs) -> Classifier:
    """A network with the names of its outputs. Its pictures are smoothed in proportion to its input size."""
    side = min(resolve_model_data_config(unwrapped(model))["input_size"][-2:])
    smooth = 2 * round((DEFAULT_SMOOTH * side / MADE_AT - 1) / 2) + 1
    return Classifier(unwrapped(model), class_names, smooth=max(smooth, 1))


class NetworkFolder:
    """What a run leaves of its network: weights, `config.json`, a card with its picture and photograph.

    class_names: as a `Classifier` takes them. training: what the card says about the run. sample: the
    photograph that the card explains, such as a validation image; a cat unless given.
    `bcos_zoo.load(run)` and `timm.create_model("local-dir:RUN", pretrained=True)` then load a network of this
    zoo; only the latter loads one of timm's own.
    """

    def __init__(
        self,
        run: str | os.PathLike[str],
        class_names: Sequence[str] | Outputs,
        *,
        training: Training | None = None,
        sample: ImageLike | None = None,
    ) -> None:
        self.run, self.sample, self.training = Path(run), sample, training or Training()
        said = isinstance(class_names, Outputs)
        outputs = Outputs.of(class_names)
        self.outputs = outputs if said else replace(outputs, multilabel=self.training.multilabel)
        self._shapes: dict[str, Any] | None = None  # of the network that was written and verified

    def update(self, model: Network) -> None:
        """Write the weights of a network while its training goes on. The network is not changed.

        The first time, all files but the picture are written and loaded again, as by `finish`; after that,
        only the weights are written.
        Raises InputError for weights that are not finite, for a network that no config.json can rebuild, and
        if the folder holds another network than this run's; WeightsError if what was written does not give
        the same network; either if the files cannot be written. What was there before then stays.
        """
        network = cast(Network, unwrapped(model))
        if self._shapes is None or self._shapes != _shapes(network):
            begun = replace(self.training, epoch=None, scores={}, test={}, teacher_scores={}, constants=None)
            self._write(network, begun, ended=False)
            self._shapes = _shapes(network)
            return
        _check_weights(network)
        with writing(self.run / WEIGHTS):
            _save_weights(network.state_dict(), self.run / WEIGHTS)

    def finish(
        self,
        model: Network,
        *,
        epoch: int | None = None,
        scores: Mapping[str, float] | None = None,
        test: Mapping[str, float] | None = None,
        teacher: Mapping[str, float] | None = None,
        constants: float | None = None,
    ) -> None:
        """Write all files of the finished network, and load it again.

        epoch: the one its weights are from. scores: on the validation images, in percent. test: on the test
        images, if there are any. teacher: its teacher's scores on the validation images. constants: of a
        converted network, the median share of a logit that no pixel has.
        Raises as `update` does.
        """
        said = replace(
            self.training, epoch=epoch, scores=_percentages(scores), test=_percentages(test),
            teacher_scores=_percentages(teacher), constants=constants,
        )  # fmt: skip
        self._write(cast(Network, unwrapped(model)), said, ended=True)

    def _write(self, model: Network, training: Training, *, ended: bool) -> None:
        # The network itself knows the checkpoint's full name, unless it began from a folder.
        training = replace(training, base=getattr(model, "pretrained_from", None) or training.base)
        with writing(self.run), passing_folder(self.run / f".network.{uuid.uuid4().hex}.tmp") as staged:
            if _is_ours(model):
                classifier = classifier_of(model, self.outputs)
                sample = self.sample if model.in_chans in (1, 3) else None  # others take no photographs
                network = hub_folder.prepare(
                    classifier, sample, shown=VALIDATION, training=training, ended=ended
                )
                hub_folder.write(network, staged)
                if sample is not None:  # for those who export or push the folder later
                    _save_sample(image_like.photograph(sample), staged / OWN_SAMPLE)
            else:
                _write_conventional(model, self.outputs, training, staged)
            if _other_constants(staged, self.run):
                _replace(staged, self.run)
            else:
                _move(staged, self.run)


def _replace(staged: Path, run: Path) -> None:
    """Put another network in the place of a run's: while its weights change, there is no config.json."""
    with tempfile.TemporaryDirectory(dir=run, prefix=".before.") as aside:
        for name in (CONFIG, WEIGHTS):
            os.replace(run / name, Path(aside) / name)
        try:
            _move(staged, run)
        except BaseException:
            (run / CONFIG).unlink(missing_ok=True)
            for name in (WEIGHTS, CONFIG):
                os.replace(Path(aside) / name, run / name)
            raise


def _move(staged: Path, run: Path) -> None:
    for name in (WEIGHTS, CONFIG, PICTURE, OWN_SAMPLE, CARD):  # weights without a config are no network yet
        if (staged / name).exists():
            os.replace(staged / name, run / name)
        else:
            (run / name).unlink(missing_ok=True)


def _save_sample(photograph: Image.Image, path: Path) -> None:
    small = photograph.copy()
    small.thumbnail((SAMPLE_SIDE, SAMPLE_SIDE))
    small.save(path, format="PNG", pnginfo=own_info())


def write_network(
    model: Network,
    class_names: Sequence[str] | Outputs,
    folder: str | os.PathLike[str],
    *,
    training: Training | None = None,
    sample: ImageLike | None = None,
) -> Path:
    """Write a finished network in one call, as `NetworkFolder.finish` does; returns the folder."""
    said = training or Training()
    NetworkFolder(folder, class_names, training=said, sample=sample).finish(
        model, epoch=said.epoch, scores=said.scores, test=said.test
    )
    return Path(folder)


def refuse_another(run: str | os.PathLike[str]) -> None:
    """Raise InputError if a folder in which a run is to begin already holds a network."""
    if (Path(run) / CONFIG).exists():
        raise InputError(f"{run} holds a network already; give another folder with -o")


def _other_constants(staged: Path, run: Path) -> bool:
    """Whether the run's network had other constants. Raises InputError if it is another network."""
    if not (run / CONFIG).exists():
        return False
    new, old = (json.loads((folder / CONFIG).read_text(encoding="utf-8")) for folder in (staged, run))
    said = [one.get("model_args", {}).get("conversion") for one in (new, old)]
    for one, conversion in zip((new, old), said, strict=True):
        if conversion:
            one["model_args"]["conversion"] = plan.whatever_constants(conversion)
    parts = [(name, new.get(name), old.get(name)) for name in BUILDS]
    cards = [one.get("pretrained_cfg", {}) for one in (new, old)]
    parts += [(name, cards[0].get(name), cards[1].get(name)) for name in PREPARES]
    if other := [name for name, ours, theirs in parts if ours != theirs]:
        raise InputError(
            f"{run} holds another network (of another {', '.join(other)}); give another folder with -o"
        )
    return bool(said[0] != said[1])


def _percentages(scores: Mapping[str, float] | None) -> dict[str, float]:
    """The scores that a card can show: finite ones, not the loss."""
    known = (scores or {}).items()
    return {name: value for name, value in known if math.isfinite(value) and not name.endswith("loss")}


def _is_ours(model: Network) -> bool:
    architecture: str = model.pretrained_cfg["architecture"]
    return architecture.startswith(zoo.PREFIX)


def _shapes(model: Network) -> dict[str, Any]:
    return {name: (value.shape, value.dtype) for name, value in model.state_dict().items()}


def _check_weights(model: Network) -> None:
    for name, value in model.state_dict().items():
        if not value.isfinite().all():
            raise InputError(
                f"{name} holds NaN or infinite values, so these weights are not kept; the earlier ones are"
            )


def _save_weights(state_dict: Mapping[str, Tensor], path: Path) -> None:
    state_dicts.save(state_dict, path, {"bcos_zoo": __version__})


def _write_conventional(model: Network, outputs: Outputs, training: Training, folder: Path) -> None:
    """Write one of timm's own networks in timm's form, and verify that the files give it back."""
    _check_weights(model)
    outputs.check_width(model.num_classes)
    twin = hub_folder.on_cpu(model)
    _save_weights(twin.state_dict(), folder / WEIGHTS)
    said = config_json.described(outputs, model.num_classes)
    said[config_json.OURS] |= {"version": __version__, "training": asdict(training)}
    data = resolve_model_data_config(twin)
    hub_folder.write_timm_config(twin, folder / CONFIG, model_config=said, data_config=data)
    (folder / CARD).write_text(str(card.conventional(twin, outputs, training)), encoding="utf-8")
    size = (1, *data["input_size"])
    x = torch.rand(size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        again: Network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        if not torch.equal(again(x), twin(x)):
            raise WeightsError(
                f"{twin.pretrained_cfg['architecture']} gives other logits when it is loaded again; build it "
                "by arguments of timm.create_model alone"
            )
