"""A converted network: its encoding layer, and timm's network inside."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .._compat import update_model_args
from ..errors import InputError
from ..layers import Encode, is_linear
from ..models._network import STEM_FITS
from ..models.interface import Network
from .fading import Fading
from .holding import Holding
from .layers import BcosForm
from .marks import PATH, mark_of, marked, with_tensors
from .norms import drop_biases, end_fading
from .plan import Plan, fitting
from .renewal import renewed

# What a network of timm says of itself, and its converted form with it.
OFFERED = frozenset("num_classes num_features head_hidden_size embed_dim global_pool drop_rate".split())

# What timm's `reparameterize_model` calls; plain convolutions would come out of it.
FUSING = ("fuse", "reparameterize", "switch_to_deploy")


@dataclass(frozen=True)
class Stem:
    """parts: how many channels the stem sees for each channel of the image."""

    parts: int

    def encoded_channels(self, in_chans: int) -> int:
        return self.parts * in_chans


class Converted(Network):
    """A network of timm as a B-cos network: (N, in_chans, H, W) in [0, 1] -> what it gives for the image.

    `bcosify` makes it. Its first layer, `encode`, appends the inverted colours and normalises as the original
    was; the rest is `network`, timm's own code with some of its layers made B-cos layers. Outside linear mode
    that code runs as it stands.

    folded: the network inside keeps its stem, and gets half the difference of colours and inverted colours;
    otherwise its stem has twice the channels. plan: what became of each layer. conversion: what was converted
    from what, and how, as plain data, the plan included. biases: the names of those that add a constant to
    the logits. `conversion`, `biases` and `build_arguments` follow the plan, and the plan follows the
    network: its classifier, and the exponent of its B-cos layers.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        in_chans: int,
        plan: Plan,
        card: dict[str, Any],
        conversion: dict[str, Any],
        folded: bool = True,
    ) -> None:
        super().__init__()
        like = next(network.parameters())
        self.in_chans, self.folded, self.plan, self.conversion = in_chans, folded, plan, conversion
        self.pretrained_cfg = self.default_cfg = card
        self.encode = Encode(
            in_chans, mean=fitting(plan.mean, in_chans), std=fitting(plan.std, in_chans), carried=True,
            device=like.device, dtype=like.dtype,
        )  # fmt: skip
        self.network: Any = network
        for module in network.modules():
            for name in FUSING:
                if hasattr(module, name):
                    setattr(module, name, _refuse_fusing)
        self.grad_checkpointing = False
        self.pretrained_from = None
        self._traits = getattr(network, "_traits", {}) | STEM_FITS  # the sizes it takes are the original's
        self.train(network.training)

    @property
    def spec(self) -> Stem:
        """What timm's builder must know of the stem, to adapt that of a file to other channels."""
        return Stem(1 if self.folded else 2)

    def __getattr__(self, name: str) -> Any:
        if name in OFFERED:
            return getattr(self.network, name)
        return super().__getattr__(name)

    @property
    def plan(self) -> Plan:
        """What became of each layer; `b` is what its B-cos layers have now, if all have the same."""
        now = self._exponents()
        return replace(self._plan, b=now[0]) if len(now) == 1 else self._plan

    @plan.setter
    def plan(self, plan: Plan) -> None:
        self._plan = plan

    @property
    def conversion(self) -> dict[str, Any]:
        """What was converted from what, and how, as plain data."""
        plan = self.plan.as_json()
        return self._said | {"b": plan["b"], "plan": plan}

    @conversion.setter
    def conversion(self, said: dict[str, Any]) -> None:
        self._said = {key: value for key, value in said.items() if key != "plan"}

    @property
    def biases(self) -> frozenset[str]:
        """The names of the biases that add a constant to the logits."""
        return frozenset(f"network.{name}" for name in self._plan.biases)

    @property
    def build_arguments(self) -> dict[str, Any]:
        """What builds it again, but for its weights. Raises InputError if its B-cos layers differ in b."""
        if "_arguments" not in self.__dict__:
            raise AttributeError("build_arguments")
        if len(found := self._exponents()) > 1:
            raise InputError(
                f"its B-cos layers have b from {found[0]:g} to {found[-1]:g}, and a config.json holds one; "
                "give all of them the same, or save the state dict"
            )
        return self._arguments | {"conversion": self.conversion}

    @build_arguments.setter
    def build_arguments(self, arguments: dict[str, Any]) -> None:
        self._arguments = arguments

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Channels, stride and module of each level of features, as timm has them."""
        known = self.network.feature_info
        levels = known.info if hasattr(known, "info") else known
        return [level | dict(module=f"network.{level['module']}") for level in levels]

    def _encoded(self, x: Tensor) -> Tensor:
        x = self.encode(x)
        if self.folded:
            plain, inverted = x.chunk(2, dim=1)
            x = (plain - inverted) / 2
        return marked(x, PATH) if is_linear() else x

    def _pass(self, part: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not is_linear():
            return part(*args, **kwargs)
        with Holding():
            return part(*args, **kwargs)

    def forward(self, x: Tensor) -> Any:
        return self._pass(self.network, self._encoded(x))

    def forward_features(self, x: Tensor) -> Any:
        """Images to the last features, as timm's network gives them."""
        return self._pass(self.network.forward_features, self._encoded(x))

    def forward_head(self, x: Any, pre_logits: bool = False) -> Any:
        """Features to logits, or to pooled features if `pre_logits`.

        In linear mode, features that come without a mark, since code outside of this network made them, are
        on the path: that code is the caller's.
        """
        if is_linear():
            x = with_tensors(x, _on_the_path)
        return self._pass(self.network.forward_head, x, pre_logits=pre_logits)

    def forward_intermediates(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Features of each level; everything beyond the images is as in timm."""
        return self._pass(self.network.forward_intermediates, self._encoded(x), *args, **kwargs)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> Any:
        """Take away what the levels asked for do not need, as timm's network does; returns their indices."""
        return self.network.prune_intermediate_layers(indices, prune_norm=prune_norm, prune_head=prune_head)

    def get_classifier(self) -> Any:
        """The layer that gives the logits, or the layers, as timm's network has them."""
        return self.network.get_classifier()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh classifier on the same features, converted as the one before; none for no classes.

        Its classes have no names, so the card's are dropped.
        """
        plan, before = self.plan, dict(self.network.named_modules(remove_duplicate=False))
        more = () if global_pool is None else (global_pool,)
        self.network.reset_classifier(num_classes, *more)
        self.plan = renewed(self.network, plan, before, self._asked())
        for module in {*self.network.modules()} - {*before.values()}:
            module.training = self.training
        if "_arguments" in self.__dict__:
            update_model_args(self, conversion=self.conversion)
        names = ("label_names", "label_descriptions")
        card = {key: value for key, value in self.pretrained_cfg.items() if key not in names}
        self.pretrained_cfg = self.default_cfg = card

    def _exponents(self) -> list[float]:
        """Of its B-cos layers now, each once."""
        layers: Iterable[Any] = self.bcos_layers().values()
        return sorted({float(layer.b) for layer in layers})

    def _asked(self) -> set[str]:
        """The fields of the plan that the conversion was asked for."""
        options = dict(uncentred=("centring", "dropped"), fading=("centring", "fading"))
        options |= dict(averaged=("max_pool", "average"), unbiased=("biases", "dropped"))
        asked = {key for key, (option, value) in options.items() if self._said.get(option) == value}
        return asked | {key for key in options if getattr(self._plan, key)}

    def scale_constants(self, factor: float) -> None:
        """Multiply by a factor every bias that adds a constant to the logits, of layers and norms alike.

        Which they are, `biases` says: v_bias is among them; q_bias, k_bias and the biases of layers that only
        make factors are not. The one bias of query, key and value together counts as a whole. So is the share
        of the mean that batch norms subtract, if they were converted with centring="fading". Other constants,
        such as means of other batch norms, tokens and position embeddings, stay.
        """
        with torch.no_grad():
            for constant in self.constants():
                constant.mul_(factor)

    def constants(self) -> Iterator[Tensor]:
        """What `scale_constants` scales."""
        named = dict(self.named_parameters())
        yield from (named[key] for key in sorted(self.biases & named.keys()))
        yield from (module.share for module in self.modules() if isinstance(module, Fading))

    def drop_constants(self) -> bool:
        """If all that `scale_constants` scales is 0, take it away, so that no training brings it back.

        Biases go, and fading norms that had one become uncentred ones. The function stays as it is. Returns
        whether that was done: not without biases, or while any constant is left.
        """
        plan = self.plan
        if not plan.biases or any(constant.count_nonzero() for constant in self.constants()):
            return False
        without = plan.without_constants()
        there, ended = {*dict(self.network.named_parameters())}, {*without.uncentred} - {*plan.uncentred}
        drop_biases(self.network, there & ({*without.unbiased} - {*plan.unbiased}))  # it may be pruned
        every = self.network.named_modules(remove_duplicate=False)
        end_fading(self.network, {name for name, module in every if isinstance(module, Fading)} & ended)
        said = dict(self._said)
        if ended:
            said["norms_uncentred"] = said.get("norms_uncentred", 0) + len(ended)
        if not without.fading:
            gone = ("batch_norms_fading", "batch_norms_left")
            said = {key: value for key, value in said.items() if key not in gone} | {"centring": "dropped"}
        self.plan, self.conversion = without, said | {"biases": "dropped"}
        if "_arguments" in self.__dict__:
            update_model_args(self, conversion=self.conversion)
        return True

    def bcos_layers(self) -> dict[str, nn.Module]:
        """The layers made B-cos layers, by their names."""
        every = self.named_modules()
        return {name: module for name, module in every if issubclass(type(module), BcosForm)}

    def train(self, mode: bool = True) -> Converted:
        super().train(mode)
        self._checkpoint(self.grad_checkpointing and mode)  # in linear mode, factors would be made anew
        return self

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass of training instead of keeping their activations."""
        self.grad_checkpointing = enable
        self._checkpoint(enable and self.training)

    def _checkpoint(self, enable: bool) -> None:
        if enable or getattr(self.network, "grad_checkpointing", False):
            self.network.set_grad_checkpointing(enable)

    def group_matcher(self, coarse: bool = False) -> Any:
        """Parameter groups by depth, as timm's network has them."""
        return _prefixed(self.network.group_matcher(coarse=coarse))

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay should spare."""
        spared: set[str] = getattr(self.network, "no_weight_decay", set)()
        return {f"network.{name}" for name in spared}


def _refuse_fusing(*args: Any, **kwargs: Any) -> None:
    raise InputError(
        "a converted network cannot be fused, for B-cos layers and blurs would be lost; fuse the original, "
        "and convert that"
    )


def _on_the_path(x: Tensor) -> Tensor:
    """What the caller made of the image, marked in a view, for the tensor is his."""
    return marked(x.view_as(x), PATH) if mark_of(x) is None and x.is_floating_point() else x


def _prefixed(groups: Any) -> Any:
    """timm's patterns of parameter names, for names that begin with "network."."""
    if isinstance(groups, str):
        return re.sub(r"(?<!\[)\^", r"^network\\.", groups)
    if isinstance(groups, dict):
        return {key: _prefixed(value) for key, value in groups.items()}
    if isinstance(groups, (list, tuple)):
        return type(groups)(_prefixed(one) for one in groups)
    return groups
