"""config.json of a folder or a Hugging Face repository: timm's format, with our own object beside its card.

Ours is called "bcos_zoo" and holds what timm's card has no place for; a config.json without it is read too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any

from huggingface_hub import errors as hub
from huggingface_hub import hf_hub_download
from timm.models import PretrainedCfg

from ..errors import WeightsError, reason, redact
from ..outputs import KINDS, Outputs

ELSEWHERE = ("hf-hub:", "hf_hub:", "local-dir:")  # timm's own schemes, not followed by a name of ours
OURS = "bcos_zoo"
NAME = "config.json"


@dataclass(frozen=True)
class Training:
    """How a network got its weights, as far as that is known; shown on its model card."""

    base: str | None = None  # the network it started from, as a name for `bcos_zoo.load`
    data: str | None = None  # the training images: name of their folder, or hfds/NAME for a Hugging Face set
    recipe: str | None = None
    epoch: int | None = None  # the number of epochs behind the weights
    multilabel: bool = False  # whether an image may show several classes
    scores: Mapping[str, float] = field(default_factory=dict)  # percent, on the validation images
    test: Mapping[str, float] = field(default_factory=dict)  # percent, on test images; no choice used them
    teacher: str | None = None  # the network that it learnt from, beside labels or without them
    teacher_licence: str | None = None  # of that network's weights
    teacher_scores: Mapping[str, float] = field(default_factory=dict)  # percent, on the validation images
    agreement: bool = False  # whether the labels that scores go by are the teacher's answers
    constants: float | None = None  # of a converted network: median share of a logit that no pixel has


@dataclass(frozen=True)
class ConfigJson:
    """Where a network can be loaded from, and what its config.json says."""

    name: str  # as timm takes it; for a repository with the commit that was read, even if a branch was named
    architecture: str
    class_names: tuple[str, ...] | None  # None if the file has none
    embedding: bool  # whether the outputs are an embedding, not classes
    explanation: Mapping[str, Any]  # "smooth" and "percentile", as Classifier takes them; maybe empty
    training: Training | None  # None if no run of ours wrote it
    kind: str = "sigmoid"  # what turns logits into probabilities, as in `Outputs`
    multilabel: bool = False

    def outputs(self, logits: int) -> Outputs:
        """The meaning of the outputs for this number of logits; classes without names are numbered."""
        names = self.class_names or tuple(str(i) for i in range(logits))
        return Outputs(names, self.kind, self.multilabel)


def read(name: str, cache_dir: Any = None) -> ConfigJson:
    """The config.json of `hf-hub:org/name@revision` or `local-dir:PATH`.

    cache_dir: for huggingface_hub; by default its own.
    Raises WeightsError if the file cannot be loaded, is damaged, or is not in timm's format.
    """
    scheme, _, place = name.partition(":")
    try:
        if scheme == "local-dir":
            path = Path(place, NAME)
        else:
            repo, _, revision = place.partition("@")
            path = Path(hf_hub_download(repo, NAME, revision=revision or None, cache_dir=cache_dir))
            if re.fullmatch("[0-9a-f]{40}", path.parent.name):  # weights and explanations of one commit
                name = f"{scheme}:{repo}@{path.parent.name}"
        config = json.loads(path.read_text(encoding="utf-8"))
    except Exception as error:  # errors of the hub's client and of its layers have no common base
        raise unloadable(name, error) from None  # its traceback could show the secrets that ours hides
    return _checked(name, config)


def unloadable(name: str, error: BaseException) -> WeightsError:
    """The error for a folder or repository that yields no network, in one line without secrets."""
    return WeightsError(
        f"cannot load {name} ({why(error)}); give a repository or folder that holds config.json and weights"
    )


def why(error: BaseException, *secrets: str | bool | None) -> str:
    """What an error of the hub's client means, in one line. secrets: texts that it must not show."""
    if isinstance(error, hub.GatedRepoError):
        return "its owner grants access: ask for it on its page, then set HF_TOKEN or `hf auth login`"
    if isinstance(error, hub.RepositoryNotFoundError):
        return "no such repository, or a private one and no token for it: set HF_TOKEN or `hf auth login`"
    if isinstance(error, hub.RevisionNotFoundError):
        return "the repository has no such branch, tag or commit"
    if isinstance(error, hub.LocalEntryNotFoundError):
        return "not in the cache, and the Hub cannot be reached"
    if isinstance(error, hub.HfHubHTTPError) and (response := getattr(error, "response", None)) is not None:
        if response.status_code == 401:
            return "no token was given, or the Hub does not know it: set HF_TOKEN or `hf auth login`"
        said = redact(" ".join((error.server_message or "").split()), *secrets)[:160]
        return f"the Hub answers {response.status_code}: {said or response.reason_phrase}"
    return reason(error, *secrets)


def _checked(name: str, config: Any) -> ConfigJson:
    """The checked config. Raises WeightsError if it is not in timm's format, or our part of it is damaged."""

    def refuse(fault: str) -> WeightsError:
        return WeightsError(f"the config.json of {name} {fault}; give one that bcos_zoo or timm wrote")

    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise refuse("names no architecture of timm")
    card = config.get("pretrained_cfg", {})
    ours = config.get(OURS, {})
    for key, value in {
        "pretrained_cfg": card,
        "model_args": config.get("model_args", {}),
        OURS: ours,
    }.items():
        if not isinstance(value, dict):
            raise refuse(f"has {key}={value!r:.50}, where an object belongs")
    if unknown := sorted(card.keys() - {field.name for field in fields(PretrainedCfg)}):
        raise refuse(f"has unknown keys in pretrained_cfg ({', '.join(unknown)[:100]})")
    explanation = ours.get("explanation") or {}
    if explanation:
        settings = explanation if isinstance(explanation, dict) else {}
        smooth, percentile = settings.get("smooth"), settings.get("percentile")
        numbers = not any(isinstance(value, bool) for value in (smooth, percentile))
        whole = isinstance(smooth, int) and smooth >= 0
        if not (numbers and whole and isinstance(percentile, (int, float)) and 0 < percentile <= 100):
            raise refuse(f"has explanation={explanation!r:.80}: smooth is 0 and more, percentile in (0, 100]")
        explanation = {"smooth": smooth, "percentile": percentile}
    names = config.get("label_names") or card.get("label_names") or config.get("labels")
    if isinstance(names, dict):  # by index, as timm allows
        names = [names.get(str(i)) for i in range(len(names))]
    if names and not _are_texts(names):
        raise refuse("has label_names that are no list of texts")
    training, said = _training(ours, refuse), ours.get("outputs")
    kind, multilabel = "sigmoid", training is not None and training.multilabel
    if isinstance(said, dict):
        kind, multilabel = str(said.get("kind")), said.get("multilabel", False)
        names = said.get("class_names") or names  # timm's format names only one class per logit
        fits = kind in KINDS and isinstance(multilabel, bool) and not (multilabel and kind == "softmax")
        if not fits or not (names is None or _are_texts(names)):
            raise refuse(f"has outputs={said!r:.80}: kind is {' or '.join(KINDS)}, class_names are texts")
    return ConfigJson(
        name,
        config["architecture"],
        tuple(names) if names else None,
        said == "embedding",
        explanation,
        training,
        kind,
        multilabel,
    )


def described(outputs: Outputs, logits: int) -> dict[str, Any]:
    """What a config.json says about the outputs of a network with this number of logits, in both parts.

    timm and transformers have one name per logit; if two classes share a logit, it is that of the second.
    From problem_type, transformers knows whether probabilities are sigmoids or a softmax.
    """
    said: dict[str, Any] = {"kind": outputs.kind, "multilabel": outputs.multilabel}
    names = outputs.class_names
    if outputs.single(logits):
        said["class_names"], names = list(names), names[1:]
    sigmoid = outputs.kind == "sigmoid"
    return {
        "label_names": list(names),
        "problem_type": "multi_label_classification" if sigmoid else "single_label_classification",
        OURS: {"outputs": said},
    }


def _are_texts(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(one, str) for one in names)


def _training(ours: Mapping[str, Any], refuse: Callable[[str], WeightsError]) -> Training | None:
    said = ours.get("training")
    if said is None:
        return None
    known = {one.name for one in fields(Training)}
    given = {key: value for key, value in said.items() if key in known} if isinstance(said, dict) else {}
    texts = [given.get(key) for key in ("base", "data", "recipe", "teacher", "teacher_licence")]
    both = [given.get(key, {}) for key in ("scores", "test", "teacher_scores")]
    fits = isinstance(said, dict) and all(text is None or isinstance(text, str) for text in texts)
    fits = fits and isinstance(given.get("epoch", 0), (int, NoneType))
    fits = fits and all(isinstance(given.get(key, False), bool) for key in ("multilabel", "agreement"))
    fits = fits and isinstance(given.get("constants", 0.0), (int, float, NoneType))
    fits = fits and all(isinstance(scores, dict) for scores in both)
    if not fits or not all(isinstance(v, (int, float)) for scores in both for v in scores.values()):
        raise refuse(
            f"has training={said!r:.80}: base, data, recipe, teacher and its licence are texts, multilabel "
            "and agreement are true or false, scores and constants are numbers"
        )
    return Training(**given)
