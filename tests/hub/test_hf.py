"""To an imitated Hugging Face Hub and back, with its own client: the same network, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from servers import HubServer, Status, When, run_python

from bcos_zoo.errors import redact

TOKEN = "hf_SecretOfTheTests0123"
READS = "hf_ReadsOnlyOfTheTests01"
FILES = {".gitattributes", "README.md", "config.json", "explanation.png", "model.safetensors"}
FORMS = {  # name of timm, options, what of the network's making must have come back
    "v1": ("bcos_plain9", {"max_out": 3, "scale": 0.5, "logit_bias": 0.0}, {"max_out": 3, "scale": 0.5}),
    "v1-tag": ("bcos_plain9.v1_b1p5_cifar10", {}, {"b": 1.5}),
    "bcosified": ("bcos_resnet18.bcosified_in1k", {"num_classes": 7}, {"normalize": False, "act": "relu"}),
    "grey": ("bcos_resnet20", {"in_chans": 1, "num_classes": 3, "norm": "pnu"}, {"norm": "pnu"}),
    "vit": (
        "bcos_simple_vit_ti_patch16_224",
        {"img_size": 96, "depth": 2, "num_classes": 5},
        {"logit_bias": None},
    ),
}
PRELUDE = """
import contextlib, io, json, os, sys, traceback
import timm, torch, bcos_zoo
from PIL import Image
from bcos_zoo.hub.folder import SAMPLE

def refused(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except bcos_zoo.BcosZooError as error:
        assert "\\n" not in str(error)
        shown = traceback.format_exc() + repr(error)
        return [type(error).__name__, str(error), shown]
    return ["nothing"]

def made(name, options):
    torch.manual_seed(0)
    model = timm.create_model(name, **options).eval()
    for key, value in model.state_dict().items():
        if "running" in key:
            value.uniform_(0.5, 1.5)
    return bcos_zoo.Classifier(model, [f"class {i}" for i in range(model.num_classes)], smooth=7)

def compared(own, repo):
    plain = timm.create_model(f"hf-hub:{repo}", pretrained=True).eval()
    loaded = bcos_zoo.load(f"hf-hub:{repo}")
    x = own.preprocess(SAMPLE)
    e, theirs = own.explain(SAMPLE), loaded.explain(SAMPLE)
    state = own.model.state_dict()
    return {
        "tensors": all(torch.equal(state[k], v) for k, v in plain.state_dict().items()),
        "logits": torch.equal(plain(x), own.model(x)) and torch.equal(loaded.model(x), own.model(x)),
        "explanation": torch.equal(e.weights, theirs.weights) and torch.equal(e.bias, theirs.bias),
        "transform": torch.equal(loaded.preprocess(SAMPLE), x),
        "names": loaded.class_names == own.class_names and theirs.labels == e.labels,
        "settings": (theirs.smooth, theirs.percentile) == (own.head.smooth, own.head.percentile),
        "spec": plain.spec == own.model.spec == loaded.model.spec,
    }
"""
ROUND = """
out = {}
for form, (name, options, _) in json.loads(sys.argv[1]).items():
    own = made(name, options)
    url = bcos_zoo.push_to_hub(own, f"org/{form}")
    out[form] = compared(own, f"org/{form}") | {"url": url}
tuned = bcos_zoo.create_model("bcos_resnet20", pretrained=True, num_classes=3)
own = bcos_zoo.Classifier(tuned, ["cat", "dog", "neither"], smooth=2)
out["tuned"] = compared(own, "org/tuned") if bcos_zoo.push_to_hub(own, "org/tuned", sample=SAMPLE) else {}
own = bcos_zoo.load("bcos_resnet20.cifar10")
out["url"] = bcos_zoo.push_to_hub("bcos_resnet20.cifar10", "org/net", private=True)
out["net"] = compared(own, "org/net")
with torch.no_grad():
    own.model.fc.linear.weight[0] += 1
out["branch url"] = bcos_zoo.push_to_hub(own, "org/net", revision="dev/a", commit_message="Second")
out["branch"] = compared(own, "org/net@dev/a")
out["pull"] = bcos_zoo.push_to_hub(own, "org/net", create_pr=True)
second = bcos_zoo.load("hf-hub:org/net@dev/a")
out["from"] = second.model.pretrained_from
bcos_zoo.push_to_hub(second, "org/net", revision="dev/a", commit_message="Third")
bcos_zoo.push_to_hub(second, "org/again")
print(json.dumps(out))
"""
REFUSALS = """
token = os.environ.pop("HF_TOKEN")
name, push = "bcos_resnet20.cifar10", bcos_zoo.push_to_hub
out = {
    "private": refused(bcos_zoo.load, "hf-hub:org/private"),
    "gated": refused(bcos_zoo.load, "hf-hub:org/gated"),
    "revision": refused(bcos_zoo.create_model, "hf-hub:org/public@nothing", pretrained=True),
    "file": refused(bcos_zoo.load, "hf-hub:org/public"),
    "name": refused(bcos_zoo.load, "hf-hub:a/b/c"),
    "push without": refused(push, name, "org/new"),
    "push read only": refused(push, name, "org/public", token=sys.argv[1]),
    "push wrong": refused(push, name, "org/new", token="hf_WrongTokenOfTheTests1"),
    "push odd": refused(push, name, "org/new", token="not-of-that-shape"),
    "push name": refused(push, name, "a/b/c", token=token),
    "push public": refused(push, name, "org/public", private=True, token=token),
    "push broken": refused(push, name, "org/broken", token=token),
    "push commit": refused(push, name, "org/public", revision=sys.argv[2], token=token),
}
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a program saw that pushed and loaded every form, and the Hub afterwards."""
    home = tmp_path_factory.mktemp("pushed")
    with HubServer({TOKEN}) as server:
        env = server.environment(home, TOKEN, OMP_NUM_THREADS="1")
        printed = run_python(PRELUDE + ROUND, json.dumps(FORMS), env=env, timeout=120)
        yield json.loads(printed), server, home


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a program saw that the Hub refused, and the Hub afterwards."""
    home = tmp_path_factory.mktemp("refusals")
    with HubServer({TOKEN}, read_tokens={READS}) as server:
        revision = server.create("org/public", {"x": b"x"})
        server.create("org/private", {"config.json": b"{}"}, private=True)
        server.create("org/gated", {"config.json": b"{}"}, gated=True)
        server.create("org/broken", {"x": b"x"})
        server.always = When(Status(400), "POST", "/org/broken/commit/")
        env = server.environment(home, TOKEN, OMP_NUM_THREADS="1")
        printed = run_python(PRELUDE + REFUSALS, READS, revision, env=env, timeout=120)
        yield json.loads(printed), server


@pytest.mark.parametrize("form", [*FORMS, "tuned", "net", "branch"])
def test_a_network_comes_back_from_the_hub_to_the_last_bit(pushed, form):
    out, _, _ = pushed
    got = out[form]
    got.pop("url", None)
    assert got == dict.fromkeys(got, True) and len(got) == 7


@pytest.mark.parametrize("form", FORMS)
def test_what_makes_a_form_stands_in_its_config(pushed, form):
    _, server, _ = pushed
    config = json.loads(server.files(f"org/{form}")["config.json"])
    _, options, expected = FORMS[form]
    wanted = options | {key: value for key, value in expected.items() if value is not None}
    wanted |= {"img_size": [96, 96]} if "img_size" in wanted else {}
    assert config["num_classes"] == wanted.pop("num_classes", config["num_classes"])
    assert "num_classes" not in config["model_args"]  # transformers gives it again
    assert config["model_args"].items() >= wanted.items()


def test_a_push_is_one_commit_of_all_files(pushed):
    _, server, _ = pushed
    for repo in ("org/net", "org/v1"):
        assert set(server.files(repo)) == FILES
        history = [c.title for c in _history(server, repo)]
        assert len(history) == 2 and history[0].startswith("Upload bcos_") and "bcos_zoo" in history[0]
    assert [c.title for c in _history(server, "org/net", "dev/a")][:2] == ["Third", "Second"]


def _history(server: HubServer, repo: str, branch: str = "main") -> list[Any]:
    repository = server.repositories[repo]
    return list(repository.history(repository.find(branch)))


def test_the_url_is_where_to_look(pushed):
    out, server, _ = pushed
    assert out["url"] == f"{server.endpoint}/org/net"
    assert out["branch url"] == f"{server.endpoint}/org/net/tree/dev%2Fa"
    assert out["pull"] == f"{server.endpoint}/org/net/discussions/1"


def test_private_is_passed_on(pushed):
    _, server, _ = pushed
    assert server.repositories["org/net"].private
    assert not server.repositories["org/v1"].private


def test_a_network_knows_the_commit_it_came_from(pushed):
    out, server, _ = pushed
    second = next(c for c in _history(server, "org/net", "dev/a") if c.title == "Second")
    assert out["from"] == f"hf-hub:org/net@{second.oid}"
    card = ModelCard(server.files("org/again")["README.md"].decode())
    assert card.data.base_model == "org/net" and card.data.license == "apache-2.0"


def test_cards_say_where_the_network_is_and_what_it_began_with(pushed):
    _, server, _ = pushed
    net, tuned = (ModelCard(server.files(f"org/{repo}")["README.md"].decode()) for repo in ("net", "tuned"))
    assert 'timm.create_model("hf-hub:org/net", pretrained=True)' in net.text
    assert net.data.model_name == "net" and net.data.eval_results[0].metric_value == 87.47
    assert tuned.data.eval_results is None
    assert "Began with the weights of `bcos_resnet20.cifar10`" in tuned.text
    assert "Classes: 3 (cat, dog, neither)" in tuned.text


def test_no_token_is_stored_where_others_can_read(pushed):
    _, server, home = pushed
    for repo in server.repositories:
        assert not any(TOKEN.encode() in data for data in server.files(repo).values())
    assert not any(TOKEN.encode() in path.read_bytes() for path in home.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "private",
            "cannot load hf-hub:org/private (no such repository, or a private one and no token for it",
        ),
        ("gated", "(its owner grants access: ask for it on its page, then set HF_TOKEN or `hf auth login`)"),
        (
            "revision",
            "cannot load hf-hub:org/public@nothing (the repository has no such branch, tag or commit",
        ),
        ("file", "give a repository or folder that holds config.json and weights"),
        ("name", "cannot load hf-hub:a/b/c (Repo id must be in the form"),
        ("push without", "cannot push to org/new (no token was given, or the Hub does not know it"),
        ("push read only", "cannot push to org/public (the Hub answers 403: You need the write permission"),
        ("push wrong", "cannot push to org/new (no token was given, or the Hub does not know it"),
        ("push odd", "cannot push to org/new (no token was given, or the Hub does not know it"),
        ("push name", "Repo id must be in the form"),
        ("push public", "org/public is public and was left as it is; make it private on the Hub first"),
        ("push broken", "cannot push to org/broken (the Hub answers 400"),
        ("push commit", "cannot push to org/public (the repository has no such branch, tag or commit"),
    ],
)
def test_a_refusal_is_one_line_without_tokens(refusals, what, message):
    out, _ = refusals
    kind, text, traceback = out[what]
    assert message in text and len(text) < 400
    assert kind == ("InputError" if what == "push name" else "WeightsError")
    for token in (TOKEN, READS, "hf_WrongTokenOfTheTests1", "not-of-that-shape"):
        assert token not in traceback


def test_a_refused_push_changes_nothing(refusals):
    _, server = refusals
    assert "org/new" not in server.repositories
    for repo in ("org/public", "org/broken"):
        assert set(server.files(repo)) == {".gitattributes", "x"} or set(server.files(repo)) == {"x"}


def test_secrets_are_taken_out_of_texts(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "plain")
    text = "see https://me:pass@host/a?token=1&b=2 or hf_abcdefgh12 (plain, other)"
    assert redact(text, "other", None, True, "") == "see https://host/a or hf_*** (***, ***)"
    assert redact("http://me:p@ss@host/x@1") == "http://host/x@1"


def test_the_tests_reach_no_other_hub(pushed):
    """Every file came from the imitation: the cache holds its repositories and no others."""
    _, server, home = pushed
    cached = {path.name for path in Path(home, "huggingface", "hub").glob("models--*")}
    assert cached <= {f"models--{repo.replace('/', '--')}" for repo in server.repositories}
