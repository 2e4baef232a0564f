"""A convolution and the norm behind it give the same as one after the other, however they are joined."""

import pytest
import torch
from timm.layers import DropPath

from bcos_zoo.layers import (
    BatchNorm2d,
    BcosConv2d,
    GroupNorm2d,
    _fast,
    conv_gain,
    conv_norm,
    fast_ways,
    linear_mode,
)


def pair(b=2.0, *, norm=None, **options):
    """A convolution and a norm in eval mode, float64, gains of either sign and one of zero."""
    conv = BcosConv2d(6, 8, 3, padding=1, b=b, dtype=torch.float64, **options).eval()
    norm = norm or BatchNorm2d(8, dtype=torch.float64)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.5, -0.7, 0.0, 2.0, -1.0, 0.3, 1.0, 4.0]))
        if hasattr(norm, "running_var"):
            norm.running_var.copy_(torch.linspace(0.1, 3, 8))
    return conv, norm.eval()


X = torch.rand(2, 6, 7, 5, dtype=torch.float64)


@pytest.fixture
def folded(monkeypatch):
    """Whether the norm is left out: it is where the convolution is given its gain."""

    def tell(conv, norm, **options):
        gains = []
        own = _fast.convolution
        monkeypatch.setattr(
            _fast, "convolution", lambda *args, **o: (gains.append(args[2:]), own(*args, **o))[1]
        )
        with torch.no_grad():
            conv_norm(conv, norm, X, **options)
        monkeypatch.undo()
        return any(gains)

    return tell


@pytest.mark.parametrize("b", [1, 2])
@pytest.mark.parametrize("options", [{}, {"normalize": False}, {"groups": 2}, {"scale": 3.0}])
def test_a_fixed_gain_is_folded_exactly(b, options, folded):
    conv, norm = pair(b, **options)
    with torch.no_grad():
        torch.testing.assert_close(conv_norm(conv, norm, X), norm(conv(X)), rtol=1e-13, atol=1e-13)
    assert folded(conv, norm)


@pytest.mark.parametrize(
    ("conv", "norm"),
    [
        pair(1.5),
        pair(max_out=2),
        pair(norm=BatchNorm2d(8, centered=True, dtype=torch.float64)),
        pair(norm=GroupNorm2d(8, 2, dtype=torch.float64)),
    ],
    ids=["b 1.5", "MaxOut", "centred", "group norm"],
)
def test_what_does_not_fold_exactly_is_done_one_after_the_other(conv, norm, folded):
    with torch.no_grad():
        assert torch.equal(conv_norm(conv, norm, X), norm(conv(X)))
    assert not folded(conv, norm)


def test_the_linear_map_is_the_same_folded_or_not():
    conv, norm = pair()
    maps = []
    for join in (conv_norm, lambda c, n, x: n(c(x))):
        x = X.clone().requires_grad_()
        with linear_mode(freeze_parameters=True):
            y = join(conv, norm, x)
        maps.append(torch.autograd.grad(y.sum(), x)[0])
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-12, atol=1e-14)


def test_the_norm_learns_while_it_learns():
    conv, norm = pair()
    conv_norm(
        conv, norm, X
    ).sum().backward()  # eval mode with gradients, as in fine-tuning with frozen statistics
    assert norm.weight.grad.isfinite().all() and norm.weight.grad.abs().sum() > 0
    norm.train()
    before = norm.running_var.clone()
    conv_norm(conv, norm, X)
    assert not torch.equal(norm.running_var, before)


@pytest.mark.parametrize("hooked", [0, 1])
def test_hooks_on_either_see_what_they_would_see(hooked):
    conv, norm = pair()
    seen = []
    (conv, norm)[hooked].register_forward_hook(lambda module, args, y: seen.append(y.clone()))
    with torch.no_grad():
        conv_norm(conv, norm, X)
        expected = (conv.forward(X), norm.forward(conv.forward(X)))[hooked]
    assert torch.equal(seen[0], expected)


@pytest.mark.parametrize("joined", [True, False], ids=["folded", "plain"])
@pytest.mark.parametrize("beside", [None, X.mean() * torch.ones(2, 8, 7, 5)], ids=["alone", "shortcut"])
@pytest.mark.parametrize("way", ["norm", "gain"])
def test_a_path_is_taken_with_a_shortcut_and_without(joined, beside, way):
    """A ReLU among them, so that a path that is left out shows."""
    conv, norm = pair()
    path = torch.nn.Sequential(torch.nn.Identity(), torch.nn.ReLU())
    gain = norm.gain()[:, None, None].detach()
    with torch.no_grad(), fast_ways(joined):
        if way == "norm":
            got = conv_norm(conv, norm, X, path=path, shortcut=beside)
        else:
            got = conv_gain(conv, gain, X, path=path, shortcut=beside)
        expected = (conv(X) * gain).clamp_min(0) + (0 if beside is None else beside)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-13)


def test_stochastic_depth_in_eval_mode_keeps_the_fold(folded):
    """timm's DropPath passes its input on there."""
    conv, norm = pair()
    assert folded(conv, norm, path=DropPath(0.1).eval(), shortcut=torch.zeros(2, 8, 7, 5).double())
