"""Streams: Hugging Face's and webdataset's, in their own order, resumed where they stood."""

import functools
import http.server
import threading

import pytest
from photographs import encoded
from sets import QUIET, noise, same
from test_archives import shards
from test_named import CLASSES, parquet, rows

from bcos_zoo import InputError
from bcos_zoo.data import Augment, SeededBatchSampler, Stream, open_task, train_loader, train_transform

CARD = {"input_size": (3, 8, 8), "interpolation": "bilinear", "crop_pct": 1.0}
CARD |= {"mean": (0.0,) * 3, "std": (1.0,) * 3}


def batches(task, *, epoch=1, step=0, workers=0, augment=None, **options):
    order = SeededBatchSampler(len(task.train), 4, seed=3, **options)
    transform = train_transform(CARD, augment or Augment(auto="trivial"))
    loader = train_loader(task.train, transform, order, seed=3, workers=workers)
    order.set_position(epoch, step)
    return list(loader)


@pytest.fixture
def hugging(tmp_path):
    parquet(tmp_path / "set", train=rows([0, 1] * 10, CLASSES), validation=rows([1, 0, 1], CLASSES, 50))
    return f"hfids/{tmp_path}/set"


def opened(source, **options):
    return open_task(source, **QUIET, train_split="train|20", **options)


def test_a_hugging_face_stream_is_a_task(hugging):
    task = opened(hugging)
    assert isinstance(task.train, Stream) and len(task.train) == 20
    assert task.class_names == ("emu", "cat") and not task.multilabel
    assert task.val.labels.tolist() == [1, 0, 1]
    assert task.val.load(2).tobytes() == noise(52).tobytes()
    assert task.fingerprint == opened(hugging).fingerprint


@pytest.mark.parametrize(
    "options, said",
    [
        ({}, "train for training; validation for validation; not used: test"),
        ({"val_split": "test"}, "train for training; test for validation; not used: validation"),
    ],
)
def test_a_stream_says_which_part_validates_and_which_is_left_aside(tmp_path, options, said):
    more = rows([1, 0], CLASSES, 60)
    parquet(
        tmp_path / "set", train=rows([0, 1] * 10, CLASSES), validation=rows([1, 0], CLASSES, 50), test=more
    )
    lines = []
    source = f"hfids/{tmp_path}/set"
    task = open_task(source, **QUIET | {"log": lines.append}, train_split="train|20", **options)
    assert task.test is None and list(task.notes) == lines and lines[0].startswith(f"{source}: {said}")


def test_an_epoch_of_a_stream_has_every_image_with_its_label(hugging):
    task = opened(hugging)
    plain = Augment(crop="none", hflip=0.0)
    found = batches(task, augment=plain)
    assert [batch.images.shape for batch in found] == [(4, 3, 8, 8)] * 5
    transform = train_transform(CARD, plain)
    expected = {transform(noise(i)).numpy().tobytes(): i for i in range(20)}
    seen = []
    for images, labels, failed, _ in found:
        for image, label in zip(images, labels, strict=True):
            seen.append(expected[image.numpy().tobytes()])
            assert label == seen[-1] % 2
        assert failed == []
    assert sorted(seen) == list(range(20)) and seen != list(range(20))


def test_a_stream_goes_on_where_it_stood(hugging):
    task = opened(hugging)
    whole = batches(task)
    assert same(whole, batches(task)) and not same(whole, batches(task, epoch=2))
    for step in (1, 4, 5):
        assert same(whole[step:], batches(task, step=step))


def test_two_processes_share_a_stream_between_them(hugging):
    task = opened(hugging)
    plain = Augment(crop="none", hflip=0.0)
    seen = [
        image.numpy().tobytes()
        for rank in (0, 1)
        for batch in batches(task, augment=plain, rank=rank, processes=2)
        for image in batch.images
    ]
    assert len(seen) == len(set(seen)) == 20


def test_a_stream_that_a_worker_reads_goes_on_where_it_stood(hugging):
    task = opened(hugging)
    assert same(batches(task, workers=1)[3:], batches(task, step=3, workers=1))


def test_broken_images_of_a_stream_are_replaced_and_said(tmp_path):
    one = rows([0, 1] * 10, CLASSES)
    table = one.with_format("arrow")[:].to_pydict()
    table["image"][5]["bytes"] = b"nothing"
    table["image"][6]["bytes"] = encoded(noise(6), format="PNG")[:50]
    import datasets

    broken = datasets.Dataset.from_dict(table, features=one.features)
    parquet(tmp_path / "set", train=broken, validation=rows([1, 0, 1] * 40, CLASSES, 50))
    task = opened(f"hfids/{tmp_path}/set")
    found = batches(task)
    assert len(found) == 5 and all(len(batch.images) == 4 for batch in found)
    failed = [line for batch in found for line in batch.failed]
    assert len(failed) == 2 and all("is not an image, or damaged" in line for line in failed)


@pytest.fixture
def served(tmp_path):
    """Shards behind a server of files: an address, and the task of them."""
    pytest.importorskip("webdataset")
    shards(tmp_path / "s", {"train": 4, "val": 1})
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "s"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"wds/http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


# webdataset leaves its files to the garbage collector
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
def test_shards_from_a_network_are_a_stream(served):
    task = open_task(served, **QUIET)
    assert len(task.train) == 16 and task.class_names == ("0", "1") and len(task.val) == 4
    for workers in (0, 2):
        whole = batches(task, workers=workers)
        assert len(whole) == 4 and same(whole[1:], batches(task, step=1, workers=workers))
        assert not same(whole, batches(task, epoch=2, workers=workers))


def test_what_a_stream_cannot_do_is_refused(hugging, tmp_path):
    task = opened(hugging)
    kept = {"samples": task.train, "transform": None, "order": None, "seed": 1, "cache": True}
    for said, call in [
        ("is a stream, whose labels are not known", task.class_counts),
        ("is a stream, whose labels are not known", task.draw_weights),
        ("is a stream, which is not kept in memory", lambda: train_loader(**kept)),
        ("is a stream, which is not divided: leave folds out", lambda: opened(hugging, folds=2)),
        ("cannot be opened", lambda: open_task(f"hfids/{tmp_path}/nothing", **QUIET)),
        ("cannot be opened .*give split.images", lambda: open_task(hugging, **QUIET)),
    ]:
        with pytest.raises(InputError, match=said) as got:
            call()
        assert "\n" not in str(got.value)
    alone = parquet(tmp_path / "alone", train=rows([0, 1] * 10, CLASSES))
    with pytest.raises(InputError, match="no validation split, and streams are not divided: give val_split"):
        opened(alone.replace("hfds", "hfids"))
