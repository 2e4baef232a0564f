"""timm's own tests of models, of the installed version, on ours: the smaller sizes, or all if asked for."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
import timm
from conftest import NAMES
from timm_plugin import CONVERTED, EXCLUDED

import bcos_zoo

pytestmark = pytest.mark.slow

ALL_SIZES = bool(os.environ.get("BCOS_ZOO_ALL_SIZES"))  # hours, and gigabytes of memory
SMALL = (
    *("bcos_resnet18", "bcos_plain9", "bcos_vgg11", "bcos_vgg11_bnu", "bcos_densenet52", "bcos_densenet121"),
    *("bcos_inception_v3", "bcos_convnext_atto", "bcos_convnext_atto_bnu", "bcos_resnet50_clip"),
    *("bcos_simple_vit_ti_patch16_224", "bcos_vitc_ti_patch1_14"),
    *("bcos_std_simple_vit_ti_patch16_224", "bcos_std_vitc_ti_patch1_14"),
)
ORIGINALS = (  # of eight families, small
    *("test_resnet", "test_efficientnet", "test_convnext", "test_vit", "dla46_c", "densenet121"),
    *("test_byobnet", "hgnetv2_b0"),
)
AT_LEAST = 10  # different tests that pass: 10 for a ViT without checkpoints, 14 and more for the others
MARKERS = "base cfg cfg_nonstd forward backward torchscript features fxforward fxbackward timeout".split()
HOOK = "import timm_plugin; timm_plugin.know_ours(NON_STD_FILTERS, FEAT_INTER_FILTERS)\n"
BEFORE = "NUM_NON_STD = len(NON_STD_FILTERS)\n"


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with timm's tests, told of our networks, and a pytest.ini."""
    folder, wanted = tmp_path_factory.mktemp("timm"), f"timm=={timm.__version__}"
    download = [sys.executable, "-m", "pip", "download", wanted, "--no-deps", "--no-binary", ":all:"]
    pip = subprocess.run([*download, "--dest", folder], capture_output=True, text=True)
    if pip.returncode:
        pytest.skip(f"the source of {wanted} cannot be downloaded: {pip.stderr.strip().splitlines()[-1]}")
    with tarfile.open(next(folder.glob("*.tar.gz"))) as source:
        source.extractall(folder, filter="data")
    [tests] = folder.glob("timm-*/tests/test_models.py")
    text = tests.read_text(encoding="utf-8")
    assert text.count(BEFORE) == 1, "timm's tests have changed: find a new place for the line that we add"
    tests = folder / "tests" / "test_models.py"
    tests.parent.mkdir()
    tests.write_text(text.replace(BEFORE, HOOK + BEFORE), encoding="utf-8")
    lines = ["[pytest]", "markers =", *(f"    {marker}: timm's" for marker in MARKERS)]
    (folder / "pytest.ini").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "name", [*(NAMES if ALL_SIZES else SMALL), *(CONVERTED + original for original in ORIGINALS)]
)
def test_timms_own_tests_pass(suite: Path, name: str) -> None:
    here, report = Path(__file__).parent, suite / f"{name}.xml"
    package = Path(bcos_zoo.__file__).parents[1]
    environment = {"OMP_NUM_THREADS": "1"} | os.environ  # threads of many processes wait for each other
    environment.pop("GITHUB_ACTIONS", None)  # it makes timm leave out some tests
    child = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"),
            *("-p", "timm_plugin", "--network", name, "-c", "pytest.ini", "--import-mode=importlib"),
            *(f"--junitxml={report}", "tests/test_models.py"),
        ],
        cwd=suite,
        env=environment | {"PYTHONPATH": os.pathsep.join(map(str, (here, here.parent, package)))},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stdout[-10_000:] + child.stderr[-2_000:]
    passed, excluded = [], {}
    for case in ElementTree.parse(report).iter("testcase"):
        skipped = case.find("skipped")
        if skipped is None:
            passed.append(case.get("name"))
        else:
            excluded[case.get("name")] = skipped.get("message")
    print(f"{name}: {len(passed)} passed, {len(excluded)} excluded", *excluded.items(), sep="\n    ")
    assert set(excluded.values()) <= {row.reason for row in EXCLUDED}, "timm's tests skip some of themselves"
    assert len({case.partition("[")[0] for case in passed}) >= AT_LEAST
