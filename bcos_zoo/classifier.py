"""A checkpoint with all that belongs to it: preprocessing, class names, explanation head."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import cast, overload

import torch
from PIL import Image
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from . import devices, zoo
from .errors import InputError, WeightsError, check_integer
from .explanations.engine import ExplanationHead
from .explanations.explanation import Explanation
from .explanations.inputs import class_logits, described, unwrapped
from .explanations.targets import Targets, as_targets, check_shape
from .explanations.units import explain_unit
from .images import image_like
from .images.bounded import card_transform
from .images.image_like import ImageLike, ImagesLike
from .metrics.checks import check_eval
from .models.interface import Network
from .outputs import Outputs
from .weights import config_json, manifest

BATCH_SIZE = 32  # images at once, unless told otherwise
EXPLAINED = 8  # the same for explanations, which keep the output of every layer
SHOWN = 10  # class names shown in a notebook
VIEW = 320  # pixels: the least size of images shown to people


@dataclass(frozen=True)
class Prediction:
    """One class that a network sees in an image."""

    label: str
    index: int
    probability: float  # as the classifier's `outputs` derive it from the logits: most often their sigmoid
    logit: float


class Classifier:
    """Model, preprocessing, class names and explanation head as one object, from files to answers.

    model: a network in eval mode, with a timm card; if it is compiled, or wrapped for several devices, the
    network inside is used. class_names: one for each class, as texts, if the network was trained with binary
    cross-entropy; `Outputs` for any other. A single logit has two names: it speaks for the second class, and
    its negative is the logit of the first.
    smooth, percentile: settings for pictures of its explanations.

    The methods take as `source` one image (a path, a PIL image, an array (H, W, 3), a tensor (K, H, W)) or
    several (any iterable of these, or an array or tensor with one more axis). Photographs are preprocessed;
    tensors are taken as output of `preprocess`. `predict` and `view` give one answer for one image, and a
    list for several; the others give a batch, of size 1 for one image. `batch_size` is how many go through
    the network at once: it changes time and memory, not the numbers.
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
        self.model = model = cast(Network, unwrapped(model))
        lacking = [name for name in ("num_classes", "in_chans", "pretrained_cfg") if not hasattr(model, name)]
        if lacking:
            raise InputError(
                f"{type(model).__name__} has no {', '.join(lacking)}, which say how files become its images: "
                "set them as timm's networks have them, or give tensors to bcos_zoo.explain(model, x)"
            )
        self.outputs.check_width(model.num_classes)
        self.class_names = self.outputs.class_names
        config = resolve_model_data_config(model)
        rgb = {key: config[key] for key in ("mean", "std")}
        config |= {key: value[: model.in_chans] for key, value in rgb.items()}  # the card has three of each
        self.transform = card_transform(config)
        channels, height, width = config["input_size"]
        self.input_size = (height, width)  # of what `preprocess` returns
        zoom = math.ceil(VIEW / max(height, width))
        self._view = card_transform(config | rgb | {"input_size": (channels, zoom * height, zoom * width)})
        self.head = ExplanationHead(model, class_names=self.outputs, smooth=smooth, percentile=percentile)

    def __repr__(self) -> str:
        height, width = self.input_size
        return f"Classifier({described(self.model)}, {height}x{width} pixels, {self.outputs.kind} outputs)"

    def _repr_html_(self) -> str:
        """What notebooks show."""
        parameters = sum(p.numel() for p in self.model.parameters())
        names = ", ".join(self.class_names[:SHOWN]) + (", ..." if len(self.class_names) > SHOWN else "")
        rows = {"network": described(self.model), "parameters": f"{parameters:,}", "classes": names}
        rows |= {"pixels": "x".join(map(str, self.input_size)), "probabilities": self.outputs.kind}
        cells = "".join(f"<tr><th>{k}</th><td>{html.escape(v)}</td></tr>" for k, v in rows.items())
        return f"<table>{cells}</table>"

    def preprocess(self, source: ImagesLike) -> Tensor:
        """(N, K, H, W) in [0, 1], from one image or several; tensors stay as they are.

        Raises InputError if an image is unreadable or has other values, and if there is none.
        """
        if isinstance(source, Tensor) and image_like.is_several(source):
            return image_like.checked(source)
        return image_like.stacked([self._prepared(one) for one in image_like.each(source)])

    def _prepared(self, one: ImageLike) -> Tensor:
        if isinstance(one, Tensor):
            return image_like.checked(one)
        if (in_chans := self.model.in_chans) not in (1, 3):
            raise InputError(f"this network takes {in_chans} channels; image files have 3 or 1: give tensors")
        picture = image_like.photograph(one)
        pixels: Tensor = self.transform(picture.convert("L") if in_chans == 1 else picture)
        return pixels

    def _batches(self, source: ImagesLike, batch_size: int) -> Iterator[Tensor]:
        """`preprocess`, batch by batch; no more images are open than one batch needs."""
        if isinstance(source, Tensor) and image_like.is_several(source):
            yield from map(torch.stack, image_like.batched(image_like.checked(source), batch_size))
        else:
            prepared = map(self._prepared, image_like.each(source))
            yield from map(image_like.stacked, image_like.batched(prepared, batch_size))

    @overload
    def view(self, source: ImageLike) -> Image.Image: ...  # type: ignore[overload-overlap]  # a text is iterable
    @overload
    def view(self, source: Iterable[ImageLike]) -> list[Image.Image]: ...
    def view(self, source: ImagesLike) -> Image.Image | list[Image.Image]:
        """The part of an image that the network sees, with enough pixels to show it to people."""
        views = [self._seen(one) for one in image_like.each(source)]
        return views if image_like.is_several(source) else views[0]

    def _seen(self, one: ImageLike) -> Image.Image:
        pixels = self._view(image_like.photograph(one)).mul(255).round()
        return Image.fromarray(pixels.to(torch.uint8).permute(1, 2, 0).numpy())

    @overload
    def predict(  # type: ignore[overload-overlap]
        self, source: ImageLike, top_k: int = ..., *, batch_size: int = ...
    ) -> list[Prediction]: ...
    @overload
    def predict(
        self, source: Iterable[ImageLike], top_k: int = ..., *, batch_size: int = ...
    ) -> list[list[Prediction]]: ...
    @torch.inference_mode()
    def predict(
        self, source: ImagesLike, top_k: int = 5, *, batch_size: int = BATCH_SIZE
    ) -> list[Prediction] | list[list[Prediction]]:
        """The `top_k` most probable classes, best first; for several images, a list of such lists.

        Raises InputError for an unreadable image, and if the network gives NaN.
        """
        parts = (self.logits(x).cpu() for x in self._batches(source, batch_size))
        answers = [self.rank(row, top_k) for part in parts for row in part]
        return answers if image_like.is_several(source) else answers[0]

    def logits(self, source: ImagesLike) -> Tensor:
        """(N, C): one logit for each class, for all these images at once.

        The values of a tensor (N, K, H, W) of floats are not checked, and go to the model in its precision.
        Raises InputError for a model in training mode, whose answers would depend on the other images.
        """
        check_eval(self.model)
        x = source if isinstance(source, Tensor) and source.ndim == 4 else self.preprocess(source)
        image_like.check_floats(x)
        return self.outputs.class_logits(class_logits(self.model, devices.moved(x, self.model)))

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Classifier:
        """Move the model, in place, to a device (as `bcos_zoo.devices.choose` takes it) or to a precision.

        Images follow by themselves. Returns this classifier. Raises InputError for a missing device.
        """
        if dtype is not None and not dtype.is_floating_point:
            raise InputError(f"dtype={dtype}: allowed are floating-point types, such as torch.bfloat16")
        self.model.to(None if device is None else devices.choose(device), dtype)
        return self

    @property
    def device(self) -> torch.device:
        """Where the model is; the CPU if it has no parameters or buffers."""
        own = devices.place_of(self.model)
        return torch.device("cpu") if own is None else own.device

    def explain(
        self, source: ImagesLike, targets: Targets = None, *, batch_size: int = EXPLAINED
    ) -> Explanation:
        """Explain one or several images; `targets` as in `bcos_zoo.explain`, labels allowed."""
        targets = as_targets(targets)
        if isinstance(targets, Tensor):  # it has a row per image, so the images must be counted first
            source = self.preprocess(source)
            check_shape(targets, len(source))
            rows: Iterator[Targets] = map(torch.stack, image_like.batched(targets, batch_size))
        else:
            rows = repeat(targets)
        return Explanation.cat([self.head(x, next(rows)) for x in self._batches(source, batch_size)])

    def explain_unit(
        self, source: ImagesLike, layer: str, unit: int, *, batch_size: int = EXPLAINED
    ) -> Explanation:
        """Explain a unit inside the network, averaged over its map, as `bcos_zoo.explain_unit` does."""
        parts = [explain_unit(self.model, x, layer, unit) for x in self._batches(source, batch_size)]
        smooth, percentile = self.head.smooth, self.head.percentile
        return replace(Explanation.cat(parts), smooth=smooth, percentile=percentile)

    def rank(self, logits: Tensor, top_k: int = 5) -> list[Prediction]:
        """The most probable classes for one row of logits, (C,) or as the network gives them.

        Raises InputError unless `top_k` is an integer above 0, and for NaN among the logits.
        """
        check_integer("top_k", top_k, 1)
        logits = self.outputs.class_logits(logits)
        self.outputs.check_answered(logits)
        values, indices = logits.topk(min(top_k, len(self.class_names)))
        probabilities = self.outputs.probabilities(logits)[indices]
        rows = zip(indices.tolist(), probabilities.tolist(), values.tolist(), strict=True)
        return [Prediction(self.class_names[i], i, *found) for i, *found in rows]


def load(name: str | os.PathLike[str]) -> Classifier:
    """A checkpoint ready for use: `bcos_zoo.load("bcos_resnet20.cifar10").explain("cat.jpg")`.

    name: a checkpoint of the manifest, an architecture (its default checkpoint), a folder that holds
    config.json (a run of `bcos-zoo finetune` or `train`, or what `bcos_zoo.export` wrote), or timm's
    `hf-hub:org/name@revision` and `local-dir:PATH`.
    Raises UnknownModelError or WeightsError; InputError for an embedding, whose outputs are not classes.

    ```python
    import bcos_zoo

    clf = bcos_zoo.load("bcos_resnet20.cifar10")
    best = clf.predict("bcos_zoo/samples/chelsea.jpg")[0]
    print(best.label, best.probability)
    ```
    """
    name = zoo.resolve(name)
    if name.startswith(config_json.ELSEWHERE):
        source = config_json.read(name)
        return of_source(zoo.create_model(source.name, pretrained=True), source)
    checkpoint = zoo.find_checkpoint(name)
    model = zoo.create_model(checkpoint.name, pretrained=True)
    names = Outputs(manifest.class_names(checkpoint), checkpoint.outputs)
    if (settings := checkpoint.explanation) is None:  # a conventional network: it only classifies
        return Classifier(model, names)
    return Classifier(model, names, smooth=settings.smooth, percentile=settings.percentile)


def of_source(model: Network, source: config_json.ConfigJson) -> Classifier:
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
    except InputError as error:
        if outputs.single(model.num_classes):
            raise WeightsError(f"the config.json of {source.name} says {error}") from None
        raise WeightsError(
            f"the config.json of {source.name} names {len(outputs.class_names)} classes for "
            f"{model.num_classes} outputs; give one that names each"
        ) from None
    return Classifier(model, outputs, **source.explanation)
