"""A checkpoint with all that belongs to it: preprocessing, class names, explanation head."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

from . import configs, devices, images, manifest, zoo
from .activations import explain_unit
from .errors import InputError, WeightsError
from .explain import ExplanationHead
from .explanation import Explanation
from .outputs import Outputs
from .targets import Targets

BATCH_SIZE = 32  # images at once, unless told otherwise
VIEW = 320  # pixels: the least size of what a person is shown
Source = str | os.PathLike[str] | Image.Image


@dataclass(frozen=True)
class Prediction:
    """One class that a network sees in an image."""

    label: str
    index: int
    probability: float  # as the classifier's `outputs` make it of the logits: most often their sigmoid
    logit: float


class Classifier:
    """Model, preprocessing, class names and explanation head as one object, from files to answers.

    model: a network in eval mode, with a timm card. class_names: one for each class, of a network trained
    with binary cross-entropy; `Outputs` of any other. Two names for a single logit: the second is what it
    speaks for, and its negative is the logit of the first.
    smooth, percentile: what pictures of its explanations are made with.
    """

    def __init__(
        self,
        model: nn.Module,
        class_names: Sequence[str] | Outputs,
        *,
        smooth: int = 15,
        percentile: float = 99.5,
    ) -> None:
        self.outputs = Outputs.of(class_names)
        own: Any = model
        self.outputs.check_width(own.num_classes)
        self.model = model
        self.class_names = self.outputs.class_names
        config = resolve_model_data_config(model)
        rgb = {key: config[key] for key in ("mean", "std")}
        config |= {key: value[: model.in_chans] for key, value in rgb.items()}  # the card's have three
        self.transform = create_transform(**config, is_training=False)
        channels, height, width = config["input_size"]
        self.input_size = (height, width)  # of what `preprocess` gives
        zoom = math.ceil(VIEW / max(height, width))
        self._view = create_transform(
            **config | rgb | {"input_size": (channels, zoom * height, zoom * width)}, is_training=False
        )
        self.head = ExplanationHead(model, class_names=self.outputs, smooth=smooth, percentile=percentile)

    def preprocess(self, source: Source | Sequence[Source]) -> Tensor:
        """(N, 3, H, W) in [0, 1] from paths or PIL images. Raises InputError if one is unreadable."""
        sources = source if isinstance(source, Sequence) and not isinstance(source, str) else [source]
        if not sources:
            raise InputError("got an empty list of images; give at least one")
        in_chans = self.model.in_chans
        pictures = [images.load_rgb(one) for one in sources]
        if in_chans == 1:
            pictures = [picture.convert("L") for picture in pictures]
        elif in_chans != 3:
            raise InputError(
                f"this network takes {in_chans} channels; image files have 3 or 1: call the model on tensors"
            )
        return torch.stack([self.transform(picture) for picture in pictures])

    def view(self, source: Source) -> Image.Image:
        """The part of an image that the network sees, in more pixels than it sees: what a person is shown."""
        pixels = self._view(images.load_rgb(source)).mul(255).round()
        return Image.fromarray(pixels.to(torch.uint8).permute(1, 2, 0).numpy())

    @torch.inference_mode()
    def predict(self, source: Source, top_k: int = 5) -> list[Prediction]:
        """The `top_k` most probable classes, best first. Raises InputError for an unreadable image."""
        return self.rank(self.logits(self.preprocess(source))[0], top_k)

    def logits(self, x: Tensor) -> Tensor:
        """(N, C) of what `preprocess` gives, one for each class: wherever the model is, of any precision."""
        return self.outputs.class_logits(self.model(devices.moved(x, self.model)))

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Classifier:
        """Move the model, in place, to a device as `bcos_zoo.devices.choose` takes it, or to a precision.

        Images follow by themselves. Returns this classifier. Raises InputError for a device that is not here.
        """
        if dtype is not None and not dtype.is_floating_point:
            raise InputError(f"dtype={dtype}: allowed are floating-point types, such as torch.bfloat16")
        self.model.to(None if device is None else devices.choose(device), dtype)
        return self

    @property
    def device(self) -> torch.device:
        """Where the model is; the CPU if it holds no numbers."""
        own = devices.place_of(self.model)
        return torch.device("cpu") if own is None else own.device

    def explain(self, source: Source | Sequence[Source], targets: Targets = None) -> Explanation:
        """Explain one or several images; `targets` as in `bcos_zoo.explain`, labels allowed."""
        explanation: Explanation = self.head(self.preprocess(source), targets)
        return explanation

    def explain_unit(self, source: Source | Sequence[Source], layer: str, unit: int) -> Explanation:
        """Explain a unit inside the network, averaged over its map, as `bcos_zoo.explain_unit` does."""
        explanation = explain_unit(self.model, self.preprocess(source), layer, unit)
        return replace(explanation, smooth=self.head.smooth, percentile=self.head.percentile)

    def rank(self, logits: Tensor, top_k: int = 5) -> list[Prediction]:
        """The best classes of one row of logits, (C,) or as the network gives them."""
        if top_k < 1:
            raise InputError(f"top_k={top_k}: allowed are 1 and more")
        logits = self.outputs.class_logits(logits)
        values, indices = logits.topk(min(top_k, len(self.class_names)))
        probabilities = self.outputs.probabilities(logits)[indices]
        rows = zip(indices.tolist(), probabilities.tolist(), values.tolist(), strict=True)
        return [Prediction(self.class_names[i], i, *found) for i, *found in rows]


def load(name: str | os.PathLike[str]) -> Classifier:
    """A checkpoint ready for use: `bcos_zoo.load("bcos_resnet20.cifar10").explain("cat.jpg")`.

    name: a checkpoint of the manifest, an architecture (its default checkpoint), a folder that holds
    config.json (a run of `bcos-zoo finetune` or `train`, or what `bcos_zoo.export` wrote), or timm's
    `hf-hub:org/name@revision` and `local-dir:PATH`.
    Raises UnknownModelError or WeightsError; InputError for an embedding, whose outputs are no classes.
    """
    name = zoo.resolve(name)
    if name.startswith(configs.ELSEWHERE):
        source = configs.read(name)
        return of_source(zoo.create_model(source.name, pretrained=True), source)
    checkpoint = zoo.find_checkpoint(name)
    model = zoo.create_model(checkpoint.name, pretrained=True)
    names = Outputs(manifest.class_names(checkpoint), checkpoint.outputs)
    if (settings := checkpoint.explanation) is None:  # a conventional network: it classifies, unexplained
        return Classifier(model, names)
    return Classifier(model, names, smooth=settings.smooth, percentile=settings.percentile)


def of_source(model: Any, source: configs.Source) -> Classifier:
    """The network of a folder or repository with the class names and settings of its config.json.

    Raises InputError for an embedding, WeightsError if the names do not fit the outputs.
    """
    if source.embedding:
        raise InputError(
            f"the outputs of {source.name} are an embedding, without names; take bcos_zoo.create_model"
        )
    outputs = source.outputs(model.num_classes)
    try:
        outputs.check_width(model.num_classes)
    except InputError:
        raise WeightsError(
            f"the config.json of {source.name} names {len(outputs.class_names)} classes for "
            f"{model.num_classes} outputs; give one that names each"
        ) from None
    return Classifier(model, outputs, **source.explanation)
