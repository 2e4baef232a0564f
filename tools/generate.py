"""Write what is made from registry and manifest: hubconf.py and the model table of README.md.

python tools/generate.py           rewrite what is out of date
python tools/generate.py --check   exit 1 and name what is out of date
"""

from __future__ import annotations

import sys
from pathlib import Path

import timm

from bcos_zoo import list_models, manifest

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- models: made by tools/generate.py -->", "<!-- end of models -->"

HUBCONF_HEAD = '''"""torch.hub entry points. Made from the registry by tools/generate.py: do not edit.

torch.hub.load("bcos-zoo/bcos_zoo", "bcos_resnet50", pretrained=True, trust_repo=True)
"""

dependencies = ["torch", "torchvision", "timm", "huggingface_hub", "safetensors", "numpy", "PIL"]


def _create(name, pretrained, tag, kwargs):
    import os
    import warnings

    import bcos_zoo  # not at the top: torch.hub checks the dependencies only after reading this file

    here, used = (os.path.dirname(os.path.realpath(file)) for file in (__file__, bcos_zoo.__file__))
    if os.path.dirname(used) != here:
        message = f"using bcos_zoo {bcos_zoo.__version__} from {used}, not the one in {here}"
        warnings.warn(message, stacklevel=3)
    return bcos_zoo.create_model(f"{name}.{tag}" if tag else name, pretrained=pretrained, **kwargs)
'''

HUBCONF_ENTRY = '''

def {name}(pretrained=False, tag=None, **kwargs):
    """{title}

    pretrained: load the weights. tag: which checkpoint: {tags}.
    kwargs: what timm.create_model takes (num_classes, in_chans, drop_path_rate, ...).
    Takes (N, 3, H, W) RGB in [0, 1], not normalised. Returned in eval mode.
    """
    return _create("{name}", pretrained, tag, kwargs)
'''


def hubconf() -> str:
    entries = []
    for name in list_models():
        tags = (
            ", ".join(f'"{checkpoint.tag}"' for checkpoint in manifest.checkpoints(name))
            or "there is none yet"
        )
        title = (timm.model_entrypoint(name).__doc__ or "").strip()
        entries.append(HUBCONF_ENTRY.format(name=name, title=title, tags=tags))
    return HUBCONF_HEAD + "".join(entries)


def model_table() -> str:
    rows = [
        "| architecture | parameters | input | checkpoint | top-1 % | data | weights licence |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in list_models():
        model = timm.create_model(name, device="meta")
        params = f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M"
        side = model.pretrained_cfg["input_size"][-1]
        for checkpoint in manifest.checkpoints(name) or (None,):
            rows.append(f"| `{name}` | {params} | {side} | {_checkpoint_cells(checkpoint)} |")
    return "\n".join(rows)


def _checkpoint_cells(checkpoint: manifest.Checkpoint | None) -> str:
    if checkpoint is None:
        return " | | |"
    top1 = next((metric for metric in checkpoint.metrics if metric.name == "top1"), None)
    score = f"{top1.value:.2f} ({top1.kind}) | {top1.dataset}" if top1 else "|"
    return f"`{checkpoint.tag}` | {score} | {checkpoint.licence.weights or 'not stated'}"


def readme() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{model_table()}\n{END}{rest.split(END)[1]}"


def main() -> int:
    stale = []
    for path, text in ((ROOT / "hubconf.py", hubconf()), (ROOT / "README.md", readme())):
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path.name)
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.stderr.write(f"out of date: {', '.join(stale)}; run `make generate`\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
