"""The meaning of a classifier's outputs: the one place that turns them into class logits and probabilities.

A network trained with binary cross-entropy, as almost all B-cos networks are, gives an independent logit for
each class: its sigmoid is the probability, and probabilities need not sum to 1. A network trained with
cross-entropy over classes gives logits that have a meaning only together, through their softmax. A single
logit may separate two classes: it speaks for the second, and its negative for the first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import InputError
from .layers import add_constant, hold

KINDS = ("sigmoid", "softmax")
LEAST = 1e-4  # closer than this to 0 or 1, a probability is only bounded in texts


@dataclass(frozen=True)
class Outputs:
    """The classes of a network, in the order of its logits, and what turns logits into probabilities.

    kind: "sigmoid", for each class independently, or "softmax", over all classes.
    multilabel: whether an image may show several of the classes, or none.
    Two sigmoid classes may share one logit: see `class_logits`.
    Raises InputError for names that are not a list of texts, for another kind, and for a softmax of several
    labels.
    """

    class_names: tuple[str, ...]
    kind: str = "sigmoid"
    multilabel: bool = False

    def __post_init__(self) -> None:
        check_names(self.class_names)
        object.__setattr__(self, "class_names", tuple(self.class_names))  # a list could change later
        if self.kind not in KINDS:
            raise InputError(f"outputs of kind {self.kind!r}; allowed are {', '.join(KINDS)}")
        if self.multilabel and self.kind == "softmax":
            raise InputError(
                "a softmax with several labels an image; these are sigmoids, each class by itself"
            )

    @staticmethod
    def of(names: Sequence[str] | Outputs) -> Outputs:
        """`names` if they are Outputs; for mere names, the sigmoids that B-cos networks learn to give."""
        if isinstance(names, Outputs):
            return names
        return Outputs(names)  # type: ignore[arg-type]  # any sequence is made a tuple

    @property
    def distinct_names(self) -> tuple[str, ...]:
        """The class names, each with its index where several classes share it, as ImageNet's cranes do."""
        count = Counter(self.class_names)
        return tuple(f"{name} ({i})" if count[name] > 1 else name for i, name in enumerate(self.class_names))

    def check_width(self, logits: int) -> None:
        """Raise InputError unless a network with this number of logits can have these classes."""
        if logits != len(self.class_names) and not self.single(logits):
            raise InputError(
                f"{len(self.class_names)} class names for {logits} classes; give one for each (or two for a "
                "single logit of one label an image, the second what the logit speaks for)"
            )
        if self.single(logits) and self.kind == "softmax":
            raise InputError(
                "a softmax over the two classes of a single logit; one logit is trained with binary "
                "cross-entropy: take kind='sigmoid'"
            )

    def single(self, logits: int) -> bool:
        """Whether a network with this number of logits has a single one, which separates two classes."""
        return logits == 1 and len(self.class_names) == 2 and not self.multilabel

    def class_logits(self, logits: Tensor) -> Tensor:
        """(..., C), one logit per class, from the network's output; [-z, z] for a single logit z.

        Then each of the two is the whole log-odds of its class.
        logits: (..., C) or (..., 1). Raises InputError as `check_width` does.
        """
        self.check_width(logits.shape[-1])
        return of_two(logits) if self.single(logits.shape[-1]) else logits

    @staticmethod
    def check_answered(logits: Tensor) -> None:
        """Raise InputError for NaN logits, in which no class is the best."""
        if logits.isnan().any():
            raise InputError(
                "the network gives NaN, which is no answer: its weights hold NaN, or its values leave the "
                f"range of {str(logits.dtype).removeprefix('torch.')}; give other weights, or take float32"
            )

    def probabilities(self, logits: Tensor) -> Tensor:
        """(..., C) in [0, 1] and in float64, from the network's output or from class logits.

        In float32, the sigmoid of logits above 17 would be exactly 1.
        """
        wide = self.class_logits(logits).double()
        return wide.softmax(-1) if self.kind == "softmax" else wide.sigmoid()

    def log_odds(self, logits: Tensor) -> Tensor:
        """(..., C): log(p / (1 - p)) of probabilities p, in float64: their order, without rounding."""
        wide = self.class_logits(logits).double()
        if self.kind == "sigmoid":
            return wide
        log = wide.log_softmax(-1)
        odds = log - torch.log1p(-log.exp())  # all but the largest have p <= 1/2, where 1 - p is exact enough
        value, top = wide.max(-1, keepdim=True)
        return odds.scatter(-1, top, value - wide.scatter(-1, top, -torch.inf).logsumexp(-1, keepdim=True))

    def predicted(self, logits: Tensor) -> Tensor:
        """(...), index of the most probable class; with several labels (..., C) bool, p above one half."""
        logits = self.class_logits(logits)
        return logits > 0 if self.multilabel else logits.argmax(-1)

    def said(self, probability: float) -> str:
        """A probability in words, such as "probability 0.962 (sigmoid)"."""
        return f"probability {shown(probability)} ({self.kind})"


def check_names(names: object) -> None:
    """Raise InputError unless class names are a sequence of texts; one text is a sequence of letters."""
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise InputError(f"class names are {str(names):.40}; allowed is a list of names, one per class")
    if other := [name for name in names if not isinstance(name, str)]:
        raise InputError(
            f"class names hold {other[0]!r:.40}, of type {type(other[0]).__name__}; allowed are texts: "
            "[str(name) for name in names] makes them"
        )


def of_two(logit: Tensor) -> Tensor:
    """(..., 2): the logits of the first and the second class, from a single logit (..., 1)."""
    return torch.cat([-logit, logit], -1)


def shown(probability: float) -> str:
    """A probability in text: three digits, four near 1, and never "1" or "0", which no sigmoid reaches."""
    if probability < LEAST:
        return f"<{LEAST:.4f}"
    if probability > 1 - LEAST:
        return f">{1 - LEAST:.4f}"
    return f"{probability:#.3g}" if probability < 0.9995 else f"{probability:.4f}"


def linear_form(output: str, outputs: Outputs | None) -> Callable[[Tensor], Tensor]:
    """The function from class logits (N, C) to the named output, linear as `bcos_zoo.explain` needs it.

    Raises InputError for an unknown name, and for one that has no meaning for these outputs.
    """
    if output == "probability":
        if outputs is None:
            raise InputError(
                "output='probability' of a network alone, which does not say what its logits become: take "
                "'sigmoid' (trained with binary cross-entropy) or 'softmax', or a Classifier's head"
            )
        output = outputs.kind
    if output not in _FORMS:
        raise InputError(f"output={output!r}: allowed are {', '.join(_FORMS)}, probability")
    if outputs is not None and output in KINDS and output != outputs.kind:
        raise InputError(
            f"output={output!r}, but the probabilities of this network are its {outputs.kind}; take "
            "'probability'"
        )
    return _FORMS[output]


def _relative(logits: Tensor) -> Tensor:
    return logits - logits.mean(1, keepdim=True)


def _sigmoid(logits: Tensor) -> Tensor:
    def factor() -> Tensor:
        slope = (logits.sigmoid() - 0.5) / torch.where(logits == 0, 1, logits)
        return torch.where(logits == 0, 0.25, slope)  # the limit at 0

    return add_constant(logits * hold(factor), 0.5)


def _softmax(logits: Tensor) -> Tensor:
    """The sigmoid of z_c - logsumexp(others), where logsumexp(others) = sum_j p_j z_j + entropy(p).

    p is the softmax over the other classes, which is held, like its entropy.
    """
    classes = logits.shape[1]
    if classes == 1:
        raise InputError("output='softmax' of a single logit, whose softmax is always 1; take 'sigmoid'")

    def shares() -> Tensor:  # (N, C, C): row c is the softmax over all classes but c
        own = torch.eye(classes, dtype=torch.bool, device=logits.device)
        return logits[:, None].masked_fill(own, -torch.inf).softmax(-1)

    others = (hold(shares) @ logits[..., None])[..., 0]
    entropy = hold(lambda: torch.special.entr(shares()).sum(-1))
    return _sigmoid(add_constant(logits - others, -entropy))


_FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "logit": lambda logits: logits,
    "relative": _relative,
    "sigmoid": _sigmoid,
    "softmax": _softmax,
}
