"""What other libraries keep to themselves is used in bcos_zoo/_compat.py alone, and is there."""

import ast
import importlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from torch import nn

import bcos_zoo
from bcos_zoo import _compat

PACKAGE = Path(bcos_zoo.__file__).parent
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "_compat.py"]
DISTRIBUTION = {"PIL": "pillow"}
OPEN = {  # the modules whose names without an underscore a library offers; of torch and Pillow all others
    "timm": ("", "data", "layers", "models", "optim", "scheduler", "utils"),
    "huggingface_hub": ("", "constants", "errors", "utils"),
    "accelerate": ("", "state", "utils"),
    "captum": ("", "attr"),
}
CLOSED = ("torch.nn.modules", "timm.optim.muon")
OVERRIDDEN = {
    "_apply"
}  # a method cannot be overridden elsewhere than in its class; it is listed all the same
OBJECTS = {  # one of each class of which attributes are used
    "Module": lambda: nn.Module(),
    "Conv2d": lambda: nn.Conv2d(1, 1, 1),
    "Tensor": lambda: torch.zeros(1),
    "OptimizedModule": lambda: torch.compile(nn.Identity()),
}


def own_names() -> set[str]:
    """All names with an underscore that the package gives to anything of its own."""
    found = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found.add(node.name)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                if isinstance(node.value, ast.Name) and node.value.id == "self":
                    found.add(node.attr)
            if isinstance(node, ast.alias):
                found.add(node.asname or node.name)
    return {name for name in found if is_private(name)}


def is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def theirs() -> set[str]:
    """Attributes with an underscore of the objects that the package meets most, whoever holds them."""
    objects = [make() for make in OBJECTS.values()] + [nn.BatchNorm2d(1), nn.Linear(1, 1), torch.zeros(1)]
    found = {name for one in objects for name in dir(one) if is_private(name)}
    return found | {part for p in _compat.PRIVATE.values() for part in p.path.split(".") if is_private(part)}


OWN, THEIRS = own_names(), theirs() - OVERRIDDEN


def is_open(dotted: str) -> bool:
    """Whether a library offers a module or a name: no underscore, and its module is an open one."""
    library, *inside = dotted.split(".")
    if library not in _compat.SEEN:
        return True
    if any(map(is_private, inside)) or any(f"{dotted}.".startswith(f"{one}.") for one in CLOSED):
        return False
    of_a_class = inside and inside[0][:1].isupper()  # whose own names are open, if not private
    return library not in OPEN or len(inside) < 2 or of_a_class or inside[0] in OPEN[library]


def touched(source: str) -> list[str]:
    """What a file touches that libraries keep to themselves: imported, asked for, or named in a string."""
    tree = ast.parse(source)
    imported, found = {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                imported[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
                found += [] if is_open(alias.name) else [alias.name]
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                dotted = f"{node.module}.{alias.name}"
                imported[alias.asname or alias.name] = dotted
                library, *inside = (node.module or "").split(".")
                deep = library in OPEN and ".".join(inside) not in OPEN[library]
                found += [dotted] if deep or not is_open(dotted) else []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            first, _, rest = dotted.partition(".")
            named = all(map(str.isidentifier, dotted.split(".")))  # and no call stands between
            if named and first in imported and not is_open(whole := f"{imported[first]}.{rest}"):
                found.append(whole)
            elif (
                is_private(node.attr)
                and node.attr not in OVERRIDDEN
                and (node.attr not in OWN or node.attr in THEIRS)
            ):
                found.append(dotted)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            library = node.value.partition(".")[0]
            looks_up = library in _compat.SEEN and all(map(str.isidentifier, node.value.split(".")))
            if node.value in THEIRS or (looks_up and not is_open(node.value)):
                found.append(repr(node.value))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_other_file_touches_what_a_library_keeps_to_itself(path):
    assert touched(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch._C._is_tracing()",
        "import torch\nx = torch.nn.modules.batchnorm._BatchNorm",
        "from torch import nn\nnn.modules.module",
        "from torch._subclasses.fake_tensor import FakeTensor",
        "from torch.nn.modules.module import register_module_forward_hook",
        "import torch.nn.functional as F\nF._pad",
        "from timm.models._hub import save_config_for_hf",
        "import timm.models._hub as hub",
        "from timm.data.mixup import mixup_target",
        "from timm.optim import muon",
        "from huggingface_hub.file_download import http_get",
        "import accelerate\naccelerate.state.AcceleratorState._reset_state()",
        "def f(module):\n    return module._forward_hooks",
        "class A:\n    def f(self):\n        del self._parameters['x']",
        "def f(m):\n    return getattr(m, '_orig_mod', None)",
        "required('captum._utils.models.linear_model', 'captum')",
        "from PIL import Image, _imaging",
    ],
)
def test_what_they_keep_to_themselves_is_found(source):
    assert touched(source)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.nn.functional.relu\ntorch.__version__",
        "import timm\ntimm.data.create_transform",
        "from timm.data import Mixup",
        "from huggingface_hub.errors import HFValidationError",
        "required('captum.attr', 'captum')",
        "def f(x):\n    return type(x).__name__",
        "from ..layers._fast import channels_last",
    ],
)
def test_what_they_offer_is_not(source):
    assert touched(source) == []


@pytest.mark.parametrize("name", _compat.PRIVATE)
def test_each_private_name_is_in_the_installed_version(name):
    private = _compat.PRIVATE[name]
    pytest.importorskip(private.library, reason=f"{private.library} is in an extra")
    found = importlib.import_module(private.module)
    for part in private.path.split("."):
        found = OBJECTS[found.__name__]() if isinstance(found, type) and found.__name__ in OBJECTS else found
        assert hasattr(found, part), (
            f"{private.module}:{private.path}, for {private.use}; then: {private.gone}"
        )
        found = getattr(found, part)
    if "." not in private.path and name not in vars(_compat):
        assert getattr(_compat, name) is found


@pytest.mark.parametrize("name", _compat.PRIVATE)
def test_each_private_name_is_used_here_or_elsewhere(name):
    """A name that nobody needs any more leaves the list."""
    private, compat = _compat.PRIVATE[name], (PACKAGE / "_compat.py").read_text(encoding="utf-8")
    by_name = [path for path in FILES if name in imported_from_compat(path)]
    own = [part for part in private.path.split(".") if f".{part}" in compat.partition("def __getattr__")[2]]
    own += [part for part in private.path.split(".") if f'"{part}"' in compat.partition("def __getattr__")[2]]
    assert by_name or own or name.startswith("hooks_") or name in ("captum_calls", "move")


@cache
def imported_from_compat(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "_compat":
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "_compat":
            found.add(node.attr)
    return found


def test_every_name_that_files_take_from_there_is_there():
    """mypy cannot tell: a module with __getattr__ has every name."""
    for path in FILES:
        for name in imported_from_compat(path):
            assert name in _compat.PRIVATE or name in vars(_compat), f"{path}: {name}"


def test_a_name_that_is_gone_says_what_to_do(monkeypatch):
    monkeypatch.delattr("torch._C._is_tracing")
    with pytest.raises(ImportError, match="torch._C has no _is_tracing any more; then: torch.jit.is_tracing"):
        _compat.is_tracing  # noqa: B018
    with pytest.raises(AttributeError, match="'nothing'"):
        _compat.nothing  # noqa: B018


@pytest.mark.parametrize("library", _compat.SEEN)
def test_the_names_were_seen_in_no_newer_version_than_is_installed(library):
    pytest.importorskip(library, reason=f"{library} is in an extra")

    def numbers(one):
        return [int(part) for part in one.partition("+")[0].split(".")[:3]]

    assert numbers(version(DISTRIBUTION.get(library, library))) >= numbers(_compat.SEEN[library][0])


def test_the_file_imports_no_library():
    tree = ast.parse((PACKAGE / "_compat.py").read_text(encoding="utf-8"))
    names = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert not {name.partition(".")[0] for name in names} & set(_compat.SEEN)


def test_a_copy_without_hooks_shares_its_parameters_and_nobody_hears_of_it():
    heard = []
    module = nn.Sequential(nn.Dropout(1.0), nn.Linear(2, 2)).train()
    module[1].register_forward_hook(lambda *_: heard.append(1))
    copied = _compat.unwatched(module)
    x = torch.ones(1, 2)
    assert torch.equal(copied(x), nn.functional.linear(x, module[1].weight, module[1].bias))
    assert not heard and copied[1].weight is module[1].weight and module.training
    assert _compat.watched(module[1]) and not _compat.watched(copied[1])
