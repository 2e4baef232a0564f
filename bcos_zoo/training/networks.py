"""The network that a recipe trains, and what timm's card then says of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import timm
from timm.data import resolve_model_data_config
from torch import nn

from .. import configs, zoo
from ..data import Task
from ..errors import InputError
from ..images.bounded import card_transform
from ..outputs import Outputs
from .recipe import Recipe


def build(recipe: Recipe, task: Task) -> tuple[Any, Outputs]:
    """The network of a recipe with an output for each class of a task, and what its outputs mean.

    One output (`model.args.num_classes = 1`) tells two classes apart, as `Outputs` say. The card says what
    the images of validation are: they are those of the finished network.
    Raises UnknownModelError and WeightsError as `bcos_zoo.create_model`; InputError for arguments that the
    architecture does not take, and for a number of outputs that is not that of the classes.
    """
    part, names = recipe.model, task.class_names
    arguments = {"num_classes": len(names)} | part.args
    logits = arguments["num_classes"]
    outputs = of_task(recipe, task, logits)
    if logits != len(names) and not outputs.single(logits):
        raise InputError(
            f"model.args.num_classes={logits}, and the images have {len(names)} classes; leave it out"
        )
    try:
        model = _create(part.name, part.pretrained, arguments)
    except TypeError as error:
        raise InputError(f"model.args: {part.name} does not take them ({error})") from error
    size = recipe.data.val_size or recipe.data.input_size
    if size is not None:
        model.pretrained_cfg["input_size"] = (model.pretrained_cfg["input_size"][0], size, size)
    if recipe.data.crop_pct is not None:
        model.pretrained_cfg["crop_pct"] = recipe.data.crop_pct
    return model, outputs


def of_task(recipe: Recipe, task: Task, logits: int) -> Outputs:
    """What so many outputs of a network mean, that the loss of a recipe taught the classes of a task.

    A single logit is taught by binary cross-entropy, whatever the kind of the loss.
    """
    softmax = recipe.loss.kind == "ce" and logits > 1 and not task.multilabel
    return Outputs(task.class_names, "softmax" if softmax else "sigmoid", task.multilabel)


def _create(name: str, pretrained: bool, arguments: Mapping[str, Any]) -> Any:
    """A network of this zoo, or a conventional one of timm's, be it in a folder."""
    if timm.is_model(name.partition(".")[0]) and not name.startswith(zoo.PREFIX):
        return timm.create_model(name, pretrained=pretrained, **arguments)
    name = zoo.resolve(name)
    if name.startswith(configs.ELSEWHERE):
        source = configs.read(name)
        if not source.architecture.startswith(zoo.PREFIX):
            return timm.create_model(source.name, pretrained=pretrained, **arguments)
    return zoo.create_model(name, pretrained=pretrained, **arguments)


def data_config(model: nn.Module, size: int | None = None) -> dict[str, Any]:
    """timm's data settings of a network. size: pixels of its images instead of the card's."""
    config: dict[str, Any] = resolve_model_data_config(model)
    if size is not None:
        config["input_size"] = (config["input_size"][0], size, size)
    return config


def val_transform(model: nn.Module) -> Any:
    """PIL image -> (3, H, W), as the finished network will see it."""
    return card_transform(data_config(model))


def still(model: nn.Module) -> Any:
    """A copy in eval mode that no gradient reaches."""
    twin = copy.deepcopy(model).eval()
    return twin.requires_grad_(False)
