"""The encoding layer and the logit layer."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch

from bcos_zoo.errors import InputError
from bcos_zoo.layers import Encode, LogitLayer, linear_mode


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_encoding_gives_the_image_and_its_inverse(channels):
    x = torch.rand(2, channels, 4, 5)
    assert torch.equal(Encode(channels)(x), torch.cat([x, 1 - x], 1))


def test_encoding_leaves_the_image_as_it_was():
    x = torch.rand(1, 3, 2, 2)
    with linear_mode() as tape:
        encoded = Encode()(x)
    assert tape.encodings[-1].encoded is encoded and encoded.requires_grad
    assert not x.requires_grad


@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 1, 4, 4), (2, 3), ()])
def test_what_is_no_batch_of_images_is_refused(shape):
    hint = r"; add the batch axis with x\[None\]" if shape == (3, 4, 4) else ""
    with pytest.raises(InputError, match=rf"got a tensor of shape \(.*\); allowed is \(N, 3, H, W\){hint}$"):
        Encode()(torch.rand(shape))


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_encoded_already_is_refused_with_a_hint(channels):
    with pytest.raises(
        InputError, match="pass the plain image: the network adds the inverted colours itself"
    ):
        Encode(channels)(torch.rand(1, 2 * channels, 4, 4))


def test_an_image_without_channels_is_refused():
    with pytest.raises(InputError, match="in_chans=0: an image has at least one channel"):
        Encode(0)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("bias", [None, 0, -4.5])
@pytest.mark.parametrize("temperature", [None, 0.001, 7])
def test_logits_are_divided_by_the_temperature_and_moved_by_the_bias(temperature, bias, linear):
    layer, x = LogitLayer(10, bias=bias, temperature=temperature), torch.randn(2, 10, dtype=torch.float64)
    expected = x / (temperature or 1) + (-math.log(9) if bias is None else bias)
    if linear:
        with linear_mode():
            got = layer(x)
    else:
        got = layer(x)
    torch.testing.assert_close(got.detach(), expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(InputError, match=f"temperature={temperature}: .* must be positive; None is off"):
        LogitLayer(10, temperature=temperature)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_half_in_and_out_of_linear_mode(dtype):
    x = torch.zeros(1, 3, 2, 2, dtype=dtype)
    logits = torch.tensor([[0.0, 3e4]], dtype=dtype)
    layer = LogitLayer(1000, temperature=2)
    with linear_mode():
        inside = layer(logits)
        assert Encode()(x).dtype == dtype
    assert layer(logits).dtype == inside.dtype == dtype
    torch.testing.assert_close(layer(logits), inside.detach())
    assert inside.isfinite().all()


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"]
)
def test_heads_can_be_copied_and_pickled_and_have_no_weights(clone):
    for layer, x in ((Encode(), torch.rand(1, 3, 2, 2)), (LogitLayer(3, temperature=2), torch.rand(1, 3))):
        assert torch.equal(clone(layer)(x), layer(x))
        assert not layer.state_dict()


def test_the_printed_heads_tell_their_settings():
    assert repr(Encode()) == "Encode(in_chans=3, mean=(), std=())"
    assert repr(LogitLayer(1000)) == "LogitLayer(bias=-6.90675, temperature=None)"


def test_a_mean_carried_by_the_image_is_no_constant_and_the_same_number() -> None:
    x = torch.rand(2, 3, 5, 4, dtype=torch.float64)
    numbers = dict(mean=(0.2, 0.5, 0.9), std=(0.3, 0.2, 0.7), dtype=torch.float64)
    carried, plain = Encode(3, carried=True, **numbers), Encode(3, **numbers)
    with linear_mode() as tape:
        y = carried(x)
    assert not tape.constants
    torch.testing.assert_close(y, plain(x), rtol=0, atol=1e-12)
    weights = torch.randn_like(y)
    (gradient,) = torch.autograd.grad((weights * y).sum(), tape.encodings[0].encoded)
    explained = (gradient * torch.cat([x, 1 - x], 1)).sum()  # all of it: nothing is left for a bias
    torch.testing.assert_close(explained, (weights * plain(x)).sum(), rtol=0, atol=1e-12)
    torch.testing.assert_close(carried(x), plain(x), rtol=0, atol=0)  # outside linear mode, bit for bit


@pytest.mark.parametrize("head", [Encode(2, mean=(0.2, 0.5), std=(0.3, 0.2)), Encode(2)])
def test_buffers_that_no_file_holds_are_made_anew_on_demand(head: Encode) -> None:
    """transformers leaves them as they were allocated, and then asks each module that can to fill them."""
    x = torch.rand(1, 2, 3, 3)
    expected = head(x)
    for name, buffer in head.named_buffers():
        setattr(head, name, torch.full_like(buffer, 1e30))
    head.init_non_persistent_buffers()
    torch.testing.assert_close(head(x), expected, rtol=0, atol=0)
