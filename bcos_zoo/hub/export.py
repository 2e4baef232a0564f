"""Networks as folders that the Hugging Face Hub takes, and on the Hub itself.

A folder gets its name, or is uploaded, only after it was loaded again and gave the same network.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from .._version import __version__
from ..classifier import Classifier
from ..errors import InputError, WeightsError, redact
from ..files import passing_folder, writing
from ..images.image_like import ImageLike
from ..weights import config_json
from . import folder as hub_folder


def export(
    source: Classifier | str,
    folder: str | os.PathLike[str],
    *,
    sample: ImageLike | None = None,
    force: bool = False,
) -> Path:
    """Write a network as a folder that `timm.create_model("local-dir:FOLDER")` and `bcos_zoo.load` take.

    source: a Classifier, of a network of your own too, or a name that `bcos_zoo.load` takes; an embedding is
    given by name. It is left as it is.
    folder: its parents are created. What it holds besides the files written is kept, if `force` allows it.
    sample: the photograph to explain in the card; unless given, of the folder of a run the validation image
    that its own card shows, else a cat.
    force: write into a folder that is not empty.

    Returns the folder, with model.safetensors, config.json, README.md and, unless the network has no exact
    explanation of a photograph, explanation.png.
    Raises InputError for a network that has no place in such a folder, for an unreadable sample and for a
    folder that is not empty or cannot be written; WeightsError if what was written does not give the same
    network, with the same bits, and as `bcos_zoo.load` does. Nothing is left then.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file; give a folder")
    if target.is_dir() and any(target.iterdir()) and not force:
        raise InputError(f"{target} is not empty; give another folder, or --force to write into it")
    network = hub_folder.prepare(source, sample)
    with writing(target, "give another folder"), _placing(target.resolve()) as staged:
        hub_folder.write(network, staged)
    return target


def push_to_hub(
    source: Classifier | str,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    sample: ImageLike | None = None,
) -> str:
    """Put a network on the Hugging Face Hub, in one commit; the repository is created if there is none.

    source, sample: as in `export`. repo_id: "organisation/name".
    private: of a new repository. token: the one that is logged in unless given.
    revision: the branch; it is created if there is none. create_pr: ask its owner instead of committing.

    Returns the url to look at. Then `timm.create_model("hf-hub:organisation/name", pretrained=True)` and
    `bcos_zoo.load("hf-hub:organisation/name@revision")` load it.
    Raises InputError and WeightsError as `export` does; WeightsError if the Hub refuses, and if a repository
    is public that should be private. No token shows in what is raised.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"{redact(str(error), token)} Give organisation/name") from None
    network = hub_folder.prepare(source, sample)
    api = HfApi(token=token, library_name="bcos_zoo", library_version=__version__)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with writing(folder, "free it"):
            hub_folder.write(network, folder, repo_id)
        try:
            repo = api.create_repo(repo_id, private=private, exist_ok=True)
            if private and not api.repo_info(repo.repo_id).private:
                raise WeightsError(
                    f"{repo_id} is public and was left as it is; make it private on the Hub first"
                )
            if revision and not api.revision_exists(repo.repo_id, revision):
                api.create_branch(repo.repo_id, branch=revision, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo.repo_id,
                folder_path=folder,
                revision=revision,
                create_pr=create_pr,
                commit_message=commit_message or f"Upload {network.architecture} with bcos_zoo {__version__}",
                delete_patterns=None if (folder / hub_folder.PICTURE).exists() else hub_folder.PICTURE,
            )
        except WeightsError:
            raise
        except Exception as error:  # those of the client, and of what is beneath it, have no common base
            raise WeightsError(
                f"cannot push to {repo_id} ({config_json.why(error, token)}); see that the token may write "
                "there"
            ) from None  # the client's own traceback could show what ours hides
    if create_pr:
        return str(commit.pr_url)
    return str(repo) + (f"/tree/{quote(revision, safe='')}" if revision else "")


@contextmanager
def _placing(folder: Path) -> Iterator[Path]:
    """A folder to fill in the block; when that ends well, its files are in `folder`, else nothing is left.

    It stands beside `folder` and takes its name. Where `folder` is there, it stands inside, and the files are
    exchanged: `folder` may be a mount, or where the process is. Files of other names stay.
    """
    inside = folder.is_dir()
    missing = [parent for parent in folder.parents if not parent.exists()]
    staged = (folder if inside else folder.parent) / f".{folder.name}.{uuid.uuid4().hex}.tmp"
    try:
        with passing_folder(staged):
            yield staged
            if inside:
                _exchange(staged, folder)
            else:
                os.replace(staged, folder)
    finally:
        for parent in missing:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()


def _exchange(staged: Path, folder: Path) -> None:
    """Move the staged files into the folder, in the place of all that an earlier export wrote there."""
    new, old = list(staged.iterdir()), staged / "old"
    old.mkdir()
    placed = []
    try:
        for name in hub_folder.FILES:
            if (folder / name).exists():
                os.replace(folder / name, old / name)
        for path in new:
            os.replace(path, folder / path.name)
            placed.append(folder / path.name)
    except BaseException:
        for path in placed:
            path.unlink()
        for path in old.iterdir():
            os.replace(path, folder / path.name)
        raise
