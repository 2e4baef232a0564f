"""Clips as a player shows them: whole, upright, of square pixels, in their colours; or one line."""

import struct
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from bcos_zoo import InputError, cli
from bcos_zoo.pipeline import clips
from bcos_zoo.pipeline.clips import reading
from bcos_zoo.pipeline.clips.containers import missing

av = pytest.importorskip("av")
MODEL = ["--model", "bcos_resnet20.cifar10"]


def photograph(k=0, size=(64, 48)):
    image = Image.new("RGB", size, (30, 60, 90 + k))
    image.paste((230, 220, 40), (0, 0, size[0] // 3, size[1] // 4))  # another under each flip and turn
    return image


def make(
    path,
    count=10,
    codec="libx264",
    pixels="yuv420p",
    options=None,
    matrix=None,
    aspect=None,
    audio=False,
    container=None,
):
    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if matrix is not None:
            stream.set_display_matrix(matrix)
        sound = file.add_stream("aac", rate=44100, layout="mono") if audio else None
        for k in range(count):
            frame = av.VideoFrame.from_image(photograph(k))
            frame.pts, frame.time_base = k, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        if sound:
            quiet = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            quiet.sample_rate = 44100
            for k in range(3):
                quiet.pts = 1024 * k
                file.mux(sound.encode(quiet))
            file.mux(sound.encode(None))
    return path


def shown(path, seconds=None):
    return [picture for _, picture in reading.frames(av, path, seconds)]


def difference(a, b):
    assert a.size == b.size
    return np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).mean()


CONTAINERS = [
    ("mkv", "libx264", {}),
    ("mkv", "ffv1", {}),
    ("mkv", "libx264", {"live": "1"}),
    ("webm", "libvpx-vp9", {}),
    ("webm", "libvpx", {"live": "1"}),
    ("mp4", "libx264", {}),
    ("mp4", "libx264", {"movflags": "faststart"}),
    ("mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
    ("mov", "png", {}),
    ("avi", "mpeg4", {}),
    ("avi", "mjpeg", {}),
    ("flv", "flv", {}),
    ("wmv", "wmv2", {}),
]


@pytest.mark.parametrize(("ending", "codec", "options"), CONTAINERS)
def test_a_whole_clip_is_read_and_one_that_is_cut_anywhere_is_not(tmp_path, ending, codec, options):
    pixels = {"png": "rgb24", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
    path = make(
        tmp_path / f"a.{ending}", 30, codec, pixels, {"g": "5"} if codec != "png" else {}, container=options
    )
    assert len(shown(path)) == 30 and missing(path) is None
    data, cut = path.read_bytes(), tmp_path / f"cut.{ending}"
    for share in (0.3, 0.6, 0.61, 0.9, 0.97):
        cut.write_bytes(data[: int(share * len(data))])
        with pytest.raises(
            InputError, match=rf"cut\.{ending}.*(cut off|cannot be read|damaged|no frames)"
        ) as caught:
            if not shown(cut):
                raise InputError(f"{cut} has no frames")
        assert "\n" not in str(caught.value)


def test_every_byte_less_of_a_matroska_file_is_noticed(tmp_path):
    for options in ({}, {"live": "1"}):
        path = make(tmp_path / "a.mkv", 6, container=options)
        data, unnoticed = path.read_bytes(), 0
        for length in range(64, len(data)):
            path.write_bytes(data[:length])
            unnoticed += missing(path) is None
        assert unnoticed <= (20 if options else 0)  # a live recording may end between any two of its elements


def test_what_follows_a_whole_clip_is_no_cut(tmp_path):
    for ending, codec in (("mkv", "libx264"), ("avi", "mpeg4"), ("mp4", "libx264")):
        path = make(tmp_path / f"a.{ending}", 4, codec)
        path.write_bytes(path.read_bytes() + b"\xff" * 100)
        assert missing(path) is None and len(shown(path)) == 4


def test_a_cut_transport_stream_is_noticed_within_a_packet(tmp_path):
    path = make(tmp_path / "a.ts", 6)
    assert missing(path) is None and len(shown(path)) == 6
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="cut off"):
        shown(path)


@pytest.mark.parametrize("ending", ["ts", "m2ts", "mts"])
def test_of_a_transport_stream_only_whole_packets_are_whole(tmp_path, ending):
    """Of 188 bytes, or with a time before each 192; what follows the last one is no packet."""
    path = make(tmp_path / f"a.{ending}", 6)
    data = path.read_bytes()
    length = next(n for n in (188, 192) if data[n - 188 :: n].count(b"G"[0]) == len(data) / n)
    assert length == (188 if ending == "ts" else 192) or ending == "mts"
    assert missing(path) is None
    for less in (1, 50, 100, length + 1):
        path.write_bytes(data[:-less])
        assert missing(path), less
    path.write_bytes(data + b"\0" * 100)
    assert missing(path) is None and len(shown(path)) == 6


def test_a_cut_program_stream_is_noticed_within_a_packet(tmp_path):
    path = make(tmp_path / "a.mpg", 30, "mpeg2video")
    data = path.read_bytes()
    assert missing(path) is None and len(shown(path)) == 30
    starts = {i for i in range(len(data)) if data[i : i + 3] == b"\0\0\1"}
    noticed = []
    for share in range(1, 100, 7):
        length = len(data) * share // 100
        path.write_bytes(data[:length])
        noticed.append(missing(path) is not None)
        assert noticed[-1] or length in starts
    assert all(noticed)
    with pytest.raises(InputError, match="cut off"):
        shown(path)
    path.write_bytes(data + b"\0\0\1\xb9")
    assert missing(path) is None


def test_what_follows_a_whole_flv_is_no_cut(tmp_path):
    path = make(tmp_path / "a.flv", 6, "flv")
    path.write_bytes(path.read_bytes() + b"\0" * 100)
    assert missing(path) is None and len(shown(path)) == 6


@pytest.mark.parametrize(
    ("aspect", "size"), [("2/1", (128, 48)), ("1/2", (64, 96)), ("16/11", (93, 48)), ("1/1", (64, 48))]
)
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_pixels_that_are_not_square_are_widened(tmp_path, ending, aspect, size):
    frame = shown(make(tmp_path / f"a.{ending}", 1, aspect=Fraction(aspect)))[0]
    assert frame.size == size
    assert difference(frame, photograph().resize(size)) < 8


MATRICES = {  # a, b, c, d of x' = a x + c y, y' = b x + d y -> rows and columns of what is stored, as shown
    (1, 0, 0, 1): lambda a: a,
    (-1, 0, 0, 1): lambda a: a[:, ::-1],
    (1, 0, 0, -1): lambda a: a[::-1],
    (-1, 0, 0, -1): lambda a: a[::-1, ::-1],
    (0, 1, 1, 0): lambda a: a.transpose(1, 0, 2),
    (0, 1, -1, 0): lambda a: a[::-1].transpose(1, 0, 2),  # a quarter to the right
    (0, -1, 1, 0): lambda a: a[:, ::-1].transpose(1, 0, 2),
    (0, -1, -1, 0): lambda a: a[::-1, ::-1].transpose(1, 0, 2),
}


def by_definition(stored, a, b, c, d):
    """Every pixel moved by the matrix, and all moved into view: no knowledge of flips and turns."""
    height, width = stored.shape[:2]
    moved = {(a * x + c * y, b * x + d * y): stored[y, x] for y in range(height) for x in range(width)}
    left, top = (min(place[axis] for place in moved) for axis in (0, 1))
    found = np.zeros((1 + max(y for _, y in moved) - top, 1 + max(x for x, _ in moved) - left, 3), np.uint8)
    for (x, y), value in moved.items():
        found[y - top, x - left] = value
    return found


@pytest.mark.parametrize("signs", list(MATRICES))
def test_a_clip_is_shown_upright_and_mirrored_as_its_matrix_says(tmp_path, signs):
    stored = np.asarray(shown(make(tmp_path / "a.mp4", 1))[0])
    expected = by_definition(stored, *signs)
    assert np.array_equal(expected, MATRICES[signs](stored))
    path = make(tmp_path / "b.mp4", 1)
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd")
    place = data.index(struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30), header)
    a, b, c, d = (65536 * sign for sign in signs)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)  # ISO/IEC 14496-12, 8.3.2
    path.write_bytes(data)
    assert np.array_equal(np.asarray(shown(path)[0]), expected)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("name", "number", "red", "blue"),
    [("bt709", 1, 0.2126, 0.0722), ("smpte170m", 6, 0.299, 0.114), ("bt2020nc", 9, 0.2627, 0.0593)],
)
def test_the_colours_are_those_of_the_matrix_and_range_that_the_clip_names(
    tmp_path, name, number, red, blue, full
):
    rgb = np.array((200, 60, 30)) / 255
    y = red * rgb[0] + (1 - red - blue) * rgb[1] + blue * rgb[2]
    cb, cr = (rgb[2] - y) / (2 - 2 * blue), (rgb[0] - y) / (2 - 2 * red)
    values = (
        (255 * y, 255 * cb + 128, 255 * cr + 128) if full else (219 * y + 16, 224 * cb + 128, 224 * cr + 128)
    )
    with av.open(str(tmp_path / "a.mkv"), "w") as file:
        stream = file.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        stream.codec_context.colorspace, stream.codec_context.color_range = number, 2 if full else 1
        frame = av.VideoFrame(64, 48, "yuv444p")
        for plane, value in zip(frame.planes, values, strict=True):
            plane.update(bytes([round(value)]) * plane.buffer_size)
        frame.colorspace, frame.color_range, frame.pts, frame.time_base = (
            number,
            2 if full else 1,
            0,
            Fraction(1, 25),
        )
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    assert np.abs(np.array(shown(tmp_path / "a.mkv")[0].getpixel((9, 9))) - (200, 60, 30)).max() <= 3


def test_ten_bits_become_eight(tmp_path):
    path = make(tmp_path / "a.mkv", 1, "ffv1", "yuv420p10le")
    assert difference(shown(path)[0], photograph()) < 6


def test_transparent_frames_are_put_on_white(tmp_path):
    clear = photograph()
    clear.putalpha(Image.new("L", clear.size, 0))
    with av.open(str(tmp_path / "a.mov"), "w") as file:
        stream = file.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgba"
        frame = av.VideoFrame.from_ndarray(np.asarray(clear), format="rgba")
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    assert shown(tmp_path / "a.mov")[0].getcolors() == [(64 * 48, (255, 255, 255))]


def test_sound_alone_and_a_cover_are_no_clip(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        sound = file.add_stream("aac", rate=44100, layout="mono")
        quiet = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        quiet.sample_rate, quiet.pts = 44100, 0
        file.mux(sound.encode(quiet))
        file.mux(sound.encode(None))
    with pytest.raises(InputError, match="has no pictures, only sound"):
        shown(tmp_path / "a.mp4")
    assert len(shown(make(tmp_path / "b.mp4", 3, audio=True))) == 3


def test_a_clip_without_frames_is_refused(tmp_path, capsys):
    make(tmp_path / "a.mkv", 0, "ffv1")
    assert cli.run(["explain", str(tmp_path / "a.mkv"), "-o", str(tmp_path / "out"), *MODEL]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_an_unknown_codec_is_one_line(tmp_path):
    path = make(tmp_path / "a.avi", 2, "mpeg4")
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"QQQQ"))
    with pytest.raises(InputError, match=r"a\.avi is of a codec that is not decoded here"):
        shown(path)


def test_frames_of_more_than_8k_are_refused_before_they_are_made(tmp_path, monkeypatch):
    path = make(tmp_path / "a.mp4", 2)
    monkeypatch.setattr(reading, "MOST_PIXELS", 64 * 48 - 1)
    with pytest.raises(InputError, match=r"a\.mp4"):
        shown(path)
    monkeypatch.setattr(reading, "MOST_PIXELS", 64 * 48)
    assert len(shown(path)) == 2
    with pytest.raises(InputError, match="frames of 128 x 48 pixels; at most 3072 are allowed"):
        shown(make(tmp_path / "b.mp4", 1, aspect=Fraction(2)))


@pytest.mark.parametrize("ending", ["mkv", "webm", "avi"])
def test_a_cut_clip_leaves_the_others_and_nothing_behind(tmp_path, ending):
    codec = {"webm": "libvpx-vp9", "avi": "mpeg4"}.get(ending, "libx264")
    whole, cut = make(tmp_path / f"whole.{ending}", 4, codec), tmp_path / f"cut.{ending}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 3 // 5])
    command = [
        sys.executable,
        "-m",
        "bcos_zoo",
        "explain",
        str(cut),
        str(whole),
        "-o",
        str(tmp_path / "out"),
        *MODEL,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["whole.explained.mp4"]


def test_the_public_names_of_before_are_there():
    assert clips.is_clip("a.MKV") and ".webm" in clips.SUFFIXES
