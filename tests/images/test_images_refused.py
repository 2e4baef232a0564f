"""What cannot be opened is refused in one line; what is looked for is found."""

import io
import os
import struct
import warnings
from pathlib import Path

import pytest
from photographs import difference, encoded, picture, png, written
from PIL import Image

from bcos_zoo.errors import InputError
from bcos_zoo.images import find_images, load_rgb


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("part", [0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98])
def test_a_truncated_file_is_refused_in_one_line_that_names_it(tmp_path, kind, part):
    data = encoded(Image.effect_noise((120, 90), 60).convert("RGB"), format=kind)
    path = written(tmp_path / "cut.img", data[: max(1, int(len(data) * part))])
    with pytest.raises(InputError, match=r"cut\.img.*(cut off|not an image).*give a whole picture") as caught:
        load_rgb(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_cut_anywhere_a_file_gives_an_error_or_the_whole_picture(tmp_path, kind):
    data = encoded(picture(), format=kind)
    whole = load_rgb(written(tmp_path / "a.img", data))
    for length in range(1, len(data), 7):
        try:
            loaded = load_rgb(written(tmp_path / "a.img", data[:length]))
        except InputError:
            continue
        assert difference(loaded, whole) == 0


def test_a_pil_image_of_a_truncated_file_is_refused(tmp_path):
    path = written(tmp_path / "cut.png", encoded(picture(), format="PNG")[:-60])
    with (
        Image.open(path) as image,
        pytest.raises(InputError, match=r"cut\.png.*is cut off or damaged \(.+\)"),
    ):
        load_rgb(image)
    image = Image.open(path)
    image.close()
    with pytest.raises(InputError, match=r"cut\.png"):
        load_rgb(image)


@pytest.mark.parametrize("data", [bytes(range(256)) * 8, b"hello, I am no picture\n", b"\0", b"\xff\xd8\xff"])
def test_what_is_no_image_is_refused_whatever_its_suffix(tmp_path, data):
    with pytest.raises(InputError, match=r"a\.jpg' is not an image, or is cut off.*such as a JPEG or PNG"):
        load_rgb(written(tmp_path / "a.jpg", data))


def test_the_suffix_does_not_matter(tmp_path):
    path = written(tmp_path / "a.txt", encoded(picture(), format="PNG"))
    assert difference(load_rgb(path), picture()) == 0


def test_postscript_is_refused_rather_than_run(tmp_path):
    path = written(tmp_path / "a.eps", encoded(picture(), format="EPS"))
    with pytest.raises(InputError, match=r"a\.eps' is EPS, which is not decoded here"):
        load_rgb(path)


def test_missing_empty_and_special_files_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"none\.jpg' does not exist; .*check the spelling"):
        load_rgb(tmp_path / "none.jpg")
    with pytest.raises(InputError, match=r"a\.jpg/b\.jpg' does not exist"):
        load_rgb(written(tmp_path / "a.jpg", b"x") / "b.jpg")
    with pytest.raises(InputError, match=r"empty\.jpg' is empty \(0 bytes\).*copy or download it again"):
        load_rgb(written(tmp_path / "empty.jpg", b""))
    with pytest.raises(InputError, match=r"is a folder; an image file is needed"):
        load_rgb(tmp_path)
    with pytest.raises(InputError, match=r"is a device or a pipe"):
        load_rgb(os.devnull)
    with pytest.raises(InputError, match=r"cannot be read \(.*null"):
        load_rgb("a\0b.jpg")
    with pytest.raises(InputError, match=r"cannot be read \(.*too long"):
        load_rgb("a" * 5000)


@pytest.mark.parametrize("source", [None, 3, b"a.jpg", io.BytesIO(b"")])
def test_what_is_neither_path_nor_pil_image_is_refused(source):
    with pytest.raises(InputError, match=rf"got a {type(source).__name__}; a path or a PIL image is needed"):
        load_rgb(source)


def test_a_file_or_folder_without_permission_is_refused(tmp_path):
    path = written(tmp_path / "a.jpg", encoded(picture(), format="JPEG"))
    (folder := tmp_path / "closed").mkdir()
    path.chmod(0)
    folder.chmod(0)
    try:
        if os.access(path, os.R_OK):
            pytest.skip("this user (root?) reads files of any permission")
        with pytest.raises(InputError, match=r"a\.jpg': permission denied"):
            load_rgb(path)
        with pytest.raises(InputError, match=r"closed': permission denied"):
            find_images([folder])
    finally:
        folder.chmod(0o700)


def test_a_refusal_of_the_system_names_path_and_reason(tmp_path, monkeypatch):
    path = written(tmp_path / "a.jpg", b"x")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)  # also where root runs the tests
    with pytest.raises(InputError, match=r"a\.jpg': permission denied; .*change its permissions"):
        load_rgb(path)


@pytest.mark.parametrize("height", [10_000, 100_000], ids=["where Pillow warns", "where Pillow raises"])
def test_a_decompression_bomb_is_refused_from_its_header_without_a_warning(tmp_path, height):
    path = written(tmp_path / "bomb.png", png(10_000, height, 8, 0, b"\0"))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(
            InputError, match=rf"bomb\.png' has {10_000 * height} pixels; at most \d+ are allowed"
        ):
            load_rgb(path)
    assert not seen


def test_the_pixel_limit_is_pillows_own_and_may_be_lifted(tmp_path, monkeypatch):
    path = written(tmp_path / "a.png", encoded(picture(), format="PNG"))
    given = picture()
    for limit in (24 * 16, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert load_rgb(path).size == load_rgb(given).size == (24, 16)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 16 - 1)
    with pytest.raises(
        InputError, match=r"a\.png' has 384 pixels; at most 383 are allowed.*MAX_IMAGE_PIXELS"
    ):
        load_rgb(path)
    with pytest.raises(InputError, match=r"the given image has 384 pixels"):
        load_rgb(given)


def test_a_bomb_inside_an_icon_is_refused(tmp_path):
    inner = png(20_000, 20_000, 8, 0, b"\0")
    entry = struct.pack("<3H4B2H2I", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inner), 22)
    with pytest.raises(InputError, match=r"bomb\.ico' has 400000000 pixels"):
        load_rgb(written(tmp_path / "bomb.ico", entry + inner))


@pytest.mark.parametrize("size", [(0, 0), (0, 3), (3, 0)])
def test_an_image_without_pixels_is_refused(size):
    with pytest.raises(InputError, match=rf"the given image has no pixels \({size[0]} x {size[1]}\)"):
        load_rgb(Image.new("RGB", size))


def test_a_file_without_pixels_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"a\.png' is not an image"):
        load_rgb(written(tmp_path / "a.png", png(0, 1, 8, 0, b"\0")))


def test_an_image_with_senseless_transparency_is_refused():
    image = Image.new("RGB", (1, 1))
    image.info["transparency"] = "glass"
    with pytest.raises(InputError, match=r"the given image of mode RGB does not turn into RGB"):
        load_rgb(image)


def test_folders_are_walked_in_sorted_order_and_files_kept_as_given(tmp_path):
    for name in [
        "b/2.PNG",
        "b/10.jpg",
        "a/deep/x.webp",
        "c.JPeG",
        ".hidden.png",
        ".git/y.png",
        "notes.txt",
        "e.eps",
    ]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    inside = [tmp_path / name for name in ("a/deep/x.webp", "b/10.jpg", "b/2.PNG", "c.JPeG")]
    assert find_images([tmp_path]) == inside
    odd = tmp_path / "notes.txt"
    assert find_images([str(odd), tmp_path / "b", odd]) == [odd, *inside[1:3], odd]
    assert find_images(iter([])) == []


def test_links_are_followed_and_one_that_goes_round_ends(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "set").mkdir()
    (tmp_path / "a/x.png").touch()
    try:
        (tmp_path / "set/link").symlink_to(tmp_path / "a", target_is_directory=True)
        (tmp_path / "a/round").symlink_to(tmp_path / "set", target_is_directory=True)
    except OSError as error:
        pytest.skip(f"no links here: {error}")
    assert find_images([tmp_path / "set"]) == [tmp_path / "set/link/x.png"]


def test_a_missing_path_and_a_folder_without_images_are_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"holds no image; .*name another folder"):
        find_images([tmp_path])
    with pytest.raises(InputError, match=r"none' does not exist"):
        find_images([tmp_path / "none"])
    with pytest.raises(InputError, match=r"got one path, 'photos'; a list of paths is needed"):
        find_images("photos")
