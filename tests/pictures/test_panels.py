"""Explanations to pictures."""

import sys
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from conftest import images
from PIL import Image

from bcos_zoo import Explanation, InputError, explain
from bcos_zoo.pictures import figures, panels


def explanation(contributions, weights=None, n=1):
    """An explanation with given contributions (T, H, W), its other parts plausible."""
    t, height, width = contributions.shape
    weights = torch.rand(1, t, 6, height, width) if weights is None else weights
    return Explanation(
        torch.zeros(n, 10), torch.arange(t)[None], weights, contributions[None], torch.zeros(n, t)
    )


def test_the_sign_of_a_contribution_is_its_colour():
    pixels = np.asarray(panels.contribution_map(torch.tensor([[1.0, -1.0, 0.0]]), limit=1.0))
    assert pixels.tolist() == [[[255, 0, 0], [0, 0, 255], [255, 255, 255]]]


def test_colour_grows_with_the_contribution_and_ends_at_the_limit():
    values = torch.linspace(0, 2, 21)[None]
    green = np.asarray(panels.contribution_map(values, limit=1.0))[0, :, 1].astype(int)
    assert (np.diff(green[:11]) < 0).all()
    assert (green[10:] == 0).all()


def test_a_map_of_zeros_is_white():
    assert (np.asarray(panels.contribution_map(torch.zeros(4, 4))) == 255).all()


def test_maps_with_one_limit_can_be_compared():
    small, large = torch.full((2, 2), 0.1), torch.full((2, 2), 1.0)
    limit = panels.color_limit(torch.stack([small, large]), 100)
    assert np.asarray(panels.contribution_map(small, limit=limit)).min() > 200
    assert np.asarray(panels.contribution_map(large, limit=limit))[0, 0].tolist() == [255, 0, 0]


def test_a_map_that_is_zero_nearly_everywhere_still_shows_its_one_pixel():
    contributions = torch.zeros(100, 100)
    contributions[3, 4] = 2.0
    assert np.asarray(panels.contribution_map(contributions))[3, 4].tolist() == [255, 0, 0]


def test_a_transparent_explanation_is_white_on_paper():
    picture = panels.on_white(panels.rgba_image(torch.zeros(4, 5, 6)))
    assert picture.size == (6, 5)
    assert (np.asarray(picture) == 255).all()


def test_the_input_image_is_the_tensor_to_within_rounding():
    x = torch.rand(3, 7, 5)
    back = torch.from_numpy(np.asarray(panels.input_image(x)).copy()).permute(2, 0, 1) / 255
    assert (back - x).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("size", [(32, 32), (224, 224), (20, 61)])
def test_a_figure_has_three_panels_a_target_and_a_title_each(size):
    e = explanation(torch.randn(2, *size))
    one = panels.figure(Image.new("RGB", (9, 9)), explanation(torch.randn(1, *size)), titles=["cat"])
    two = panels.figure(Image.new("RGB", (9, 9)), e, titles=["cat", "dog"])
    assert one.width == two.width >= 3 * 100
    assert two.height > 1.8 * one.height


def test_the_title_is_drawn_however_long_it_is():
    e = explanation(torch.zeros(1, 32, 32))
    short, long = (
        np.asarray(panels.figure(Image.new("RGB", (9, 9)), e, titles=[t])) for t in ("cat", "x" * 400)
    )
    blank = np.asarray(panels.figure(Image.new("RGB", (9, 9)), e, titles=[""]))
    assert (short != blank).any() and (long != blank).any()
    assert (long == blank)[:, panels.PANEL + 2 * panels.MARGIN :].all()  # it stays under its own panel


def test_a_title_of_several_lines_is_drawn_in_one():
    e = explanation(torch.zeros(1, 32, 32))
    one, several = (panels.figure(Image.new("RGB", (9, 9)), e, titles=[t]) for t in ("a b c", "a\nb\r\n c"))
    assert one.tobytes() == several.tobytes()


@pytest.mark.parametrize("kind", ["bfloat16", "with a graph"])
def test_explanations_of_every_kind_are_drawn(shared, kind):
    how = dict(dtype=torch.bfloat16) if kind == "bfloat16" else dict(create_graph=True)
    e = explain(shared, images(1), [0, 1], **how)
    scale, photograph = panels.Scale.of(e), Image.new("RGB", (9, 9))
    for one in (None, scale):
        drawn = panels.figure(photograph, e, titles=["a", "b"], scale=one)
        assert drawn.convert("L").getextrema() != (255, 255)
    panels.map_panels(e, titles=["a", "b"], on=photograph)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_has_no_colour(value):
    values = torch.rand(16, 16)
    values[3, 4] = value
    for draw in (
        panels.contribution_map,
        panels.color_limit,
        lambda v: panels.rgba_image(v.expand(4, -1, -1)),
    ):
        with pytest.raises(InputError, match="NaN or infinity has no colour; see whether the logits"):
            draw(values)
    with pytest.raises(InputError, match="NaN or infinity has no colour"):
        panels.contribution_map(values, limit=1.0)


def test_wrong_shapes_and_counts_are_refused():
    with pytest.raises(InputError, match=r"a contribution map is \(H, W\), got \(1, 4, 4\)"):
        panels.contribution_map(torch.zeros(1, 4, 4))
    with pytest.raises(InputError, match=r"a colour explanation is \(4, H, W\), got \(3, 4, 4\)"):
        panels.rgba_image(torch.zeros(3, 4, 4))
    with pytest.raises(InputError, match="1 titles for 2 targets"):
        panels.figure(Image.new("RGB", (9, 9)), explanation(torch.zeros(2, 8, 8)), titles=["cat"])


def strong(target, n=1):
    """An explanation whose weights and contributions are `target` times those of another."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(1, 1, 6, 16, 16, generator=generator) * target
    return explanation(torch.rand(1, 16, 16, generator=generator) * target, weights, n)


def test_an_overlay_shows_the_photograph_in_grey_where_pixels_add_nothing():
    photograph = Image.new("RGB", (40, 20), (0, 100, 200))
    contributions = torch.zeros(2, 4)
    contributions[0, 0], contributions[1, 3] = 1.0, -1.0
    pixels = np.asarray(panels.overlay(photograph, contributions, limit=1.0))
    assert pixels.shape == (20, 40, 3)
    assert pixels[0, 0].tolist() == [255, 0, 0]
    assert pixels[-1, -1].tolist() == [0, 0, 255]
    assert len(set(pixels[0, -1].tolist())) == 1
    assert 127 < pixels[0, -1, 0] < 255


def test_the_colours_of_an_overlay_end_at_the_limit_as_those_of_the_map_do():
    photograph = Image.new("RGB", (4, 4), "white")
    contributions = torch.linspace(-2, 2, 16).reshape(4, 4)
    on_photograph = np.asarray(panels.overlay(photograph, contributions, limit=1.0)).astype(int)
    on_paper = np.asarray(panels.contribution_map(contributions, limit=1.0)).astype(int)
    assert np.abs(on_photograph - on_paper).max() <= 1


@pytest.mark.parametrize("smooth", [0, 1, 2, 3, 15])
@pytest.mark.parametrize("percentile", [50.0, 99.5, 100.0])
def test_on_its_own_scale_an_explanation_looks_as_it_does_without_one(smooth, percentile):
    e = explanation(torch.randn(1, 20, 18))
    e = replace(e, smooth=smooth, percentile=percentile)
    assert torch.allclose(panels.in_colour(e, panels.Scale.of(e)), e.rgba(), atol=1e-6)
    assert torch.equal(panels.in_colour(e), e.rgba())
    [own], [shared] = (panels.map_panels(e, titles=[""], scale=scale) for scale in (None, panels.Scale.of(e)))
    assert own[0].picture.tobytes() == shared[0].picture.tobytes()


def test_on_a_shared_scale_what_is_half_as_strong_is_half_as_opaque():
    one, half = strong(1.0), strong(0.5)
    scale = panels.Scale.shared([panels.Scale.of(half), panels.Scale.of(one)])
    assert scale == panels.Scale.of(one)
    whole = strong(1.0)
    whole = replace(whole, percentile=100.0)
    scale = panels.Scale.of(whole)
    alpha, faint = (panels.in_colour(e, scale)[0, 0, 3] for e in (whole, half))
    assert torch.allclose(faint, alpha / 2, atol=1e-6)
    assert torch.allclose(panels.in_colour(half)[0, 0, :3], panels.in_colour(whole)[0, 0, :3], atol=1e-5)


def test_the_shared_scale_is_printed_under_the_maps_in_logits():
    e, photograph = strong(1.0), Image.new("RGB", (9, 9))
    scale = panels.Scale(0.25, 0.5)
    own = panels.figure_panels(photograph, e, titles=["cat"])[0]
    shared = panels.figure_panels(photograph, e, titles=["cat"], scale=scale)[0]
    assert shared[1].caption == "contributions, up to ±0.25 logits a pixel, shared"
    assert shared[2].caption == "W(x), in colour, opaque at 0.5"
    assert "shared" not in own[1].caption
    for on in (None, photograph):
        (panel,) = panels.map_panels(e, titles=["cat"], on=on, scale=scale)[0]
        assert panel.caption == "cat, ±0.25 logits a pixel, shared"
    assert (
        "opaque at 0.5"
        in panels.sheet_panels(photograph, e, name="x", titles=["cat"], scale=scale)[1].caption
    )


def test_an_explanation_of_nothing_has_a_scale_too():
    nothing = explanation(torch.zeros(1, 8, 8), torch.zeros(1, 1, 6, 8, 8))
    scale = panels.Scale.of(nothing)
    assert scale == panels.Scale(0.0, 0.0)
    assert (
        np.asarray(panels.on_white(panels.rgba_image(panels.in_colour(nothing, scale)[0, 0]))) == 255
    ).all()
    panels.figure(Image.new("RGB", (8, 8)), nothing, titles=["cat"], scale=scale)


def test_a_contrast_is_drawn_like_any_explanation():
    e = explanation(torch.randn(2, 16, 16))
    difference = e.contrast(0, 1)
    picture = panels.map_panels(difference, titles=["0 rather than 1"])[0][0].picture
    pixels = np.asarray(picture).astype(int)
    red = e.contributions[0, 0] > e.contributions[0, 1]
    assert ((pixels[..., 0] > pixels[..., 2]) == red.numpy())[np.ptp(pixels, 2) > 2].all()


def test_a_sheet_has_a_row_an_image_and_many_images_make_it_wide():
    e, photograph = strong(1.0), Image.new("RGB", (64, 64))
    row = panels.sheet_panels(photograph, e, name="photo.png", titles=["cat"])
    assert [panel.caption for panel in row] == ["photo.png", "cat"]
    one, six = (panels.lay_out(panels.in_columns([row] * n), side=panels.SMALL) for n in (1, 6))
    many = panels.lay_out(panels.in_columns([row] * 20), side=panels.SMALL)
    assert one.width == six.width and six.height > 5 * one.height
    assert many.width > 2.5 * one.width and many.height < 8 * one.height
    assert sum(len(r) for r in panels.in_columns([row] * 20)) == 40


def test_pictures_side_by_side_stay_transparent_and_whole():
    pictures = [panels.rgba_image(torch.rand(4, 5, 6)) for _ in range(3)]
    sheet = panels.side_by_side(pictures)
    assert (sheet.mode, sheet.size) == ("RGBA", (3 * 6 + 2 * panels.MARGIN, 5))
    for k, picture in enumerate(pictures):
        left = k * (6 + panels.MARGIN)
        assert sheet.crop((left, 0, left + 6, 5)).tobytes() == picture.tobytes()
    assert sheet.getpixel((8, 2))[3] == 0
    assert panels.side_by_side(pictures[:1]).tobytes() == pictures[0].tobytes()


@pytest.mark.parametrize("format_", figures.FORMATS)
def test_a_vector_figure_keeps_its_text_and_is_the_same_every_time(format_):
    rows = panels.figure_panels(Image.new("RGB", (9, 9)), strong(1.0), titles=["cat <1> & $2 _x^"])
    drawn = figures.draw(rows, format_)
    assert drawn == figures.draw(rows, format_)
    assert drawn.startswith(b"<?xml" if format_ == "svg" else b"%PDF")
    if format_ == "svg":
        text = "".join(ElementTree.fromstring(drawn).itertext())
        assert "cat <1> & $2 _x^" in text
        assert "logits a pixel" in text
        assert drawn.count(b"<image") == 3


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"matplotlib cannot be imported .*pip install '\.\[plots\]'"):
        figures.draw([[panels.Panel(Image.new("RGB", (2, 2)))]], "svg")


def test_what_cannot_be_drawn_is_refused():
    photograph, e = Image.new("RGB", (9, 9)), strong(1.0)
    with pytest.raises(InputError, match=r"a contribution map is \(H, W\), got \(3, 4, 4\)"):
        panels.overlay(photograph, torch.zeros(3, 4, 4))
    for limit in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="allowed are finite logits from 0 on"):
            panels.contribution_map(torch.ones(2, 2), limit=limit)
    with pytest.raises(InputError, match="2 titles for 1 targets"):
        panels.map_panels(e, titles=["a", "b"])
    with pytest.raises(InputError, match="2 titles for 1 targets"):
        panels.sheet_panels(photograph, e, name="x", titles=["a", "b"])
    with pytest.raises(InputError, match="a sheet of no pictures"):
        panels.lay_out([])
    with pytest.raises(InputError, match="got no picture"):
        panels.side_by_side([])
    with pytest.raises(InputError, match="format 'gif': allowed are svg, pdf"):
        figures.draw([[panels.Panel(photograph)]], "gif")
    for rows in ([], [[]], [[panels.Panel(photograph)], []]):
        with pytest.raises(
            InputError, match="there is no panel to draw, or a row of none; give at least one"
        ):
            figures.draw(rows, "svg")


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("logit", "logits a pixel"),
        ("relative", "logits a pixel"),
        ("contrast", "logits a pixel"),
        ("probability", "of probability a pixel"),
        ("softmax", "of probability a pixel"),
        ("activation", " a pixel"),
    ],
)
def test_captions_have_the_unit_of_what_is_explained(output, said):
    e = replace(strong(1.0), output=output)
    figure, map_ = (make(e, 0, titles=["x"]) for make in (_figure_rows, panels.map_panels))
    for caption in (figure[0][1].caption, map_[0][0].caption):
        number, _, unit = caption.partition("±")[2].partition(" ")
        assert float(number) > 0 and unit == said.strip()


def _figure_rows(e, index, titles):
    return panels.figure_panels(Image.new("RGB", (9, 9)), e, index, titles=titles)
