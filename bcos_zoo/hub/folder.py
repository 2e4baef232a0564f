"""A network as a folder in the form of the Hugging Face Hub: weights, timm's config.json, card and picture.

`prepare` looks at all that can be wrong, `write` fills a folder and loads it again: it must give the same
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
from timm.models._hub import save_config_for_hf
from torch import Tensor

from .. import zoo
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
OWN_SAMPLE = "card-sample.png"  # in the folder of a run, and never uploaded: the photograph of its card
FROM_MODEL = {"num_classes", "global_pool", "in_chans", "img_size"}  # timm writes them as they are now


@dataclass(frozen=True)
class ExportedNetwork:
    """What is written, on the CPU and apart from the caller's, and what it gives for one image."""

    classifier: Classifier
    embedding: bool
    record: manifest.Checkpoint | None  # if the weights are its own
    base: manifest.Checkpoint | None  # the one they were trained on from, if they are not
    training: config_json.Training | None  # if a run of ours gave it its weights
    photograph: Image.Image | None  # None if the network takes no photograph
    shown: str  # what the photograph is, for the card
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
        """The name of what it was trained on from, or is."""
        name: str | None = self.training.base if self.training else self.model.pretrained_from
        return name


def prepare(
    source: Classifier | str,
    sample: ImageLike | None,
    *,
    shown: str = "A photograph",
    training: config_json.Training | None = None,
    ended: bool = True,
) -> ExportedNetwork:
    """Look at all that can be wrong before anything is written.

    sample: the photograph of the card; unless given, that of a run whose folder is named, else a cat. shown:
    what the card calls a given one.
    training: the run that gave a Classifier its weights; a name's own config.json says it. ended: False while
    that run goes on, and its weights change: then there is no picture.
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
            if sample is None and training is not None and (own := _own_sample(source)):
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
    """The photograph that a run left in its folder; of a repository none."""
    scheme, _, place = name.partition(":")
    path = Path(place, OWN_SAMPLE)
    return path if scheme == "local-dir" and path.is_file() else None


def _is_embedding(name: str) -> bool:
    return not name.startswith(config_json.ELSEWHERE) and zoo.find_checkpoint(name).classes.labels is None


def _embedding(name: str) -> Classifier:
    model: Network = zoo.create_model(name, pretrained=True)
    return Classifier(model, [str(i) for i in range(model.num_classes)])


def check(model: Network) -> None:
    """Raise InputError for a network that a config.json cannot make again."""
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
    """A copy as it will be when it is loaded: in eval mode, its tensors in the usual order."""
    twin = copy.deepcopy(cast(Network, unwrapped(model))).cpu().eval()
    for tensor in (*twin.parameters(), *twin.buffers()):
        # Not contiguous(): it leaves a 1x1 kernel the strides of channels_last, which rounds otherwise.
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return twin


def _known(model: Network, unchanged: bool) -> tuple[manifest.Checkpoint | None, manifest.Checkpoint | None]:
    """The checkpoint that the weights are, and the one that they began as."""
    record = manifest.load().get(model.pretrained_from or "")
    if record is None or unchanged:
        return record, None
    try:
        original: Network = zoo.create_model(record.name, pretrained=True)
    except WeightsError:  # its file has gone since
        return None, record
    pools = {get_model_args(one).get("global_pool") for one in (model, original)}
    same = _arguments(model) == _arguments(original) and len(pools) == 1
    if same and not _differences(model.state_dict(), original.state_dict()):
        return record, None
    return None, record


def _arguments(model: Network) -> dict[str, Any]:
    """What config.json says of the architecture, beside what the network says as it is now."""
    return {k: v for k, v in model.build_arguments.items() if k not in FROM_MODEL and "drop_" not in k}


def write(network: ExportedNetwork, folder: Path, repo: str | None = None) -> None:
    """All files of a network, and the proof that they give it back. repo: where it goes, if that is known."""
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
    card: dict[str, Any] = {"label_names": None}  # they stand beside it
    if not network.record:
        card["tag"] = None
    if not network.began:  # the card is that of the architecture's checkpoint, and these are its
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
    # One mean and std for each channel, as in Classifier; timm would warn of the three of a grey network.
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
    """timm's config.json, as transformers takes it too. said: as `save_config_for_hf`.

    The number of classes stands at its top. timm repeats it among the arguments, and transformers, which
    gives both to `timm.create_model`, would give it twice.
    """
    save_config_for_hf(model, str(path), **said)
    document = json.loads(path.read_text(encoding="utf-8"))
    document["model_args"].pop("num_classes", None)
    document["pretrained_cfg"]["first_conv"] = model.pretrained_cfg.get("first_conv")
    path.write_text(json.dumps(document, indent=2), encoding="utf-8")


def _verify(network: ExportedNetwork, folder: Path) -> None:
    """Raise WeightsError, with all that differs, unless the folder gives the same network."""
    name, own = f"local-dir:{folder}", network.classifier
    try:
        model: Network = timm.create_model(name, pretrained=True).eval()
        source = config_json.read(name)
        settings = None if source.embedding else of_source(model, source)
    except Exception as error:  # timm's and the readers' have no common base
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
    """Names of the tensors that differ, or that only one has; five of them, and how many more."""
    wrong = [key for key in own if key not in theirs or not torch.equal(own[key], theirs[key])]
    wrong += [key for key in theirs if key not in own]
    return wrong[:5] + ([f"{len(wrong) - 5} more tensors"] if wrong[5:] else [])
