"""How commands name the folder of a run; that they work is tested with the page, in test_page.py."""

from pathlib import Path

import pytest

from bcos_zoo.training import going_on


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("runs/my cats", "runs/my cats"),
        ("mine", "./mine"),
        ("bcos_resnet20", "./bcos_resnet20"),  # a network of the zoo is called so
        ("-odd/mine", "./-odd/mine"),
        (".", "."),
        ("../elsewhere/mine", "./mine"),
    ],
)
def test_a_folder_is_called_so_that_commands_find_it(tmp_path, monkeypatch, folder, said):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert going_on.place(folder) == going_on.place(Path(folder).absolute()) == said
