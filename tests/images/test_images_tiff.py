"""TIFFs of every kind, written by tifffile: read rightly, or refused in one line; never as something else."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from commands import SMALL
from photographs import encoded, picture, written
from PIL import Image

from bcos_zoo.errors import InputError
from bcos_zoo.images import load_rgb

tifffile = pytest.importorskip("tifffile")
HEIGHT, WIDTH = 48, 32
GREY = np.linspace(0, 1, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
RGB = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], -1)
ALPHA = np.full((HEIGHT, WIDTH, 1), 0.5)


def levels(values: np.ndarray, bits: int) -> np.ndarray:
    return np.round(values * (2**bits - 1)).astype({8: np.uint8, 16: np.uint16, 32: np.uint32}[bits])


def kinds():
    """(stored values in [0, 1], what a viewer shows, how tifffile writes them)."""
    yield "grey", GREY, np.stack([GREY] * 3, -1), {"photometric": "minisblack"}
    yield "white is zero", 1 - GREY, np.stack([GREY] * 3, -1), {"photometric": "miniswhite"}
    for planes in ("contig", "separate"):
        how = {"photometric": "rgb", "planarconfig": planes}
        moved = (lambda a: a.transpose(2, 0, 1)) if planes == "separate" else (lambda a: a)
        yield f"rgb {planes}", moved(RGB), RGB, how
        shown = RGB * ALPHA + 1 - ALPHA
        for extra, colours, seen in (
            ("unassalpha", RGB, shown),
            ("assocalpha", RGB * ALPHA, shown),
            ("unspecified", RGB, RGB),
        ):
            stored = moved(np.concatenate([colours, ALPHA], -1))
            yield f"{extra} {planes}", stored, seen, how | {"extrasamples": [extra]}


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("kind", list(kinds()), ids=lambda kind: kind[0])
def test_a_tiff_is_read_as_it_was_written_or_refused(tmp_path, kind, bits):
    _, stored, shown, how = kind
    read = 0
    for order, compression, tile, predictor in itertools.product(
        "<>", (None, "zlib"), (None, (16, 16)), (None, True)
    ):
        if predictor and not compression:
            continue
        settings = {"byteorder": order, "compression": compression, "tile": tile, "predictor": predictor}
        tifffile.imwrite(tmp_path / "a.tif", levels(stored, bits), metadata=None, **settings, **how)
        try:
            loaded = np.asarray(load_rgb(tmp_path / "a.tif")) / 255
        except InputError as error:
            assert str(error).count("\n") == 0 and "a.tif" in str(error)
            continue
        read += 1
        assert np.abs(loaded - shown).max() < 0.012, settings
    if bits == 8 and kind[0] in ("grey", "white is zero", "rgb contig", "rgb separate", "unassalpha contig"):
        assert read == 12  # what everyone has is read
    if bits == 16 and kind[0] in ("grey", "rgb contig"):
        assert read == 12


@pytest.mark.parametrize(
    ("values", "how", "says"),
    [
        (levels(RGB, 16).transpose(2, 0, 1), {"photometric": "rgb", "planarconfig": 2}, "separate planes"),
        (levels(GREY, 16), {"photometric": "miniswhite"}, "0 is white"),
        ((GREY * 127).astype(np.int8), {"photometric": "minisblack"}, "signed"),
        ((GREY * 32767).astype(np.int16), {"photometric": "minisblack"}, "signed"),
        ((GREY * 255).astype(np.int32), {"photometric": "minisblack"}, "signed"),
        ((GREY * 255).astype(np.uint32), {"photometric": "minisblack"}, "32 bits a sample"),
        (GREY.astype(np.float32), {"photometric": "minisblack"}, "32-bit grey"),
    ],
)  # fmt: skip
def test_what_pillow_would_misread_is_refused_with_its_reason(tmp_path, values, how, says):
    tifffile.imwrite(tmp_path / "a.tif", values, metadata=None, byteorder="<", **how)
    with pytest.raises(InputError, match=rf"a\.tif' .*{says}"):
        load_rgb(tmp_path / "a.tif")


def tagged(path, tag, value):
    """A TIFF whose tag has another value; None: has it no more."""
    with tifffile.TiffFile(path, mode="r+b") as file:
        found = file.pages[0].tags[tag]
        if value is not None:
            found.overwrite(value)
            return path
        offset = found.offset
    data = bytearray(path.read_bytes())
    data[offset : offset + 2] = (65000).to_bytes(2, "little")
    path.write_bytes(data)
    return path


def test_a_tiff_that_does_not_say_whether_0_is_black_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", levels(GREY, 8), metadata=None, photometric="minisblack")
    with pytest.raises(InputError, match="no photometric interpretation"):
        load_rgb(tagged(tmp_path / "a.tif", "PhotometricInterpretation", None))


def test_a_colour_map_of_8_bits_is_refused(tmp_path):
    """Its values are of 16 bits; Pillow makes black of those of writers that leave 8."""
    colours, index = np.zeros((3, 256), np.uint16), np.array([[0, 1], [1, 0]], np.uint8)
    colours[:, :2] = [[220, 30], [30, 200], [40, 60]]
    how = {"photometric": "palette", "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", index, colormap=colours * 257, **how)
    assert [load_rgb(tmp_path / "a.tif").getpixel((x, 0)) for x in (0, 1)] == [(220, 30, 40), (30, 200, 60)]
    tifffile.imwrite(tmp_path / "a.tif", index, colormap=colours, **how)
    with pytest.raises(InputError, match="a colour map of 8 bits"):
        load_rgb(tmp_path / "a.tif")


def test_subsampled_ycbcr_that_is_no_jpeg_is_refused(tmp_path):
    path = written(tmp_path / "a.tif", encoded(picture().convert("YCbCr"), format="TIFF"))
    expected = np.asarray(picture().convert("YCbCr").convert("RGB")).astype(int)
    assert np.abs(np.asarray(load_rgb(path)).astype(int) - expected).max() <= 2
    with pytest.raises(InputError, match="subsampled YCbCr that is not JPEG"):
        load_rgb(tagged(path, "YCbCrSubSampling", (2, 2)))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "packbits", "tiff_deflate", "jpeg"])
def test_what_pillow_writes_compressed_is_read(tmp_path, compression):
    options = {"quality": 95} if compression == "jpeg" else {}
    data = encoded(picture(64, 48), format="TIFF", compression=compression, **options)
    loaded = np.asarray(load_rgb(written(tmp_path / "a.tif", data))).astype(int)
    assert np.abs(loaded - np.asarray(picture(64, 48)).astype(int)).max() <= (
        12 if compression == "jpeg" else 0
    )


def test_the_first_of_several_pages_is_read(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=True) as writer:
        for page in (RGB, 1 - RGB):
            writer.write(levels(page, 8), photometric="rgb", metadata=None)
    assert np.array_equal(np.asarray(load_rgb(tmp_path / "a.tif")), levels(RGB, 8))


def test_damaged_fax_data_are_refused_and_nothing_is_printed(tmp_path, capfd):
    """libtiff prints what it finds and goes on with a guess, which Pillow takes for the picture."""
    page = Image.fromarray((RGB[..., 0] > 0.5).repeat(8, 0).repeat(8, 1))
    data = bytearray(encoded(page, format="TIFF", compression="group4"))
    with tifffile.TiffFile(written(tmp_path / "a.tif", data)) as file:
        start, size = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    data[start : start + size] = bytes(range(7, 7 + size % 200)) + data[start + size % 200 : start + size]
    with pytest.raises(InputError, match=r"a\.tif' is cut off or damaged"):
        load_rgb(written(tmp_path / "a.tif", bytes(data)))
    assert capfd.readouterr() == ("", "")
    assert load_rgb(written(tmp_path / "b.tif", encoded(page, format="TIFF", compression="group4")))


def test_what_pillow_logs_is_no_second_line_of_the_command(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(levels(RGB, 8), photometric="rgb", metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        file.pages[0].tags["SamplesPerPixel"].overwrite(37123)
    command = [sys.executable, "-m", "bcos_zoo", "predict", "--model", SMALL, str(tmp_path / "a.tif")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: "), done.stderr
