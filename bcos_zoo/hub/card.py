"""README.md of a network on the Hugging Face Hub: metadata at its head, then what a person wants to know."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..outputs import Outputs
from ..weights.config_json import Training
from ..weights.manifest import Checkpoint, Metric

DATASETS = {"ImageNet-1k": "imagenet-1k", "CIFAR-10": "cifar10"}  # the start of our name -> the Hub's name
HUB_DATA = "hfds/"  # timm's prefix for the name of a data set on the Hub
PAPERS = "arXiv:2205.10268, arXiv:2306.10898"

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

    model: Any
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
    """The card. What is not known is called unknown in it."""
    began, metrics = facts.began, facts.metrics
    data = ModelCardData(
        **_licence_entries(facts),
        library_name="timm",
        tags=["timm", "bcos", "b-cos", "interpretability", "explainable-ai", "image-classification"],
        pipeline_tag="image-classification" if facts.class_names else "image-feature-extraction",
        base_model=began.removeprefix("hf-hub:").partition("@")[0] if began.startswith("hf-hub:") else None,
        datasets=_datasets(facts) or None,
        metrics=sorted({_kind(metric) for metric in metrics}) or None,
        model_name=facts.repo.rpartition("/")[2],
        eval_results=[_result(metric, facts.record) for metric in metrics] or None,
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(_text(facts)))


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
        return [(facts.training.data or "").removeprefix(HUB_DATA)]
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


def _text(facts: Facts) -> Iterator[str]:
    yield f"# {facts.repo.rpartition('/')[2]}\n"
    yield from _introduction(facts)
    yield from _scores(facts)
    yield from _use(facts)
    yield from _licences(facts)
    yield "## Limits\n"
    if facts.explained:
        yield (
            "- The explanation is exact for this network and this image. It says what the network used, not "
            "what is true, and not what another network or a person would use."
        )
    yield "- Values outside [0, 1], such as mean/std normalised ones, are not what the network knows."
    if facts.class_names:
        if facts.outputs and facts.outputs.multilabel:
            yield "- Each class has a probability of its own: an image may show several of them, or none."
        else:
            yield (
                "- Every image gets one of the classes, those that show none of them too; see its "
                "probability."
            )
    yield "- Not tested for fairness, robustness or safety. Measure on your own data before you rely on it.\n"
    yield f"Written by bcos_zoo {facts.version}. B-cos networks: {PAPERS}."


def _introduction(facts: Facts) -> Iterator[str]:
    model = facts.model
    card, count = model.pretrained_cfg, sum(p.numel() for p in model.parameters())
    kind = "image classifier" if facts.class_names else "image encoder"
    if facts.explained:
        yield (
            f"An {kind} that explains itself: a B-cos network, exactly one linear map for each image, "
            "`logits = W(x) x + bias`. So the map can be looked at, and the contributions of the pixels "
            "sum to the logit.\n"
        )
    else:
        yield f"An {kind} without an exact explanation.\n"
    if facts.picture:
        yield "![Photograph, contributions, explanation in colour](explanation.png)\n"
        yield f"*{facts.picture}*\n"
    elif facts.reason:
        yield f"No picture of an explanation is here: {facts.reason}.\n"
    height, width = card["input_size"][-2:]
    yield f"- Architecture: `{card['architecture']}`, {count:,} parameters"
    if model.build_arguments:
        yield f"- Built with: `{model.build_arguments}`"
    yield (
        f"- Input: {model.in_chans} x {height} x {width}, values in [0, 1], not normalised; shorter side "
        f"resized to {facts.resize} pixels, then the {card['crop_mode']} crop"
    )
    if facts.class_names is None:
        yield f"- Output: an embedding of {model.num_classes} numbers"
    else:
        shown = facts.class_names if len(facts.class_names) <= 20 else (*facts.class_names[:5], "...")
        yield f"- Classes: {len(facts.class_names)} ({', '.join(shown)})"
        yield f"- Outputs: {_meaning(facts)}"
    if facts.record:
        origin = facts.record.origin
        url = f", {origin.url}" if origin.url else ""
        paper = f", arXiv:{origin.paper}" if origin.paper else ""
        yield f"- Checkpoint: `{facts.record.name}` ({origin.project}{url}{paper})"
    elif facts.began:
        yield f"- Began with the weights of `{facts.began}`, and is no longer the same"
    if run := facts.training:
        began = "" if facts.began else "from nothing, "
        recipe = f" by the recipe `{run.recipe}`" if run.recipe else ""
        epoch = f", to epoch {run.epoch}" if run.epoch is not None else ""
        yield f"- Trained {began}on {run.data or 'unknown data'}{recipe}{epoch}"
    yield ""


def _meaning(facts: Facts) -> str:
    outputs = facts.outputs
    assert outputs is not None  # this is not called for an embedding
    if outputs.single(facts.model.num_classes):
        first, second = outputs.class_names
        return f"one logit; its sigmoid is the probability of {second}, and 1 less that of {first}"
    if outputs.kind == "softmax":
        return "a logit for each class; their softmax are probabilities, which sum to 1"
    return "a logit for each class; its sigmoid is a probability, and those of all classes need not sum to 1"


def _scores(facts: Facts) -> Iterator[str]:
    yield "## Scores\n"
    metrics, run = facts.metrics, facts.training
    if not metrics:
        yield "None are known to bcos_zoo.\n"
        return
    yield "| score | percent | data set | published or measured | by |"
    yield "| --- | --- | --- | --- | --- |"
    for metric in metrics:
        by = f"`{metric.command}`" if metric.command else "its training run" if run else "its authors"
        yield f"| {_name(metric)} | {metric.value:.6g} | {metric.dataset} | {metric.kind} | {by} |"
    if run and not facts.record:
        chose = "\nValidation images may have chosen the epoch, so that their scores are a little too good"
        yield f"{chose}{'; test images chose nothing' if run.test else ''}."
    yield ""


def _use(facts: Facts) -> Iterator[str]:
    model, name = facts.model, f"hf-hub:{facts.repo}"
    mode = {1: "L", 3: "RGB"}.get(model.in_chans)
    size = ", ".join(map(str, (1, model.in_chans, *model.pretrained_cfg["input_size"][-2:])))
    image = [f"x = torch.rand({size})  # in [0, 1]"]
    if mode:
        image = [
            "config = timm.data.resolve_model_data_config(model)",
            "transform = timm.data.create_transform(**config)",
            f'x = transform(Image.open("photo.jpg").convert("{mode}"))[None]  # in [0, 1], not normalised',
        ]
    with_timm = [
        "import timm, torch, bcos_zoo  # the import registers the architecture with timm",
        *(["from PIL import Image"] if mode else []),
        "",
        f'model = timm.create_model("{name}", pretrained=True).eval()',
        *image,
        "outputs = model(x)",
    ]
    yield from _code("Use with timm", with_timm)
    yield "A copy of these files in a folder is loaded as `local-dir:FOLDER`.\n"
    with_ours = ["import bcos_zoo", ""]
    if facts.class_names is None or not mode:
        with_ours += [f'model = bcos_zoo.create_model("{name}", pretrained=True)']
        if facts.explained:
            with_ours += [
                "e = bcos_zoo.explain(model, x)",
                "e.contributions.sum((-1, -2)) + e.bias  # outputs",
            ]
    else:
        with_ours += [
            f'classifier = bcos_zoo.load("{name}")  # with preprocessing and class names',
            'classifier.predict("photo.jpg", top_k=5)',
        ]
        if facts.explained:
            with_ours += [
                'e = classifier.explain("photo.jpg")  # of the predicted class, or of targets=[...]',
                "e.contributions.sum((-1, -2)) + e.bias  # the logit",
                "e.rgba()  # the explanation in colour",
            ]
    yield from _code("Use and explain with bcos_zoo" if facts.explained else "Use with bcos_zoo", with_ours)
    if facts.picture:
        yield f"```\nbcos-zoo explain photo.jpg --model {name} -o out\n```\n"


def _code(title: str, lines: list[str]) -> Iterator[str]:
    yield f"## {title}\n\n```python"
    yield from lines
    yield "```\n"


def _licences(facts: Facts) -> Iterator[str]:
    record = facts.record or facts.base
    unknown = "unknown to bcos_zoo; ask who made them"
    yield "## Licences\n"
    theirs = record.licence.code if record else None
    code = (
        f"; that of {record.origin.project}: {theirs}"
        if record and theirs not in (None, "Apache-2.0")
        else ""
    )
    yield f"- Code: bcos_zoo is Apache-2.0{code}"
    yield f"- Weights: {licence(facts) or unknown}" + (
        "" if facts.record else " (of those it began with)" if licence(facts) else ""
    )
    images = record.training_images if record and not facts.training else None
    yield f"- Images it was trained on: {images and images.name or unknown}"
    yield f"- Terms of these images: {images and images.terms or unknown}\n"
