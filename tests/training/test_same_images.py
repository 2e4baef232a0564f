"""A run goes on with the images that it began with: one that breaks meanwhile, not another set."""

import pytest
from small_runs import Stop, make, paint, quiet, same, stop_at, weights

from bcos_zoo import InputError
from bcos_zoo.data import open_task
from bcos_zoo.training import engine


@pytest.fixture
def root(tmp_path):
    return paint(tmp_path / "images", {".": 110})


def begun(root, run, **changes):
    """A run that was stopped at its third step."""
    wanted = make(run__epochs=1, run__batch_size=32, run__save_steps=1, **changes)
    with pytest.raises(Stop):
        engine.train(wanted, open_task(root, log=quiet), run, log=quiet, progress=stop_at(3))
    return wanted


def resumed(wanted, root, run, **options):
    return engine.train(wanted, open_task(root, log=quiet, **options), run, resume=True, log=quiet)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_one_image_of_220_that_breaks_before_resuming_does_not_end_the_run(root, tmp_path, content):
    wanted = begun(root, tmp_path / "run")
    broken = root / "red" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60] if content is None else content)
    result = resumed(wanted, root, tmp_path / "run")
    assert result.epochs == 1 and result.unreadable <= 1


@pytest.mark.parametrize("check", [True, False])
def test_an_image_that_is_broken_from_the_start_changes_nothing_for_the_others(root, tmp_path, check):
    (root / "blue" / "7.png").write_bytes(b"")
    wanted = begun(root, tmp_path / "run")
    whole = engine.train(wanted, open_task(root, log=quiet), tmp_path / "whole", log=quiet)
    result = resumed(wanted, root, tmp_path / "run", check=check)
    assert whole.unreadable == result.unreadable == 1
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_an_image_that_is_mended_stays_out_until_the_run_is_over(root, tmp_path):
    broken = root / "blue" / "7.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:50])
    wanted = begun(root, tmp_path / "run")
    broken.write_bytes(whole)
    assert resumed(wanted, root, tmp_path / "run").unreadable == 1
    assert "left out when the run began" in (tmp_path / "run" / "unreadable.txt").read_text()


def test_one_that_breaks_moves_no_other_to_the_other_side(root):
    def sides():
        task = open_task(root, log=quiet)
        return [{s.name(i) for i in range(len(s))} for s in (task.train, task.val)]

    train_before, val_before = sides()
    (root / "red" / "0.png").write_bytes(b"")
    train_after, val_after = sides()
    assert train_after <= train_before and val_after <= val_before
    assert len(train_after) + len(val_after) == 219


@pytest.mark.parametrize("count", [1, 220])
def test_images_that_were_replaced_are_another_set(root, tmp_path, count):
    """Their names and labels are the same, and so are sizes in pixels."""
    wanted = begun(root, tmp_path / "run")
    paint(tmp_path / "others", {".": 110}, spread=10)
    for path in sorted(root.rglob("*.png"))[:count]:
        path.write_bytes((tmp_path / "others" / path.relative_to(root)).read_bytes())
    with pytest.raises(InputError, match=f"of a run with other images: {count} have changed since it began"):
        resumed(wanted, root, tmp_path / "run")


@pytest.mark.parametrize("change", ["remove", "add", "rename", "relabel"])
def test_other_names_and_labels_are_another_set(root, tmp_path, change):
    wanted = begun(root, tmp_path / "run")
    first = root / "red" / "0.png"
    if change == "add":
        (root / "red" / "new.png").write_bytes(first.read_bytes())
    elif change == "remove":
        first.unlink()
    else:
        first.rename(root / ("blue" if change == "relabel" else "red") / "0000.png")
    with pytest.raises(InputError, match="another set of images"):
        resumed(wanted, root, tmp_path / "run")


def test_a_set_may_move(root, tmp_path):
    wanted = begun(root, tmp_path / "run")
    assert resumed(wanted, root.rename(tmp_path / "moved"), tmp_path / "run").epochs == 1
