"""Post-hoc attributions: each agrees with its definition, and leaves the network as it was."""

from __future__ import annotations

import copy
import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import assert_close, images, network, random_state, smallest_of_each_family
from torch import Tensor, nn

from bcos_zoo import InputError, explain, linear_mode
from bcos_zoo.layers import encode
from bcos_zoo.models.bcos_resnet import BasicBlock, BcosResNet
from bcos_zoo.posthoc import EXPLAINERS, attribute
from bcos_zoo.posthoc.adapters import from_encoded

captum_attr = pytest.importorskip("captum.attr", reason="captum is in the extra `eval`")
QUICK: dict[str, dict[str, Any]] = {
    "smoothgrad": dict(samples=4),
    "intgrad": dict(steps=8),
    "rise": dict(masks=12),
    "lime": dict(samples=24, kernel=1.0),
    "occlusion": dict(window=8, stride=8),
}
TARGETS = torch.tensor([3, 7])


@pytest.fixture(scope="module")
def vit() -> Any:
    return network("bcos_simple_vit_ti_patch16_224", depth=2, num_classes=10)


@pytest.fixture(scope="module")
def tiny() -> Any:
    return random_state(BcosResNet(BasicBlock, (1,), widths=(8,), stem="cifar", num_classes=10)).double()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return images(2, 32, 48)


def state(model: nn.Module) -> tuple[list[Any], list[Tensor]]:
    """Modes, hooks and gradients of a model, and copies of its tensors."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    modules = [(name, m.training, [len(getattr(m, h)) for h in hooks]) for name, m in model.named_modules()]
    tensors = model.state_dict(keep_vars=True).values()
    return modules + [(t.grad, t.requires_grad) for t in tensors], [t.detach().clone() for t in tensors]


@pytest.mark.parametrize("method", EXPLAINERS)
@pytest.mark.parametrize("kind", ["shared", "vit"])
def test_every_method_gives_a_finite_map_an_image_and_changes_nothing(kind, method, x, request):
    model = request.getfixturevalue(kind)
    before, pixels, rng = state(model), x.clone(), torch.get_rng_state()
    maps = attribute(model, x, TARGETS, method, **QUICK.get(method, {}))
    assert maps.shape == (2, 32, 48) and maps.dtype == torch.float32
    assert maps.isfinite().all() and not maps.requires_grad
    assert (maps != 0).any()
    after = state(model)
    assert after[0] == before[0] and all(map(torch.equal, after[1], before[1]))
    assert torch.equal(x, pixels) and not x.requires_grad
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize("method", EXPLAINERS)
def test_a_batch_is_attributed_as_its_images_are_one_by_one(shared, method, x):
    settings = QUICK.get(method, {})
    together = attribute(shared, x, TARGETS, method, batch=5, **settings)
    for n in range(2):
        alone = attribute(shared, x[n : n + 1], TARGETS[n : n + 1], method, batch=3, **settings)
        assert_close(together[n : n + 1], alone, 1e-4)


@pytest.mark.parametrize("method", EXPLAINERS)
def test_several_targets_are_attributed_as_each_is(tiny, method, x):
    pixels, settings = x.double(), QUICK.get(method, {})
    targets = torch.tensor([[3, 7, 0], [7, 7, 1]])
    maps = attribute(tiny, pixels, targets, method, batch=4, **settings)
    assert maps.shape == (2, 3, 32, 48)
    for t in range(3):
        assert_close(maps[:, t], attribute(tiny, pixels, targets[:, t], method, **settings), 1e-9)
    assert_close(attribute(tiny, pixels, [7], method, **settings)[1, 0], maps[1, 0], 1e-9)


class Asked(nn.Module):
    """Counts the images that it is shown, over all its copies."""

    images = 0

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 10)

    def forward(self, x: Tensor) -> Tensor:
        Asked.images += len(x)
        return self.linear(x.mean((2, 3)))


@pytest.mark.parametrize("method", ["rise", "lime", "occlusion"])
def test_what_changes_the_image_asks_as_often_for_many_targets_as_for_one(method, x, monkeypatch):
    counts = []
    for targets in ([3], list(range(10))):
        monkeypatch.setattr(Asked, "images", 0)
        attribute(Asked().eval(), x, targets, method, **QUICK[method])
        counts.append(Asked.images)
    assert counts[0] == counts[1] > 24


@pytest.mark.parametrize("method", ["smoothgrad", "rise", "lime"])
def test_a_seed_fixes_what_is_random(shared, method, x):
    settings = QUICK[method] | (dict(features=None) if method == "lime" else {})
    first = attribute(shared, x, TARGETS, method, seed=5, **settings)
    torch.manual_seed(99)
    assert torch.equal(first, attribute(shared, x, TARGETS, method, seed=5, **settings))
    assert not torch.allclose(first, attribute(shared, x, TARGETS, method, seed=6, **settings))


def test_the_contributions_are_captums_input_times_gradient_in_linear_mode(tiny, x):
    for model, tolerance in ((tiny, 1e-12), (copy.deepcopy(tiny).float(), 1e-6)):
        pixels = x.to(next(model.parameters()))
        encoded = encode(pixels).requires_grad_()
        with linear_mode():
            theirs = captum_attr.InputXGradient(from_encoded(model)).attribute(encoded, target=TARGETS)
        ours = explain(model, pixels, TARGETS).contributions[:, 0]
        assert_close(ours, theirs.detach().sum(1), tolerance)
        assert torch.equal(attribute(model, pixels, TARGETS, "inherent"), ours)


@pytest.mark.parametrize("name", smallest_of_each_family())
def test_the_network_from_its_encoded_image_on_gives_the_same_logits_and_gradients(name):
    model = network(name, **({} if "clip" in name else dict(num_classes=10))).double()
    pixels = images(1, 32, 32, like=model).double()
    encoded = encode(pixels).requires_grad_()
    logits = from_encoded(model)(encoded)
    pixels.requires_grad_()
    assert_close(logits, model(pixels), 1e-9)
    (at_encoded,) = torch.autograd.grad(logits[0, 3], encoded)
    (at_image,) = torch.autograd.grad(model(pixels)[0, 3], pixels)
    plain, inverse = at_encoded.chunk(2, 1)
    assert_close(plain - inverse, at_image, 1e-6)


def logit(model: nn.Module, encoded: Tensor, target: int) -> Tensor:
    return from_encoded(model)(encoded)[:, target]


def test_gradient_methods_are_gradients_at_the_encoded_image(tiny, x):
    encoded = encode(x[:1].double()).requires_grad_()
    (gradient,) = torch.autograd.grad(logit(tiny, encoded, 3).sum(), encoded)
    expected = {"grad": gradient.sum(1), "ixg": (gradient * encoded).detach().sum(1)}
    for method, like in dict(grad="grad", ixg="ixg", deeplift="ixg").items() | {("guided-backprop", "grad")}:
        assert_close(attribute(tiny, x[:1].double(), 3, method), expected[like], 1e-9)
    smooth = attribute(tiny, x[:1].double(), 3, "smoothgrad", samples=3, noise=1e-9)
    assert_close(smooth, expected["grad"], 1e-4)


def test_the_scale_of_a_bcos_layer_has_a_gradient_of_its_own(tiny, x):
    """So input times gradient is not the contributions: outside linear mode they differ."""
    pixels = x.double()
    inherent, ixg = (attribute(tiny, pixels, TARGETS, method) for method in ("inherent", "ixg"))
    assert not torch.allclose(inherent, ixg, rtol=0.1)


def test_integrated_gradients_sum_to_what_the_logit_gains_over_zero(tiny, x):
    encoded = encode(x.double()).requires_grad_()
    zero = torch.zeros_like(encoded)
    gain = (from_encoded(tiny)(encoded) - from_encoded(tiny)(zero)).detach()[[0, 1], TARGETS]
    maps = attribute(tiny, x.double(), TARGETS, "intgrad", steps=50)
    theirs, delta = captum_attr.IntegratedGradients(from_encoded(tiny)).attribute(
        encoded, target=TARGETS, n_steps=50, return_convergence_delta=True
    )
    assert_close(maps, theirs.detach().sum(1), 1e-9)
    assert_close(maps.sum((1, 2)), gain, 1e-3)
    torch.testing.assert_close(maps.sum((1, 2)) - gain, delta.detach(), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("window", "stride"), [(4, 4), (5, 2), (3, 3)])
def test_occlusion_is_the_mean_drop_of_the_windows_over_a_pixel(tiny, window, stride):
    pixels = images(1, 12, 14).double()
    encoded = encode(pixels)
    rows, columns = (math.ceil((side - window) / stride) + 1 for side in (12, 14))  # the last may be cut off
    drops, covered = torch.zeros(12, 14, dtype=torch.double), torch.zeros(12, 14)
    with torch.no_grad():
        for row in range(rows):
            for column in range(columns):
                where = (..., *(slice(i * stride, i * stride + window) for i in (row, column)))
                changed = encoded.clone()
                changed[where] = 0
                drops[where] += (logit(tiny, encoded, 3) - logit(tiny, changed, 3)).item()
                covered[where] += 1
    maps = attribute(tiny, pixels, 3, "occlusion", window=window, stride=stride)
    assert_close(maps[0], drops / covered, 1e-9)


def enlarged(grid: list[list[float]], height: int, width: int, i: int, j: int) -> float:
    """A pixel of a bilinear enlargement to (height, width), pixel centres aligned, edges repeated."""
    total = 0.0
    y, x = (i + 0.5) * len(grid) / height - 0.5, (j + 0.5) * len(grid) / width - 0.5
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            inside = [min(max(k, 0), len(grid) - 1) for k in (row, column)]
            total += (1 - abs(y - row)) * (1 - abs(x - column)) * grid[inside[0]][inside[1]]
    return total


def test_rise_is_the_mean_of_masks_weighted_by_probabilities(tiny):
    pixels, height, width, masks, cells, keep = images(1, 9, 10).double(), 9, 10, 7, 3, 0.4
    generator = torch.Generator().manual_seed(0)
    grids = (torch.rand(masks, 1, cells, cells, generator=generator) < keep).double()[:, 0].tolist()
    tops, lefts = (torch.randint(side, (masks,), generator=generator).tolist() for side in (3, 4))
    expected = torch.zeros(height, width, dtype=torch.double)
    for grid, top, left in zip(grids, tops, lefts, strict=True):
        mask = torch.tensor(
            [[enlarged(grid, 12, 16, i + top, j + left) for j in range(width)] for i in range(height)]
        )
        with torch.no_grad():
            expected += logit(tiny, encode(pixels) * mask, 3).sigmoid().double() * mask
    maps = attribute(tiny, pixels, 3, "rise", masks=masks, cells=cells, keep=keep, batch=3)
    assert_close(maps[0], expected / masks / keep, 1e-6)
    softmax = attribute(tiny, pixels, 3, "rise", masks=masks, cells=cells, output="softmax")
    assert not torch.allclose(softmax, maps)


@pytest.mark.parametrize("method", ["gradcam", "layercam"])
def test_class_activation_maps_are_weighted_features_enlarged(method):
    model = network("bcos_resnet20").double()
    pixels = images(1, 32, 48).double()
    features = model.forward_features(pixels).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.forward_head(features)[0, 3], features)
    weight = gradient.mean((2, 3), keepdim=True) if method == "gradcam" else gradient.relu()
    cam = (weight * features).detach().sum(1, keepdim=True).relu()
    expected = F.interpolate(cam, (32, 48))[:, 0]
    assert_close(attribute(model, pixels, 3, method), expected, 1e-6)
    by_name = attribute(model, pixels, 3, method, layer="layer2", interpolate="bilinear")
    assert by_name.isfinite().all() and not torch.allclose(by_name, expected)


@pytest.mark.parametrize("method", ["gradcam", "layercam"])
def test_the_tokens_of_a_transformer_are_a_map_of_its_patches(vit, method, x):
    tokens = vit.forward_features(x[:1]).detach().requires_grad_()  # (1, 2 * 3, D)
    (gradient,) = torch.autograd.grad(vit.forward_head(tokens)[0, 3], tokens)
    weight = gradient.mean(1, keepdim=True) if method == "gradcam" else gradient.relu()
    cam = (weight * tokens).detach().sum(2).relu().view(1, 2, 3)
    expected = cam.repeat_interleave(16, 1).repeat_interleave(16, 2)
    assert_close(attribute(vit, x[:1], 3, method), expected, 1e-4)


class Quarters(nn.Module):
    """A conventional network that looks at the energy of each quarter of the image, and at two more."""

    def __init__(self) -> None:
        super().__init__()
        self.gains = nn.Parameter(torch.tensor([6.0, -4.0, 2.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        seen = F.adaptive_avg_pool2d(x.square().sum(1, keepdim=True), 2).flatten(1) @ self.gains
        return torch.stack([seen, -seen], 1)


def test_lime_agrees_with_the_package_of_its_authors():
    lime_image = pytest.importorskip("lime.lime_image", reason="the package lime is not installed")
    segmentation = pytest.importorskip("skimage.segmentation")
    noise = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    model, pixels = Quarters().eval(), (images(1, 24, 24, seed=2) + noise) / 2
    rgb = pixels[0].permute(1, 2, 0).double().numpy()
    labels = segmentation.quickshift(rgb, kernel_size=1, max_dist=200, ratio=0.2, rng=0)

    def classify(batch: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(batch).permute(0, 3, 1, 2).float()).sigmoid().numpy()

    explanation = lime_image.LimeImageExplainer(random_state=0).explain_instance(
        rgb, classify, labels=(0,), top_labels=None, num_samples=4000, batch_size=500,
        segmentation_fn=lambda _: labels,
    )  # fmt: skip
    coefficients = dict(explanation.local_exp[0])
    theirs = torch.tensor([[coefficients[int(label)] for label in row] for row in labels])[None]
    ours = attribute(model, pixels, 0, "lime", samples=4000, features=None, kernel=1.0, batch=500)
    assert len(coefficients) > 5
    assert_close(ours, theirs.float(), 0.1)  # two samples of 4000
    best = attribute(model, pixels, 0, "lime", samples=4000, kernel=1.0, batch=500)
    fifth = sorted(ours.unique().tolist())[-5]
    assert torch.equal(best, (ours >= fifth).float())


def test_a_conventional_network_is_attributed_at_its_image(x):
    twin = network("bcos_std_simple_vit_ti_patch16_224", depth=1, num_classes=10)
    image = x[:1].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(twin(image)[0, 3], image)
    assert_close(attribute(twin, x[:1], 3, "grad"), gradient.sum(1), 1e-5)
    for method in EXPLAINERS[1:]:
        assert attribute(twin, x[:1], 3, method, **QUICK.get(method, {})).isfinite().all()
    with pytest.raises(InputError, match="no B-cos encoding layer"):
        attribute(twin, x, 3, "inherent")


def test_modes_and_half_precision_change_nothing(shared, x):
    expected = attribute(shared, x, TARGETS, "ixg")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(attribute(shared, x, TARGETS, "ixg"), expected)
        made_there = network("bcos_resnet20")
    assert attribute(made_there, x, TARGETS, "ixg").isfinite().all()
    half = copy.deepcopy(shared).bfloat16()
    assert attribute(half, x, TARGETS, "ixg").dtype == torch.float32
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_without_targets_the_predicted_class_is_attributed(shared, x):
    predicted = shared(x).argmax(1)
    assert torch.equal(attribute(shared, x, None, "ixg"), attribute(shared, x, predicted, "ixg"))


BAD = [
    (
        dict(method="gradcam++"),
        r"no method named 'gradcam\+\+'; known: inherent, ixg, .*, occlusion; closest: gradcam, grad$",
    ),
    (dict(method="rise", mask=3), "rise has no setting mask; known: masks, cells, keep, output"),
    (dict(method="ixg", steps=3), "ixg has no setting steps; known: none"),
    (dict(method="rise", masks=0), "masks=0: allowed are positive values"),
    (dict(method="rise", keep=1.5), "keep=1.5: allowed are probabilities above 0, up to 1"),
    (dict(method="rise", output="tanh"), "output='tanh': allowed are sigmoid, softmax"),
    (
        dict(method="occlusion", window=33, stride=2),
        "window=33, stride=2: allowed are 1 <= stride <= window <=",
    ),
    (
        dict(method="gradcam", interpolate="cubic"),
        "interpolate='cubic': allowed are nearest, bilinear, bicubic",
    ),
    (dict(method="occlusion", window=5, stride=6), "window=5, stride=6: allowed"),
    (dict(method="gradcam", layer="layer9"), "no layer named 'layer9'; closest: layer"),
    (dict(method="gradcam", layer="global_pool"), r"gives \(1, 10\), which is no map; name one that gives"),
    (dict(method="grad", batch=0), "batch=0: allowed are integers, 1 and more"),
    (dict(method="grad", x=torch.full((3, 8, 8), 0.5)), r"images come as \(N, K, H, W\); add the batch axis"),
    (dict(method="grad", x=torch.full((1, 6, 8, 8), 0.5)), "the network adds the inverted colours itself"),
    (dict(method="grad", x=torch.full((1, 3, 8, 8), -2.0)), "leave out mean/std normalisation"),
    (dict(method="grad", targets=10), "target 10 is no class of this model; allowed are 0 to 9"),
    (dict(method="grad", targets=torch.tensor([1, 2, 3])), r"targets have shape \(3,\); for 1 images"),
    (dict(method="grad", targets=[]), "targets are an empty list"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda value: str(value)[:40])
def test_what_cannot_be_attributed_is_refused(shared, arguments, message):
    with pytest.raises(InputError, match=message):
        attribute(shared, **dict(x=images(1, 32, 32), targets=3) | arguments)


def test_models_and_modes_that_cannot_be_attributed_are_refused(small, x):
    with linear_mode(), pytest.raises(InputError, match="call attribute.. outside linear_mode"):
        attribute(small, x, 3, "ixg")
    with pytest.raises(InputError, match="Quarters does not name its feature levels; name a layer of"):
        attribute(Quarters().eval(), x, 1, "gradcam")
    with pytest.raises(InputError, match="in training mode"):
        attribute(small.train(), x, 3, "ixg")
    small.eval().reset_classifier(10, "")
    with pytest.raises(InputError, match=r"gives \(1, 10, 8, 12\); to attribute it must give logits"):
        attribute(small, x, 3, "ixg")
    grey = network("bcos_resnet20", in_chans=1)
    with pytest.raises(InputError, match="superpixels are of RGB images; these have 1 channels"):
        attribute(grey, x[:, :1], 3, "lime")


@pytest.mark.parametrize(
    ("module", "method", "package"),
    [("captum.attr", "ixg", "captum"), ("sklearn", "lime", "scikit-learn")],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    shared, monkeypatch, module, method, package, x
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"{package} cannot be imported .*pip install '\.\[eval\]'"):
        attribute(shared, x, 3, method)
    assert attribute(shared, x, 3, "inherent").isfinite().all()
