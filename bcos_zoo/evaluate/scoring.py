"""The score of one explainer on one sample by one metric."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from .. import metrics
from ..classifier import Classifier
from ..errors import InputError, reason
from ..explanations.engine import explain
from ..explanations.explanation import Explanation
from ..posthoc import attribute
from .accuracy import BATCH_SIZE
from .objects import Objects, in_view
from .samples import Sample
from .settings import Settings

STEPS = 64  # on a deletion curve
OF_PROBABILITIES = ("rise", "lime")  # the explainers that look at the probability of a class
ScoreRow = dict[str, Any]


@dataclass(frozen=True)
class Scorer:
    """The scores of one network's explanations. objects: for the metric "energy"."""

    classifier: Classifier
    settings: Settings
    objects: Objects | None = None
    batch_size: int = BATCH_SIZE  # at most

    @cached_property
    def network(self) -> nn.Module:
        """What other methods see: the classifier's network, with a logit for each of its classes."""
        model = self.classifier.model
        outputs = self.classifier.outputs
        if not outputs.single(model.num_classes):
            return model
        twin = copy.deepcopy(model)  # hooks on the caller's network would affect others
        twin.register_forward_hook(lambda module, given, logits: outputs.class_logits(logits))
        return twin

    @property
    def strides(self) -> list[int]:
        """Pixels of the image for each position of the network's maps: where patterns may repeat.

        Raises InputError for a network that has none, or says nothing of them.
        """
        try:
            known = {int(level["reduction"]) for level in self.classifier.model.feature_info}
        except (AttributeError, LookupError, TypeError) as error:
            raise InputError(
                "the metric checkerboard needs the strides of the network, which says nothing of them; give "
                "it timm's feature_info, such as [{'reduction': 32}], or leave out the metric"
            ) from error
        if not known - {1}:
            raise InputError(
                "the metric checkerboard measures patterns of a network's strides, and this one has none; "
                "leave out the metric"
            )
        return sorted(known - {1})

    def check(self) -> None:
        """Raise InputError unless the network can be measured by all metrics of the settings."""
        if "localisation" in self.settings.metrics:
            self._check_grids()
        if "checkerboard" in self.settings.metrics:  # which says what is wrong with a map's size
            for stride in self.strides:
                metrics.checkerboard(torch.zeros(self.classifier.input_size), stride)

    def _check_grids(self) -> None:
        """Raise InputError unless the network can be shown the grids of the settings."""
        n, (height, width) = self.settings.grid, self.classifier.input_size
        if (stride := self.settings.stride) is not None:
            if height != width or height % stride:
                raise InputError(
                    f"stride {stride} of a network for {height}x{width} pixels; allowed are square networks, "
                    "and numbers that divide the side, such as its half"
                )
            return
        black = self.classifier.preprocess(Image.new("RGB", (width, height)))
        try:
            with torch.inference_mode():
                self.classifier.logits(metrics.tile(black.expand(n * n, -1, -1, -1), n)[None])
        except (RuntimeError, ValueError, AssertionError, TypeError) as error:
            raise InputError(
                f"a grid of {n}x{n} images is {n * height}x{n * width} pixels, which the network for "
                f"{height}x{width} does not take ({reason(error)}); let it see the grid through windows, "
                f"with --stride N, where N divides {height}"
            ) from error

    def mask(self, sample: Sample) -> Tensor:
        """(H, W) bool: where the object of the sample's one image is, as the network sees it."""
        assert self.objects is not None  # `Settings` has made sure of them
        return in_view(self.objects, self.classifier, sample.paths[0], int(sample.targets[0]))

    def rows(self, sample: Sample, explainer: str, metric: str) -> list[ScoreRow]:
        """One row per target: its score and, with some metrics, more. chance: the score of a constant map."""
        device = self.classifier.device
        images = torch.cat([self.classifier.preprocess(path) for path in sample.paths]).to(device)
        targets = sample.targets.to(device)
        if metric == "localisation":
            chance = 1 / self.settings.grid**2
            scores = self._localisation(images, targets, explainer)
            return [{"score": score, "chance": chance} for score in scores]
        if metric == "completeness":
            explanation = self._explained(images, targets)
            logits = explanation.logits.gather(1, explanation.targets)
            gap = metrics.completeness_gap(explanation.contributions, explanation.bias, logits)
            return [{"score": float(gap.relative.max())}]
        if metric == "constants":
            explanation = self._explained(images, targets)
            share = metrics.constant_share(explanation.contributions, explanation.bias)
            return [{"score": float(share.max())}]
        if metric == "stability":

            def again(noisy: Tensor) -> Tensor:
                return self._maps(noisy, targets.expand(len(noisy), 1), explainer)[:, 0]

            return [
                {
                    "score": metrics.stability(
                        again, images[0], seed=self.settings.seed, batch=self._most(8)
                    ).mean
                }
            ]
        attribution = self._maps(images, targets[None], explainer)[0, 0]
        if metric == "energy":
            mask = self.mask(sample)
            score = float(metrics.energy_in_mask(attribution, mask))
            return [{"score": score, "chance": float(mask.double().mean())}]
        if metric == "checkerboard":
            patterns = [float(metrics.checkerboard(attribution, stride)) for stride in self.strides]
            return [{"score": max(patterns)}]
        if metric == "sparseness":
            return [{"score": float(metrics.sparseness(attribution))}]
        along = metrics.deletion_curve if metric.startswith("deletion") else metrics.insertion_curve
        order: Literal["most", "least"] = "least" if metric.endswith("-least") else "most"
        made_by: Any = self.classifier.outputs.kind
        curve = along(
            self.network,
            images[0],
            attribution,
            int(targets[0]),
            order=order,
            steps=STEPS,
            batch=self._most(32),
            score=made_by,
        )
        return [{"score": curve.area, "curve": curve.scores.tolist()}]

    def _localisation(self, images: Tensor, targets: Tensor, explainer: str) -> list[float]:
        n, stride = self.settings.grid, self.settings.stride
        image = metrics.tile(images, n)
        if stride is None:
            maps = self._maps(image[None], targets[None], explainer)[0]
        else:
            size = images.shape[-1]
            every = targets[None]
            maps = metrics.slide(
                lambda x: self._maps(x, every.expand(len(x), -1), explainer), image, size, stride,
                batch=self._most(16),
            )  # fmt: skip
        scores: list[float] = metrics.localisation_score(maps, n, smooth=self.settings.smooth).tolist()
        return scores

    def _most(self, usual: int) -> int:
        """How many images to explain at once: `usual`, or fewer if the batch size asks for less memory."""
        return min(usual, self.batch_size)

    def _maps(self, x: Tensor, targets: Tensor, explainer: str) -> Tensor:
        """(N, T, H, W): the map of each image in x (N, 3, H, W) for each of its targets (N, T)."""
        if explainer == "inherent":
            return self._explained(x, targets).contributions
        batch, seed = self._most(self.settings.grid**2), self.settings.seed  # that many variants of one image
        more = {"output": self.classifier.outputs.kind} if explainer in OF_PROBABILITIES else {}
        return attribute(self.network, x, targets, explainer, batch=batch, seed=seed, **more)

    def _explained(self, x: Tensor, targets: Tensor) -> Explanation:
        names = self.classifier.outputs
        return explain(self.classifier.model, x, targets, class_names=names, max_batch=self.batch_size)
