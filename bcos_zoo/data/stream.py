"""Images that are read in sequence, by timm: `hfids/` sets, and `wds/` shards over a network."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from PIL import Image
from timm.data import create_dataset
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from .. import images
from ..errors import InputError, reason
from ..extras import required
from . import parts, seeds
from .augment import Transform
from .batches import Batch, Item, settings
from .labelled import to_labels, values_of
from .sampler import SeededBatchSampler
from .samples import Memory, Samples, fault

SHARDS_LOG = "timm.data.readers.reader_wds"  # the only place where timm says which images it skipped


@dataclass(frozen=True)
class Opened:
    """A timm data set, and what is known about it."""

    dataset: Any
    splits: tuple[str, ...]
    shards: int
    classes: dict[str, int]  # may be empty


@dataclass(frozen=True)
class Stream:
    """A training split that is read from start to end, shuffled by shards and in a buffer.

    Unlike that of Samples, its order depends on the numbers of workers and processes, besides seed and epoch.
    """

    name: str  # hfids/NAME, or wds/ADDRESS
    split: str
    length: int  # images in an epoch; 0: as many as the set says it has
    root: str | None = None  # the cache of hfids
    image_key: str = "image"
    label_key: str = "label"
    class_names: tuple[str, ...] = ()
    numbered: bool = True  # labels are indices into class_names, not names
    multilabel: bool = False

    def __len__(self) -> int:
        return self.length

    @property
    def hugging(self) -> bool:
        return self.name.startswith("hfids/")

    def open(
        self, *, training: bool, batch_size: int = 1, seed: int = 0, rank: int = 0, processes: int = 1
    ) -> Opened:
        """timm's data set, before its first image is read. Raises InputError if it cannot be opened."""
        library = "datasets" if self.hugging else "webdataset"
        required(library, library, "train")
        keys: dict[str, Any] = {"input_key": self.image_key, "target_key": self.label_key}
        if not self.hugging:  # timm finds images in shards by their endings, and reads .cls unless told
            keys = {"target_key": None if self.label_key == "label" else self.label_key}
        # split|images: timm knows this form for shards only
        split, _, count = self.split.partition("|") if self.hugging else (self.split, "", "")
        try:
            dataset = create_dataset(
                self.name if self.hugging else "wds/",
                root=self.root if self.hugging else self.name.removeprefix("wds/"),
                split=split,
                is_training=training,
                batch_size=batch_size,
                # For validation all are read, whatever the number; timm insists on having one.
                num_samples=self.length or int(count or 0) or (None if training else 1),
                seed=seed,
                input_img_mode="",  # unconverted: images.load_rgb does that better
                **keys,
            )
        except Exception as error:  # of many libraries and file formats
            raise InputError(
                f"{self.name}: split {self.split} of it cannot be opened ({reason(error)}); check the name, "
                "and give split|images, such as train|50000, where their number is not known"
            ) from error
        reader = dataset.reader
        reader.dist_rank, reader.dist_num_replicas = rank, processes  # timm may not know them yet
        if self.hugging:
            return self._hugging(dataset, split)
        return Opened(dataset, tuple(reader.info.get("splits", ())), len(reader.split_info.filenames), {})

    def _hugging(self, dataset: Any, split: str) -> Opened:
        """Add what timm does not see in a set without a description: splits, columns, classes."""
        reader = dataset.reader
        splits = reader.builder.as_streaming_dataset()
        if split not in splits:
            raise InputError(
                f"{self.name}: no split {split}; its splits are {', '.join(splits)}: name one of them"
            )
        features = reader.builder.info.features or {}
        keys = [self.image_key, *map(str.strip, self.label_key.split(","))]
        if not set(keys) <= features.keys():
            had = ", ".join(features) or "unknown"
            raise InputError(f"{self.name}: its columns are {had}; give image_key and label_key")
        # If timm decoded them, the first broken image would end the stream.
        features[self.image_key] = required("datasets", "datasets", "train").Image(decode=False)
        label = getattr(features[keys[1]], "feature", features[keys[1]])  # the feature of a list's entries
        names = {name: index for index, name in enumerate(getattr(label, "names", None) or ())}
        return Opened(dataset, tuple(splits), splits[split].num_shards, reader.class_to_idx or names)

    def image(self, value: Any, name: str) -> Image.Image:
        """The picture in a value from timm's reader. Raises InputError if it cannot be read."""
        if isinstance(value, Image.Image):
            return images.load_rgb(value)
        try:
            picture = required("datasets", "datasets", "train").Image().decode_example(value)
        except Exception as error:  # damaged data raises nearly anything
            raise InputError(f"{name!r} is not an image, or damaged ({reason(error)}); mend it") from error
        return images.load_rgb(picture)


class StreamLoader:
    """Batches of a stream, from where `order` stands: what came before is read, but not augmented."""

    def __init__(
        self, stream: Stream, transform: Transform, order: SeededBatchSampler, *, seed: int, workers: int = 0
    ) -> None:
        self.stream, self.transform, self.order, self.seed = stream, transform, order, seed
        shards = stream.open(training=True).shards
        if not stream.hugging and shards < order.processes:
            raise InputError(f"{stream.name}: {shards} shards for {order.processes} processes; make more")
        self.workers = min(workers, shards // order.processes)  # a worker without a shard would wait for ever

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        order, epoch = self.order, self.order.epoch
        opened = self.stream.open(
            training=True,
            batch_size=order.piece,
            seed=seeds.mix(self.seed, epoch) % 2**31,
            rank=order.rank,
            processes=order.processes,
        )
        first, last = order.step * order.accumulate, order.steps * order.accumulate
        passing = _Passing(
            self.stream, opened.dataset, self.transform, (self.seed, epoch, order.rank), order.piece, first
        )
        own = seeds.generator(self.seed, epoch)  # timm shuffles by the seeds that workers get from this
        loader = DataLoader(passing, order.piece, generator=own, **settings(self.workers))
        return islice(loader, first, last)


class _Passing(IterableDataset[Item]):
    """The images of one epoch, as a worker sees them."""

    def __init__(
        self,
        stream: Stream,
        dataset: Any,
        transform: Transform,
        draw: tuple[int, ...],
        piece: int,
        skip: int,
    ) -> None:
        self.stream, self.dataset, self.transform, self.draw = stream, dataset, transform, draw
        self.piece, self.skip = piece, skip

    def __iter__(self) -> Iterator[Item]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        number, owed, failed = 0, 0, list[str]()
        with _Passed(failed):
            for read, (value, target) in enumerate(self.dataset):
                name = f"{self.stream.name} {self.stream.split}, worker {worker}, number {read}"
                try:
                    image = self.stream.image(value, name)
                except InputError as error:
                    failed.append(fault(name, error))
                    owed += 1  # timm has counted it: the next image comes twice
                    continue
                names, numbered = self.stream.class_names, self.stream.numbered
                label = to_labels(self.stream.name, [target], names, numbered=numbered)[0]
                for _ in range(1 + owed):
                    if number // self.piece * workers + worker < self.skip:
                        yield torch.empty(0), label, ()
                    else:
                        with seeds.seeded(*self.draw, worker, number):
                            x = self.transform(image)
                        yield x, label, tuple(failed)
                        failed.clear()
                    number += 1
                owed = 0


class _Passed(logging.Handler):
    """While entered, adds what timm logs about skipped images in shards to a list."""

    def __init__(self, failed: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.failed = failed

    def emit(self, record: logging.LogRecord) -> None:
        self.failed.append(f"an image in a shard: {record.getMessage()}")

    def __enter__(self) -> None:
        logging.getLogger(SHARDS_LOG).addHandler(self)

    def __exit__(self, *_: object) -> None:
        logging.getLogger(SHARDS_LOG).removeHandler(self)


def from_stream(
    stream: Stream, val_split: str | None
) -> tuple[Stream, Samples, tuple[str, ...], tuple[str, ...]]:
    """The stream with its classes; its validation images, decoded and kept; the unreadable ones among them;
    and which split is for what, in words.

    Raises InputError if it has no validation split: a stream cannot be divided.
    """
    opened = stream.open(training=True)
    train, val_name = stream.split.partition("|")[0], (val_split or "").partition("|")[0] or None
    named = [train, *([val_name] if val_name else []), *opened.splits]
    chosen = parts.choose(stream.name, named, train, val_name, kind="split")
    val_split = val_split or (chosen.named("val") if chosen else None)
    if chosen is None or val_split is None:
        raise InputError(f"{stream.name}: no validation split, and streams are not divided: give val_split")
    held = tuple(name for name, use in chosen.uses.items() if use == "test")  # would be kept in memory
    used = {name: use for name, use in chosen.uses.items() if use != "test"}
    notes = (f"{stream.name}: {parts.Parts(used, (*held, *chosen.aside)).said()}",)
    val = replace(stream, split=val_split, length=0)
    pictures: list[Image.Image | InputError] = []
    targets, passed = [], list[str]()

    def name(number: int) -> str:
        return f"{val.name} {val.split}, number {number}"

    with _Passed(passed):
        for number, (value, target) in enumerate(val.open(training=False).dataset):
            targets.append(target)
            try:
                pictures.append(val.image(value, name(number)))
            except InputError as error:
                passed.append(fault(name(number), error))
                pictures.append(error)
    known = opened.classes
    names = tuple(sorted(known, key=known.__getitem__)) or values_of(stream.name, targets)
    labels = to_labels(f"{stream.name}, split {val_split}", targets, names, numbered=bool(known))
    good = [i for i, picture in enumerate(pictures) if not isinstance(picture, InputError)]
    samples = Samples(Memory(pictures, name), torch.arange(len(pictures)), labels).select(good)
    stream = replace(
        stream,
        length=int(opened.dataset.reader.num_samples),
        class_names=names,
        numbered=bool(known),
        multilabel=labels.ndim == 2,
    )
    return stream, samples, tuple(passed), notes
