"""What is imported when: nothing heavy for help, and timm knows our networks in any order of imports."""

import subprocess
import sys

import pytest

VERBS = (
    "", "list", "info", "predict", "explain", "units", "verify", "finetune", "train", "evaluate", "export",
    "push", "weights", "weights fetch", "weights path", "weights verify", "weights list", "weights convert",
)  # fmt: skip
HEAVY = ("torch", "timm", "torchvision", "numpy", "huggingface_hub", "safetensors", "jsonschema", "PIL")


def run(code: str, *arguments: str) -> str:
    """What Python prints for a piece of code, in a process of its own."""
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout


def test_help_of_every_verb_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from bcos_zoo import cli\n"
        "for verb in sys.argv[1:]:\n"
        "    code = cli.run([*verb.split(), '--help'])\n"
        "    assert code == 0, (verb, code)\n"
        "cli.run(['--version'])\n"
        f"print('heavy:', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    assert run(code, *VERBS).splitlines()[-1] == "heavy: []"


def test_usage_errors_and_completion_import_nothing_heavy():
    code = (
        "import sys\n"
        "from bcos_zoo import cli\n"
        "assert cli.run(['explan']) == 2 and cli.run(['predict', '--top-k', 'x', 'a.png']) == 2\n"
        f"print('heavy:', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    assert run(code).splitlines()[-1] == "heavy: []"


@pytest.mark.parametrize(
    "imports",
    [
        "import bcos_zoo, timm",
        "import timm, bcos_zoo",
        "import importlib.util, bcos_zoo; importlib.util.find_spec('timm'); import timm",
        "import bcos_zoo; from timm import create_model; import timm",
        "import bcos_zoo.models, timm",
        "from bcos_zoo.explanations import explain; import timm",
    ],
)
def test_the_import_registers_with_timm_in_any_order(imports):
    code = f"{imports}\nprint(len(timm.list_models('bcos_*')), timm.is_model('bcos_resnet20'))"
    count, known = run(code).split()
    assert int(count) > 40 and known == "True"


def test_a_public_name_is_itself_whichever_file_was_imported_before():
    code = (
        "import bcos_zoo.explanations.engine\n"
        "from bcos_zoo.explanations import ExplanationHead\n"
        "from bcos_zoo.classifier import Classifier\n"
        "from bcos_zoo import explain\n"
        "import bcos_zoo\n"
        "assert callable(explain) and bcos_zoo.explain is explain, explain\n"
        "assert all(hasattr(bcos_zoo, name) for name in bcos_zoo.__all__)\n"
        "assert set(bcos_zoo.__all__) <= set(dir(bcos_zoo))\n"
        "assert bcos_zoo.Classifier is Classifier\n"
        "from bcos_zoo import weights\n"
        "assert callable(weights.fetch) and weights.fetching.fetch is weights.fetch\n"
        "print(bcos_zoo.pipeline.explain_image.__name__)\n"
        "print(hasattr(bcos_zoo, 'no'), hasattr(bcos_zoo, '__wrapped__'))\n"
    )
    assert run(code).split() == ["explain_image", "False", "False"]


def test_an_import_that_fails_inside_says_why():
    """A file of ours that cannot be imported is no missing attribute."""
    code = (
        "import sys, bcos_zoo\n"
        "sys.modules['PIL'] = None\n"
        "try:\n    bcos_zoo.pipeline\n"
        "except ImportError as error:\n    print('PIL' in str(error))\n"
    )
    assert run(code).strip() == "True"
