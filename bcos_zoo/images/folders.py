"""The pictures that paths and folders name, and which files of a folder are passed over, and why."""

from __future__ import annotations

import logging
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL.PngImagePlugin import PngInfo

from ..errors import InputError
from ..files import SOFTWARE
from .formats import HEIF, HEIF_ADVICE, image_suffixes
from .opening import as_path, status_of, unreadable

OWN = "own results"
MARK = b"Software\0" + SOFTWARE.encode()  # in the PNG files that we write
OWN_NAME = re.compile(r"\.explained\.[a-z0-9.]+$", re.IGNORECASE)  # our results beside pictures
# Other names that we write; as others may use them too, only the mark decides: sheet.png, confusion.png,
# epoch-0001.png, localisation.curves.png, layer3.1.conv2.39.png. Few names in data sets look like these.
MARKED_NAME = re.compile(r"^([a-z-]+(-\d+)?(\.curves)?|.*\.\d+)\.png$")
_log = logging.getLogger("bcos_zoo.images")


class Passed:
    """Counts of the files in folders that were passed over as no pictures, by kind."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()

    def __str__(self) -> str:
        """'3 passed over: 2 .heic (advice), 1 without suffix'; empty if there were none."""
        if not self.kinds:
            return ""
        parts = [f"{count} {kind}{_advice(kind)}" for kind, count in sorted(self.kinds.items())]
        shown, more = parts[:8], len(parts) - 8
        also = f", and {more} other kinds" if more > 0 else ""
        return f"{self.kinds.total()} passed over: {', '.join(shown)}{also}"

    def tell(self, where: object) -> None:
        """Say so in one line, as a warning of the logger `bcos_zoo.images`."""
        if self.kinds:
            _log.warning("%s: %s", where, self)


def find_images(
    paths: Iterable[str | os.PathLike[str]], passed: Passed | None = None, *, empty: bool = False
) -> list[Path]:
    """The image files that `paths` name, in the order given.

    A file is kept whatever its suffix: whether it is an image shows when it is opened. A folder stands for
    all files below it whose suffix is that of a format decoded here, in sorted order; links are followed;
    hidden files and folders are skipped. Our own results and files of other kinds are passed over, which is
    reported in one line per folder, or added to `passed`. empty: whether a folder may hold no image.
    Raises InputError for a path that does not exist and for a folder that cannot be listed or holds no image.
    """
    if isinstance(paths, (str, os.PathLike)):
        raise InputError(f"got one path, {os.fspath(paths)!r}; a list of paths is needed: put it in [ ]")
    found: list[Path] = []
    for path in map(as_path, paths):
        if not stat.S_ISDIR(status_of(path).st_mode):
            found.append(path)
            continue
        here = Passed()
        inside = sorted(_walk(path, here))
        if not inside and not empty:
            said = f" ({here})" if here.kinds else ""
            raise InputError(
                f"{str(path)!r} holds no image; a folder with files such as .jpg or .png is needed "
                f"(hidden ones do not count): name another folder, or the files themselves{said}"
            )
        found += inside
        if passed is None:
            here.tell(path)
        else:
            passed.kinds.update(here.kinds)
    return found


def gather(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[Path], list[InputError]]:
    """As `find_images`, but some paths may be wrong: returns what was found, and their errors."""
    found: list[Path] = []
    errors: list[InputError] = []
    for path in paths:
        try:
            found += find_images([path])
        except InputError as error:
            errors.append(error)
    return found, errors


def is_own_result(path: Path) -> bool:
    """Whether we wrote a file, judged by its name `NAME.explained.*` or by the mark in a PNG."""
    if OWN_NAME.search(path.name):
        return True
    if not MARKED_NAME.search(path.name):
        return False
    try:
        with path.open("rb") as file:
            return MARK in file.read(256)
    except OSError:  # reading it as an image will report the reason
        return False


def own_info() -> PngInfo:
    """The mark in every PNG of ours, so that it is not taken for a photograph later."""
    info = PngInfo()
    info.add_text("Software", SOFTWARE)
    return info


def _walk(folder: Path, passed: Passed) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise unreadable(Path(error.filename or folder), error) from error

    seen: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(here)
        if real in seen:  # without this, a link to a parent folder would never end
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for file in files:
            if file.startswith("."):
                continue
            path, suffix = Path(here, file), os.path.splitext(file)[1].lower()
            if is_own_result(path):
                passed.kinds[OWN] += 1
            elif suffix in image_suffixes():
                yield path
            else:
                passed.kinds[suffix or "without suffix"] += 1


def _advice(kind: str) -> str:
    return f" ({HEIF_ADVICE})" if kind in HEIF else ""
