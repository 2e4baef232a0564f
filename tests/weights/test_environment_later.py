"""Environment variables that change after the import: what was registered stays, what was not says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bcos_zoo
from bcos_zoo.weights import manifest

ROOT = Path(bcos_zoo.__file__).parents[1]
RAW = json.loads((ROOT / manifest.FILENAME).read_text(encoding="utf-8"))


def own_manifest(folder: Path, tag: str) -> Path:
    record = RAW["checkpoints"]["bcos_resnet20.cifar10"]
    path = folder / f"{tag}.json"
    path.write_text(json.dumps(RAW | {"checkpoints": {f"bcos_resnet20.{tag}": record}}), encoding="utf-8")
    return path


def python(code: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("early", ["", "import timm"], ids=["timm later", "timm first"])
def test_records_that_were_registered_are_kept_when_the_variable_is_unset_or_changed(tmp_path, early):
    own_manifest(tmp_path, "mine"), own_manifest(tmp_path, "other")
    code = (
        "import os, bcos_zoo\n"
        f"{early}\n"
        "del os.environ['BCOS_ZOO_MANIFEST']\n"
        "os.chdir('/')\n"
        "import timm\n"
        "from bcos_zoo.weights import manifest\n"
        "model = timm.create_model('bcos_resnet20.mine', pretrained=True)\n"
        "print(sum(p.numel() for p in model.parameters()))\n"
        "print(bcos_zoo.create_model('bcos_resnet20.mine', pretrained=True).pretrained_from)\n"
        f"os.environ['BCOS_ZOO_MANIFEST'] = {str(tmp_path / 'other.json')!r}\n"
        "known = manifest.load()\n"
        "print({'bcos_resnet20.mine', 'bcos_resnet20.other', 'bcos_resnet20.cifar10'} <= known.keys())"
    )
    said = python(code, tmp_path, BCOS_ZOO_MANIFEST="mine.json").split()  # relative to where it began
    params = RAW["checkpoints"]["bcos_resnet20.cifar10"]["params"]
    assert said == [str(params), "bcos_resnet20.mine", "True"]


def test_a_record_named_after_the_import_says_so(tmp_path):
    path = own_manifest(tmp_path, "late")
    code = (
        "import os, bcos_zoo\n"
        "bcos_zoo.list_models()\n"
        f"os.environ['BCOS_ZOO_MANIFEST'] = {str(path)!r}\n"
        "try: bcos_zoo.create_model('bcos_resnet20.late', pretrained=True)\n"
        "except bcos_zoo.WeightsError as error: print(error)"
    )
    assert "set BCOS_ZOO_MANIFEST before the import" in python(code, tmp_path)
