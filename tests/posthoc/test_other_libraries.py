"""Other libraries on our networks: what they ask of a method or a layer, they get, and exactly."""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_close, images, network
from torch import Tensor, nn

from bcos_zoo import InputError, explain
from bcos_zoo.posthoc import attribute
from bcos_zoo.posthoc.adapters import (
    BcosAttribution,
    TokensToMap,
    cam_layer,
    from_encoded,
    quantus_explain_func,
    tap,
)

TARGETS = torch.tensor([3, 7])
# The other libraries warn, while they are imported or used, of their own affairs.
theirs = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def vit() -> Any:
    return network("bcos_simple_vit_ti_patch16_224", depth=2, num_classes=10)


@pytest.fixture(scope="module")
def x() -> Tensor:
    return images(2, 32, 48)


@pytest.mark.parametrize("kind", ["shared", "vit"])
def test_attributions_of_channels_sum_to_those_of_pixels_and_to_the_logit(kind, x, request):
    """The ViT's positions are constants, and are no part of it."""
    model = request.getfixturevalue(kind)
    explanation = explain(model, x, TARGETS)
    attributions, delta = BcosAttribution(model).attribute(x, TARGETS, return_convergence_delta=True)
    assert attributions.shape == x.shape and delta.shape == (2,)
    assert_close(attributions.sum(1), explanation.contributions[:, 0], 1e-5)
    both = explanation.weights[:, 0] * torch.cat([x, 1 - x], 1)
    assert_close(attributions, both[:, :3] + both[:, 3:], 1e-5)
    gap = explanation.completeness()[:, 0]
    scale = explanation.contributions.abs().sum((-1, -2)).max()
    assert (delta + gap).abs().max() < 1e-5 * scale and delta.abs().max() < 1e-4 * scale


def test_targets_and_inputs_take_the_forms_they_have_in_captum(shared, x):
    method = BcosAttribution(shared)
    expected = method.attribute(x, TARGETS)
    assert torch.equal(method.attribute(x, [3, 7]), expected)
    for same in (3, torch.tensor(3), torch.tensor([3])):
        assert torch.equal(method.attribute(x, same), method.attribute(x, [3, 3]))
    (in_a_tuple,) = method.attribute((x,), TARGETS)
    assert torch.equal(in_a_tuple, expected)
    single = network("bcos_resnet20", num_classes=1)
    assert torch.equal(BcosAttribution(single).attribute(x), BcosAttribution(single).attribute(x, 0))


def test_the_convergence_delta_is_what_attributions_lack(shared, x):
    method = BcosAttribution(shared)
    attributions, delta = method.attribute(x, TARGETS, return_convergence_delta=True)
    torch.testing.assert_close(method.compute_convergence_delta(attributions, None, x, TARGETS), delta)
    attributions[1, 2, 3, 4] += 2.5
    got = method.compute_convergence_delta((attributions,), None, (x,), TARGETS)
    torch.testing.assert_close(got - delta, torch.tensor([0.0, 2.5]), rtol=0, atol=1e-4)
    assert method.get_name() == "B-cos" and method.has_convergence_delta() and method.multiplies_by_inputs


@theirs
def test_captum_takes_it_as_a_method(shared, x):
    captum_attr = pytest.importorskip("captum.attr", reason="captum is in the extra `eval`")
    metrics = pytest.importorskip("captum.metrics")
    method = BcosAttribution(shared)
    torch.manual_seed(0)
    smooth, delta = captum_attr.NoiseTunnel(method).attribute(
        x, nt_samples=3, stdevs=1e-6, target=TARGETS, return_convergence_delta=True
    )
    assert_close(smooth, method.attribute(x, TARGETS), 1e-2)
    assert delta.shape == (6,)
    assert metrics.sensitivity_max(method.attribute, x, perturb_radius=1e-6, target=TARGETS).max() < 0.1
    attributions = method.attribute(x, TARGETS)
    infidelity = metrics.infidelity(
        shared,
        lambda inputs: (0.01 * torch.ones_like(inputs), inputs - 0.01),
        x,
        attributions,
        target=TARGETS,
    )
    assert infidelity.shape == (2,) and infidelity.isfinite().all()
    public = {name for name in dir(captum_attr.Attribution) if not name.startswith("_")}
    missing = public - set(dir(method)) - {"attribute_future"}  # that one is for networks that give futures
    assert not missing


def test_it_leaves_no_gradient_and_no_mode_behind(small, x):
    pixels = x.clone().requires_grad_()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        attributions = BcosAttribution(small).attribute(pixels, TARGETS)
    assert torch.equal(attributions, BcosAttribution(small).attribute(x, TARGETS))
    assert pixels.grad is None and not attributions.requires_grad
    assert all(p.grad is None and p.requires_grad for p in small.parameters())


BAD = [
    (dict(target=None), "target=None, but there are 10 classes; name the one to attribute"),
    (
        dict(target=(1, 2)),
        r"target '\(1, 2\)' holds no class indices; allowed are class indices, one for all",
    ),
    (dict(target=10), "target 10 is no class of this model; allowed are 0 to 9"),
    (dict(target=[1, 10]), "target 10 is no class of this model; allowed are 0 to 9"),
    (dict(target=[1, 2, 3]), r"target of shape \(3,\); .*one for each of 2, as \(2,\)"),
    (dict(target=[3]), r"target of shape \(1,\); .*one for each of 2"),  # captum broadcasts tensors alone
    (dict(target=[]), "target '\\[\\]' is of torch.float32"),
    (dict(target=torch.tensor([[1, 2], [3, 4]])), r"target of shape \(2, 2\); .*one for each of 2"),
    (dict(target=torch.tensor([[1], [2]])), r"target of shape \(2, 1\); .*one for each of 2"),
    (dict(target=[(1, 2), (3, 4)]), r"target of shape \(2, 2\)"),
    (dict(target=["cat", "dog"]), r"target \"\['cat', 'dog'\]\" holds no class indices; allowed are class"),
    (dict(target="cat"), "target 'cat' holds no class indices; allowed are class indices"),
    (dict(target=[1.0, 2.0]), "is of torch.float32; allowed are class indices, .*, as integers"),
    (
        dict(target=torch.tensor([1.5, 2.5])),
        "is of torch.float32; allowed are class indices, .*, as integers",
    ),
    (dict(target=[True, False]), "is of torch.bool; allowed are class indices"),
    (dict(additional_forward_args=1), "additional_forward_args are given; a network of images takes none"),
    (dict(inputs=(1, 2)), "got a tuple; allowed are a tensor and a tuple of one tensor"),
    (dict(inputs=torch.full((3, 8, 8), 0.5)), r"shape \(3, 8, 8\); images come as \(N, K, H, W\)"),
    (dict(inputs=torch.full((2, 3, 8, 8), -1.5)), "values from -1.5 to -1.5; .*leave out mean/std"),
    (dict(inputs=torch.full((2, 3, 8, 8), torch.nan)), "values from nan to nan"),
    (dict(inputs=torch.full((2, 6, 8, 8), 0.5)), "the network adds the inverted colours itself"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda value: str(value)[:40])
def test_what_captum_would_not_take_either_is_refused(shared, arguments, message):
    with pytest.raises(InputError, match=message):
        BcosAttribution(shared).attribute(**dict(inputs=images(2, 8, 8), target=3) | arguments)


def test_deltas_from_another_start_and_of_other_shapes_are_refused(shared, x):
    method = BcosAttribution(shared)
    with pytest.raises(InputError, match="start_point and additional_forward_args must be None"):
        method.compute_convergence_delta(x, x, x, TARGETS)
    with pytest.raises(
        InputError, match=r"attributions are \(2, 32, 48\); for these images they are \(2, 3,"
    ):
        method.compute_convergence_delta(x[:, 0], None, x, TARGETS)


def test_models_without_a_linear_map_are_refused(small, x):
    with pytest.raises(InputError, match="in training mode"):
        BcosAttribution(small.train()).attribute(x, 3)
    with pytest.raises(InputError, match="Flatten has no B-cos encoding layer, so no linear map"):
        BcosAttribution(nn.Flatten().eval()).attribute(x, 3)
    small.eval().reset_classifier(10, "")
    with pytest.raises(InputError, match=r"gives \(2, 10, 8, 12\); to explain it must give logits \(N, C\)"):
        BcosAttribution(small).attribute(x, 3)


def test_networks_are_attributed_however_they_were_made(shared, small, x):
    expected = BcosAttribution(shared).attribute(x, TARGETS)
    with torch.inference_mode():
        made_there = network("bcos_resnet20")
    assert_close(BcosAttribution(made_there).attribute(x, TARGETS), expected, 1e-6)
    assert_close(BcosAttribution(nn.DataParallel(shared)).attribute(x, TARGETS), expected, 1e-6)
    half = BcosAttribution(small.bfloat16()).attribute(x, TARGETS)
    assert half.dtype == torch.float32 and half.any()
    assert {p.dtype for p in small.parameters()} == {torch.bfloat16}


def test_quantus_gets_maps_of_one_channel(shared, x):
    maps = quantus_explain_func(model=shared, inputs=x.numpy(), targets=TARGETS.numpy(), device="cpu")
    assert isinstance(maps, np.ndarray) and maps.shape == (2, 1, 32, 48)
    assert_close(torch.from_numpy(maps[:, 0]), explain(shared, x, TARGETS).contributions[:, 0], 1e-5)
    for wrong, message in (
        (np.arange(3), r"target of shape \(3,\); .*one for each of 2"),
        (np.array([[3, 1], [2, 4]]), r"target of shape \(2, 2\); .*one for each of 2"),
        (np.array([3.7, 1.2]), "is of torch.float32; allowed are class indices"),  # once 3 and 1
        (np.array(["cat", "dog"]), "holds no class indices"),
        (np.array(3), "allowed is one class index for each of 2 images"),
    ):
        with pytest.raises(InputError, match=message):
            quantus_explain_func(shared, x.numpy(), wrong)
    with pytest.raises(TypeError, match="methode"):
        quantus_explain_func(shared, x.numpy(), TARGETS.numpy(), methode="gradcam")


@theirs
def test_quantus_gets_other_methods_by_name(shared, x):
    pytest.importorskip("captum.attr", reason="captum is in the extra `eval`")
    method = functools.partial(attribute, method="gradcam")
    maps = quantus_explain_func(shared, x.numpy(), TARGETS.numpy(), attribute=method)
    assert_close(torch.from_numpy(maps[:, 0]), attribute(shared, x, TARGETS, "gradcam"), 0.0)
    clipped = quantus_explain_func(shared, 2 * x.numpy() - 0.5, TARGETS.numpy(), attribute=method)
    expected = attribute(shared, (2 * x - 0.5).clamp(0, 1), TARGETS, "gradcam")
    assert_close(torch.from_numpy(clipped[:, 0]), expected, 0.0)
    with pytest.raises(InputError, match="leave out mean/std normalisation"):
        quantus_explain_func(shared, 4 * x.numpy() - 2, TARGETS.numpy(), attribute=method)


@theirs
def test_quantus_finds_the_inherent_explanation_as_stable_as_it_is(shared, x):
    quantus = pytest.importorskip("quantus", reason="Quantus is not installed")
    metric = quantus.MaxSensitivity(nr_samples=2, lower_bound=1e-6, disable_warnings=True)
    scores = metric(
        model=shared, x_batch=x.numpy(), y_batch=TARGETS.numpy(), channel_first=True, softmax=False,
        explain_func=quantus_explain_func,
    )  # fmt: skip
    assert len(scores) == 2 and max(scores) < 0.1
    flips = quantus.PixelFlipping(features_in_step=256, perturb_baseline="black", disable_warnings=True)
    curves = flips(
        model=shared, x_batch=x.numpy(), y_batch=TARGETS.numpy(), channel_first=True, softmax=False,
        explain_func=quantus_explain_func,
    )  # fmt: skip
    assert np.isfinite(curves).all()


def scaled(cam: Tensor) -> Tensor:
    """Each map from 0 to 1, as pytorch-grad-cam gives them."""
    low = cam.amin((1, 2), keepdim=True)
    return (cam - low) / (cam - low).amax((1, 2), keepdim=True)


@theirs
@pytest.mark.parametrize("kind", ["shared", "vit"])
@pytest.mark.parametrize(("method", "their_class"), [("gradcam", "GradCAM"), ("layercam", "LayerCAM")])
def test_pytorch_grad_cam_gives_our_maps(kind, method, their_class, x, request):
    library = pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    pytest.importorskip("captum.attr", reason="captum is in the extra `eval`")
    model = request.getfixturevalue(kind)
    layer, to_map = model.get_submodule(cam_layer(model)), TokensToMap(model, 32, 48)
    with getattr(library, their_class)(model, [layer], reshape_transform=to_map) as cam:
        wanted = [targets.ClassifierOutputTarget(int(target)) for target in TARGETS]
        theirs = torch.from_numpy(cam(x, wanted))
    model.zero_grad()
    ours = attribute(model, x, TARGETS, method, interpolate="bilinear")
    assert ours.amax((1, 2)).min() > 0
    assert_close(theirs, scaled(ours), 1e-3)


def test_tokens_become_maps_and_what_is_neither_is_refused(vit, shared):
    tokens = vit.forward_features(images(1, 32, 48))
    (expected,) = vit.forward_intermediates(images(1, 32, 48), 1, intermediates_only=True)
    assert torch.equal(TokensToMap(vit, 32, 48)(tokens), expected)
    assert TokensToMap(vit, 32, 48)(expected) is expected
    with pytest.raises(InputError, match=r"gives \(1, 6, 192\), which is no map; .* or tokens \(N, 4, D\)"):
        TokensToMap(vit, 32, 32)(tokens)
    assert cam_layer(shared) == "layer3" and cam_layer(vit) == "transformer.encoder_1"
    with pytest.raises(InputError, match="no layer named 'layer8'"):
        tap(from_encoded(shared), "layer8", TokensToMap(shared, 32, 32))
    with pytest.raises(InputError, match="Flatten does not name its feature levels"):
        cam_layer(nn.Flatten())


def test_none_of_the_libraries_is_needed_to_import_the_interfaces():
    import subprocess

    names = ("captum", "quantus", "pytorch_grad_cam", "sklearn", "cv2")
    code = f"import sys, bcos_zoo.posthoc.adapters; print([n for n in {names} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
