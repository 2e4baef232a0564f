"""From a network of timm to a B-cos network, by rule."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any, Literal

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import Conv2dSame, PatchEmbed
from torch import nn

from ..errors import InputError, UnknownModelError, closest
from ..layers import Encode
from .layers import BCOS_OF, ROWS, Rows, as_bcos
from .network import Converted
from .norms import average, drop_biases, uncentre
from .trial import Trial, tried, wide_stem_fits, widen_stem

# Layers that make query, key and value; they stay linear, as in the published conversions.
PROJECTIONS = frozenset(
    """qkv q k v kv qk q_proj k_proj v_proj to_q to_k to_v to_kv to_qkv qkv_proj in_proj
    query key value""".split()
)
WEIGHTS_FROM = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load")


@dataclass(frozen=True)
class Options:
    """How `bcosify` converts; see there. Raises InputError for values that are not allowed."""

    b: float = 2.0
    rows: Rows = "plain"
    depthwise: Literal["linear", "bcos"] = "linear"
    biases: Literal["kept", "dropped"] = "kept"
    centring: Literal["kept", "dropped"] = "kept"
    max_pool: Literal["kept", "average"] = "kept"

    def __post_init__(self) -> None:
        if not self.b >= 1:
            raise InputError(f"b={self.b}: a B-cos layer needs b >= 1; b=1 leaves the function unchanged")
        allowed = dict(
            rows=ROWS, depthwise=("linear", "bcos"), biases=("kept", "dropped"), centring=("kept", "dropped"),
            max_pool=("kept", "average"),
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
    centring: Literal["kept", "dropped"] = "kept",
    max_pool: Literal["kept", "average"] = "kept",
) -> Converted:
    """Turn a conventional network of timm into a B-cos network. The network given is left as it is.

    The result takes RGB in [0, 1], normalises inside, and can be explained like any network here. With b=1
    and everything else as by default, it gives what the original gives; a larger b changes that, and a
    training brings it back.

    model: a network of timm, or a name, which timm builds. pretrained, num_classes: for a name, as in timm.
    b: the exponent of every layer that the image's linear map runs through, but for the projections to query,
    key and value, which stay linear. rows: the form of these layers: "plain" weights, which leave the
    function unchanged at b=1; rows of "unit" norm; or "published", as B-cosification has it.
    depthwise: whether depthwise convolutions stay "linear", which is as exact, or become "bcos".
    biases: "kept", as constants that no pixel has, or "dropped", in layers and norms. centring: whether batch
    and layer norms go on subtracting means. max_pool: "kept", or "average" pooling in its place.

    A trial pass of a copy with random weights shows that the network is exactly linear in linear mode.
    Raises InputError, in one line, for one that is not, for one of bcos_zoo, and for other values of the
    options; UnknownModelError for a name that timm does not know.
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
    options = Options(b, rows, depthwise, biases, centring, max_pool)
    original = _built(model, pretrained, num_classes)
    network = copy.deepcopy(original)
    card = dict(getattr(original, "pretrained_cfg", None) or {})
    if biases == "dropped":
        drop_biases(network)
    if centring == "dropped":
        uncentre(network)
    if max_pool == "average":
        average(network)
    in_chans = getattr(original, "in_chans", None) or tuple(card.get("input_size", (3,)))[0]
    mean = _fitting(card.get("mean", IMAGENET_DEFAULT_MEAN), in_chans)
    std = _fitting(card.get("std", IMAGENET_DEFAULT_STD), in_chans)
    size = (in_chans, *_input_size(original, card, in_chans))
    said = {"from": _name_of(original, card), "mean": list(mean), "std": list(std), **asdict(options)}
    converted = Converted(
        network, in_chans=in_chans, mean=mean, std=std, card=_card(card, in_chans),
        conversion=said,
    ).train(original.training)  # fmt: skip
    trial = tried(converted, size)
    stem = _stem(converted, card, trial)
    if stem is not None and wide_stem_fits(converted, stem, size):
        widen_stem(converted, stem)
    wanted = [name for name in sorted(trial.on_path) if _becomes_bcos(converted, name, options)]
    for name in wanted:
        as_bcos(converted.get_submodule(name), b=b, rows=rows)
    converted.conversion |= {
        "stem": "folded" if converted.folded else "wide",
        "bcos_layers": len(wanted),
        "linear_layers": len(trial.on_path) - len(wanted),
        "choices": list(trial.choices),
        "gap": trial.gap,
    }
    return converted


def _built(model: Any, pretrained: bool, num_classes: int | None) -> nn.Module:
    if isinstance(model, str):
        known = timm.list_models(include_tags=False)
        if model.partition(".")[0] not in known and ":" not in model:
            raise UnknownModelError(
                f"timm has no network named {model!r}; closest: {closest(model, known)}. "
                "timm.list_models() shows all"
            )
        options = {} if num_classes is None else {"num_classes": num_classes}
        model = timm.create_model(model, pretrained=pretrained, **options).eval()
    elif not isinstance(model, nn.Module):
        raise InputError(
            f"the model is a {type(model).__name__}; allowed are networks of timm and their names"
        )
    elif pretrained or num_classes is not None:
        raise InputError(
            "pretrained and num_classes are for a name; a network has its weights and classifier"
        )
    if any(isinstance(module, Encode) for module in model.modules()):
        raise InputError(
            f"{type(model).__name__} encodes its image already: it is a B-cos network, and can be explained"
        )
    network: nn.Module = model
    if not hasattr(network, "forward_features"):
        raise InputError(
            f"{type(model).__name__} has no forward_features; allowed are networks of timm, as "
            "timm.create_model makes them"
        )
    return network


def _name_of(model: nn.Module, card: dict[str, Any]) -> str:
    name = card.get("architecture") or type(model).__name__
    return f"{name}.{card['tag']}" if card.get("tag") else name


def _fitting(values: Any, in_chans: int) -> tuple[float, ...]:
    values = tuple(float(value) for value in values)
    return values if len(values) == in_chans else (sum(values) / len(values),) * in_chans


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
    kept |= dict(
        mean=(0.0,) * len(card.get("mean", (0,) * in_chans)),
        std=(1.0,) * len(card.get("std", (0,) * in_chans)),
    )
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
    if type(layer) not in BCOS_OF or name.rpartition(".")[2] in PROJECTIONS:
        return False
    depthwise = getattr(layer, "groups", 1) > 1 and layer.groups == layer.in_channels
    return options.depthwise == "bcos" or not depthwise
