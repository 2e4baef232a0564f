"""torch.hub, offline: real calls in fresh processes, from a checkout and from an archive as GitHub packs it.

Beside another bcos_zoo, installed or imported already, and where none is installed.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import bcos_zoo
from bcos_zoo.weights import manifest

ROOT = Path(__file__).resolve().parents[2]
VERSION = bcos_zoo.__version__
pytestmark = pytest.mark.skipif(
    not (ROOT / "hubconf.py").exists(), reason="hubconf.py comes with a checkout only"
)

# Every process starts with this: nothing gets out of it, and urllib is answered as GitHub would answer it.
GITHUB = """
import email.message, io, json, os, pathlib, socket, sys, urllib.request, urllib.response
def refuse(*arguments, **keywords): raise AssertionError(f"the network was asked for {arguments}")
socket.getaddrinfo = socket.socket.connect = refuse

class GitHub(urllib.request.HTTPSHandler):
    answers, asked = {}, []
    def https_open(self, request):
        self.asked.append(request.full_url)
        headers, body = email.message.Message(), self.answers.pop(request.full_url)  # each of them once
        headers["Content-Length"] = str(len(body))
        response = urllib.response.addinfourl(io.BytesIO(body), headers, request.full_url, 200)
        response.msg = "OK"
        return response
urllib.request.install_opener(urllib.request.build_opener(GitHub))
"""
# With this none is installed, however it is: bcos_zoo is found in folders put on sys.path later, or nowhere.
NONE_INSTALLED = """
import importlib.machinery, importlib.util
class Later:
    before = set(sys.path)
    def find_spec(self, name, path=None, target=None):
        if name != "bcos_zoo":
            return None
        later = [folder for folder in sys.path if folder not in self.before]
        spec = importlib.machinery.PathFinder.find_spec(name, later)
        if spec is None:
            raise ModuleNotFoundError("bcos_zoo is not installed")
        return spec
sys.meta_path.insert(0, Later())
"""
CALLS = """
import torch
where, known = "bcos-zoo/bcos_zoo:main", dict(trust_repo=True, skip_validation=True)
"""


def python(code, torch_home, *arguments, installed=None):
    """What a fresh process prints as JSON.

    torch_home: its TORCH_HOME, made if need be, which is also where it runs.
    installed: a folder whose bcos_zoo is found before the one of these tests.
    """
    torch_home.mkdir(exist_ok=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "TORCH", "HF_"))}
    own = {"TORCH_HOME": str(torch_home), "HF_HOME": str(torch_home / "hf"), "HF_HUB_OFFLINE": "1"}
    if installed:
        own["PYTHONPATH"] = str(installed)
    done = subprocess.run(
        [sys.executable, "-c", GITHUB + code, *map(str, arguments)],
        cwd=torch_home, env=kept | own, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def files():
    """What is in the archive: what git tracks, or the package's own files where there is no git.

    A file that was not yet added to git is missing, as it would be on GitHub.
    """
    found = [ROOT / "hubconf.py", ROOT / "weights_manifest.json", *(ROOT / "bcos_zoo").rglob("*")]
    if shutil.which("git"):
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout
        found = [ROOT / name for name in tracked.split("\0") if name] or found
    return [file for file in found if file.is_file() and "__pycache__" not in file.parts]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The files of this checkout in GitHub's form: one folder, whose entry comes first."""
    path = tmp_path_factory.mktemp("github") / "main.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("bcos_zoo-main/", "")
        for file in files():
            zipped.write(file, f"bcos_zoo-main/{file.relative_to(ROOT).as_posix()}")
    return path


@pytest.fixture
def torch_home(archive, tmp_path):
    """A TORCH_HOME with the archive where torch.hub unpacks `bcos-zoo/bcos_zoo:main`."""
    with zipfile.ZipFile(archive) as zipped:
        zipped.extractall(tmp_path / "torch" / "hub")
    (tmp_path / "torch/hub/bcos_zoo-main").rename(tmp_path / "torch/hub/bcos-zoo_bcos_zoo_main")
    return tmp_path / "torch"


def install(folder, version):
    """A bcos_zoo of that version in `folder`, as pip would leave it."""
    shutil.copytree(ROOT / "bcos_zoo", folder / "bcos_zoo", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "weights_manifest.json", folder / "bcos_zoo")
    version_file = folder / "bcos_zoo/_version.py"
    version_file.write_text(version_file.read_text("utf-8").replace(f'"{VERSION}"', f'"{version}"'), "utf-8")
    return folder


def test_github_s_archive_is_fetched_listed_and_loaded_where_none_is_installed(archive, tmp_path):
    code = """
import torch
github, repo = "https://github.com/bcos-zoo/bcos_zoo", "bcos-zoo/bcos_zoo"
GitHub.answers = {
    f"{github}/tree/main/": b"",
    "https://api.github.com/repos/bcos-zoo/bcos_zoo/branches?per_page=100&page=1":
        json.dumps([{"name": "main", "commit": {"sha": "0" * 40}}]).encode(),
    f"{github}/zipball/main": pathlib.Path(sys.argv[1]).read_bytes(),
}
trained = torch.hub.load(repo, "bcos_resnet20", pretrained=True, trust_repo=True)
out = {"unanswered": list(GitHub.answers), "asked": len(GitHub.asked)}

where, known, before = f"{repo}:main", dict(trust_repo=True, skip_validation=True), list(sys.path)
out["names"] = torch.hub.list(where, **known)
out["help"] = {name: " ".join(torch.hub.help(where, name, **known).split()) for name in out["names"]}
tagged = torch.hub.load(where, "bcos_resnet20", tag="cifar10", pretrained=True, num_classes=3, **known)
random = torch.hub.load(where, "bcos_resnet20", **known)
form = torch.hub.load(where, "bcos_densenet121", tag="v1_in1k", device="meta", **known)
try:
    torch.hub.load(where, "bcos_resnet20", pretrained="cifar10", **known)
except ValueError as error:
    out["refused"] = str(error)
out["on the path"] = [folder for folder in sys.path if folder not in before]

import bcos_zoo
from safetensors.torch import load_file
out["used"] = bcos_zoo.__file__
package = pathlib.Path(bcos_zoo.__file__).parent
file = load_file(package / "weights" / "checkpoints" / "bcos_resnet20.cifar10.safetensors")
same = lambda model: [key for key, value in model.state_dict().items() if torch.equal(value, file[key])]
out["same"] = [len(file), len(same(trained)), len(same(tagged))]
out["random"] = [key for key in same(random) if key.endswith("conv1.weight")]
out["classes"] = [trained.num_classes, tagged.num_classes, random.num_classes]
out["params"] = sum(weight.numel() for weight in form.parameters())
out["training"] = [trained.training, tagged.training, random.training]
print(json.dumps(out))
"""
    out = python(NONE_INSTALLED + code, tmp_path / "torch", archive)
    assert (out["unanswered"], out["asked"]) == ([], 3)  # what the README's line asks GitHub for, and no more
    assert Path(out["used"]) == tmp_path / "torch/hub/bcos-zoo_bcos_zoo_main/bcos_zoo/__init__.py"
    assert out["names"] == sorted([*bcos_zoo.list_models(), "classifier"])
    assert all("RGB in [0, 1]" in text for name, text in out["help"].items() if name != "classifier")
    resnet, vgg, atto = (out["help"][name] for name in ("bcos_resnet50", "bcos_vgg11", "bcos_convnext_atto"))
    assert "ResNet-50 (He et al. 2015" in resnet and 'without a tag those of "v2_in1k"' in resnet
    assert all(f'"{one.tag}"' in out["help"][one.architecture] for one in manifest.checkpoints())
    assert "this takes a tag" in vgg and 'pretrained_cfg_overlay=dict(file=PATH): "v1_in1k"' in vgg
    assert "there are no weights yet" in atto
    assert '"classifier", "bcos_resnet20.cifar10"' in out["help"]["classifier"]
    size, trained, tagged = out["same"]
    assert size == trained and size > tagged >= size - 2 and out["random"] == []  # of the tagged a new head
    assert out["classes"] == [10, 3, 10] and out["training"] == [False] * 3
    v1, v2 = (manifest.get(f"bcos_densenet121.{tag}").params for tag in ("v1_in1k", "v2_in1k"))
    assert out["params"] == v1 != v2
    assert out["refused"].endswith("to name a checkpoint give pretrained=True, tag='cifar10'")
    assert out["on the path"] == []


def test_all_goes_on_working_after_torch_hub_has_left_the_path(torch_home):
    code = """
from PIL import Image
clf = torch.hub.load(where, "classifier", "bcos_resnet20.cifar10", **known)
out = {"on the path": [folder for folder in sys.path if "_main" in folder]}
Image.effect_noise((40, 36), 90).convert("RGB").save("noise.png")
out["label"] = clf.predict("noise.png", top_k=1)[0].label
explanation = clf.explain("noise.png", targets=["cat", "dog"])
out["gap"] = explanation.completeness().abs().max().item()

from bcos_zoo import cli, pipeline, training  # for the first time in this process
import bcos_zoo, timm
explained = pipeline.explain_image(clf, Image.open("noise.png"))
out["picture"] = str(pipeline.save_picture(explained.picture, pathlib.Path("picture.png")))
out["arrays"] = str(explanation.save("arrays.npz"))
again = bcos_zoo.load("bcos_resnet20")
out["again"] = torch.equal(again.model(again.preprocess("noise.png")), clf.model(clf.preprocess("noise.png")))
out["timm"] = type(timm.create_model("bcos_vgg11", device="meta")).__module__
out["modules"] = sorted({str(pathlib.Path(m.__file__).parent) for n, m in sys.modules.items()
                         if n.partition(".")[0] == "bcos_zoo"})

torch.save(clf.model.state_dict(), "state_dict.pt")
torch.save(clf.model, "model.pt")
torch.save(clf.model(torch.full((1, 3, 32, 32), 0.3)), "logits.pt")
print(json.dumps(out))
"""
    out = python(NONE_INSTALLED + CALLS + code, torch_home)
    assert out["on the path"] == []
    assert out["label"] in bcos_zoo.load("bcos_resnet20.cifar10").class_names
    assert out["gap"] < 1e-4 and out["again"] and out["timm"] == "bcos_zoo.models.bcos_vgg"
    assert (torch_home / out["picture"]).stat().st_size > 1000 and (torch_home / out["arrays"]).exists()
    repository = torch_home / "hub/bcos-zoo_bcos_zoo_main"
    assert all(Path(folder).is_relative_to(repository) for folder in out["modules"])

    # A state_dict is tensors, and is read anywhere. A whole model is a reference to classes of bcos_zoo: a
    # process that has none cannot read it until torch.hub has loaded something, and then only with
    # weights_only=False. For the same reason workers that are spawned, not forked, cannot take one.
    code = """
out, logits, x = {}, torch.load("logits.pt"), torch.full((1, 3, 32, 32), 0.3)
def outcome(**options):
    try:
        return torch.equal(torch.load("model.pt", **options)(x), logits)
    except Exception as error:
        return type(error).__name__
state_dict = torch.load("state_dict.pt")
out["before"] = outcome(weights_only=False)
model = torch.hub.load(where, "bcos_resnet20", **known)
model.load_state_dict(state_dict)
out["state_dict"] = torch.equal(model(x), logits)
out["after"] = [outcome(), outcome(weights_only=False)]
print(json.dumps(out))
"""
    assert python(NONE_INSTALLED + CALLS + code, torch_home) == {
        "before": "ModuleNotFoundError",
        "state_dict": True,
        "after": ["UnpicklingError", True],
    }


def test_the_copy_of_torch_hub_goes_before_an_installed_one_of_another_version(torch_home, tmp_path):
    code = """
model = torch.hub.load(where, "bcos_resnet20", **known)
import bcos_zoo
out = {"used": bcos_zoo.__file__, "version": bcos_zoo.__version__}
version = pathlib.Path(bcos_zoo.__file__).with_name("_version.py")
# what force_reload=True does to a process that has loaded before:
version.write_text(version.read_text("utf-8").replace(f'"{bcos_zoo.__version__}"', '"9.9.9"'), "utf-8")
try:
    torch.hub.load(where, "bcos_resnet20", **known)
except RuntimeError as error:
    out["reloaded"] = str(error)
print(json.dumps(out))
"""
    out = python(CALLS + code, torch_home, installed=install(tmp_path / "installed", "0.0.1"))
    copy = torch_home / "hub/bcos-zoo_bcos_zoo_main/bcos_zoo"
    assert (Path(out["used"]), out["version"]) == (copy / "__init__.py", VERSION)
    assert f"bcos_zoo {VERSION} is imported already" in out["reloaded"] and "is 9.9.9" in out["reloaded"]


def test_another_version_that_is_imported_already_is_refused_in_one_line(torch_home, tmp_path):
    code = """
import bcos_zoo
out = {"errors": []}
for call in (("bcos_resnet20",), ("classifier", "bcos_resnet20.cifar10")):
    try:
        torch.hub.load(where, *call, **known)
    except RuntimeError as error:
        out["errors"].append(str(error))
out["names"] = torch.hub.list(where, **known)
out["help"] = torch.hub.help(where, "bcos_resnet20", **known)
import timm
out["timm"] = timm.create_model("bcos_resnet20", pretrained=True).num_classes
print(json.dumps(out))
"""
    out = python(CALLS + code, torch_home, installed=install(tmp_path / "installed", "0.0.1"))
    copy = torch_home / "hub/bcos-zoo_bcos_zoo_main/bcos_zoo"
    for error in out["errors"]:
        assert error.startswith(
            f"bcos_zoo 0.0.1 is imported already, from {tmp_path / 'installed/bcos_zoo'}, but this copy for "
            f"torch.hub, {copy}, is {VERSION}"
        )
        assert "torch.hub.load in a new process" in error and "or timm.create_model" in error
        assert "\n" not in error
    assert len(out["errors"]) == 2
    assert "classifier" in out["names"] and "ResNet-20" in out["help"] and out["timm"] == 10


def test_the_same_version_that_is_imported_already_is_used(torch_home, tmp_path):
    code = """
import warnings, bcos_zoo
with warnings.catch_warnings():
    warnings.simplefilter("error")  # above all timm's, of a name that is registered twice
    clf = torch.hub.load(where, "classifier", "bcos_resnet20.cifar10", **known)
print(json.dumps([bcos_zoo.__file__, type(clf) is bcos_zoo.Classifier]))
"""
    installed = install(tmp_path / "installed", VERSION)
    used, same_class = python(CALLS + code, torch_home, installed=installed)
    assert Path(used) == installed / "bcos_zoo/__init__.py" and same_class


def test_a_checkout_loads_by_a_relative_path_with_what_hubconf_names_and_no_more(tmp_path):
    code = """
import torch
os.chdir(sys.argv[1])
model = torch.hub.load(".", "bcos_resnet20", source="local", pretrained=True)
modules = [m.__file__ for name, m in sys.modules.items() if name.partition(".")[0] == "bcos_zoo"]
os.chdir(os.environ["TORCH_HOME"])
import bcos_zoo
e = bcos_zoo.explain(model, torch.rand(1, 3, 32, 32))
print(json.dumps([type(model).__name__, model.training, tuple(e.rgba().shape), modules]))
"""
    name, training, shape, modules = python(NONE_INSTALLED + code, tmp_path / "torch", ROOT)
    assert (name, training, shape) == ("BcosResNet", False, [1, 1, 4, 32, 32])
    assert set(modules) >= {str(ROOT / "bcos_zoo" / file) for file in ("__init__.py", "models/bcos_vit.py")}

    used = set().union(*(imported(Path(file)) for file in modules)) - sys.stdlib_module_names
    named = set(dependencies())
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    listed = re.findall(r'"([\w-]+)', re.search(r"^dependencies = \[(.*?)^\]", project, re.M | re.S)[1])
    installed = {{"pillow": "PIL"}.get(name, name) for name in listed}
    assert used <= named <= installed


def imported(file):
    """The packages from outside its own that a file imports as it is imported itself: not in functions."""
    nodes = [ast.parse(file.read_text("utf-8"))]
    for node in nodes:  # which grows
        if not isinstance(node, ast.FunctionDef):
            nodes.extend(ast.iter_child_nodes(node))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0]
    return {name.partition(".")[0] for name in names}


def dependencies():
    """What torch.hub checks for before it loads."""
    body = ast.parse((ROOT / "hubconf.py").read_text("utf-8")).body
    return next(ast.literal_eval(node.value) for node in body if isinstance(node, ast.Assign))
