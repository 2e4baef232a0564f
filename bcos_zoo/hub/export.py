"""Networks as folders that the Hugging Face Hub takes, and on the Hub itself.

A folder gets its name, or is uploaded, only after it has been loaded again and gave the same network.
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

    source: a Classifier, also of a network of your own, or a name that `bcos_zoo.load` takes; an embedding is
    given by name. The source is not changed.
    folder: created with its parents.
    force: write into the folder even if it is not empty; files of other names are kept.
    sample: the photograph to explain in the card; by default, for the folder of a run, the validation image
    in the run's own card, otherwise a cat.

    Returns the folder, with model.safetensors, config.json, README.md and, unless the network has no exact
    explanation of a photograph, explanation.png.
    Raises InputError for a network that such a folder cannot hold, for an unreadable sample and for a folder
    that is not empty or cannot be written; WeightsError if what was written does not give the same network,
    bit for bit, and as `bcos_zoo.load` does. Nothing is left behind then.

    ```python
    import bcos_zoo

    folder = bcos_zoo.export("bcos_resnet20.cifar10", "out/resnet20", force=True)
    clf = bcos_zoo.load(folder)
    ```
    """
    target = Path(folder)
    with writing(target, "give another folder"):  # a name that no disk allows cannot be looked at either
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
    """Put a network on the Hugging Face Hub in one commit, and create the repository if it does not exist.

    source: as in `export`. repo_id: "organisation/name".
    sample: the photograph of the card, which others will see; a cat unless given, also for a run, whose own
    card shows one of its validation images.
    private: whether a new repository is private. token: by default that of the logged-in account.
    revision: the branch; created if it does not exist. create_pr: open a pull request instead of committing.

    Returns the URL to look at. Then `timm.create_model("hf-hub:organisation/name", pretrained=True)` and
    `bcos_zoo.load("hf-hub:organisation/name@revision")` load it.
    Raises InputError and WeightsError as `export` does; WeightsError if the Hub refuses, and if a repository
    is public that should be private. No token shows in what is raised.

    The example is not run by the tests, for it uploads.

    ```python notest
    import bcos_zoo

    bcos_zoo.push_to_hub("runs/mine", "your-name/my-network", private=True)
    ```
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"{redact(str(error), token)} Give organisation/name") from None
    network = hub_folder.prepare(source, sample, public=True)
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
        except Exception as error:  # those of the client, and of what it uses, have no common base
            raise WeightsError(
                f"cannot push to {repo_id} ({config_json.why(error, token)}); see that the token may write "
                "there"
            ) from None  # the client's traceback could show the token
    if create_pr:
        return str(commit.pr_url)
    return str(repo) + (f"/tree/{quote(revision, safe='')}" if revision else "")


@contextmanager
def _placing(folder: Path) -> Iterator[Path]:
    """A folder to fill in the block; if that succeeds, its files are then in `folder`, else nothing is left.

    It is made beside `folder` and then renamed to it. If `folder` exists, it is made inside, and the files
    are exchanged: `folder` may be a mount, or the working directory. Files with other names stay.
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
    """Move the staged files into the folder, replacing everything that an earlier export wrote there."""
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
