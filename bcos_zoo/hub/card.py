"""README.md of a network on the Hugging Face Hub: metadata at its head, then what a person wants to know."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .._version import __version__
from ..models.interface import Network
from ..outputs import Outputs
from ..weights.config_json import Training
from ..weights.manifest import Checkpoint, Metric, TrainingImages

DATASETS = {"ImageNet-1k": "imagenet-1k", "CIFAR-10": "cifar10"}  # the start of our name -> the Hub's name
HUB_DATA = ("hfds/", "hfids/")  # timm's prefixes for the name of a data set on the Hub
TEMPLATE, CONVENTIONAL = (Path(__file__).with_name(name) for name in ("card.md", "conventional_card.md"))

# From https://huggingface.co/docs/hub/repositories-licenses; the Hub's client has no list of them.
IDENTIFIERS = frozenset(
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 "
    "bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda "
    "cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 "
    "cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 "
    "cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 "
    "etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c "
    "ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense "
    "zlib pddl lgpl-lr h-research intel-research openmdw-1.0 deepfloyd-if-license "
    "fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community "
    "gemma unknown".split()
)


@dataclass(frozen=True)
class Facts:
    """What a card is made from."""

    model: Network
    repo: str  # organisation/name
    version: str  # of bcos_zoo
    outputs: Outputs | None  # None for an embedding
    record: Checkpoint | None  # in the manifest, if the weights are the checkpoint's own
    base: Checkpoint | None  # the checkpoint they were trained on from, if they are not
    training: Training | None  # if a run of bcos_zoo made them
    resize: int  # pixels: the shorter side before the crop
    explained: bool  # whether there is an exact explanation
    picture: str | None  # what explanation.png shows; None if there is none
    reason: str | None  # why there is none

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return None if self.outputs is None else self.outputs.class_names

    @property
    def began(self) -> str:
        """The name of the checkpoint that the weights are or were trained on from; "" if none is known."""
        name = self.training.base if self.training else self.model.pretrained_from
        return name or ""

    @property
    def agreement(self) -> bool:
        """Whether the scores tell how often it answers as its teacher, and not how often it is right."""
        return self.training is not None and self.training.agreement and self.record is None

    @property
    def metrics(self) -> tuple[Metric, ...]:
        if self.record:
            return self.record.metrics
        if not (run := self.training):
            return ()
        parts = {"validation": run.scores, "test": run.test}
        return tuple(
            Metric(name, value, f"{part} images of {run.data or 'unknown data'}", "measured", None)
            for part, scores in parts.items()
            for name, value in scores.items()
        )


def licence(facts: Facts) -> str | None:
    """The SPDX identifier of the weights' licence, or else of those that they were trained on from."""
    if record := facts.record or facts.base:
        return record.licence.weights
    card = facts.model.pretrained_cfg
    return card.get("license") if facts.began else None


def make(facts: Facts) -> ModelCard:
    """The card, from the template card.md. What is not known is called unknown in it."""
    began, metrics, model = facts.began, facts.metrics, facts.model
    data = ModelCardData(
        **_licence_entries(facts),
        library_name="timm",
        tags=["timm", "bcos", "b-cos", "interpretability", "explainable-ai", "image-classification"],
        pipeline_tag="image-classification" if facts.class_names else "image-feature-extraction",
        base_model=began.removeprefix("hf-hub:").partition("@")[0] if began.startswith("hf-hub:") else None,
        datasets=_datasets(facts) or None,
        metrics=sorted({_kind(metric) for metric in metrics if not facts.agreement}) or None,
        model_name=facts.repo.rpartition("/")[2],
        eval_results=[_result(metric, facts.record) for metric in metrics if not facts.agreement] or None,
    )
    record = facts.record or facts.base
    images = record.training_images if record and not facts.training else None
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        facts=facts,
        model=model,
        config=model.pretrained_cfg,
        run=facts.training,
        built={key: value for key, value in model.build_arguments.items() if key != "conversion"},
        converted=getattr(model, "conversion", None),
        name=facts.repo.rpartition("/")[2],
        kind="image classifier" if facts.class_names else "image encoder",
        parameters=_parameter_count(model),
        classes=facts.class_names and _listed(facts.class_names),
        meaning=_meaning(facts.outputs, model.num_classes) if facts.outputs else None,
        origin=_origin(facts.record) if facts.record else None,
        scores=[
            ("agreement with its teacher: " * facts.agreement + _name(metric), metric) for metric in metrics
        ],
        mode={1: "L", 3: "RGB"}.get(model.in_chans),  # Pillow's; other networks take no photographs
        licence=licence(facts),
        code_licence=_code_licence(record),
        images=images or TrainingImages(None, None),
        unknown="unknown to bcos_zoo; ask who made them",
    )


def conventional(model: Network, outputs: Outputs, training: Training) -> ModelCard:
    """The card of one of timm's own networks after a run, from the template conventional_card.md."""
    data = ModelCardData(
        library_name="timm", tags=["timm", "image-classification"], pipeline_tag="image-classification"
    )
    return ModelCard.from_template(
        data,
        template_path=str(CONVENTIONAL),
        name=model.pretrained_cfg["architecture"],
        parameters=_parameter_count(model),
        classes=_listed(outputs.class_names),
        run=training,
        parts={"validation": training.scores, "test": training.test},
        version=__version__,
    )


def _parameter_count(model: Network) -> str:
    """With commas between thousands."""
    return f"{sum(p.numel() for p in model.parameters()):,}"


def _listed(class_names: Sequence[str]) -> str:
    """How many classes there are, and their names, or the first of them."""
    shown = class_names if len(class_names) <= 20 else (*class_names[:5], "...")
    return f"{len(class_names)} ({', '.join(shown)})"


def _licence_entries(facts: Facts) -> dict[str, Any]:
    """The metadata of the licence: one of the Hub's identifiers, or "other" with a name and a link."""
    text = licence(facts) or "unknown"
    if text.lower() in IDENTIFIERS:
        return {"license": text.lower()}
    record = facts.record or facts.base
    name = re.sub(r"[^a-z0-9.]+", "-", text.lower().partition(",")[0]).strip("-.")[:60]
    link = record.origin.url if record and record.origin.url else None
    return {
        "license": "other",
        "license_name": name or "other",
        "license_link": link or f"https://huggingface.co/{facts.repo}#licences",  # a section of this card
    }


def _datasets(facts: Facts) -> list[str]:
    """The Hub's names for the data sets that the weights were trained on."""
    if facts.training and (facts.training.data or "").startswith(HUB_DATA):
        return [(facts.training.data or "").partition("/")[2]]
    if facts.training:  # trained on data of the user's, which the Hub has no name for
        return []
    record = facts.record or facts.base
    name = record and record.training_images.name
    return [DATASETS[name]] if name in DATASETS else []


def _result(metric: Metric, record: Checkpoint | None) -> EvalResult:
    url = record.origin.url if record and metric.kind == "published" else None
    return EvalResult(
        task_type="image-classification",
        dataset_type=next(
            (hub for ours, hub in DATASETS.items() if metric.dataset.startswith(ours)), "other"
        ),
        dataset_name=metric.dataset,
        metric_type=_kind(metric),
        metric_name=f"{_name(metric)}, percent, {metric.kind}",
        metric_value=metric.value,
        source_name=record.origin.project if record and url else None,
        source_url=url,
    )


def _kind(metric: Metric) -> str:
    """The Hub's name for what is measured."""
    return {"f1": "f1", "map": "mean_average_precision"}.get(metric.name, "accuracy")


def _name(metric: Metric) -> str:
    name = metric.name.replace("top", "top-").replace("_", " ")
    return f"{name} accuracy" if name.startswith("top-") else name


def _origin(record: Checkpoint) -> str:
    origin = record.origin
    paper = f"arXiv:{origin.paper}" if origin.paper else None
    return ", ".join(part for part in (origin.project, origin.url, paper) if part)


def _code_licence(record: Checkpoint | None) -> str | None:
    """Whose code the network came from, and its licence, unless that is ours too."""
    if record is None or record.licence.code in (None, "Apache-2.0"):
        return None
    return f"{record.origin.project}: {record.licence.code}"


def _meaning(outputs: Outputs, logits: int) -> str:
    if outputs.single(logits):
        first, second = outputs.class_names
        return f"one logit; its sigmoid is the probability of {second}, and 1 less that of {first}"
    if outputs.kind == "softmax":
        return "a logit for each class; their softmax are probabilities, which sum to 1"
    return "a logit for each class; its sigmoid is a probability, and those of all classes need not sum to 1"
