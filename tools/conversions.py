"""Which architectures of timm `bcosify` converts: tools/conversions.json, and docs/conversions.md from it.

python tools/conversions.py                    write the page from the data
python tools/conversions.py --check            exit 1 if the page is not what the data says
python tools/conversions.py --rules            follow the rules, without numbers, through every architecture
                                               that is new, was refused, or has a record of an older form
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
from bcos_zoo.conversion.plan import Plan
from bcos_zoo.conversion.trial import EXACT, followed, tried
from bcos_zoo.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
DATA, PAGE = ROOT / "tools" / "conversions.json", ROOT / "docs" / "conversions.md"
VERSION = "timm"  # the key of the version, among those of architectures
SIDE = 96  # pixels of the images, where an architecture takes any size

Record = dict[str, Any]


def read() -> dict[str, Record]:
    """Architecture -> module, parameters, choices, refused (None or why), share, gap, difference.

    share: of the parameters in layers that only make factors; None if refused. gap: what of a logit stayed
    unexplained; difference: by how much linear mode gave other logits; None if not measured.
    """
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
    plan = Plan(mean=(0.5,) * size[0], std=(0.25,) * size[0], b=1.0, rows="plain")
    return Converted(model, in_chans=size[0], plan=plan, card={}, conversion={"from": name})


def by_rules(name: str) -> Record:
    """The record of an architecture, the rules followed without numbers."""
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=10).eval()
        size = timm.get_pretrained_cfg(name).input_size
        try:
            trial = followed(_plain(name, model, size), size)
        except InputError as error:
            return _record(name, model, refused=_why(error))
    return _record(name, model, choices=list(trial.choices), share=_rounded(trial.share))


def measured(name: str) -> Record:
    """The record of an architecture: converted, with random weights, in float64, and measured."""
    model = timm.create_model(name, num_classes=10).eval()
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
        return _record(name, model, refused=_why(error))
    said = converted.conversion
    return _record(
        name,
        model,
        choices=said["choices"],
        share=_rounded(said["share_of_factors"]),
        gap=float(f"{max(trial.gap, said['gap']):.1e}"),
        difference=float(f"{max(trial.difference, said['difference']):.1e}"),
    )


def _record(name: str, model: Any, **found: Any) -> Record:
    unknown = dict(choices=[], refused=None, share=None, gap=None, difference=None)
    size = sum(p.numel() for p in model.parameters())
    return dict(module=module_of(name), parameters=size) | unknown | found


def _rounded(share: float) -> float:
    return float(f"{share:.2g}")


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
- **In factors**: the share of an architecture's parameters that are in layers which see something of the
  image but only make factors, such as squeeze-and-excitation's; from the least to the most of a module. What
  such layers look at, an explanation does not show.

By the rules, {converted} of {architectures} architectures (**{share:.0%}**) are converted, {chosen} of them
with a choice; of {whole} of {modules} modules ({module_share:.0%}) every architecture is, of {partly} some.

- **Measured**: {measured_count} architectures, among them {smallest_count} of the {modules} smallest of a
  module, converted with random weights and run in float64. At most {gap:.0e} of a logit stayed unexplained,
  and linear mode gave the logits of the plain pass up to {difference:.0e} of the largest{casts}.
- **Only followed**: of the other {followed_count} that are converted, the rules were followed through their
  code without numbers. That shows what is held and what is refused; `bcosify` measures each network that it
  is given, and refuses it if the numbers do not agree.

| module | architectures | converted | measured | in factors | choices | refused |
| --- | --- | --- | --- | --- | --- | --- |
"""


def page(records: dict[str, Record]) -> str:
    modules: dict[str, list[str]] = {}
    for name, record in sorted(records.items()):
        modules.setdefault(record["module"], []).append(name)
    converted = [name for name, record in records.items() if record["refused"] is None]
    refused = {module: [n for n in names if records[n]["refused"]] for module, names in modules.items()}
    numbers = [record for record in records.values() if record["gap"] is not None]
    cast = [record["difference"] for record in numbers if record["difference"] > EXACT]
    exact = [record["difference"] for record in numbers if record["difference"] <= EXACT]
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
        measured_count=len(numbers),
        followed_count=len(converted) - len(numbers),
        smallest_count=sum(records[name]["gap"] is not None for name in smallest(records)),
        gap=max((record["gap"] for record in numbers), default=0.0),
        difference=max(exact, default=0.0),
        casts=f"; up to {max(cast):.0e} of {len(cast)} whose code casts to float32 or that amplify rounding"
        if cast
        else "",
    )
    rows = []
    for module, names in sorted(modules.items()):
        count = sum(records[name]["gap"] is not None for name in names)
        choices = sorted({choice for name in names for choice in records[name]["choices"]})
        why = Counter(_short(records[name]["refused"]) for name in refused[module])
        told = "; ".join(f"{reason} ({n})" if len(names) > 1 else reason for reason, n in why.items())
        rows.append(
            f"| {module} | {len(names)} | {len(names) - len(refused[module])} | {count} | "
            f"{_range([records[name].get('share') for name in names])} | {'<br>'.join(choices)} | {told} |\n"
        )
    return text + "".join(rows) + _lists(modules, records)


def _range(shares: list[float | None]) -> str:
    """From the least to the most, in percent; nothing where all are zero."""
    known = [share for share in shares if share is not None]
    if not any(known):
        return ""
    least, most = (_percent(share) for share in (min(known), max(known)))
    return least if least == most else f"{least} to {most}"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 or not share else f"{share:.1%}"


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


def _unmeasured(names: list[str], records: dict[str, Record], most: float) -> list[str]:
    """Those of the names that are converted, not measured, and of at most so many million parameters."""
    left = [name for name in names if records[name]["gap"] is None and not records[name]["refused"]]
    left = [name for name in left if records[name]["parameters"] <= most * 1e6]
    return sorted(left, key=lambda name: records[name]["parameters"])


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
        known = {name for name, record in records.items() if "share" in record and not record["refused"]}
        update([name for name in architectures() if name not in known], by_rules, records)
    if asked.smallest:
        update(_unmeasured(smallest(records), records, asked.most), measured, records)
    if asked.all:
        update(_unmeasured(list(records), records, asked.most), measured, records)
    text = page(records)
    if asked.check:
        return int(not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
