"""What every network of the zoo offers to timm: features, levels, classifier. One level above nn.Module.

A family names its modules as the published files do, and says which of them make up each feature level and
which is the classifier. The rest of timm's interface follows from that and is implemented here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch.nn.functional as F
from timm.layers import SelectAdaptivePool2d
from timm.models import checkpoint, checkpoint_seq
from torch import Tensor, nn

from .._compat import check_indices
from ..errors import InputError
from ..layers import Head, LayerSpec, chain, is_linear
from ..layers._fast import as_given
from ..layers._switch import untouched
from .interface import Network

# Tells timm not to adapt the stem of a file: `_build`, which knows the encoding, does it.
STEM_FITS: dict[str, Any] = {"first_conv": None}


def gains(model: nn.Module) -> set[str]:
    """Names of the parameters that are not weights of a linear map, such as gains and layer scales."""
    return {
        f"{name}.{key}" if name else key
        for name, module in model.named_modules()
        if not isinstance(module, (nn.Conv2d, nn.Linear))
        for key, _ in module.named_parameters(recurse=False)
    }


def forget_names(model: nn.Module) -> None:
    """Take the class names off a network's card, once its classifier is not that of the checkpoint."""
    for card in ("pretrained_cfg", "default_cfg"):  # the second is timm's older name for the first
        if isinstance(known := getattr(model, card, None), dict):
            names = ("label_names", "label_descriptions")
            setattr(model, card, {key: value for key, value in known.items() if key not in names})


class Stride(NamedTuple):
    """How a stage widens its view: by a stride in its first layer, or by dilation from that layer on."""

    full: int  # factor by which the map would shrink without dilation
    step: int  # factor by which it does shrink
    before: int  # dilation of the layer that shrinks it, or would
    after: int  # dilation of all layers after that one
    reduction: int  # pixels of the image per pixel of the stage's map, along a side

    def of(self, block: int) -> Stride:
        """The stride of one block of the stage, by its index: only the first block shrinks the map."""
        return self if block == 0 else Stride(1, 1, self.after, self.after, self.reduction)


def strides(first: int, stages: int, output_stride: int | None) -> list[Stride]:
    """The stride of each stage: the first keeps its map, of stride `first`; each later one halves the sides.

    output_stride: where maps would exceed this stride, layers are dilated instead (Chen et al. 2017), which
    gives the same values at the positions that strides would have kept. None for no dilation.

    Raises InputError unless output_stride is the stride of one of the stages.
    """
    own = [first * 2**stage for stage in range(stages)]
    wanted = own[-1] if output_stride is None else output_stride
    if isinstance(wanted, bool) or wanted not in own:
        raise InputError(
            f"output_stride={output_stride!r}: the stages of this network allow {', '.join(map(str, own))}"
        )
    made, dilation = [], 1
    for stage, reduction in enumerate(own):
        full = 2 if stage else 1
        dilated = reduction > wanted
        after = dilation * full if dilated else dilation
        made.append(Stride(full, 1 if dilated else full, dilation, after, min(reduction, wanted)))
        dilation = after
    return made


POOLS = ("avg", "max", "avgmax", "")  # those that keep the class maps' channels and are piecewise linear


@dataclass(frozen=True)
class Level:
    """One level of features: the modules that make it, in turn, from the level before."""

    modules: tuple[str, ...]  # their names in the network
    channels: int  # of its map
    reduction: int  # pixels of the image per pixel of its map, along a side
    name: str | None = None  # what timm calls the level, if not by its last module

    def info(self) -> dict[str, Any]:
        """The level's entry in timm's `feature_info`."""
        return dict(num_chs=self.channels, reduction=self.reduction, module=self.name or self.modules[-1])


class ConvNetwork(Network):
    """A convolutional network: levels of features, then a 1x1 classifier, then the global pooling.

    (N, in_chans, H, W) in [0, 1] -> (N, num_classes) logits. A subclass's constructor makes the modules of
    all levels, and hands their names to `_complete`.
    """

    CLASSIFIER: ClassVar[str]  # name of the classifier's module
    HEAD: ClassVar[tuple[str, ...]] = ()  # names of the modules between features and classifier
    AUXILIARY: ClassVar[str] = ""  # name of a head used in training only; a file may hold it unused

    global_pool: Any
    logits: Callable[[Tensor], Tensor]

    def __init__(self, spec: LayerSpec, in_chans: int, drop_rate: float) -> None:
        super().__init__()
        self.spec, self.in_chans, self.drop_rate = spec, in_chans, drop_rate
        self._traits = STEM_FITS
        self.grad_checkpointing = False
        self.encode = spec.encode(in_chans)

    def _complete(
        self, levels: Sequence[Level], num_classes: int, global_pool: str, *, hidden: int | None = None
    ) -> None:
        """Initialise the weights of all levels, and put the classifier behind the last one.

        hidden: channels that reach the classifier, if not those of the last level.
        """
        self._levels = [level.modules for level in levels]
        self.feature_info = [level.info() for level in levels]
        self.num_features = levels[-1].channels
        self.head_hidden_size = hidden or self.num_features
        self.apply(self._init)
        self.reset_classifier(num_classes, global_pool)

    @staticmethod
    def _init(module: nn.Module) -> None:
        """Kaiming-normal (fan out) weights. The forward normalises rows: their scale only sets step sizes."""
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _modules_named(self, names: Sequence[str]) -> list[nn.Module]:
        return [self.get_submodule(name) for name in names]

    def _replace(self, name: str, module: nn.Module) -> None:
        self.set_submodule(name, module.train(self.training))

    def get_classifier(self) -> nn.Module:
        """The 1x1 B-cos convolution that makes the class maps; the identity if num_classes is 0."""
        return self.get_submodule(self.CLASSIFIER)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh classifier on the same features; the logit bias follows num_classes unless given.

        Its classes have no names, so the card's are dropped.
        Raises InputError for a negative num_classes and for a pooling not in `POOLS`.
        """
        if num_classes < 0:
            raise InputError(f"num_classes={num_classes}: 0 removes the classifier, 1 and more make one")
        if global_pool is not None:
            if global_pool not in POOLS:
                raise InputError(f"global_pool={global_pool!r}: allowed are {', '.join(map(repr, POOLS))}")
            pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
            self.global_pool = pool.train(self.training)
        classifier: nn.Module = nn.Identity()
        logits: nn.Module = nn.Identity()
        if num_classes:
            like = next(self.parameters())
            spec = replace(self.spec, device=like.device, dtype=like.dtype)
            classifier = spec.conv(self.head_hidden_size, num_classes, 1).apply(self._init)
            logits = spec.logits(num_classes)
        self.num_classes = num_classes
        forget_names(self)
        self._replace(self.CLASSIFIER, classifier)
        self._replace("logits", logits)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay should spare: all but the weights of layers."""
        return gains(self)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each stage in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    def _run(self, modules: Sequence[nn.Module], x: Tensor) -> Tensor:
        # Never in linear mode: on an accelerator, autograd recomputes in another thread, outside the mode.
        if not self.grad_checkpointing or is_linear():
            return chain(modules, x)
        for module in modules:
            whole = not isinstance(module, nn.Sequential) or len(module) == 0
            x = checkpoint(module, x) if whole else checkpoint_seq(module, x)
        return x

    def _features(self, x: Tensor, take: Sequence[int], last: int) -> tuple[Tensor, list[Tensor]]:
        """The map of level `last`, and those of the levels in `take`."""
        given, x = x, self.encode(x)
        taken: list[Tensor] = []
        body = getattr(
            self, "features", None
        )  # in the families that have it, it holds the modules of all levels
        whole = not take and last == len(self._levels) - 1 and not self.grad_checkpointing
        if body is not None and whole and not untouched(body):
            return as_given(body(x), given), taken
        for index, names in enumerate(self._levels[: last + 1]):
            x = self._run(self._modules_named(names), x)
            if index in take:
                taken.append(as_given(x, given))
        return as_given(x, given), taken

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) in [0, 1] -> (N, num_features, H', W')."""
        return self._features(x, (), len(self._levels) - 1)[0]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Features of each level, as in timm; `norm` has no effect, as there is no norm before the head.

        Raises InputError for any output_fmt but "NCHW".
        """
        if output_fmt != "NCHW":
            raise InputError(f"output_fmt={output_fmt!r}: this network gives 'NCHW' only")
        take, last = check_indices(len(self._levels), indices)
        x, taken = self._features(x, take, last if stop_early else len(self._levels) - 1)
        return taken if intermediates_only else (x, taken)

    def prune_intermediate_layers(
        self, indices: int | list[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the levels that the wanted intermediates do not need; returns the indices kept, as in timm."""
        take: list[int]
        take, last = check_indices(len(self._levels), indices)
        pruned = last < len(self._levels) - 1
        kept = {name for names in self._levels[: last + 1] for name in names}
        dropped = [name for names in self._levels[last + 1 :] for name in names if name not in kept]
        self._levels = self._levels[: last + 1]
        if pruned or prune_head:
            dropped += self.HEAD
        for name in dropped:
            self._replace(name, nn.Identity())
        if pruned or prune_head:
            if self.AUXILIARY:
                setattr(self, self.AUXILIARY, None)
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
            self.reset_classifier(0, "")
        return take

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features to logits, or to pooled features if `pre_logits`. The classifier precedes the pooling."""
        head, classifier = self.get_submodule(self.CLASSIFIER.rpartition(".")[0]), self.get_classifier()
        if isinstance(classifier, nn.Linear) and not pre_logits:
            raise InputError(
                f"{self.CLASSIFIER} is a plain nn.Linear, but it sees maps, ahead of the pooling; call "
                "model.reset_classifier(num_classes), or put a BcosConv2d(in_features, num_classes, 1) there"
            )
        if isinstance(head, Head) and not pre_logits:
            return self.from_classifier(head(x, self.drop_rate))
        x = chain(self._modules_named(self.HEAD), x)
        x = F.dropout(x, p=self.drop_rate, training=self.training)
        if pre_logits:
            return self.global_pool(x)
        return self.from_classifier(classifier(x))

    def from_classifier(self, maps: Tensor) -> Tensor:
        """What the classifier gives, (N, num_classes, H', W'), to logits."""
        return self.logits(self.global_pool(maps))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))
