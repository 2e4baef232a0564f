"""Every picture here is made by the test that opens it."""

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageOps, features

from bcos_zoo.errors import InputError
from bcos_zoo.images import find_images, load_rgb

MODES = [
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "HSV",
    "LAB",
    "I",
    "I;16",
]
ANIMATED = [
    "GIF",
    "PNG",
    pytest.param("WEBP", marks=pytest.mark.skipif(not features.check("webp"), reason="no WebP")),
]
HOW = Image.Transpose
TURNS = [HOW.FLIP_LEFT_RIGHT, HOW.ROTATE_180, HOW.FLIP_TOP_BOTTOM, HOW.TRANSPOSE, HOW.ROTATE_270]
TURNS += [HOW.TRANSVERSE, HOW.ROTATE_90]  # of EXIF orientations 2 to 8
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def picture(width: int = 24, height: int = 16) -> Image.Image:
    """Smooth, and different under each flip and turn."""
    bands = [Image.linear_gradient("L").resize((width, height)).rotate(a) for a in (0, 180)]
    return Image.merge(
        "RGB", [*bands, Image.radial_gradient("L").crop((0, 0, 99, 50)).resize((width, height))]
    )


def in_mode(mode: str) -> Image.Image:
    via = {"LA": "L", "La": "LA", "PA": "P", "RGBa": "RGBA", "I;16": "I"}.get(mode)
    return (picture().convert(via) if via else picture()).convert(mode)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *before_rows: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    data = b"".join(before_rows) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + data


def encoded(image: Image.Image, **options: object) -> bytes:
    image.save(buffer := io.BytesIO(), **options)
    return buffer.getvalue()


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def difference(a: Image.Image, b: Image.Image) -> int:
    """Largest difference of any channel of any pixel, in levels of 255."""
    assert (a.mode, a.size) == (b.mode, b.size)
    return max(high for _, high in ImageChops.difference(a, b).getextrema())


def state(image: Image.Image) -> tuple[object, ...]:
    return (
        image.mode,
        image.size,
        image.tobytes(),
        image.getpalette("RGBA"),
        dict(image.info),
        dict(image.getexif()),
    )


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_the_same_rgb_picture(mode):
    image, expected = in_mode(mode), picture()
    if mode in ("I", "I;16"):
        image = in_mode("I").point(lambda v: v * 257).convert(mode)  # the grey levels of 8 bits, in 16
    if mode in ("L", "LA", "La", "I", "I;16"):
        expected = expected.convert("L").convert("RGB")
    if mode in ("1", "P", "PA", "LAB"):  # these lose colours on the way in
        expected = image.convert("RGB")
    assert difference(load_rgb(image), expected) <= 6


@pytest.mark.parametrize("colour", [WHITE, (0, 0, 0), (128, 128, 128), (200, 120, 60), (60, 90, 160)])
def test_a_lab_image_keeps_its_colour(colour):
    image = Image.new("RGB", (1, 1), colour)
    assert difference(load_rgb(image.convert("LAB")), image) <= 6


@pytest.mark.parametrize("mode", MODES)
def test_the_callers_image_is_left_as_it_was_and_the_result_is_a_new_one(mode):
    image = in_mode(mode)
    image.info["dpi"] = (72, 72)
    image.getexif()[0x0112] = 6
    before = state(image)
    loaded = load_rgb(image)
    assert state(image) == before
    assert loaded is not image
    loaded.paste(RED, (0, 0, *loaded.size))
    assert state(image) == before


@pytest.mark.parametrize("transparency", [0, bytes([0, 128])])
def test_a_palette_with_transparency_is_left_as_it_was(transparency):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.info["transparency"] = transparency
    before = state(image)
    assert load_rgb(image).getpixel((0, 0)) == WHITE
    assert state(image) == before


def test_loading_the_result_once_more_changes_nothing(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    once = load_rgb(written(tmp_path / "a.png", encoded(picture(), format="PNG", exif=exif)))
    assert once.size == (16, 24)
    assert difference(load_rgb(once), once) == 0
    assert not once.info and not once.getexif()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once_from_file_and_from_pil(tmp_path, kind, orientation):
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    quality = {"quality": 100, "subsampling": 0} if kind == "JPEG" else lossless
    path = written(tmp_path / "a.img", encoded(picture(), format=kind, exif=exif, **quality))
    expected = picture() if orientation == 1 else picture().transpose(TURNS[orientation - 2])
    with Image.open(path) as image:
        for source in (path, image, ImageOps.exif_transpose(image)):
            assert difference(load_rgb(source), expected) <= (4 if kind == "JPEG" else 0)


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x09", b"Exif\0\0garbage" * 9])
def test_a_picture_with_damaged_exif_is_shown_as_it_is_stored(tmp_path, exif):
    assert load_rgb(written(tmp_path / "a.jpg", encoded(picture(), format="JPEG", exif=exif))).size == (
        24,
        16,
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA", "La", "PA", "RGBa"])
@pytest.mark.parametrize("alpha", [0, 64, 255])
def test_alpha_is_put_on_white(mode, alpha):
    grey = Image.merge("LA", [Image.new("L", (2, 2), level) for level in (100, alpha)])
    image = {"RGBA": grey.convert("RGBA"), "RGBa": grey.convert("RGBA").convert("RGBa")}.get(mode)
    if mode == "PA":
        image = Image.new("P", (2, 2), 0)
        image.putpalette([100] * 3)
        image = image.convert("PA")
        image.putalpha(alpha)
    image = image or grey.convert(mode)
    assert image.mode == mode
    expected = round((100 * alpha + 255 * (255 - alpha)) / 255)
    assert difference(load_rgb(image), Image.new("RGB", (2, 2), (expected,) * 3)) <= 2


def test_a_transparent_png_file_is_white_where_nothing_is_seen(tmp_path):
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (*RED, 255))
    loaded = load_rgb(written(tmp_path / "a.png", encoded(image, format="PNG")))
    assert [loaded.getpixel((x, 0)) for x in (0, 1)] == [WHITE, RED]


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_palette_with_transparency_is_put_on_white(tmp_path, kind):
    image = Image.new("P", (2, 1), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 0)
    loaded = load_rgb(written(tmp_path / "a.img", encoded(image, format=kind, transparency=0)))
    assert [loaded.getpixel((x, 0)) for x in (0, 1)] == [WHITE, BLUE]


def test_palette_alphas_between_none_and_full_are_blended(tmp_path):
    image = Image.new("P", (1, 1), 0)
    image.putpalette([0, 0, 0])
    loaded = load_rgb(written(tmp_path / "a.png", encoded(image, format="PNG", transparency=bytes([51]))))
    assert loaded.getpixel((0, 0)) == (204,) * 3


@pytest.mark.parametrize(
    ("bits", "colour", "row", "key", "second"),
    [
        (8, 0, bytes([9, 8]), struct.pack(">H", 9), (8, 8, 8)),
        (1, 0, bytes([0b10000000]), struct.pack(">H", 1), (0, 0, 0)),
        (8, 2, bytes([1, 2, 3, 3, 2, 1]), struct.pack(">3H", 1, 2, 3), (3, 2, 1)),
        (16, 0, struct.pack(">2H", 4660, 257 * 7), struct.pack(">H", 4660), (7, 7, 7)),
        (
            16,
            2,
            struct.pack(">6H", 4660, 800, 900, 256, 512, 768),
            struct.pack(">3H", 4660, 800, 900),
            (1, 2, 3),
        ),
    ],
)
def test_a_transparent_colour_of_a_png_is_put_on_white(tmp_path, bits, colour, row, key, second):
    path = written(tmp_path / "a.png", png(2, 1, bits, colour, b"\0" + row, chunk(b"tRNS", key)))
    assert [load_rgb(path).getpixel((x, 0)) for x in (0, 1)] == [WHITE, second]


def gradient(order: str) -> tuple[list[int], bytes]:
    values = [*range(0, 65536, 129), 65535]
    return values, struct.pack(f"{order}{len(values)}H", *values)


def test_a_16_bit_png_is_scaled_to_8_bits_within_one_level(tmp_path):
    values, row = gradient(">")
    loaded = load_rgb(written(tmp_path / "a.png", png(len(values), 1, 16, 0, b"\0" + row)))
    got = [loaded.getpixel((x, 0)) for x in range(len(values))]
    assert all(
        abs(r - value / 257) <= 1 and r == g == b for (r, g, b), value in zip(got, values, strict=True)
    )
    assert (got[0], got[-1]) == ((0, 0, 0), WHITE)


@pytest.mark.parametrize(("mode", "order"), [("I;16", "<"), ("I;16L", "<"), ("I;16B", ">"), ("I", None)])
def test_every_spelling_of_16_bit_grey_is_scaled(mode, order):
    values, row = gradient(order or "<")
    image = Image.frombytes("I;16" if order is None else mode, (len(values), 1), row)
    loaded = load_rgb(image.convert("I") if order is None else image)
    got = [loaded.getpixel((x, 0)) for x in range(len(values))]
    assert all(
        abs(r - value / 257) <= 1 and r == g == b for (r, g, b), value in zip(got, values, strict=True)
    )


@pytest.mark.parametrize(("mode", "value"), [("I", 65536), ("I", -1), ("F", 0.5)])
def test_32_bit_grey_is_refused_for_its_white_is_not_known(tmp_path, mode, value):
    path = written(tmp_path / "a.tif", encoded(Image.new(mode, (2, 2), value), format="TIFF"))
    with pytest.raises(InputError, match=rf"a\.tif.* 32-bit grey values \(mode {mode}\).*scale it to 8 bits"):
        load_rgb(path)


def test_a_cmyk_jpeg_keeps_its_colours_though_adobe_stores_them_inverted(tmp_path):
    data = encoded(picture(96, 64).convert("CMYK"), format="JPEG", quality=95)
    assert b"Adobe" in data
    assert difference(load_rgb(written(tmp_path / "a.jpg", data)), picture(96, 64)) <= 12


@pytest.mark.parametrize("kind", ANIMATED)
def test_an_animated_file_gives_its_first_frame(tmp_path, kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE, WHITE)]
    options = {"save_all": True, "append_images": frames[1:], "duration": 50, "loop": 0}
    lossless = {"lossless": True} if kind == "WEBP" else {}
    path = written(tmp_path / "a.img", encoded(frames[0], format=kind, **options, **lossless))
    with Image.open(path) as image:
        assert image.n_frames == 3
        assert difference(load_rgb(path), frames[0]) == 0
        image.seek(1)
        assert difference(load_rgb(image), frames[1]) == 0
        assert image.tell() == 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF"])
def test_one_pixel_is_a_picture(tmp_path, kind):
    loaded = load_rgb(str(written(tmp_path / "a.img", encoded(Image.new("RGB", (1, 1), WHITE), format=kind))))
    assert (loaded.size, loaded.getpixel((0, 0))) == ((1, 1), WHITE)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc to count open files in")
def test_no_file_is_left_open(tmp_path):
    data = encoded(picture(), format="PNG")
    paths = [written(tmp_path / "a.png", data), written(tmp_path / "b.png", data[:-60])]
    paths += [
        written(tmp_path / "c.png", b"no picture"),
        written(tmp_path / "d.tif", encoded(picture(), format="TIFF")),
    ]
    before = len(os.listdir("/proc/self/fd"))
    for path in paths:
        try:
            load_rgb(path)
        except InputError:
            pass
    assert len(os.listdir("/proc/self/fd")) == before


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
    with pytest.raises(InputError, match=rf"a {type(source).__name__} came; a path or a PIL image is needed"):
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
    with pytest.raises(InputError, match=r"one path came, 'photos'; a list of paths is needed"):
        find_images("photos")
