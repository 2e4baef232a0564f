"""From a network of timm to a B-cos network, by rule."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any, Literal

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import Conv2dSame, PatchEmbed
from timm.models import get_model_args
from torch import nn

from .._compat import update_model_args
from ..errors import InputError, UnknownModelError, WeightsError, check_integer, closest, reason
from ..explanations.inputs import unwrapped
from ..layers import Encode
from .blurring import blur_strides, strided
from .layers import BCOS_OF, ROWS, Rows, as_bcos
from .network import Converted
from .norms import average, drop_biases, fade, spell_out, uncentre
from .plan import Plan, fitting
from .trial import Trial, tried, wide_stem_fits, widen_stem

# Layers that make query, key and value; they stay linear, as in the published conversions.
PROJECTIONS = frozenset(
    """qkv q k v kv qk q_proj k_proj v_proj to_q to_k to_v to_kv to_qkv qkv_proj in_proj
    query key value""".split()
)
NAME = "bcos_converted"  # in timm's registry, of all networks made here
WEIGHTS_FROM = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load")


@dataclass(frozen=True)
class Options:
    """How `bcosify` converts; see there. Raises InputError for values that are not allowed."""

    b: float = 2.0
    rows: Rows = "plain"
    depthwise: Literal["linear", "bcos"] = "linear"
    biases: Literal["kept", "dropped"] = "kept"
    centring: Literal["kept", "fading", "dropped"] = "kept"
    max_pool: Literal["kept", "average"] = "kept"
    antialias: Literal["none", "blur"] = "none"

    def __post_init__(self) -> None:
        number = isinstance(self.b, Real) and not isinstance(self.b, bool)
        if not (number and 1 <= self.b < math.inf):
            raise InputError(
                f"b={self.b!r}: a B-cos layer needs a number b >= 1; b=1 leaves the function unchanged"
            )
        object.__setattr__(self, "b", float(self.b))  # a Fraction is no JSON
        allowed = dict(
            rows=ROWS, depthwise=("linear", "bcos"), biases=("kept", "dropped"),
            centring=("kept", "fading", "dropped"), max_pool=("kept", "average"),
            antialias=("none", "blur"),
        )  # fmt: skip
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise InputError(
                    f"{name}={getattr(self, name)!r}: allowed are {', '.join(map(repr, values))}"
                )


def bcosify(
    model: nn.Module | str,
    *,
    pretrained: bool = False,
    num_classes: int | None = None,
    b: float = 2.0,
    rows: Rows = "plain",
    depthwise: Literal["linear", "bcos"] = "linear",
    biases: Literal["kept", "dropped"] = "kept",
    centring: Literal["kept", "fading", "dropped"] = "kept",
    max_pool: Literal["kept", "average"] = "kept",
    antialias: Literal["none", "blur"] = "none",
) -> Converted:
    """Turn a conventional network of timm into a B-cos network. The network given is left as it is.

    The result takes RGB in [0, 1], normalises inside, and can be explained like any network here. With b=1
    and everything else as by default, it gives what the original gives; a larger b changes that, and a
    training brings it back.

    model: a network of timm, or a name, which timm builds. pretrained, num_classes: for a name, as in timm.
    b: the exponent of the layers that the image's linear map runs through. Some of them stay linear: the
    projections to query, key and value; depthwise convolutions, unless told otherwise; and classes that have
    no B-cos form, such as transposed convolutions. rows: the form of B-cos layers: "plain" weights, which
    leave the function unchanged at b=1; rows of "unit" norm; or "published", as B-cosification has it.
    depthwise: whether depthwise convolutions stay "linear", which is as exact, or become "bcos".
    biases: "kept", as constants that no pixel has, or "dropped": every bias that adds a constant to the
    logits, of layers and norms, v_bias included; not those that only make factors, as q_bias, k_bias and
    squeeze-and-excitation's do. centring: "kept", norms go on subtracting means; "fading", batch norms
    do so too, but training can lower the share of the mean that they subtract; or "dropped", of batch, layer
    and group norms. max_pool: "kept", or "average" pooling in its place. `conversion` says how many norms and
    poolings these two reached, and how many they left. antialias: "blur" for a blur ahead of convolutions
    and poolings with a stride of 2 to 4, as far as they are modules that the image's linear map runs through:
    against the strides' patterns in explanations. It is linear and has no weights, but changes the function,
    and training repairs that. `conversion` says how many it reached, and how many other strides it left.

    A trial pass of a copy with random weights shows that the network is exactly linear in linear mode.
    Raises InputError, in one line, for one that is not, for one that gives something else in linear mode than
    outside, for one of bcos_zoo, for one on the meta device, for other values of the options, and for
    options that reach nothing in it; UnknownModelError for a name that timm does not
    know; WeightsError for weights that timm cannot fetch.
    Source: Arya et al. 2024, "B-cosification", for the stem and for what is kept.

    ```python
    import torch

    import bcos_zoo

    model = bcos_zoo.bcosify("test_resnet", num_classes=5)
    x = torch.rand(1, 3, 96, 96)
    e = bcos_zoo.explain(model, x)
    assert e.weights.shape == (1, 1, 6, 96, 96)
    assert e.completeness().abs().max() < 1e-3
    ```
    """
    options = Options(b, rows, depthwise, biases, centring, max_pool, antialias)
    original = _built(model, pretrained, num_classes)
    network = copy.deepcopy(original)
    card = dict(getattr(original, "pretrained_cfg", None) or {})
    name = _name_of(original, card)
    spell_out(network)
    changed, counts = _changed(network, options, name)
    in_chans = getattr(original, "in_chans", None) or tuple(card.get("input_size", (3,)))[0]
    mean = fitting(card.get("mean", IMAGENET_DEFAULT_MEAN), in_chans)
    std = fitting(card.get("std", IMAGENET_DEFAULT_STD), in_chans)
    size = (in_chans, *_input_size(original, card, in_chans))
    said = {"from": name, "mean": list(mean), "std": list(std), **asdict(options), **counts}
    plain = Plan(mean=mean, std=std, b=1.0, rows="plain")
    converted = Converted(
        network, in_chans=in_chans, plan=plain, card=_card(card, in_chans), conversion=said
    ).train(original.training)
    trial, unbiased = tried(converted, size), frozenset[str]()
    if biases == "dropped":
        unbiased = trial.biases
        if not unbiased:
            raise InputError(
                f"{name}: biases='dropped' reaches nothing, for none adds a constant; leave it out"
            )
        said["biases_dropped"] = len(unbiased)
        drop_biases(converted, unbiased)
        converted.conversion = said
        trial = tried(converted, size)
    stem = _stem(converted, card, trial)
    if stem is not None and not wide_stem_fits(converted, stem, size):
        stem = None
    if stem is not None:
        widen_stem(converted, stem)
    wanted = [layer for layer in sorted(trial.on_path) if _becomes_bcos(converted, layer, options)]
    for layer in wanted:
        as_bcos(converted.get_submodule(layer), b=options.b, rows=rows)
    if antialias == "blur":
        blurred, left = _antialiased(converted.network, trial, name)
        changed["blurred"] = blurred
        converted.conversion |= dict(strides_blurred=len(blurred), strides_left=left)
    converted.plan = Plan(
        mean=mean, std=std, b=options.b, rows=rows, stem=stem, bcos=_inside(wanted),
        **{key: tuple(sorted(names)) for key, names in changed.items()},
        unbiased=_inside(unbiased), biases=_inside(trial.biases),
    )  # fmt: skip
    converted.conversion |= {
        "stem": "folded" if converted.folded else "wide",
        "bcos_layers": len(wanted),
        "linear_layers": len(trial.on_path) - len(wanted),
        "layers_of_factors": len(trial.of_factors),
        "share_of_factors": trial.share,
        "choices": list(trial.choices),
        "gap": trial.gap,
        "difference": trial.difference,
    }
    if timm.is_model(architecture := str(card.get("architecture"))):
        own = get_model_args(original) | {"original": architecture, "conversion": converted.conversion}
        converted.build_arguments = own
        update_model_args(converted, **own)
    return converted


def _antialiased(network: nn.Module, trial: Trial, name: str) -> tuple[list[str], int]:
    """Blur ahead of strides on the path; the names of the layers that have a blur, and how many have none."""
    blurred = blur_strides(network, _inside(trial.on_path | trial.pools))
    left = len(strided(network)) - len(blurred)
    if not blurred:
        raise InputError(
            f"{name}: antialias='blur' reaches nothing: no convolution or pooling on the way of the image "
            "has a stride of 2 to 4; take antialias='none'"
        )
    return blurred, left


def _inside(names: Iterable[str]) -> tuple[str, ...]:
    """Names in a converted network, as the original has them."""
    return tuple(sorted(name.removeprefix("network.") for name in names))


def _changed(network: nn.Module, options: Options, name: str) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Change norms and poolings as asked: the names of those that were, by key of the plan; and in numbers,
    how many were and how many are of kinds that cannot be.
    """
    names: dict[str, list[str]] = {}
    said: dict[str, int] = {}
    for asked, change, option, kind, others in (
        (options.centring == "dropped", uncentre, "centring='dropped'", "norms", "uncentred"),
        (options.centring == "fading", fade, "centring='fading'", "batch_norms", "fading"),
        (options.max_pool == "average", average, "max_pool='average'", "max_pools", "averaged"),
    ):
        if not asked:
            continue
        changed, left = change(network)
        names[others] = changed
        if not changed:
            raise InputError(
                f"{name}: {option} reaches nothing: its {left} {kind.replace('_', ' ')} are of other kinds; "
                "leave it out"
                if left
                else f"{name}: {option} reaches nothing, for it has no {kind.replace('_', ' ')}; leave it out"
            )
        different = {network.get_submodule(one) for one in changed}  # one module may be in several places
        said |= {f"{kind}_{others}": len(different), f"{kind}_left": left}
    return names, said


def _built(model: Any, pretrained: bool, num_classes: int | None) -> nn.Module:
    if isinstance(model, str):
        network = _of_timm(model, pretrained, num_classes)
    elif not isinstance(model, nn.Module):
        raise InputError(
            f"the model is a {type(model).__name__}; allowed are networks of timm and their names"
        )
    elif pretrained or num_classes is not None:
        raise InputError(
            "pretrained and num_classes are for a name; a network has its weights and classifier"
        )
    else:
        network = unwrapped(model)
    kind = type(network).__name__
    if any(isinstance(module, Encode) for module in network.modules()):
        raise InputError(f"{kind} encodes its image already: it is a B-cos network, and can be explained")
    if not hasattr(network, "forward_features"):
        raise InputError(
            f"{kind} has no forward_features; allowed are networks of timm, as timm.create_model makes them"
        )
    if any(tensor.is_meta for tensor in network.state_dict().values()):
        raise InputError(
            f"{kind} is on the meta device, where weights have no numbers; allowed is any other device, so "
            "build it there, or load its weights first"
        )
    return network


def _of_timm(name: str, pretrained: bool, num_classes: int | None) -> nn.Module:
    if num_classes is not None:
        check_integer("num_classes", num_classes, 0)
    elsewhere = ":" in name  # hf-hub: and local-dir:
    if not elsewhere:
        check_name(name)
    options = {} if num_classes is None else {"num_classes": num_classes}
    try:
        return timm.create_model(name, pretrained=pretrained, **options).eval()
    except Exception as error:  # of any kind: timm, the Hub, files and the network all have theirs
        why = f"timm cannot build {name!r} ({type(error).__name__}: {reason(error)})"
        if elsewhere:
            raise UnknownModelError(
                f"{why}; allowed are hf-hub:OWNER/NAME, local-dir:PATH, and the names of timm.list_models()"
            ) from error
        raise (WeightsError if pretrained else InputError)(
            f"{why}; build it with timm.create_model and give the network"
        ) from error


def check_name(name: str) -> None:
    """Raise UnknownModelError, with the closest names, unless timm has a network or weights of that name."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):  # which knows timm's older names, too
        known = timm.list_models(include_tags=False)
        raise UnknownModelError(
            f"timm has no network named {name!r}; closest: {closest(name, known)}. "
            "timm.list_models() shows all"
        )
    tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise UnknownModelError(
            f"timm has no weights named {name!r}; of {architecture} it has: {', '.join(tags) or 'none'}"
        )


def _name_of(model: nn.Module, card: dict[str, Any]) -> str:
    name = card.get("architecture") or type(model).__name__
    return f"{name}.{card['tag']}" if card.get("tag") else name


def _input_size(model: nn.Module, card: dict[str, Any], in_chans: int) -> tuple[int, int]:
    """Height and width of images that the network takes, as it was built."""
    patches = (one for one in model.modules() if isinstance(one, PatchEmbed))
    own = next((one.img_size for one in patches if one.proj.in_channels == in_chans), None)
    if own is not None:  # otherwise than its card says, if it was built with img_size
        return int(own[0]), int(own[1])
    size = tuple(card.get("input_size", (3, 224, 224)))
    return int(size[1]), int(size[2])


def _card(card: dict[str, Any], in_chans: int) -> dict[str, Any]:
    """The original's card for the converted network: what it takes, and none of the original's weights."""
    kept = {key: value for key, value in card.items() if key not in WEIGHTS_FROM}
    kept |= dict(mean=(0.0,) * in_chans, std=(1.0,) * in_chans, architecture=NAME)
    if "input_size" in card:
        kept["input_size"] = (in_chans, *card["input_size"][1:])
    for key in ("first_conv", "classifier"):
        value = card.get(key)
        if isinstance(value, str):
            kept[key] = f"network.{value}"
        elif value:
            kept[key] = tuple(f"network.{one}" for one in value)
    return kept


def _stem(converted: Converted, card: dict[str, Any], trial: Trial) -> str | None:
    """The name of the stem inside the network, if it is a single convolution that sees the image alone."""
    name = card.get("first_conv")
    if not isinstance(name, str) or f"network.{name}" not in trial.on_path:
        return None
    stem = converted.network.get_submodule(name)
    if (
        type(stem) not in (nn.Conv2d, Conv2dSame)
        or stem.groups != 1
        or stem.in_channels != converted.in_chans
    ):
        return None
    return name if stem.padding_mode == "zeros" else None


def _becomes_bcos(converted: Converted, name: str, options: Options) -> bool:
    layer: Any = converted.get_submodule(name)
    if type(layer) not in BCOS_OF or PROJECTIONS & set(name.split(".")):  # they may be wrapped, as qkv.conv
        return False
    depthwise = getattr(layer, "groups", 1) > 1 and layer.groups == layer.in_channels
    return options.depthwise == "bcos" or not depthwise
