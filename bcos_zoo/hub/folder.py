"""A network as a folder in the form of the Hugging Face Hub: weights, timm's config.json, card and picture.

`prepare` checks all that can be wrong; `write` fills a folder and loads it again, which must give the same
network to the last bit.
"""

from __future__ import annotations

import copy
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import timm
import torch
from PIL import Image
from timm.data import resolve_model_data_config
from timm.models import get_model_args
from torch import Tensor

from .. import zoo
from .._compat import save_config_for_hf
from .._version import __version__
from ..classifier import Classifier, load, of_source
from ..errors import InputError, WeightsError
from ..explanations.engine import explain
from ..explanations.explanation import Explanation
from ..explanations.inputs import unwrapped
from ..files import replacing
from ..images import image_like, own_info
from ..images.image_like import ImageLike
from ..layers import Encode
from ..models.interface import Network
from ..pictures import panels
from ..weights import config_json, manifest, state_dicts
from . import card as modelcard

SAMPLE = manifest.PACKAGE / "samples" / "chelsea.jpg"
WEIGHTS, CONFIG, CARD, PICTURE = "model.safetensors", config_json.NAME, "README.md", "explanation.png"
FILES = {WEIGHTS, CONFIG, CARD, PICTURE}
VALIDATION = "A validation image"
OWN_SAMPLE = "card-sample.png"  # in a run's folder: the photograph of its card; `push` never shows it
FROM_MODEL = {"num_classes", "global_pool", "in_chans", "img_size"}  # timm writes their current values


@dataclass(frozen=True)
class ExportedNetwork:
    """What is written, on the CPU and separate from the caller's network, and what it gives for one image."""

    classifier: Classifier
    embedding: bool
    record: manifest.Checkpoint | None  # if the weights are the checkpoint's own
    base: manifest.Checkpoint | None  # the checkpoint they were trained on from, if they are not
    training: config_json.Training | None  # if a run of bcos_zoo made the weights
    photograph: Image.Image | None  # None if the network takes no photographs
    shown: str  # what the card says the photograph is
    x: Tensor  # (1, K, H, W)
    logits: Tensor
    explanation: Explanation | None
    reason: str | None  # why there is no picture

    @property
    def model(self) -> Network:
        return self.classifier.model

    @property
    def architecture(self) -> str:
        name: str = self.model.pretrained_cfg["architecture"]
        return name

    @property
    def began(self) -> str | None:
        """The name of the checkpoint that it is or was trained on from."""
        name: str | None = self.training.base if self.training else self.model.pretrained_from
        return name


def prepare(
    source: Classifier | str,
    sample: ImageLike | None,
    *,
    shown: str = "A photograph",
    training: config_json.Training | None = None,
    ended: bool = True,
    public: bool = False,
) -> ExportedNetwork:
    """Check all that can be wrong before anything is written.

    sample: the photograph of the card; by default that of the run whose folder is named, else a cat. shown:
    what the card calls a photograph that is given.
    training: the run that made a Classifier's weights; for a name, its config.json says so. ended: False
    while that run goes on and the weights change: then there is no picture.
    public: others will see the card. Only a photograph that the caller names is shown then, never one from
    the run's validation images, which may be of patients.
    """
    if not isinstance(source, (Classifier, str)):
        raise InputError(
            f"got a {type(source).__name__}; allowed are a name and a Classifier: for a network of your own "
            "give bcos_zoo.Classifier(model, class_names)"
        )
    if isinstance(source, str):
        source = zoo.resolve(source)
        if source.startswith(config_json.ELSEWHERE):
            found = config_json.read(source)
            source, training = found.name, found.training
            if sample is None and not public and training is not None and (own := _own_sample(source)):
                sample, shown = own, VALIDATION
    embedding = isinstance(source, str) and _is_embedding(source)
    given = source if isinstance(source, Classifier) else _embedding(source) if embedding else load(source)
    check(given.model)
    classifier = Classifier(
        on_cpu(given.model),
        given.outputs,
        smooth=given.head.smooth,
        percentile=given.head.percentile,
    )
    model: Network = classifier.model
    photograph = None
    if sample is not None or model.in_chans in (1, 3):
        if sample is None:
            sample, shown = SAMPLE, "A photograph (Stefan van der Walt, CC0)"
        photograph = image_like.photograph(sample)
        x = classifier.preprocess(photograph)
    else:
        size = (1, model.in_chans, *resolve_model_data_config(model)["input_size"][-2:])
        x = torch.rand(size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(x)
    explanation, reason = None, None
    if not any(isinstance(module, Encode) for module in model.modules()):
        reason = "a conventional network has no exact one"
    elif logits.ndim != 2:
        reason = "the network gives a map of logits, not pooled"
    else:
        explanation = classifier.head(x)
        if embedding:
            reason = "the outputs are an embedding, not classes"
        elif photograph is None:
            reason = f"the network takes {model.in_chans} channels, a photograph has 3"
        elif not ended:
            reason = "its training goes on"
    if training is not None:
        record, base = None, manifest.load().get(training.base or "")
    else:
        record, base = _known(model, unchanged=isinstance(source, str))
    return ExportedNetwork(
        classifier, embedding, record, base, training, photograph, shown, x, logits, explanation, reason
    )


def _own_sample(name: str) -> Path | None:
    """The photograph that a run left in its folder; None for a repository."""
    scheme, _, place = name.partition(":")
    path = Path(place, OWN_SAMPLE)
    return path if scheme == "local-dir" and path.is_file() else None


def _is_embedding(name: str) -> bool:
    return not name.startswith(config_json.ELSEWHERE) and zoo.find_checkpoint(name).classes.labels is None


def _embedding(name: str) -> Classifier:
    model: Network = zoo.create_model(name, pretrained=True)
    return Classifier(model, [str(i) for i in range(model.num_classes)])


def check(model: Network) -> None:
    """Raise InputError for a network that a config.json cannot rebuild."""
    model = cast(Network, unwrapped(model))
    architecture = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    if architecture not in zoo.list_models() or not hasattr(model, "build_arguments"):
        raise InputError(
            f"{type(model).__name__} was not made by timm from an architecture of this zoo, so no "
            "config.json can name it; create it with bcos_zoo.create_model and give it your weights"
        )
    if not model.num_classes:
        raise InputError(
            "the network has no classifier (num_classes=0), so there is nothing to load with bcos_zoo.load; "
            "give it one with reset_classifier, or save the features with timm.models.save_for_hf"
        )
    for key, value in model.build_arguments.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            raise InputError(
                f"{key}={value!r:.80} cannot be written as JSON; build the network without it"
            ) from None
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise InputError(f"{key} is {tensor.dtype}; timm loads float32 only: call model.float() first")
        if not tensor.isfinite().all():
            raise InputError(f"{key} holds NaN or infinite values; export weights that are finite")


def on_cpu(model: Network) -> Network:
    """A copy as it will be when loaded: in eval mode, its tensors in the usual memory order."""
    twin = copy.deepcopy(cast(Network, unwrapped(model))).cpu().eval()
    for tensor in (*twin.parameters(), *twin.buffers()):
        # Not contiguous(): that leaves a 1x1 kernel with channels_last strides, which round differently.
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return twin


def _known(model: Network, unchanged: bool) -> tuple[manifest.Checkpoint | None, manifest.Checkpoint | None]:
    """The checkpoint that the weights are, and the one that they were trained on from; either may be None."""
    record = manifest.load().get(model.pretrained_from or "")
    if record is None or unchanged:
        return record, None
    try:
        original: Network = zoo.create_model(record.name, pretrained=True)
    except WeightsError:  # its file is gone by now
        return None, record
    pools = {get_model_args(one).get("global_pool") for one in (model, original)}
    same = _arguments(model) == _arguments(original) and len(pools) == 1
    if same and not _differences(model.state_dict(), original.state_dict()):
        return record, None
    return None, record


def _arguments(model: Network) -> dict[str, Any]:
    """What config.json says about the architecture, besides what timm takes from the network itself."""
    return {k: v for k, v in model.build_arguments.items() if k not in FROM_MODEL and "drop_" not in k}


def write(network: ExportedNetwork, folder: Path, repo: str | None = None) -> None:
    """Write all files of a network, and verify that they give it back. repo: where it goes, if known."""
    model, classifier = network.model, network.classifier
    repo = repo or f"ORGANISATION/{network.record.name if network.record else network.architecture}"
    header = {"name": network.record.name} if network.record else {}
    state_dicts.save(model.state_dict(), folder / WEIGHTS, header | {"bcos_zoo": __version__})
    resize = _write_config(network, folder / CONFIG)
    caption = None
    if network.reason is None and network.explanation is not None and network.photograph is not None:
        best = classifier.rank(network.logits[0], 1)[0]
        title = f"{best.label}, {classifier.outputs.said(best.probability)}"
        gap = network.explanation.completeness().abs().max()
        caption = (
            f"{network.shown}, what its pixels contribute, and W(x) in colour: {title}. "
            f"Contributions and bias sum to the logit up to {gap:.1g}."
        )
        view = classifier.view(network.photograph)
        sheet = panels.figure(view, network.explanation, titles=[title])
        with replacing(folder / PICTURE) as temporary:
            sheet.save(temporary, format="PNG", optimize=True, pnginfo=own_info())
    facts = modelcard.Facts(
        model=model,
        repo=repo,
        version=__version__,
        outputs=None if network.embedding else classifier.outputs,
        record=network.record,
        base=network.base,
        training=network.training,
        resize=resize,
        explained=network.explanation is not None,
        picture=caption,
        reason=network.reason,
    )
    with replacing(folder / CARD) as temporary:
        temporary.write_text(str(modelcard.make(facts)), encoding="utf-8")
    _verify(network, folder)


def _write_config(network: ExportedNetwork, path: Path) -> int:
    """Write config.json; returns the pixels that the shorter side is resized to."""
    model, head = network.model, network.classifier.head
    config = resolve_model_data_config(model)
    resize = math.floor(min(config["input_size"][-2:]) / config["crop_pct"])
    encoding = {1: "grey", 3: "rgb"}.get(model.in_chans, f"{model.in_chans} channels")
    if any(isinstance(module, Encode) for module in model.modules()):
        encoding += "+inverse"
    card: dict[str, Any] = {"label_names": None}  # the names are in config.json itself
    if not network.record:
        card["tag"] = None
    if not network.began:  # these are of the architecture's checkpoint, whose card it has
        card |= dict(license=None, origin_url=None, paper_ids=None)
    said = {} if network.embedding else config_json.described(network.classifier.outputs, model.num_classes)
    ours = {"outputs": "embedding"} | said.pop(config_json.OURS, {})
    ours |= {
        "version": __version__,
        "checkpoint": network.record and network.record.name,
        "preprocessing": {"resize": resize, "encoding": encoding},
        "explanation": network.explanation and {"smooth": head.smooth, "percentile": head.percentile},
    }
    if network.training:
        ours["training"] = asdict(network.training)
    # One mean and std per channel, as in Classifier; timm would warn about three for a grey network.
    data = {key: config[key][: model.in_chans] for key in ("mean", "std")}
    data = {key: value if len(value) == model.in_chans else value[:1] for key, value in data.items()}
    with replacing(path) as temporary:
        write_timm_config(
            model,
            temporary,
            model_config={"pretrained_cfg": card, config_json.OURS: ours, **said},
            model_args=_arguments(model),
            data_config=data,
        )
    return resize


def write_timm_config(model: Network, path: Path, **said: Any) -> None:
    """Write timm's config.json in a form that transformers takes too. said: as for `save_config_for_hf`.

    The number of classes is at its top level. timm repeats it among the arguments, but transformers, which
    passes both to `timm.create_model`, would then pass it twice.
    """
    save_config_for_hf(model, str(path), **said)
    document = json.loads(path.read_text(encoding="utf-8"))
    document["model_args"].pop("num_classes", None)
    document["pretrained_cfg"]["first_conv"] = model.pretrained_cfg.get("first_conv")
    path.write_text(json.dumps(document, indent=2), encoding="utf-8")


def _verify(network: ExportedNetwork, folder: Path) -> None:
    """Raise WeightsError, listing all differences, unless the folder gives the same network."""
    name, own = f"local-dir:{folder}", network.classifier
    try:
        model: Network = timm.create_model(name, pretrained=True).eval()
        source = config_json.read(name)
        settings = None if source.embedding else of_source(model, source)
    except Exception as error:  # exceptions of timm and the readers have no common base
        raise WeightsError(
            f"the folder written does not load ({config_json.why(error)}); nothing was kept"
        ) from error
    faults = _differences(own.model.state_dict(), model.state_dict())
    with torch.no_grad():
        if not faults and not torch.equal(model(network.x), network.logits):
            faults.append("the logits of the sample")
    if (e := network.explanation) is not None and not faults:
        again = explain(model, network.x, e.targets, class_names=own.outputs)
        if not torch.equal(again.weights, e.weights) or not torch.equal(again.bias, e.bias):
            faults.append("the explanation of the sample")
    if settings is not None:
        if settings.outputs != own.outputs:
            faults.append("the class names, or what the outputs mean")
        mine, theirs = (c.head for c in (own, settings))
        if e is not None and (mine.smooth, mine.percentile) != (theirs.smooth, theirs.percentile):
            faults.append("the settings of explanations")
        if network.photograph is not None:
            if not torch.equal(settings.preprocess(network.photograph), network.x):
                faults.append("the preprocessing")
    if faults:
        raise WeightsError(
            f"the folder written gives another network: {', '.join(faults)}; nothing was kept. A network "
            "that was changed by hand, not by arguments, cannot be made again from a config.json"
        )


def _differences(own: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """Names of up to five tensors that differ or that only one side has, and how many more there are."""
    wrong = [key for key in own if key not in theirs or not torch.equal(own[key], theirs[key])]
    wrong += [key for key in theirs if key not in own]
    return wrong[:5] + ([f"{len(wrong) - 5} more tensors"] if wrong[5:] else [])
