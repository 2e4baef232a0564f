"""Which architectures of timm `bcosify` converts: tools/conversions.json, and docs/conversions.md from it.

python tools/conversions.py                    write the page from the data
python tools/conversions.py --check            exit 1 if the page is not what the data says
python tools/conversions.py --rules            follow the rules, without numbers, through every architecture
                                               that is new or was refused
python tools/conversions.py --smallest         measure completeness of the smallest of each module
python tools/conversions.py --all [--most N]   measure it of every architecture not measured yet, the smallest
                                               first; N, in millions of parameters, bounds both: 100
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import timm
import torch

from bcos_zoo.conversion import Converted, bcosify
from bcos_zoo.conversion.trial import followed, tried
from bcos_zoo.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
DATA, PAGE = ROOT / "tools" / "conversions.json", ROOT / "docs" / "conversions.md"
VERSION = "timm"  # the key of the version, among those of architectures
SIDE = 96  # pixels of the images, where an architecture takes any size

Record = dict[str, Any]


def read() -> dict[str, Record]:
    """Architecture -> module, parameters, choices, refused (None or why), gap (None if not measured)."""
    return {name: record for name, record in _data().items() if name != VERSION}


def version() -> str:
    """The version of timm that the data are of."""
    return _data().get(VERSION, timm.__version__)


def _data() -> dict[str, Any]:
    return json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {}


def write(records: dict[str, Record]) -> None:
    lines = [f'"{VERSION}": "{timm.__version__}"']
    lines += [f"{json.dumps(name)}: {json.dumps(records[name])}" for name in sorted(records)]
    DATA.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def architectures() -> list[str]:
    """All of the installed timm, without our own."""
    return [name for name in timm.list_models() if not name.startswith("bcos_")]


def module_of(name: str) -> str:
    return timm.model_entrypoint(name).__module__.rpartition(".")[2]


def _plain(name: str, model: Any, size: tuple[int, ...]) -> Converted:
    """The network behind an encoding, no layer changed."""
    numbers = dict(mean=(0.5,) * size[0], std=(0.25,) * size[0])
    return Converted(model, in_chans=size[0], **numbers, card={}, conversion={"from": name})


def by_rules(name: str) -> Record:
    """The record of an architecture, the rules followed without numbers."""
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=10).eval()
        size = timm.get_pretrained_cfg(name).input_size
        record = dict(module=module_of(name), parameters=sum(p.numel() for p in model.parameters()))
        try:
            trial = followed(_plain(name, model, size), size)
        except InputError as error:
            return record | dict(choices=[], refused=_why(error), gap=None)
    return record | dict(choices=list(trial.choices), refused=None, gap=None)


def measured(name: str) -> Record:
    """The record of an architecture: converted, with random weights, in float64, completeness measured."""
    model = timm.create_model(name, num_classes=10).eval()
    record = dict(module=module_of(name), parameters=sum(p.numel() for p in model.parameters()))
    card = timm.get_pretrained_cfg(name)
    if not card.fixed_input_size and card.input_size[-1] > SIDE:
        model.pretrained_cfg["input_size"] = (card.input_size[0], SIDE, SIDE)
    try:
        try:
            converted = bcosify(model)
        except InputError:
            model.pretrained_cfg["input_size"] = card.input_size  # perhaps the images were too small
            converted = bcosify(model)
        trial = tried(converted, model.pretrained_cfg["input_size"], share=0.0)
    except InputError as error:
        return record | dict(choices=[], refused=_why(error), gap=None)
    found = converted.conversion["choices"]
    return record | dict(
        choices=found, refused=None, gap=float(f"{max(trial.gap, converted.conversion['gap']):.1e}")
    )


def _why(error: InputError) -> str:
    """What `bcosify` said, without the architecture's name and the advice."""
    return str(error).partition(": ")[2].rpartition("; ")[0]


def smallest(records: dict[str, Record]) -> list[str]:
    """The architecture of each module with the fewest parameters."""
    best: dict[str, str] = {}
    for name, record in sorted(records.items(), key=lambda item: item[1]["parameters"]):
        best.setdefault(record["module"], name)
    return sorted(best.values())


HEAD = """# What can be converted

Made by `python tools/conversions.py` from timm {version}: do not edit. [`bcosify`][bcos_zoo.bcosify] turns a
network of timm into a B-cos network [by rule](howto/bcosify.md); this page says which.

- **Converted**: in linear mode the network is exactly a linear map of the image plus constants.
- **With a choice**: as exact, but somewhere two factors that both depend on the image are multiplied, and
  one of them is held. The column names the module, the operation and the factor held: a factor that is
  broadcast, else one straight from an activation, else the right one of an elementwise product and the left
  one of a matrix product. A tanh between layers, held as x times tanh(x) / x, counts too.
- **Refused**: something that is not a linear function of the image is added to the main path. `bcosify` says
  so in one line.

Of {architectures} architectures in {modules} modules, **{converted} architectures ({share:.0%})** are
converted, {chosen} of them with a choice; of **{whole} modules ({module_share:.0%})** every architecture is,
of {partly} some. The rules were followed through the code of every architecture, without numbers. With random
weights, in float64, completeness was measured of {measured_count} architectures, of {smallest_count} of the
{modules} smallest of a module: the largest gap was {gap:.0e} of a logit.

| module | architectures | converted | measured | choices | refused |
| --- | --- | --- | --- | --- | --- |
"""


def page(records: dict[str, Record]) -> str:
    modules: dict[str, list[str]] = {}
    for name, record in sorted(records.items()):
        modules.setdefault(record["module"], []).append(name)
    converted = [name for name, record in records.items() if record["refused"] is None]
    refused = {module: [n for n in names if records[n]["refused"]] for module, names in modules.items()}
    gaps = [record["gap"] for record in records.values() if record["gap"] is not None]
    whole = sum(not names for names in refused.values())
    text = HEAD.format(
        version=version(),
        architectures=len(records),
        modules=len(modules),
        converted=len(converted),
        share=len(converted) / len(records),
        chosen=sum(bool(records[name]["choices"]) for name in converted),
        whole=whole,
        module_share=whole / len(modules),
        partly=sum(0 < len(refused[m]) < len(modules[m]) for m in modules),
        measured_count=len(gaps),
        smallest_count=sum(records[name]["gap"] is not None for name in smallest(records)),
        gap=max(gaps, default=0.0),
    )
    rows = []
    for module, names in sorted(modules.items()):
        count = sum(records[name]["gap"] is not None for name in names)
        choices = sorted({choice for name in names for choice in records[name]["choices"]})
        why = Counter(_short(records[name]["refused"]) for name in refused[module])
        told = "; ".join(f"{reason} ({n})" if len(names) > 1 else reason for reason, n in why.items())
        rows.append(
            f"| {module} | {len(names)} | {len(names) - len(refused[module])} | {count} | "
            f"{'<br>'.join(choices)} | {told} |\n"
        )
    return text + "".join(rows) + _lists(modules, records)


def _short(refused: str) -> str:
    """A reason without the name of the module inside the network, which differs between architectures."""
    return re.sub(r" '[\w.]+'", "", refused).replace("|", "/")


def _lists(modules: dict[str, list[str]], records: dict[str, Record]) -> str:
    """All names, by module, with a mark for what is not simply converted."""
    lines = ["\n## Every architecture\n\nAn asterisk: with a choice. A cross: refused.\n"]
    for module, names in sorted(modules.items()):
        marks = [f"`{name}`{_sign(records[name])}" for name in names]
        lines.append(f"\n**{module}**: {', '.join(marks)}\n")
    return "".join(lines)


def _sign(record: Record) -> str:
    return " ×" if record["refused"] else "\\*" if record["choices"] else ""


def update(names: list[str], make: Any, records: dict[str, Record]) -> None:
    for number, name in enumerate(names):
        try:
            records[name] = make(name)
        except Exception as error:  # one architecture must not end the run
            print(f"{name}: {type(error).__name__}: {error}"[:300], file=sys.stderr)
            continue
        print(number + 1, len(names), name, records[name]["refused"] or records[name]["gap"], flush=True)
        if number % 20 == 19:
            write(records)
    write(records)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--rules", action="store_true")
    parser.add_argument("--smallest", action="store_true")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--most", type=float, default=100.0)
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    records = read()
    if asked.rules:
        wanted = [name for name in architectures() if records.get(name, {"refused": True})["refused"]]
        update(wanted, by_rules, records)
    for names, wanted in ((smallest(records), asked.smallest), (list(records), asked.all)):
        left = [name for name in names if records[name]["gap"] is None and not records[name]["refused"]]
        left = [name for name in left if records[name]["parameters"] <= asked.most * 1e6]
        update(
            sorted(left, key=lambda name: records[name]["parameters"]) if wanted else [], measured, records
        )
    text = page(records)
    if asked.check:
        return int(not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
