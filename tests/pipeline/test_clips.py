"""Clips: every frame at its time, colours that do not flicker, whole or not at all."""

import os
import re
import socket
import sys
from fractions import Fraction

import pytest
from PIL import Image

import bcos_zoo
from bcos_zoo import InputError
from bcos_zoo.pictures import panels
from bcos_zoo.pipeline import clips

av = pytest.importorskip("av")


@pytest.fixture(scope="module")
def classifier():
    return bcos_zoo.load("bcos_resnet20.cifar10")


def picture(shift=0, size=(48, 32)):
    return Image.radial_gradient("L").rotate(shift).convert("RGB").resize(size)


def make(path, frames, rate=25, times=None, codec="libx264", turn=0, pixels="yuv420p"):
    """A clip of pictures; times: of each frame, in units of 1 / rate. turn: in degrees, how to show it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = pixels
        if turn:
            stream.set_display_rotation(turn)
        for k, one in enumerate(frames):
            frame = av.VideoFrame.from_image(one)
            frame.pts, frame.time_base = (times[k] if times else k), Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read(path):
    """[(time, picture)] of a clip."""
    with av.open(str(path)) as container:
        return [(float(f.time), f.to_image()) for f in container.decode(video=0)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make(tmp_path_factory.mktemp("clip") / "clip.mp4", [picture(10 * k) for k in range(6)])


def test_each_frame_is_explained_at_its_time(classifier, clip, tmp_path):
    done = clips.explain_clip(classifier, clip, tmp_path / "out" / "x.mp4")
    times, pictures = zip(*read(done.path), strict=True)
    assert done.frames == len(pictures) == 6
    assert times == pytest.approx([time for time, _ in read(clip)], abs=1e-3)
    assert done.completeness_gap < 1e-4
    assert done.label == classifier.predict(read(clip)[0][1], 1)[0].label
    assert os.listdir(tmp_path / "out") == ["x.mp4"]


def test_frames_at_uneven_times_stay_there(classifier, tmp_path):
    times = [0, 1, 4, 9, 10]
    uneven = make(tmp_path / "a.mkv", [picture(k) for k in range(5)], rate=20, times=times)
    done = clips.explain_clip(classifier, uneven, tmp_path / "x.mp4")
    assert [time for time, _ in read(done.path)] == pytest.approx([t / 20 for t in times], abs=2e-3)


def test_the_photograph_is_on_the_left_and_w_in_colour_on_the_right(classifier, clip, tmp_path):
    done = clips.explain_clip(classifier, clip, tmp_path / "x.mp4")
    frame = read(done.path)[0][1]
    width, height = frame.width // 2, frame.height - panels.CAPTION
    seen = classifier.view(read(clip)[0][1]).resize((width, height))
    left = frame.crop((0, 0, width, height))
    assert _distance(left, seen) < 6  # levels of 255: what the encoder loses
    e = classifier.explain(read(clip)[0][1], done.label)
    colours = panels.on_white(panels.rgba_image(e.rgba()[0, 0])).resize((width, height), 3)
    assert _distance(frame.crop((width, 0, 2 * width, height)), colours) < 10


def _distance(a, b):
    pairs = zip(a.convert("L").tobytes(), b.convert("L").tobytes(), strict=True)
    return sum(abs(x - y) for x, y in pairs) / (a.width * a.height)


def test_the_class_is_that_of_the_first_frame_throughout_or_the_one_asked_for(classifier, clip, tmp_path):
    assert clips.explain_clip(classifier, clip, tmp_path / "x.mp4", target="horse").label == "horse"
    assert clips.explain_clip(classifier, clip, tmp_path / "x.mp4", target=[4]).label == "deer"
    with pytest.raises(InputError, match="got 2 targets; a clip shows one class"):
        clips.explain_clip(classifier, clip, tmp_path / "y.mp4", target=["cat", "dog"])
    assert not (tmp_path / "y.mp4").exists()


def test_a_scale_that_follows_never_jumps(classifier):
    strong, weak = (classifier.explain(picture(k)) for k in (0, 45))
    weak = bcos_zoo.Explanation(**{**vars(weak), "contributions": weak.contributions / 100})
    steady = clips.SteadyScale()
    first = steady.update(strong)
    assert first == panels.Scale.of(strong)
    assert steady.update(strong) == first  # a picture that stands still keeps its colours
    scales = [steady.update(weak) for _ in range(60)]
    steps = [b.logits / a.logits for a, b in zip([first, *scales], scales, strict=False)]
    assert min(steps) >= 1 - clips.FOLLOW - 1e-9 and max(steps) <= 1 + 1e-9
    assert scales[-1].logits == pytest.approx(panels.Scale.of(weak).logits, rel=0.5)


def test_seconds_bound_how_much_is_explained(classifier, clip, tmp_path):
    done = clips.explain_clip(classifier, clip, tmp_path / "x.mp4", seconds=0.12)
    assert done.frames == 3


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_seconds_without_a_meaning_are_refused(classifier, clip, tmp_path, seconds):
    with pytest.raises(InputError, match=f"seconds={seconds}: allowed are finite numbers above 0"):
        clips.explain_clip(classifier, clip, tmp_path / "x.mp4", seconds=seconds)


@pytest.mark.skipif(
    not hasattr(av.VideoStream, "set_display_rotation"), reason="this PyAV cannot make such a clip"
)
@pytest.mark.parametrize(("turn", "corner"), [(-90, "top right"), (180, "bottom right"), (90, "bottom left")])
def test_a_clip_filmed_on_its_side_is_shown_upright(classifier, tmp_path, turn, corner):
    """The telephone stores what its sensor saw, and how to turn it. turn: in degrees, against the clock."""
    stored = Image.new("RGB", (64, 48), "black")
    stored.paste("white", (0, 0, 20, 20))
    sideways = make(tmp_path / "a.mp4", [stored], turn=turn)
    seen = read(clips.explain_clip(classifier, sideways, tmp_path / "x.mp4").path)[0][1]
    left = seen.crop((0, 0, seen.width // 2, seen.height - panels.CAPTION)).convert("L")
    corners = {
        "top left": (8, 8),
        "top right": (left.width - 8, 8),
        "bottom left": (8, left.height - 8),
        "bottom right": (left.width - 8, left.height - 8),
    }
    assert max(corners, key=lambda name: left.getpixel(corners[name])) == corner


def test_a_clip_of_one_frame_and_of_odd_proportions_is_written(classifier, tmp_path):
    one = make(tmp_path / "one.avi", [picture(size=(34, 130))], codec="mpeg4")
    assert clips.explain_clip(classifier, one, tmp_path / "x.mp4").frames == 1


def test_a_damaged_clip_is_one_clear_line_and_leaves_nothing(classifier, clip, tmp_path):
    data = clip.read_bytes()
    for name, content in (("cut.mp4", data[: len(data) // 2]), ("empty.mp4", b""), ("text.mp4", b"x" * 999)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name} cannot be read as a clip") as caught:
            clips.explain_clip(classifier, tmp_path / name, tmp_path / "out" / "x.mp4")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_frame_that_fails_takes_the_whole_clip_with_it(classifier, clip, tmp_path, monkeypatch):
    calls = []

    def explain(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return bcos_zoo.Classifier.explain(classifier, *arguments)

    monkeypatch.setattr(classifier, "explain", explain)
    (tmp_path / "x.mp4").write_bytes(b"older")
    with pytest.raises(KeyboardInterrupt):
        clips.explain_clip(classifier, clip, tmp_path / "x.mp4")
    assert os.listdir(tmp_path) == ["x.mp4"]
    assert (tmp_path / "x.mp4").read_bytes() == b"older"


def test_damage_in_the_middle_names_the_frame_and_leaves_nothing(classifier, tmp_path):
    pictures = [picture(10 * k) for k in range(4)]
    source = make(tmp_path / "clip.mov", pictures, codec="png", pixels="rgb24")
    data, start = source.read_bytes(), b"\x89PNG"  # of each frame
    third = [match.start() for match in re.finditer(start, data)][2]
    source.write_bytes(data[:third] + b"...." + data[third + 4 :])
    with pytest.raises(InputError, match="clip.mov: frame 2 is damaged .*; give a whole clip"):
        clips.explain_clip(classifier, source, tmp_path / "x.mp4")
    assert os.listdir(tmp_path) == ["clip.mov"]


def test_a_playlist_called_clip_opens_no_connection(classifier, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.3)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/x.ts"
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n"
        (tmp_path / "list.mp4").write_text(playlist)
        with pytest.raises(InputError, match="list.mp4"):
            clips.explain_clip(classifier, tmp_path / "list.mp4", tmp_path / "x.mp4")
        with pytest.raises(TimeoutError):
            server.accept()


def test_clips_are_known_by_their_suffix_and_webcams_as_devices(tmp_path):
    assert clips.is_clip("a.MP4") and clips.is_clip("b.webm")
    assert not clips.is_clip("a.png") and not clips.is_clip(tmp_path) and not clips.is_clip("/dev/null")


def test_what_cannot_be_read_or_written_is_refused(classifier, clip, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="missing.mp4 cannot be read as a clip"):
        clips.explain_clip(classifier, tmp_path / "missing.mp4", tmp_path / "x.mp4")
    with pytest.raises(InputError, match="x.gif: clips are written as .mp4"):
        clips.explain_clip(classifier, clip, tmp_path / "x.gif")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        clips.explain_clip(classifier, clip, tmp_path / "file" / "x.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"av cannot be imported .*pip install '\.\[video\]'"):
        clips.explain_clip(classifier, clip, tmp_path / "x.mp4")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are not listed here")
@pytest.mark.parametrize("fault", ["targets", "explain", "folder"])
def test_the_clip_is_closed_when_its_explanation_fails(classifier, clip, tmp_path, monkeypatch, fault):
    """Also while the error, whose traceback holds every frame of Python's, is still there."""
    target, to, count = None, tmp_path / "x.mp4", 0
    if fault == "targets":
        target = [0, 1]
    elif fault == "folder":
        (tmp_path / "file").write_text("no folder")
        to = tmp_path / "file" / "x.mp4"
    else:
        explain = classifier.explain

        def stop(*args):
            nonlocal count
            if (count := count + 1) == 3:
                raise InputError("a frame that cannot be explained")
            return explain(*args)

        monkeypatch.setattr(classifier, "explain", stop)
    with pytest.raises(InputError) as held:
        clips.explain_clip(classifier, clip, to, target=target)
    assert held.tb is not None
    opened = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            opened.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:  # that of the listing itself
            continue
    assert str(clip) not in opened and not [name for name in opened if name.endswith(".tmp")]
