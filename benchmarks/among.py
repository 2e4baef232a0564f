"""A converted network and its original on the same images: right answers among all classes, and among theirs.

python benchmarks/among.py RUN NAME[+FILE] DATA [--every 1]
RUN: a network that `bcos-zoo bcosify NAME[+FILE] DATA --no-labels` made, with all classes of the original: a
folder, or the name of a checkpoint. DATA: a folder with a sub-folder of images for each of some classes.
Every N-th image counts. Both see the same pixels, those of the network's card. Prints top-1 in percent.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from post_hoc import Original

import bcos_zoo
from bcos_zoo.data import list_folder
from bcos_zoo.training import known_classes, networks

BATCH = 64  # images at once


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("original")
    parser.add_argument("data", type=Path)
    parser.add_argument("--every", type=int, default=1, metavar="N")
    asked = parser.parse_args()
    clf = bcos_zoo.load(asked.run)
    name, _, file = asked.original.partition("+")
    plain = networks.create(name, True, {}, file or None).eval()
    original = Original(plain, range(plain.num_classes), dict(clf.model.pretrained_cfg)).eval()
    if known_classes.names_of(plain) != clf.class_names:
        raise SystemExit(f"error: {asked.run} has other classes than {name}; give one with all of them")
    paths, labels, folders = list_folder(asked.data)
    rows = known_classes.found(folders, clf.class_names, who=asked.run, remedy="give other images")
    compared = [(Path(asked.run).name, clf.model), (name, original)]
    right = [torch.zeros(2) for _ in compared]
    chosen = range(0, len(paths), asked.every)
    for start in range(0, len(chosen), BATCH):
        some = chosen[start : start + BATCH]
        x = torch.cat([clf.preprocess(paths[i]) for i in some])
        truth = torch.tensor([labels[i] for i in some])
        for sums, (_, network) in zip(right, compared, strict=True):
            logits = network(x)
            sums[0] += (logits.argmax(1) == torch.tensor(rows)[truth]).sum()
            sums[1] += (logits[:, rows].argmax(1) == truth).sum()
    print(f"| network | among {clf.model.num_classes} | among {len(rows)} |\n|---|---|---|")
    for (called, _), sums in zip(compared, right, strict=True):
        every, own = (100 * sums / len(chosen)).tolist()
        print(f"| {called} | {every:.1f} | {own:.1f} |")


if __name__ == "__main__":
    main()
