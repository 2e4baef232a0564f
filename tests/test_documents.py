"""Whatever a page or a docstring shows is run, and its links lead somewhere."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import documents
import pytest
from documents import LANGUAGES, MARKS, MODULES, PAGES, ROOT, Block
from PIL import Image, ImageOps

import bcos_zoo

RUNNABLE = [(path, group) for path in (*PAGES, *MODULES) for group in documents.blocks(path) if group]
ALL = [block for _, group in RUNNABLE for block in group]
LINKED = sorted({*PAGES, *ROOT.glob("*.md")})


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def some(*marks: str) -> list[Any]:
    """Parameters of a test: the blocks of each page or docstring that bear one of the marks, if there are."""
    kept = [[block for block in group if block.mark in marks] for _, group in RUNNABLE]
    return [pytest.param(group, id=str(group[0])) for group in kept if group]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in as a reader would: the repository's files, a photograph, images of two classes.

    Nothing outside this machine answers.
    """
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name not in ("data", "runs", "out", "release"):
            (tmp_path / path.name).symlink_to(path)
    photograph = (ROOT / "bcos_zoo" / "samples" / "chelsea.jpg").read_bytes()
    (tmp_path / "photo.jpg").write_bytes(photograph)
    with Image.open(tmp_path / "photo.jpg") as cat:
        for i in range(10):
            piece = cat.crop((8 * i, 6 * i, 8 * i + 224, 6 * i + 224)).resize((64, 64))
            for name, image in {"cat": piece, "negative": ImageOps.invert(piece)}.items():
                (tmp_path / "my_images" / name).mkdir(parents=True, exist_ok=True)
                image.save(tmp_path / "my_images" / name / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    connect = socket.socket.connect

    def at_home(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(
            ("127.", "::1")
        ):
            raise OSError(f"a block that is run asks {address[0]} for something; mark it notest, and say why")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", at_home)
    yield tmp_path


@pytest.mark.filterwarnings("ignore")  # other libraries warn of their own affairs
@pytest.mark.filterwarnings("error:::bcos_zoo", "error:::example")
@pytest.mark.parametrize("group", some(""))
def test_blocks_do_what_they_show(group: list[Block], desk: Path) -> None:
    for block in group:
        block.example.evaluate()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.filterwarnings("error:::bcos_zoo", "error:::example")
@pytest.mark.parametrize("group", [g for g in some("", "slow") if any(one.mark for one in g.values[0])])
def test_blocks_of_pages_with_slow_ones_do_what_they_show(group: list[Block], desk: Path) -> None:
    for block in group:
        block.example.evaluate()


def test_every_block_is_of_a_language_that_is_run_or_of_none_that_could_be() -> None:
    wrong = [str(block) for block in ALL if block.language not in (*LANGUAGES, *documents.DATA)]
    assert not wrong, f"{wrong}: run are {LANGUAGES}, data are {documents.DATA}; output has no language"
    wrong = [str(block) for block in ALL if block.mark not in MARKS]
    assert not wrong, f"{wrong}: behind the language stands nothing, or one of {MARKS}"


def test_blocks_that_are_not_run_are_counted_and_say_why(record_property: Any) -> None:
    """`pytest tests/test_documents.py -k counted -s` prints the count."""
    code = [block for block in ALL if block.language in LANGUAGES]
    left = [block for block in code if block.mark == "notest"]
    counts = {mark or "run": sum(block.mark == mark for block in code) for mark in MARKS}
    print(f"\nblocks of code: {counts}")
    record_property("blocks", counts)
    silent = [str(block) for block in left if not block.explained]
    assert not silent, f"{silent}: say beside the block that it is 'not run', and why"
    assert len(code) - len(left) > len(left), "most of what is shown ought to be run"


@pytest.mark.parametrize("path", LINKED, ids=named)
def test_links_lead_to_files_and_headings_that_exist(path: Path) -> None:
    dead = []
    for link in documents.links(path):
        if link.startswith(("https://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        inside = target.is_relative_to(ROOT)
        if not (inside and target.exists()) or (anchor and anchor not in documents.anchors(target)):
            dead.append(link)
    assert not dead


def test_a_page_is_taken_apart(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A *first* page, `of` two\n\nSee [b](b.md#c) and ![p](p.png).\n\n## Again\n\n## Again\n\n"
        "```python\nx = 1\n```\n\n<!-- not run: it asks the whole world -->\n```sh notest\nping\n```\n\n"
        "=== 'Tab'\n\n    ```python slow\n    y = x + 1\n    ```\n\n```\noutput\n```\n",
        encoding="utf-8",
    )
    assert documents.links(page) == ["b.md#c", "p.png"]
    assert documents.anchors(page) == {"a-first-page-of-two", "again", "again-1"}
    (group,) = documents.blocks(page)
    assert [(b.language, b.mark, b.explained) for b in group] == [
        ("python", "", False), ("sh", "notest", True), ("python", "slow", False),
    ]  # fmt: skip
    assert "<!--" not in group[0].around and group[1].example.line == 14
    for block in (group[0], group[2]):
        block.example.evaluate()
    assert group[2].example.namespace["y"] == 2


@pytest.mark.parametrize(
    ("line", "said"), [("bcos-zoo info nothing", "ended with 2"), ("curl x", "cannot be run here")]
)
def test_a_shell_block_that_fails_or_is_no_command_of_ours_is_told(
    line: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"```sh\nbcos-zoo --version  # ours\n{line}\n```\n", encoding="utf-8")
    (group,) = documents.blocks(page)
    with pytest.raises(AssertionError, match=said):
        group[0].example.evaluate()
    assert bcos_zoo.__version__ in capsys.readouterr().out
