"""torch.hub: from a checkout, and from an archive primed into its cache, in fresh processes, offline."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bcos_zoo

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("bcos_zoo", "hubconf.py", "weights_manifest.json")
pytestmark = pytest.mark.skipif(
    not (ROOT / "hubconf.py").exists(), reason="hubconf.py comes with a checkout only"
)


def python(code, torch_home, cwd):
    """Run code in a fresh process that can reach no proxy and has its own TORCH_HOME."""
    environment = os.environ | {"TORCH_HOME": str(torch_home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_checkout_loads_with_an_empty_cache(tmp_path):
    code = (
        f"import torch; m = torch.hub.load({str(ROOT)!r}, 'bcos_resnet20', source='local', pretrained=True)\n"
        "print(type(m).__name__, m.training, m(torch.rand(1, 3, 32, 32)).shape[1])"
    )
    assert python(code, tmp_path / "torch", tmp_path).split() == ["BcosResNet", "False", "10"]


def test_list_help_and_load_from_a_primed_cache(tmp_path):
    repository = tmp_path / "hub" / "bcos-zoo_bcos_zoo_main"
    repository.mkdir(parents=True)
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, repository / part)
    code = """
import torch
where, known = "bcos-zoo/bcos_zoo:main", dict(trust_repo=True, skip_validation=True)
print(torch.hub.list(where, **known))
print(torch.hub.help(where, "bcos_resnet50", **known))
model = torch.hub.load(where, "bcos_resnet20", tag="cifar10", pretrained=True, num_classes=3, **known)
print(model.num_classes)
import bcos_zoo
print(bcos_zoo.__file__)
"""
    out = python(code, tmp_path, tmp_path)
    names, help_text, num_classes, used = out.split("\n", 1)[0], out, *out.strip().splitlines()[-2:]
    assert names == repr(sorted(bcos_zoo.list_models()))
    assert "ResNet-50 (He et al. 2015" in help_text and '"v2_in1k", "v2_long_in1k"' in help_text
    assert num_classes == "3"
    assert used == str(repository / "bcos_zoo" / "__init__.py")


def test_another_bcos_zoo_than_the_checkout_is_named(tmp_path):
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)
    code = (
        f"import sys, warnings; sys.path.insert(0, {str(ROOT)!r}); import bcos_zoo, torch\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        f"    torch.hub.load({str(tmp_path)!r}, 'bcos_resnet20', source='local')\n"
        "print([str(w.message) for w in caught if 'bcos_zoo' in str(w.message)])"
    )
    assert "not the one in" in python(code, tmp_path / "torch", tmp_path)
