"""The network that a recipe trains, and what timm's card then says about it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from typing import Any, TypeVar

import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import RemoteEntryNotFoundError
from timm.data import resolve_model_data_config
from timm.models import split_model_name_tag
from torch import Tensor, nn

from .. import zoo
from ..conversion import bcosify
from ..conversion.bcos_converted import DEFAULT, NAME, OPTIONS
from ..data import Task
from ..errors import InputError, UnknownModelError, WeightsError
from ..images.bounded import card_transform
from ..models.interface import Network
from ..outputs import Outputs
from ..weights import config_json, state_dicts
from .recipe import Model, Recipe

M = TypeVar("M", bound=nn.Module)

UNPUBLISHED = "a network that is not published"
FILES = (".safetensors", ".pth", ".pt", ".pkl", ".ckpt", ".bin")  # of weight files: no tag ends like these


def build(recipe: Recipe, task: Task) -> tuple[Network, Outputs]:
    """The network of a recipe with an output for each class of a task, and what its outputs mean.

    One output (`model.args.num_classes = 1`) tells two classes apart, as described in `Outputs`. The card
    describes the validation images: the finished network sees such images.
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
        model = create(part.name, part.pretrained, arguments, part.weights)
    except TypeError as error:
        raise InputError(f"model.args: {part.name} does not take them ({error})") from error
    size = recipe.data.val_size or recipe.data.input_size
    if size is not None:
        model.pretrained_cfg["input_size"] = (model.pretrained_cfg["input_size"][0], size, size)
    if recipe.data.crop_pct is not None:
        model.pretrained_cfg["crop_pct"] = recipe.data.crop_pct
    for pixels in {recipe.data.input_size, size}:
        _try(model, part.name, data_config(model, pixels)["input_size"])
    return model, outputs


def of_task(recipe: Recipe, task: Task, logits: int) -> Outputs:
    """What the outputs of a network mean that was trained with the loss of a recipe on a task.

    logits: their number. A single one is trained with binary cross-entropy, whatever the kind of the loss.
    """
    softmax = recipe.loss.kind == "ce" and logits > 1 and not task.multilabel
    return Outputs(task.class_names, "softmax" if softmax else "sigmoid", task.multilabel)


def create(name: str, pretrained: bool, arguments: Mapping[str, Any], weights: str | None = None) -> Network:
    """A network of this zoo, or a conventional one of timm's, by name or from a folder.

    weights: a file of its weights, in the place of those that its name stands for, if `pretrained`. Of a
    network to be converted, name, weights and all else are the original's.
    Raises TypeError for unknown arguments; for all else UnknownModelError, WeightsError or InputError, with
    one line: an unknown name or tag, weights that do not exist or are out of reach.
    """
    if name == NAME and pretrained and "conversion" not in arguments:
        return _converted(arguments, weights)
    if pretrained and weights is not None:
        network = create(name, False, arguments)
        _load(network, weights, name)
        return network
    if of_timm(name):
        return _conventional(name, pretrained, arguments)
    name = zoo.resolve(name)
    if name.startswith(config_json.ELSEWHERE):
        source = config_json.read(name)
        if not source.architecture.startswith(zoo.PREFIX):
            return _conventional(source.name, pretrained, arguments)
        return zoo.create_model(name, pretrained=pretrained, **arguments)
    zoo.check_name(name)
    if pretrained:
        try:
            zoo.find_checkpoint(name)
        except UnknownModelError as error:
            raise UnknownModelError(f"{error}; to begin from scratch: --set model.pretrained=false") from None
    return zoo.create_model(name, pretrained=pretrained, **arguments)


def of_timm(name: str) -> bool:
    """Whether timm makes a network of that name, and not this zoo."""
    known = timm.is_model(name.partition(".")[0]) and not name.startswith(zoo.PREFIX)
    return known and not name.endswith(FILES)


def resolved(name: str) -> str:
    """As `zoo.resolve`; a name of timm's stays, whatever else is called so. Raises what that does."""
    return name if of_timm(name) else zoo.resolve(name)


def original_of(part: Model) -> Network:
    """The network that a recipe's began with: with its own classes, before a conversion."""
    name, arguments = _begun_with(part.name, part.args)
    arguments.pop("num_classes", None)
    return create(name, part.pretrained, arguments, part.weights)


def skeleton(name: str, arguments: Mapping[str, Any], table: str = "model") -> Network:
    """A network on the meta device, without weights, to look at; of a converted one, the original.

    table: of the recipe that names it. Raises what `create` does, and InputError for unknown arguments.
    """
    name, own = _begun_with(name, arguments)
    try:
        return create(name, False, own | {"device": "meta"})
    except TypeError as error:
        raise InputError(f"{table}.args: {name} does not take them ({error}); change them") from error


def _begun_with(name: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and arguments of a network; of one to be converted, the original's."""
    if name != NAME or "conversion" in arguments:
        return name, dict(arguments)
    own = {key: value for key, value in arguments.items() if key not in OPTIONS}
    return own.pop("original", DEFAULT), own


def _converted(arguments: Mapping[str, Any], weights: str | None) -> Network:
    options = {key: value for key, value in arguments.items() if key in OPTIONS}
    name, own = _begun_with(NAME, arguments)
    classes = own.pop("num_classes", None)
    original = create(name, True, own, weights).eval()
    if resolved(name).startswith("local-dir:"):
        _forget_source(original)
    model = bcosify(original, **options)
    if classes not in (None, model.num_classes):
        model.reset_classifier(classes)
    return model


def _load(network: Network, path: str, name: str) -> None:
    """Load a file of weights into a network. Raises WeightsError for one that does not fit."""
    own = network.state_dict()
    found = in_order(state_dicts.unwrap(state_dicts.read(path), own), own)
    state_dicts.check_fit(found, own, name)
    network.load_state_dict(found)
    _forget_source(network)


def _forget_source(network: Network) -> None:
    """Take off the card what is true of other weights: of those that the architecture's name stands for."""
    unknown = dict.fromkeys(("license", "origin_url", "paper_ids", "tag"))
    network.pretrained_cfg = network.pretrained_cfg | unknown


def in_order(given: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the network's names, if the file has other names but the same tensors in order.

    So are those of networks that were trained before timm had them. Counters may be missing on either side.
    """
    if not given.keys().isdisjoint(own):
        return given
    names = [key for key in own if not key.endswith("num_batches_tracked")]
    values = [value for key, value in given.items() if not key.endswith("num_batches_tracked")]
    if [own[name].shape for name in names] != [value.shape for value in values]:
        return given
    return own | dict(zip(names, values, strict=True))


def public_name(name: str) -> str:
    """What a card calls the network that a run began with: never a path of this machine.

    A folder stands for the checkpoint that its own run began with, if there is one.
    """
    name = resolved(name)
    if not name.startswith("local-dir:"):
        return name
    training = config_json.read(name).training
    base = training.base if training else None
    known = base is not None and (timm.is_model(base.partition(".")[0]) or base.startswith("hf-hub:"))
    return base if base and known else UNPUBLISHED


def _conventional(name: str, pretrained: bool, arguments: Mapping[str, Any]) -> Network:
    """`timm.create_model`, whose exceptions have no common base."""
    architecture, tag = split_model_name_tag(name)
    elsewhere = name.startswith(config_json.ELSEWHERE)
    if not elsewhere:
        known = timm.list_pretrained(architecture)
        if tag and name not in known:
            raise UnknownModelError(
                f"no checkpoint named {name!r}; known: {', '.join(known) or f'none of {architecture}'}"
            )
        if pretrained and not known:
            raise UnknownModelError(
                f"{name} has no pretrained weights; to begin from scratch: --set model.pretrained=false"
            )
    try:
        if pretrained and not elsewhere:
            _within_reach(timm.get_pretrained_cfg(name))
        return timm.create_model(name, pretrained=pretrained, **arguments)
    except TypeError:
        raise
    except Exception as error:
        if not pretrained:
            raise InputError(f"{name} with {dict(arguments)}: {config_json.why(error)}") from error
        raise WeightsError(
            f"cannot load the weights of {name} ({config_json.why(error)}); try again, or begin from "
            "scratch: --set model.pretrained=false"
        ) from error


def _within_reach(card: Any) -> None:
    """Raise what the Hub's client raises, after one try: timm would retry a dozen times, for a minute."""
    if not card.hf_hub_id or card.file:  # timm prefers the Hub to a url
        return
    repo, _, revision = card.hf_hub_id.partition("@")
    names = [card.hf_hub_filename] if card.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    at = revision or None
    if any(isinstance(try_to_load_from_cache(repo, name, revision=at), str) for name in names):
        return
    with contextlib.suppress(RemoteEntryNotFoundError):  # then the file has the other of the two names
        get_hf_file_metadata(hf_hub_url(repo, names[0], revision=at), timeout=10)


@torch.no_grad()
def _try(model: Network, name: str, size: tuple[int, int, int]) -> None:
    """Raise InputError unless the network takes images of that size."""
    training = model.training
    try:
        model.eval()(next(model.parameters()).new_zeros(1, *size))
    except InputError:
        raise
    except Exception as error:  # a network of timm's may raise anything
        raise InputError(
            f"{name} takes no images of {size[1]}x{size[2]} pixels ({config_json.why(error)}); change "
            "data.input_size, or give model.args.img_size where the network has one"
        ) from error
    finally:
        model.train(training)


def data_config(model: nn.Module, size: int | None = None) -> dict[str, Any]:
    """timm's data settings for a network. size: pixels of its images, in place of the card's."""
    config: dict[str, Any] = resolve_model_data_config(model)
    if size is not None:
        config["input_size"] = (config["input_size"][0], size, size)
    return config


def val_transform(model: nn.Module) -> Any:
    """PIL image -> (3, H, W), as the finished network will see it."""
    return card_transform(data_config(model))


def still(model: M) -> M:
    """A copy in eval mode that no gradient reaches."""
    twin = copy.deepcopy(model).eval()
    return twin.requires_grad_(False)
