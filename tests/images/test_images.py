"""Pictures of every kind become RGB. Each is made by the test that opens it."""

import os
import struct

import pytest
from photographs import (
    ANIMATED,
    BLUE,
    MODES,
    RED,
    TURNS,
    WHITE,
    chunk,
    difference,
    encoded,
    in_mode,
    picture,
    png,
    state,
    written,
)
from PIL import Image, ImageOps, features

from bcos_zoo.errors import InputError
from bcos_zoo.images import load_rgb


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
        (2, 0, bytes([0b10010000]), struct.pack(">H", 2), (85, 85, 85)),
        (4, 0, bytes([0x79]), struct.pack(">H", 7), (153, 153, 153)),
        (4, 0, bytes([0x0F]), struct.pack(">H", 0), (255, 255, 255)),
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
