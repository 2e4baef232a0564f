"""The verbs for files: weights fetch, path, verify and list; export and push."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from servers import HubServer, run_python

from bcos_zoo import cli, weights

EMBEDDED = "bcos_resnet20.cifar10"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: Any, tmp_path: Path, monkeypatch: Any) -> Run:
    """Run the command with caches of its own; returns (exit code, stdout, stderr)."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def call(*arguments: object) -> tuple[int, str, str]:
        code = cli.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def cached(name: str, content: bytes) -> Path:
    path = weights.location(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_fetch_and_path_name_the_file(run: Run) -> None:
    path = str(weights.location(EMBEDDED))
    assert run("weights", "fetch", "bcos_resnet20") == (0, f"{path}\n", "")
    assert json.loads(run("weights", "path", EMBEDDED, "--json")[1]) == {EMBEDDED: path}
    target = run("weights", "path", "bcos_resnet18")[1].strip()
    assert target == f"{torch.hub.get_dir()}/checkpoints/resnet_18-68b4160fff.pth"


def test_verify_tells_the_good_from_the_bad_and_the_missing(run: Run) -> None:
    code, out, err = run("weights", "verify")
    assert (code, err) == (0, "") and out.startswith("ok ") and EMBEDDED in out
    bad = cached("bcos_resnet18.v2_in1k", b"damaged")
    code, out, err = run("weights", "verify")
    assert code == 2
    assert [line.split()[0] for line in out.splitlines()] == ["bad", "ok", "ok", "ok"]
    assert f"{bad}  expected 68b4160fff, got " in out
    assert err.startswith("error: of 4 files 1 are not as they should be (bcos_resnet18.v2_in1k); ")
    assert err.endswith("; move it away, or name another folder: TORCH_HOME moves the cache\n")
    code, out, err = run("weights", "verify", "bcos_resnet50", "--json")
    assert code == 2 and json.loads(out)[0]["state"] == "missing"
    assert err.endswith("; `bcos-zoo weights fetch bcos_resnet50.v2_in1k` downloads it\n")
    assert bad.read_bytes() == b"damaged"  # it was only looked at


def test_what_verify_advises_is_what_fetch_says(run: Run) -> None:
    """Of files that `fetch` would refuse too, or for which it knows no place."""
    for name in ("bcos_resnet18.bcosified_in1k", "bcos_densenet121.v1_in1k"):
        code, out, err = run("weights", "verify", name, "--json")
        (verdict,) = json.loads(out)
        assert (code, verdict["state"], verdict["path"]) == (2, "unverifiable", None)
        assert err.endswith(f"; {verdict['advice']}\n") and "weights convert FILE" in verdict["advice"]
        assert verdict["advice"] in run("weights", "fetch", name)[2]
    bad = cached("bcos_resnet18.v2_in1k", b"damaged")
    code, out, err = run("weights", "verify", "bcos_resnet18", "bcos_resnet18.bcosified_in1k")
    assert "; bcos_resnet18.v2_in1k: move it away" in err and "bcosified_in1k: get the file of" in err
    assert run("weights", "fetch", "bcos_resnet18")[0] == 2 and bad.exists()


def test_list_gives_the_sizes_of_what_is_here(run: Run) -> None:
    cached("bcos_resnet18.v2_in1k", b"x" * 1_500_000)
    lines = run("weights", "list", "--cached")[1].splitlines()
    assert [line.split() for line in lines] == [
        ["1.5", "MB", "bcos_resnet18.v2_in1k"],
        ["1.1", "MB", EMBEDDED],
        ["5.6", "MB", "bcos_resnet18_w32.imagenette"],
        ["7.0", "MB", "bcos_efficientnet_lite0.imagenette"],
    ]
    rows = {row["name"]: row for row in json.loads(run("weights", "list", "--json")[1])}
    assert rows["bcos_resnet18.v2_in1k"]["bytes"] == 1_500_000
    assert rows["bcos_resnet50.v2_in1k"] == {"name": "bcos_resnet50.v2_in1k", "bytes": None, "file": None}


@pytest.mark.parametrize("verb", ["fetch", "path", "verify"])
def test_an_unknown_name_is_one_line(run: Run, verb: str) -> None:
    code, out, err = run("weights", verb, "bcos_resnet19")
    assert (code, out) == (2, "")
    assert err.startswith("error: no model named 'bcos_resnet19'") and err.count("\n") == 1


def test_what_is_exported_can_be_used_at_once(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    assert run("export", EMBEDDED, "-o", folder) == (0, f"{folder}\n", "")
    sample = Path(cli.__file__).parents[1] / "samples" / "chelsea.jpg"
    code, out, _ = run("predict", sample, "--model", f"local-dir:{folder}")
    assert code == 0 and ": cat 0.98" in out
    code, _, err = run("export", EMBEDDED, "-o", folder)
    assert code == 2 and "--force" in err
    assert run("export", EMBEDDED, "-o", folder, "--force")[0] == 0
    assert "--format onnx: allowed is hf" in run("export", EMBEDDED, "-o", folder, "--format", "onnx")[2]


def test_what_is_pushed_is_on_the_hub(tmp_path: Path) -> None:
    code = "import sys; from bcos_zoo import cli; sys.exit(cli.run(sys.argv[1:]))"
    with HubServer({"hf_writes"}, user="someone") as hub:
        environment = hub.environment(tmp_path, token="hf_writes")
        out = run_python(code, "push", EMBEDDED, "someone/net", "--private", env=environment)
        assert out.strip().endswith("/someone/net")
        assert hub.repositories["someone/net"].private
        assert {"model.safetensors", "config.json", "README.md"} <= set(hub.files("someone/net", "main"))
