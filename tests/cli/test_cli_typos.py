"""What people mistype, in every option of every verb that takes a value: one line, exit code 2."""

import json

import pytest
import timm
import torch
from commands import error_line, verbs
from small_runs import paint

from bcos_zoo import cli

LONG = "x" * 300  # longer than a name may be
MODELS = ("nope", "bcos_resnet20.nope", "resnet18.nope", "", "hf-hub:", "hf-hub:a b/c", "hf-hub:org/none") + (
    *("local-dir:", "local-dir:missing", "local-dir:note.txt", "local-dir:broken", "note.txt", "set", "no/x"),
    *("w.pth", "resnet18.pth", "a\nb", "a\0b", LONG, "timm/resnet18", "https://a.b/c"),
)
SOME = ("nope", "", "local-dir:missing", "set", "w.pth", LONG)  # where the others go the same way
PLACES = (
    "note.txt",
    "note.txt/x",
    "/dev/null",
    "/dev/null/x",
    "/proc/x",
    LONG,
)  # where nothing can be written
DEVICES = ("gpu", "cuda:99", "cpu:1", "meta", "")
COUNTS = ("0", "-1", "x", "1.5")
FILES = ("nope.png", "note.txt", "empty", "bad\0name", LONG, "set/red/0.png/x")
TASK = {
    "--device": DEVICES,
    "--epochs": COUNTS,
    "--minutes": ("x", "0", "-1", "nan", "inf"),
    "--lr": ("x", "0", "-1", "nan", "inf"),
    "--batch-size": COUNTS,
    "--group": ("nope(", "nope", ""),
    "-o": PLACES,
    "--set": (
        *("nope", "", "=3", "a.b=1", "run.epochs=x", "run.epochs=0", "model.args.num_classes=x"),
        *("model.args.nope=1", "data.workers=-1", "data.val_share=2", "data.input_size=0", "run.device=gpu"),
        *("optimizer.name=nope", "optimizer.schedule=nope", "loss.kind=nope", "run.monitor=nope"),
        *("run.precision=half", "run.trackers=['nope']", "augment.auto=nope", "data.val_split=nope"),
        *("model.args.norm=nope", "model.args.b=0"),
    ),
}
# the arguments of a verb that is right but for what is put in: {} in the place of an argument, or added
RIGHT = {
    "list": [],
    "info": [],
    "predict": ["set/red/0.png"],
    "explain": ["set/red/0.png"],
    "units": ["set", "--layer", "conv1", "--unit", "0"],
    "verify": ["note.txt", "set/red/0.png"],
    "finetune": ["set"],
    "train": ["small.toml", "set"],
    "bcosify": ["test_resnet+t.pth", "set"],
    "evaluate": ["set"],
    "export": ["bcos_resnet20.cifar10"],
    "push": ["bcos_resnet20.cifar10", "org/name"],
    "weights fetch": ["bcos_resnet50"],
    "weights path": ["bcos_resnet50"],
    "weights verify": ["bcos_resnet50"],
    "weights list": [],
    "weights convert": ["w.pth", "--to", "bcos_resnet20"],
}
ARGUMENTS = {  # (verb, position of the argument) -> bad ones
    ("list", 0): ("nope", "["),
    ("info", 0): MODELS,
    ("predict", 0): FILES,
    ("explain", 0): FILES,
    ("units", 0): FILES,
    ("verify", 0): FILES,
    ("finetune", 0): (*FILES, "nope.csv", "nope.tar", "torch/nope", "wds/nope", "wds/", "hfds/"),
    ("bcosify", 0): (*MODELS, "test_resnet+", "test_resnet+nope.pth", "test_resnet+w.pth", "bcos_resnet20"),
    ("bcosify", 1): (*FILES, "nope.csv", "nope.tar", "torch/nope", "wds/nope", "hfds/"),
    ("train", 0): (*FILES, "broken/config.json"),
    ("train", 1): FILES,
    ("evaluate", 0): FILES,
    ("export", 0): (*MODELS, "bcos_densenet121.v1_in1k"),
    ("push", 0): SOME,
    ("push", 1): ("", "a/b/c", "a b/c"),
    ("weights fetch", 0): MODELS,
    ("weights path", 0): SOME,
    ("weights verify", 0): SOME,
    ("weights convert", 0): (*FILES, "w.pth"),
}
OPTIONS = {
    ("predict", "--model"): MODELS,
    ("predict", "--top-k"): COUNTS,
    ("explain", "--model"): SOME,
    ("explain", "--target"): ("nope", "99", "-1", ""),
    ("explain", "-o"): PLACES,
    ("explain", "--picture"): ("nope", ""),
    ("explain", "--format"): ("nope", "PNG"),
    ("explain", "--contrast"): ("red",),
    ("explain", "--seconds"): ("x", "2"),
    ("explain", "--layer"): ("conv1",),
    ("explain", "--unit"): ("0", "x"),
    ("units", "--model"): SOME,
    ("units", "--layer"): ("nope", ""),
    ("units", "--unit"): ("-1", "999", "x"),
    ("units", "--count"): COUNTS,
    ("units", "-o"): PLACES,
    ("verify", "--model"): MODELS,
    ("verify", "--tolerance"): ("x", "-1", "nan"),
    ("finetune", "--model"): MODELS,
    ("finetune", "--train"): ("nope", "from:", "from:nope"),
    ("evaluate", "--model"): SOME,
    ("evaluate", "--metric"): ("nope", ""),
    ("evaluate", "--specificity"): ("x", "2", "nan"),
    ("evaluate", "--confidence"): ("x", "95", "nan", "0"),
    ("evaluate", "--resamples"): COUNTS,
    ("evaluate", "--group"): ("nope(", "nope"),
    ("evaluate", "--explainer"): ("nope", ""),
    ("evaluate", "--grid"): ("1", "x"),
    ("evaluate", "--samples"): COUNTS,
    ("evaluate", "--fewer"): ("x", "rise=x", "rise=-1", "nope=1"),
    ("evaluate", "--smooth"): ("-1", "x"),
    ("evaluate", "--seed"): ("x",),
    ("evaluate", "--stride"): (*COUNTS, "100000"),
    ("evaluate", "--boxes"): (*FILES[:-1], "set"),
    ("evaluate", "--masks"): FILES,
    ("evaluate", "-o"): PLACES,
    ("export", "-o"): PLACES,
    ("export", "--format"): ("nope",),
    ("export", "--sample"): FILES,
    ("push", "--revision"): ("a b",),
    ("push", "--sample"): FILES,
    ("weights fetch", "--cache-dir"): PLACES,
    ("weights path", "--cache-dir"): (LONG,),
    ("weights verify", "--cache-dir"): (LONG,),
    ("weights list", "--cache-dir"): (LONG,),
    ("weights convert", "--to"): MODELS,
    ("weights convert", "--take"): ("nope",),
    ("weights convert", "-o"): (*PLACES, "x.pth"),
    **{(verb, option): bad for verb in ("finetune", "train", "bcosify") for option, bad in TASK.items()},
    ("bcosify", "--b"): ("x", "0", "0.5", "-1", "nan", "inf"),
    ("train", "--teacher"): (*SOME, "resnet18+nope.pth", "resnet18+w.pth", "resnet18+"),
    **{
        (verb, option): bad
        for verb in ("predict", "explain", "units", "evaluate", "verify")
        for option, bad in (("--device", DEVICES), ("--batch-size", COUNTS))
        if (verb, option) != ("verify", "--batch-size")
    },
}
BESIDE = {  # what an option needs beside it, to be read at all
    ("evaluate", "--specificity"): ["--metric", "sensitivity"],
    ("evaluate", "--group"): ["--confidence", "0.9"],
    **{("evaluate", one): ["--metric", "energy"] for one in ("--boxes", "--masks")},
    **{
        ("evaluate", one): ["--metric", "localisation"]
        for one in ("--explainer", "--grid", "--samples", "--fewer", "--smooth", "--seed", "--stride", "-o")
    },
    ("finetune", "--set"): ["--dry-run"],
    ("finetune", "--model"): ["--dry-run"],
    ("train", "--set"): ["--dry-run"],
    ("bcosify", "--set"): ["--dry-run"],
    ("bcosify", "--b"): ["--dry-run"],
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with images, and with what is none, as the current one; the Hub cannot be reached."""
    paint(tmp_path / "set", {".": 2})
    (tmp_path / "note.txt").write_text("no picture")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    for name in ("w.pth", "resnet18.pth"):
        (tmp_path / name).write_bytes(b"no weights")
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "t.pth")
    (tmp_path / "small.toml").write_text('[model]\nname = "bcos_resnet20"\n[run]\nepochs = 1\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def test_every_option_that_takes_a_value_is_mistyped():
    flags = {
        "--json",
        "--pretrained",
        "--shared-scale",
        "--resume",
        "--dry-run",
        "--force",
        "--private",
        "--cached",
        "--labels",
    }
    wanted = {(verb, option) for verb, options in verbs().items() for option in options - flags}
    assert wanted == set(OPTIONS)
    assert set(RIGHT) == set(verbs())


def mistyped(verb):
    for (one, position), bad in ARGUMENTS.items():
        for value in bad if one == verb else ():
            given = list(RIGHT[verb])
            given[position : position + 1] = [value]
            yield [*verb.split(), *given]
    for (one, option), bad in OPTIONS.items():
        for value in bad if one == verb else ():
            given = list(RIGHT[verb])
            if option in given:
                del given[(at := given.index(option)) : at + 2]
            yield [*verb.split(), *given, *BESIDE.get((one, option), ()), option, value]


@pytest.mark.parametrize(
    "verb",  # train has the options of finetune
    [
        pytest.param(verb, marks=pytest.mark.slow if verb in ("finetune", "bcosify", "units") else ())
        for verb in RIGHT
    ],
)
def test_what_is_mistyped_is_one_line_and_exit_code_2(run, here, verb):
    kept = sorted(path.name for path in here.iterdir())
    for number, command in enumerate(mistyped(verb)):
        more = (
            ["-o", f"out{number}"]
            if verb in ("export", "finetune", "train", "bcosify") and "-o" not in command
            else []
        )
        try:
            code, out, err = run(*command, *more)
        except BaseException as error:  # whatever it is, the command that did it is to be known
            raise AssertionError(command) from error
        assert (code, out) == (2, ""), (command, out, err)
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert lines == [err.splitlines()[-1]] and error_line(lines[0]), (command, err)
        assert not (here / f"out{number}").exists(), command
    now = sorted(path.name for path in here.iterdir())
    assert verb == "evaluate" or now == kept


def test_a_file_in_the_place_of_a_network_is_told_what_to_do(run, here):
    for command in (["predict", "set/red/0.png"], ["finetune", "set"]):
        for name in ("w.pth", "resnet18.pth"):
            line = error_line(run(*command, "--model", name)[2].splitlines()[-1])
            assert f"{name} is a file, which does not say of which network it is" in line
            assert "pretrained_cfg_overlay={'file': '" + name in line
        (here / "model.safetensors").write_bytes(b"")
        line = error_line(run(*command, "--model", "broken/../model.safetensors")[2].splitlines()[-1])
        assert "is a file, which does not say" in line
    (here / "broken" / "model.safetensors").write_bytes(b"")
    line = error_line(run("predict", "set/red/0.png", "--model", "broken/model.safetensors")[2])
    assert "give its folder, which holds config.json: broken" in line


def test_scores_of_predictions_are_kept_where_a_folder_is_given(run, here):
    paint(here / "own", {".": 3})
    for name, label in (("red", "cat"), ("green", "dog"), ("blue", "frog")):
        if (here / "own" / name).exists():
            (here / "own" / name).rename(here / "own" / label)
    code, out, _ = run("evaluate", "own", "--metric", "accuracy", "--metric", "auroc", "-o", "ev", "--json")
    assert code == 0
    kept = json.loads((here / "ev" / "predictions.json").read_text())
    assert kept == json.loads(out) and kept["scores"] and kept["top1"] >= 0
    assert run("evaluate", "own")[0] == 0 and not (here / "runs").exists()


def test_an_error_of_no_file_is_not_hidden(monkeypatch):
    def broken():
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(cli, "app", lambda *a, **k: broken())
    with pytest.raises(BrokenPipeError):
        cli.run(["list"])
