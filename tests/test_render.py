"""Explanations to pictures."""

import numpy as np
import pytest
import torch
from PIL import Image

from bcos_zoo import Explanation, InputError, render


def explanation(contributions, weights=None, n=1):
    """An explanation with given contributions (T, H, W), its other parts plausible."""
    t, height, width = contributions.shape
    weights = torch.rand(1, t, 6, height, width) if weights is None else weights
    return Explanation(
        torch.zeros(n, 10), torch.arange(t)[None], weights, contributions[None], torch.zeros(n, t)
    )


def test_the_sign_of_a_contribution_is_its_colour():
    pixels = np.asarray(render.contribution_map(torch.tensor([[1.0, -1.0, 0.0]]), limit=1.0))
    assert pixels.tolist() == [[[255, 0, 0], [0, 0, 255], [255, 255, 255]]]


def test_colour_grows_with_the_contribution_and_ends_at_the_limit():
    values = torch.linspace(0, 2, 21)[None]
    green = np.asarray(render.contribution_map(values, limit=1.0))[0, :, 1].astype(int)
    assert (np.diff(green[:11]) < 0).all()
    assert (green[10:] == 0).all()


def test_a_map_of_zeros_is_white():
    assert (np.asarray(render.contribution_map(torch.zeros(4, 4))) == 255).all()


def test_maps_with_one_limit_can_be_compared():
    small, large = torch.full((2, 2), 0.1), torch.full((2, 2), 1.0)
    limit = render.color_limit(torch.stack([small, large]), 100)
    assert np.asarray(render.contribution_map(small, limit=limit)).min() > 200
    assert np.asarray(render.contribution_map(large, limit=limit))[0, 0].tolist() == [255, 0, 0]


def test_a_map_that_is_zero_nearly_everywhere_still_shows_its_one_pixel():
    contributions = torch.zeros(100, 100)
    contributions[3, 4] = 2.0
    assert np.asarray(render.contribution_map(contributions))[3, 4].tolist() == [255, 0, 0]


def test_a_transparent_explanation_is_white_on_paper():
    picture = render.on_white(render.rgba_image(torch.zeros(4, 5, 6)))
    assert picture.size == (6, 5)
    assert (np.asarray(picture) == 255).all()


def test_the_input_image_is_the_tensor_to_within_rounding():
    x = torch.rand(3, 7, 5)
    back = torch.from_numpy(np.asarray(render.input_image(x)).copy()).permute(2, 0, 1) / 255
    assert (back - x).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("size", [(32, 32), (224, 224), (20, 61)])
def test_a_figure_has_three_panels_a_target_and_a_title_each(size):
    e = explanation(torch.randn(2, *size))
    one = render.figure(Image.new("RGB", (9, 9)), explanation(torch.randn(1, *size)), titles=["cat"])
    two = render.figure(Image.new("RGB", (9, 9)), e, titles=["cat", "dog"])
    assert one.width == two.width >= 3 * 100
    assert two.height > 1.8 * one.height


def test_the_title_is_drawn_however_long_it_is():
    e = explanation(torch.zeros(1, 32, 32))
    short, long = (
        np.asarray(render.figure(Image.new("RGB", (9, 9)), e, titles=[t])) for t in ("cat", "x" * 400)
    )
    blank = np.asarray(render.figure(Image.new("RGB", (9, 9)), e, titles=[""]))
    assert (short != blank).any() and (long != blank).any()
    assert (long == blank)[:, render.PANEL + 2 * render.MARGIN :].all()  # it stays under its own panel


def test_wrong_shapes_and_counts_are_refused():
    with pytest.raises(InputError, match=r"a contribution map is \(H, W\), got \(1, 4, 4\)"):
        render.contribution_map(torch.zeros(1, 4, 4))
    with pytest.raises(InputError, match=r"a colour explanation is \(4, H, W\), got \(3, 4, 4\)"):
        render.rgba_image(torch.zeros(3, 4, 4))
    with pytest.raises(InputError, match="1 titles for 2 targets"):
        render.figure(Image.new("RGB", (9, 9)), explanation(torch.zeros(2, 8, 8)), titles=["cat"])
