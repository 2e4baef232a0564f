"""Colours as a viewer shows them: ICC profiles and PNG's gamma become sRGB."""

import io
import struct
import warnings

import numpy as np
import pytest
from photographs import chunk, difference, encoded, picture, png, written
from PIL import Image, ImageCms

from bcos_zoo.errors import InputError
from bcos_zoo.images import load_rgb

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
D50 = np.array([0.9642, 1.0, 0.8249])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
# x, y of white, red, green, blue; and the exponent of the curve
ADOBE = ((0.3127, 0.3290), (0.64, 0.33), (0.21, 0.71), (0.15, 0.06), 2.19921875)
P3 = ((0.3127, 0.3290), (0.68, 0.32), (0.265, 0.69), (0.15, 0.06), 2.2)
ITS_SRGB = ((0.3127, 0.3290), (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))


def matrix(white, red, green, blue):
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in (red, green, blue)]).T
    x, y = white
    return columns * np.linalg.solve(columns, np.array([x / y, 1, (1 - x - y) / y]))


def profile(white, red, green, blue, gamma, order=(0, 1, 2)):
    """A version 2 matrix profile, written byte by byte (ICC.1:2001-04)."""
    x, y = white
    there, here = BRADFORD @ [x / y, 1, (1 - x - y) / y], BRADFORD @ D50
    adapt = np.linalg.inv(BRADFORD) @ np.diag(here / there) @ BRADFORD
    columns = (adapt @ matrix(white, red, green, blue)).T[list(order)]

    def xyz(values):
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))

    curve = b"curv\0\0\0\0" + struct.pack(">IHH", 1, round(gamma * 256), 0)
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78 + 3)
    tags = {b"desc": text, b"wtpt": xyz(D50), b"cprt": b"text\0\0\0\0none\0\0\0\0"}
    tags |= dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(xyz, columns), strict=True))
    tags |= {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    table, body, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">2I", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4s I4s4s4s", at + len(body), b"\0" * 4, 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", *(round(v * 65536) for v in D50))
    return head.ljust(128, b"\0") + table + body


def shown(rgb, white, red, green, blue, gamma):
    """What a viewer shows of stored values, by the formulas: without lcms."""
    linear = (
        np.linalg.inv(matrix(*ITS_SRGB)) @ matrix(white, red, green, blue) @ (np.array(rgb) / 255) ** gamma
    )
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


COLOURS = [(200, 60, 30), (90, 140, 110), (128, 128, 128), (40, 60, 200), (255, 255, 255), (10, 30, 20)]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("space", [ADOBE, P3], ids=["Adobe RGB", "Display P3"])
def test_a_profile_is_converted_to_srgb(tmp_path, space, kind):
    image = Image.fromarray(np.array([COLOURS], np.uint8))
    lossless = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(image, format=kind, icc_profile=profile(*space), **lossless)
    loaded = np.asarray(load_rgb(written(tmp_path / "a.img", data)))[0]
    for got, rgb in zip(loaded, COLOURS, strict=True):
        assert np.abs(got - shown(rgb, *space)).max() < 4, rgb


def test_a_profile_that_exchanges_red_and_blue_does_so(tmp_path):
    swapped = profile(*ITS_SRGB, 2.2, order=(2, 1, 0))
    data = encoded(Image.new("RGB", (8, 8), (200, 60, 30)), format="PNG", icc_profile=swapped)
    red, green, blue = load_rgb(written(tmp_path / "a.png", data)).getpixel((2, 2))
    assert blue == pytest.approx(200, abs=4) and red == pytest.approx(30, abs=6)
    assert green == pytest.approx(60, abs=4)
    jpeg = encoded(Image.new("RGB", (16, 16), (200, 60, 30)), format="JPEG", icc_profile=swapped, quality=98)
    red, _, blue = load_rgb(written(tmp_path / "a.jpg", jpeg)).getpixel((2, 2))
    assert blue > 190 > 60 > red


def test_the_profile_of_srgb_changes_no_value(tmp_path):
    for image in (picture(), picture().convert("L")):
        data = encoded(image, format="PNG", icc_profile=SRGB)
        assert difference(load_rgb(written(tmp_path / "a.png", data)), image.convert("RGB")) == 0


def test_colours_are_converted_before_they_are_put_on_white(tmp_path):
    image = Image.new("RGBA", (4, 4), (200, 60, 30, 0))
    image.putpixel((0, 0), (200, 60, 30, 255))
    data = encoded(image, format="PNG", icc_profile=profile(*ITS_SRGB, 2.2, order=(2, 1, 0)))
    loaded = load_rgb(written(tmp_path / "a.png", data))
    assert loaded.getpixel((3, 3)) == (255, 255, 255)
    assert loaded.getpixel((0, 0))[2] > 190


def test_a_palette_and_a_grey_picture_have_profiles_too(tmp_path):
    swapped = profile(*ITS_SRGB, 2.2, order=(2, 1, 0))
    palette = Image.new("RGB", (8, 8), (200, 60, 30)).quantize(4)
    blue = load_rgb(written(tmp_path / "a.png", encoded(palette, format="PNG", icc_profile=swapped)))
    assert blue.getpixel((1, 1))[2] > 190
    dark = profile(*ITS_SRGB, 1.0)  # linear light: 128 is lighter than it looks
    grey = load_rgb(
        written(tmp_path / "b.png", encoded(Image.new("L", (8, 8), 128), format="PNG", icc_profile=dark))
    )
    assert grey.getpixel((1, 1)) == pytest.approx((188,) * 3, abs=2)  # 255 * srgb(128 / 255)


def test_a_cmyk_picture_is_converted_by_its_profile(tmp_path):
    ink = cmyk_profile()
    image = Image.new("CMYK", (16, 16), (64, 0, 0, 0))  # which would be a light cyan
    data = encoded(image, format="TIFF", icc_profile=ink)
    assert load_rgb(written(tmp_path / "a.tif", data)).getpixel((1, 1)) == pytest.approx((188,) * 3, abs=3)


def cmyk_profile():
    """A profile whose cyan, magenta and yellow are invisible on paper of L* = 76.2, sRGB 188 (lut8Type)."""
    grid = 2
    table = bytes([round(76.19 * 2.55), 128, 128, 0, 128, 128]) * grid**3  # black ink alone counts
    lut = (
        b"mft1\0\0\0\0"
        + bytes([4, 3, grid, 0])
        + struct.pack(">9i", *[65536, 0, 0, 0, 65536, 0, 0, 0, 65536])
    )
    lut += bytes(range(256)) * 4 + table + bytes(range(256)) * 3
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(81)
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in D50))
    tags = {b"desc": text, b"wtpt": white, b"A2B0": lut, b"cprt": b"text\0\0\0\0none\0\0\0\0"}
    listed, body, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        listed += name + struct.pack(">2I", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4s I4s4s4s", at + len(body), b"\0" * 4, 0x02400000, b"prtr", b"CMYK", b"Lab ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", *(round(v * 65536) for v in D50))
    return head.ljust(128, b"\0") + listed + body


@pytest.mark.parametrize(
    "broken", [b"no profile", SRGB[:200], SRGB[:128] + b"\xff" * 400, cmyk_profile(), b"\0" * 132]
)
def test_a_broken_or_unfitting_profile_is_passed_over_as_viewers_do(tmp_path, broken):
    data = encoded(picture(), format="PNG", icc_profile=broken)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert difference(load_rgb(written(tmp_path / "a.png", data)), picture()) == 0


def test_a_pil_image_with_a_profile_is_converted_once(tmp_path):
    swapped = profile(*ITS_SRGB, 2.2, order=(2, 1, 0))
    path = written(
        tmp_path / "a.png",
        encoded(Image.new("RGB", (4, 4), (200, 60, 30)), format="PNG", icc_profile=swapped),
    )
    with Image.open(path) as image:
        once = load_rgb(image)
        assert image.info["icc_profile"]
    assert difference(once, load_rgb(path)) == 0
    assert difference(load_rgb(once), once) == 0


def gamma_png(gamma, rgb, *more, chunks=()):
    said = chunk(b"gAMA", struct.pack(">I", round(gamma * 100000)))
    return png(1, 1, 8, 2, b"\0" + bytes(rgb), said, *chunks)


def test_the_gamma_of_a_png_is_applied_and_the_usual_one_changes_nothing(tmp_path):
    linear = load_rgb(written(tmp_path / "a.png", gamma_png(1.0, (128, 60, 255))))
    assert linear.getpixel((0, 0)) == pytest.approx((188, 133, 255), abs=1)  # by the sRGB curve
    usual = load_rgb(written(tmp_path / "b.png", gamma_png(0.45455, (128, 60, 255))))
    assert usual.getpixel((0, 0)) == (128, 60, 255)
    said = chunk(b"sRGB", b"\0")
    overruled = load_rgb(written(tmp_path / "c.png", gamma_png(1.0, (128, 60, 255), chunks=[said])))
    assert overruled.getpixel((0, 0)) == (128, 60, 255)


@pytest.mark.parametrize("space", [ADOBE, P3], ids=["Adobe RGB", "Display P3"])
def test_the_primaries_of_a_png_are_applied(tmp_path, space):
    *points, gamma = space
    said = chunk(b"cHRM", struct.pack(">8I", *(round(v * 100000) for point in points for v in point)))
    for rgb in COLOURS:
        data = gamma_png(1 / gamma, rgb, chunks=[said])
        got = load_rgb(written(tmp_path / "a.png", data)).getpixel((0, 0))
        assert np.abs(np.array(got) - shown(rgb, *space)).max() < 3


@pytest.mark.parametrize("values", [[0] * 8, [2**31 - 1] * 8, [31270, 0, 64000, 0, 30000, 0, 15000, 0]])
def test_senseless_primaries_or_gammas_harm_nothing(tmp_path, values):
    said = chunk(b"cHRM", struct.pack(">8I", *values))
    for gamma in (0, 1e-5, 0.45455, 20000):
        data = gamma_png(gamma, (128, 60, 255), chunks=[said])
        assert load_rgb(written(tmp_path / "a.png", data)).getpixel((0, 0)) == (128, 60, 255)


def test_a_large_picture_is_converted_in_pieces_as_a_small_one_is(tmp_path, monkeypatch):
    from bcos_zoo.images import colours

    rgba = picture(60, 47)
    rgba.putalpha(picture(60, 47).convert("L"))
    for image in (rgba, picture(60, 47).quantize(9), picture(60, 47).convert("LA"), picture(60, 47)):
        image.info["icc_profile"] = profile(*P3)
        whole = load_rgb(image)
        monkeypatch.setattr(colours, "PIECE", 60 * 5)
        assert difference(load_rgb(image), whole) == 0
        monkeypatch.undo()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_an_avif_is_applied(tmp_path, orientation):
    from PIL import features

    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    from photographs import TURNS

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(48, 32), format="AVIF", exif=exif, quality=100, subsampling="4:4:4")
    expected = picture(48, 32) if orientation == 1 else picture(48, 32).transpose(TURNS[orientation - 2])
    assert difference(load_rgb(written(tmp_path / "a.avif", data)), expected) <= 8


def test_measurements_are_no_pictures(tmp_path):
    """FITS keeps signed numbers with an offset, bottom row first; Pillow passes over all of it."""
    cards = [
        "SIMPLE  =                    T",
        "BITPIX  =                   16",
        "NAXIS   =                    2",
    ]
    cards += [
        "NAXIS1  =                    2",
        "NAXIS2  =                    1",
        "BZERO   =                32768",
        "END",
    ]
    data = "".join(card.ljust(80) for card in cards).ljust(2880).encode() + bytes(2880)
    with pytest.raises(InputError, match=r"a\.fits' is FITS, which is not decoded here"):
        load_rgb(written(tmp_path / "a.fits", data))
    assert io.BytesIO(data).read(6) == b"SIMPLE"
