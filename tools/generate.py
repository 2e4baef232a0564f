"""Write what is made from the registry and manifest: hubconf.py, docs/models.md, the table of README.md.

python tools/generate.py           rewrite what is out of date
python tools/generate.py --check   exit 1 and name what is out of date
"""

from __future__ import annotations

import functools
import re
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pages
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bcos_zoo import list_models
from bcos_zoo.layers import BcosConv2d, BcosLinear, ConventionalSpec
from bcos_zoo.weights import manifest

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- models: made by tools/generate.py -->", "<!-- end of models -->"
INEXACT = "no exact explanation"
BY_HAND = "by hand"  # for a checkpoint whose file is not fetched

HUBCONF_HEAD = '''"""torch.hub entry points. Made from the registry by tools/generate.py: do not edit.

torch.hub.load("bcos-zoo/bcos_zoo", "bcos_resnet50", pretrained=True, trust_repo=True)
torch.hub.load("bcos-zoo/bcos_zoo", "classifier", "bcos_resnet20.cifar10", trust_repo=True)
"""

dependencies = ["torch", "torchvision", "timm", "huggingface_hub", "safetensors", "filelock", "numpy", "PIL"]


def _package():
    """bcos_zoo of the version beside this file, from wherever it was imported first.

    torch.hub has put this folder first on sys.path, so that the copy here is found before an installed one.
    One that is imported already stays, for every version registers the same names with timm.
    Raises RuntimeError if that is another version.
    """
    import os
    import re

    import bcos_zoo  # not at the top: torch.hub checks the dependencies only after reading this file

    here = os.path.join(os.path.dirname(os.path.realpath(__file__)), "bcos_zoo")
    with open(os.path.join(here, "_version.py"), encoding="utf-8") as file:
        version = re.search('^__version__ = "(.+)"', file.read(), re.MULTILINE)[1]
    used = getattr(bcos_zoo, "__version__", "without a version")
    if used != version:
        raise RuntimeError(
            f"bcos_zoo {used} is imported already, from {next(iter(bcos_zoo.__path__))}, but this copy for "
            f"torch.hub, {here}, is {version}, and a process holds one version: call torch.hub.load in a new "
            "process, before any import of bcos_zoo, or timm.create_model for the network of the imported one"
        )
    return bcos_zoo


def _create(name, pretrained, tag, kwargs):
    bcos_zoo = _package()
    if isinstance(pretrained, str):  # it would count as True, and the default's weights be loaded
        raise bcos_zoo.InputError(
            f"pretrained={pretrained!r}: allowed are True and False; "
            f"to name a checkpoint give pretrained=True, tag={pretrained!r}"
        )
    return bcos_zoo.create_model(f"{name}.{tag}" if tag else name, pretrained=pretrained, **kwargs)


def classifier(name):
    """A checkpoint ready for use: network, preprocessing, class names and explanation head in one object.

    name: "architecture.tag", as the entry of the architecture lists them, an architecture (its default
    checkpoint), or timm's "hf-hub:org/name" and "local-dir:PATH". The weights are always loaded.

    clf = torch.hub.load("bcos-zoo/bcos_zoo", "classifier", "bcos_resnet20.cifar10", trust_repo=True)
    clf.predict("cat.jpg", top_k=5)  # [Prediction(label, index, probability, logit), ...]
    clf.explain("cat.jpg", targets=["cat", "dog"])  # Explanation: contributions, weights, rgba(), save()
    clf.model  # the network itself
    """
    return _package().load(name)
'''

HUBCONF_ENTRY = '''

def {name}(pretrained=False, tag=None, **kwargs):
    """{title}

{options}
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("{name}", pretrained, tag, kwargs)
'''


def hubconf() -> str:
    entries = []
    for name in list_models():
        options = "\n".join(
            textwrap.fill(option, 110, initial_indent=" " * 4, subsequent_indent=" " * 4)
            for option in _hub_options(name)
        )
        title = (timm.model_entrypoint(name).__doc__ or "").strip()
        entries.append(HUBCONF_ENTRY.format(name=name, title=title, options=options))
    return HUBCONF_HEAD + "".join(entries)


def _hub_options(name: str) -> list[str]:
    """The allowed values of `pretrained` and `tag` for an architecture, one line each."""
    default, tags, by_hand = manifest.default(name), [], []
    for checkpoint in manifest.checkpoints(name):
        (by_hand if _source(checkpoint) == BY_HAND else tags).append(f'"{checkpoint.tag}"')
    if not tags + by_hand:
        return ["pretrained, tag: there are no weights yet."]
    listed = [", ".join(tags)] if tags else []
    if by_hand:
        listed.append(f"from a file at hand, pretrained_cfg_overlay=dict(file=PATH): {', '.join(by_hand)}")
    return [
        f'pretrained: load the weights, without a tag those of "{default.tag}".'
        if default
        else "pretrained: load the weights; this takes a tag.",
        f"tag: which checkpoint, and so which form of the network: {'; '.join(listed)}.",
    ]


MODELS_HEAD = """# Models

Made by `python tools/generate.py` from the registry and `weights_manifest.json`: do not edit.

- **Parameters**: learnt values, those of an auxiliary head included; buffers are not counted.
- **GFLOPs**: of one image of that size in eval mode, as `torch.utils.flop_counter.FlopCounterMode` counts:
  convolutions and matrix products, 2 FLOPs for each multiply-add. Norms, the B-cos scaling and whatever else
  goes element by element count nothing.
- **Checkpoint**: its full name is `architecture.tag`. The bare name of an architecture stands for the first
  checkpoint of the architecture as it is. The `v1` networks, and the `bcosified` ones but CLIP's, are other
  forms of it (MaxOut, other constants, activations kept), and only their full names make them.
- **Scores**: top-1 and top-5 in percent, as published by the authors or measured by us; `bcos-zoo info NAME`
  has the command.
- **File**: `package`: comes with bcos_zoo. `download`: fetched and verified. `mirror`: taken from
  `BCOS_ZOO_MIRROR` or the cache, as no address is published yet. `by hand`: not fetched, because no address
  or no checksum is published; `pretrained=True` then says what to do.
"""
COLUMNS = [
    "architecture", "parameters", "GFLOPs", "input", "checkpoint",
    "top-1", "top-5", "scored on", "weights licence", "file",
]  # fmt: skip


@dataclass(frozen=True)
class Network:
    """What is measured for the tables on a network."""

    params: int
    flops: int
    side: int  # of the input, in pixels
    exact: bool  # whether it explains itself


@functools.cache
def network(name: str) -> Network:
    """The network of an architecture or a checkpoint."""
    model: Any = timm.create_model(name, device="meta").eval()
    params, side = sum(p.numel() for p in model.parameters()), model.pretrained_cfg["input_size"][-1]
    _keep_products(model)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, model.in_chans, side, side, device="meta"))
    return Network(
        params,
        counter.get_total_flops(),
        side,
        not isinstance(model.spec, ConventionalSpec),
    )


def _keep_products(model: nn.Module) -> None:
    """Remove norms and B-cos scaling, in place: they count for nothing, but take most of the time on meta."""
    for module in list(model.modules()):
        if isinstance(module, (BcosConv2d, BcosLinear)):
            module.b, module.normalize = 1.0, False
        for name, child in module.named_children():
            weights = list(child.parameters())
            if weights and all(weight.ndim == 1 for weight in weights):
                setattr(module, name, nn.Identity())


def families() -> dict[str, list[str]]:
    """The architectures of each module that has some; first the modules of checkpoints, in their order."""
    names = [c.architecture for c in manifest.checkpoints()] + list_models()
    modules = dict.fromkeys(timm.model_entrypoint(name).__module__ for name in names)
    return {module: list(sys.modules[module].default_cfgs) for module in modules}


def models_page() -> str:
    parts = [MODELS_HEAD]
    for family, names in families().items():
        summary = (sys.modules[family].__doc__ or "").partition("\n")[0]
        rows = [_row(COLUMNS), _row(["---"] * len(COLUMNS))]
        for name in names:
            own = () if manifest.default(name) else (None,)  # the architecture's own form, without weights
            rows += [_model_row(name, checkpoint) for checkpoint in (*own, *manifest.checkpoints(name))]
        parts.append("\n".join([f"## {_title(family)}", "", summary, "", *rows, ""]))
    return "\n".join(parts)


def _model_row(name: str, checkpoint: manifest.Checkpoint | None) -> str:
    net = network(checkpoint.name if checkpoint else name)
    cells = [f"`{name}`" if net.exact else f"`{name}` ({INEXACT})"]
    cells += [f"{net.params / 1e6:.2f} M", f"{net.flops / 1e9:.2f}", str(net.side)]
    if checkpoint is None:
        return _row(cells + [""] * (len(COLUMNS) - len(cells)))
    metrics = {metric.name: metric for metric in checkpoint.metrics}
    scores = [f"{m.value:.2f} ({m.kind})" if (m := metrics.get(key)) else "" for key in ("top1", "top5")]
    data = ", ".join(dict.fromkeys(metric.dataset for metric in checkpoint.metrics))
    licence = checkpoint.licence.weights or "not stated"
    return _row([*cells, f"`{checkpoint.tag}`", *scores, data, licence, _source(checkpoint)])


def _source(checkpoint: manifest.Checkpoint) -> str:
    file = checkpoint.file
    if file is None or file.digest is None:
        return BY_HAND
    if file.where is None:
        return "mirror"
    return "package" if isinstance(file.where, manifest.Packaged) else "download"


def family_table() -> str:
    rows = [_row(["family", "architectures", "checkpoints"]), _row(["---"] * 3)]
    for family, names in families().items():
        link = f"[{_title(family)}](docs/models.md#{_title(family)})"
        count = sum(len(manifest.checkpoints(name)) for name in names)
        rows.append(_row([link, ", ".join(_brief(names)), str(count)]))
    sums = f"{len(list_models())} architectures, {len(manifest.checkpoints())} checkpoints"
    return "\n".join(
        [*rows, "", f"{sums}. Parameters, FLOPs, scores, licences: [docs/models.md](docs/models.md)."]
    )


def _title(family: str) -> str:
    return family.rpartition(".")[2].removeprefix("bcos_")


# The first number of a name, or the word for its size.
SIZE = re.compile(r"\d+(_\d\w*)?|(?<=_)(atto|tiny|small|base|large|ti|s|b|l)(?=_|$)")


def _brief(names: list[str]) -> list[str]:
    """Names that differ only in their size, written as one: `bcos_vgg{11,13}_bnu`."""
    sizes: dict[tuple[str, str], list[str]] = {}
    for name in names:
        found = SIZE.search(name)
        start, end = found.span() if found else (len(name), len(name))
        sizes.setdefault((name[:start], name[end:]), []).append(name[start:end])
    out = []
    for (before, after), some in sizes.items():
        middle = some[0] if len(some) == 1 else f"{{{','.join(some)}}}"
        mark = "" if network(f"{before}{some[0]}{after}").exact else f" ({INEXACT})"
        out.append(f"`{before}{middle}{after}`{mark}")
    return out


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def readme() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{family_table()}\n{END}{rest.split(END)[1]}"


def main() -> int:
    made = {
        "hubconf.py": hubconf,
        "docs/models.md": models_page,
        "docs/recipe.md": pages.recipe_page,
        "docs/architecture.md": pages.architecture_page,
        "docs/floors.svg": pages.drawing,
        "README.md": readme,
    }
    stale = []
    for name, make in made.items():
        path, text = ROOT / name, make()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.stderr.write(f"out of date: {', '.join(stale)}; run `make generate`\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
