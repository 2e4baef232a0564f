"""No option of the command line is passed over: each does something, or is refused in one line."""

import pytest
from commands import error_line, verbs
from small_runs import paint

from bcos_zoo.cli.effects import ALWAYS, NEEDS


def test_every_option_says_when_it_has_an_effect():
    for name, options in verbs().items():
        declared = set(NEEDS.get(name, {})) | ALWAYS[name]
        assert options <= declared, f"{name}: {options - declared}"
        assert not set(NEEDS.get(name, {})) & ALWAYS[name]


IDLE = {
    ("evaluate", "--explainer"): (["inherent"], []),
    ("evaluate", "--samples"): (["3"], []),
    ("evaluate", "--fewer"): (["rise=3"], ["--metric", "accuracy"]),
    ("evaluate", "--grid"): (["2"], ["--metric", "sparseness"]),
    ("evaluate", "--smooth"): (["3"], ["--metric", "deletion", "--metric", "accuracy"]),
    ("evaluate", "--stride"): (["16"], ["--metric", "sparseness"]),
    ("evaluate", "--boxes"): (["boxes.csv"], ["--metric", "localisation"]),
    ("evaluate", "--masks"): (["masks"], []),
    ("evaluate", "--seed"): (["3"], []),
    ("finetune", "--model"): (["bcos_resnet20.cifar10"], ["--resume", "-o", "place"]),
    ("finetune", "--train"): (["head"], ["--resume"]),
    ("explain", "--seconds"): (["2"], []),
}


def test_every_need_is_tried():
    assert set(IDLE) == {(verb, option) for verb, options in NEEDS.items() for option in options}


@pytest.mark.parametrize("verb, option", IDLE)
def test_an_option_that_would_change_nothing_is_refused(run, tmp_path, verb, option):
    values, others = IDLE[verb, option]
    root = paint(tmp_path / "set", {".": 1})
    given = [tmp_path / one if one in ("place", "boxes.csv", "masks") else one for one in values]
    others = [tmp_path / one if one == "place" else one for one in others]
    data = root if verb != "explain" else root / "red" / "0.png"
    code, out, err = run(verb, data, option, *given, *others)
    assert (code, out) == (2, "")
    line = error_line(err.splitlines()[-1])
    assert f"{option} applies to" in line and f"leave out {option}" in line
    assert not (tmp_path / "place").exists()


def test_a_misspelt_metric_is_named_whatever_options_stand_beside_it(run, tmp_path):
    root = paint(tmp_path / "set", {".": 1})
    for beside in ([], ["--samples", "2"], ["--grid", "2"], ["--boxes", "boxes.csv"]):
        code, out, err = run("evaluate", root, "--metric", "checkerbord", *beside)
        assert (code, out) == (2, "")
        line = error_line(err.splitlines()[-1])
        assert "checkerbord" in line and "checkerboard" in line, line


@pytest.mark.parametrize(
    "options, said",
    [
        (
            ["--fewer", "rise=3", "--explainer", "inherent"],
            "fewer samples are set for rise, which is not among the explainers",
        ),
        (["--fewer", "rise=300"], "300 samples of rise are no fewer than 250"),
        (
            ["--metric", "completeness", "--explainer", "grad"],
            "completeness is defined for the explainer inherent alone",
        ),
    ],
)
def test_settings_of_a_comparison_that_change_nothing_are_refused(run, tmp_path, options, said):
    metric = [] if "--metric" in options else ["--metric", "localisation"]
    code, out, err = run("evaluate", paint(tmp_path / "set", {".": 1}), *metric, *options)
    assert (code, out) == (2, "") and said in error_line(err.splitlines()[-1])


def test_a_resumed_run_takes_no_other_network(run, tmp_path):
    root = paint(tmp_path / "images", {".": 10})
    small = ["--set", "run.epochs=1", "--set", "run.trackers=[]", "--set", "data.workers=0"]
    small += ["--set", "run.snapshots=0", "--model", "bcos_resnet20.cifar10"]
    assert run("finetune", root, "-o", tmp_path / "run", *small)[0] == 0
    for option, value in (("--model", "bcos_resnet56"), ("--train", "head")):
        code, _, err = run("finetune", root, "-o", tmp_path / "run", "--resume", option, value)
        assert code == 2 and "a run goes on as its recipe.toml says" in error_line(err.splitlines()[-1])
    assert run("finetune", root, "-o", tmp_path / "run", "--resume")[0] == 0
