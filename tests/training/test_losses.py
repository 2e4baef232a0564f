"""Each loss against a loop over images and classes, written from the definition."""

import math

import numpy as np
import pytest
import torch
from timm.data import Mixup

from bcos_zoo import InputError
from bcos_zoo.training.losses import Loss, balanced_weights, make_loss

F64 = torch.float64
EXACT = dict(rtol=1e-12, atol=1e-13)
N, C = 6, 5
COUNTS = torch.tensor([4, 1, 10, 2, 3])


def logits(*shape, seed=0):
    return 4 * torch.randn(shape or (N, C), dtype=F64, generator=torch.Generator().manual_seed(seed))


LABELS = torch.tensor([3, 0, 0, 4, 1, 2])
SHARES = torch.softmax(logits(seed=1) / 4, 1)
SEVERAL = (logits(seed=2) > 0).to(F64)


def binary(z, t, positive=1.0):
    """-(t log p + (1 - t) log (1 - p)) for p = 1 / (1 + exp(-z)); `positive` weighs the first term."""
    p = 1 / (1 + math.exp(-z))
    return -(positive * t * math.log(p) + (1 - t) * math.log(1 - p))


def rows(labels, classes=C):
    """Targets as lists of shares."""
    if labels.ndim == 2:
        return labels.tolist()
    return [[float(c == label) for c in range(classes)] for label in labels.tolist()]


def slow_single_label(z, targets, loss, counts):
    """The mean over images, each weighed by its classes' weights."""
    total, (images, classes) = 0.0, z.shape
    least = 1 / classes if loss.off_label == "uniform" else loss.off_label
    for scores, target in zip(z.tolist(), rows(targets), strict=True):
        smooth = [t * (1 - loss.smoothing) + loss.smoothing / classes for t in target]
        if loss.kind == "ce":
            log_sum = math.log(sum(math.exp(s) for s in scores))
            value = -sum(t * (s - log_sum) for s, t in zip(scores, smooth, strict=True))
        else:
            raised = [max(t, least) for t in smooth]
            value = sum(binary(s, t) for s, t in zip(scores, raised, strict=True)) / classes
        weight = 1.0
        if loss.class_weights == "balanced":
            n = sum(counts.tolist())
            weight = sum(t * n / (classes * k) for t, k in zip(target, counts.tolist(), strict=True))
        total += weight * value
    return total / images


LOSSES = [
    Loss(kind=kind, off_label=off, smoothing=smoothing, class_weights=weights)
    for kind, off in (("bce", 0), ("bce", "uniform"), ("bce", 0.05), ("bce", 0.5), ("ce", 0))
    for smoothing in (0, 0.1)
    for weights in ("none", "balanced")
]


@pytest.mark.parametrize("targets", [LABELS, SHARES], ids=["indices", "shares"])
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_one_label_an_image_agrees_with_the_loop(loss, targets):
    z = logits()
    got = make_loss(loss, C, False, COUNTS)(z, targets)
    expected = torch.tensor(slow_single_label(z, targets, loss, COUNTS), dtype=F64)
    torch.testing.assert_close(got, expected, **EXACT)


def test_the_published_recipe_asks_a_fifth_of_each_of_five_classes_and_one_of_the_shown():
    """The example of the published code: target 3 of 5 gives 0.2 0.2 0.2 1 0.2."""
    z = logits(1, C)
    target = torch.tensor([[0.2, 0.2, 0.2, 1.0, 0.2]], dtype=F64)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(z, target)
    got = make_loss(Loss(off_label="uniform"), C, False, COUNTS)(z, torch.tensor([3]))
    torch.testing.assert_close(got, expected, **EXACT)


def test_uniform_raises_mixed_targets_only_where_they_are_below():
    z = logits(1, C)
    mixed, raised = [0.7, 0.25, 0.05, 0.0, 0.0], [0.7, 0.25, 0.2, 0.2, 0.2]
    got = make_loss(Loss(off_label="uniform"), C, False, COUNTS)(z, torch.tensor([mixed], dtype=F64))
    expected = sum(binary(s, t) for s, t in zip(z[0].tolist(), raised, strict=True)) / C
    assert got.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["bce", "ce"])
def test_labels_of_timms_mixup_are_smoothed_here_as_it_would_have_smoothed_them(kind):
    torch.manual_seed(0)
    images, z = torch.rand(N, 3, 8, 8), logits()
    plain, smoothing = (
        Mixup(mixup_alpha=0.4, label_smoothing=smoothing, num_classes=C, prob=1.0) for smoothing in (0, 0.1)
    )
    results = []
    for mixup, here in ((plain, 0.1), (smoothing, 0.0)):
        np.random.seed(0)  # timm draws its share from NumPy
        _, targets = mixup(images.clone(), LABELS)
        results.append(make_loss(Loss(kind=kind, smoothing=here), C, False, COUNTS)(z, targets))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)  # timm's targets are float32


@pytest.mark.parametrize("smoothing", [0, 0.1])
@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_several_labels_agree_with_the_loop(smoothing, weights):
    loss, z = Loss(smoothing=smoothing, class_weights=weights), logits()
    total, n = 0.0, sum(COUNTS.tolist())
    for scores, target in zip(z.tolist(), SEVERAL.tolist(), strict=True):
        for score, t, count in zip(scores, target, COUNTS.tolist(), strict=True):
            positive = n / (C * count) if weights == "balanced" else 1.0
            total += binary(score, t * (1 - smoothing) + smoothing / 2, positive)
    got = make_loss(loss, C, True, COUNTS)(z, SEVERAL)
    assert got.item() == pytest.approx(total / (N * C), rel=1e-12)


def test_several_labels_are_not_raised():
    z = logits()
    plain, raised = (make_loss(Loss(off_label=off), C, True, COUNTS)(z, SEVERAL) for off in (0, "uniform"))
    assert torch.equal(plain, raised)


@pytest.mark.parametrize("kind", ["bce", "ce"])
@pytest.mark.parametrize("smoothing", [0, 0.2])
@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_a_single_logit_agrees_with_the_loop_whatever_form_its_targets_have(kind, smoothing, weights):
    counts, z = torch.tensor([9, 3]), logits(N, 1)
    one = torch.tensor([0, 1, 1, 0, 1, 0])
    loss = make_loss(Loss(kind=kind, smoothing=smoothing, class_weights=weights), 1, False, counts)
    total = 0.0
    for score, label in zip(z[:, 0].tolist(), one.tolist(), strict=True):
        weight = 12 / (2 * counts[label].item()) if weights == "balanced" else 1.0
        total += weight * binary(score, label * (1 - smoothing) + smoothing / 2)
    for targets in (one, one[:, None].to(F64), torch.stack([1 - one, one], 1).to(F64)):
        assert loss(z, targets).item() == pytest.approx(total / N, rel=1e-12)


def test_a_single_logit_is_a_softmax_over_it_and_zero():
    z, shares = logits(N, 1), SHARES[:, :2] / SHARES[:, :2].sum(1, keepdim=True)
    got = make_loss(Loss(), 1, False, COUNTS)(z, shares)
    both = torch.cat([torch.zeros_like(z), z], 1)
    torch.testing.assert_close(got, make_loss(Loss(kind="ce"), 2, False, COUNTS)(both, shares), **EXACT)


def test_the_losses_of_auxiliary_heads_are_added():
    loss = make_loss(Loss(off_label="uniform"), C, False, COUNTS)
    heads = (logits(seed=3), logits(seed=4))
    torch.testing.assert_close(loss(heads, LABELS), sum(loss(head, LABELS) for head in heads), **EXACT)


@pytest.mark.parametrize(
    ("loss", "multilabel", "targets"),
    [(loss, False, LABELS) for loss in LOSSES] + [(Loss(class_weights="balanced"), True, SEVERAL)],
    ids=str,
)
def test_the_mean_over_parts_of_a_batch_is_that_of_the_batch(loss, multilabel, targets):
    made, z = make_loss(loss, C, multilabel, COUNTS), logits()
    parts = [made(z[part], targets[part]) for part in (slice(0, 2), slice(2, 4), slice(4, 6))]
    torch.testing.assert_close(torch.stack(parts).mean(), made(z, targets), **EXACT)


def test_balanced_weights_average_to_one_over_the_images():
    weights = balanced_weights(COUNTS)
    assert ((weights * COUNTS).sum() / COUNTS.sum()).item() == pytest.approx(1)
    torch.testing.assert_close(weights * COUNTS, torch.full((C,), COUNTS.sum() / C, dtype=F64))


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("targets", [LABELS, SHARES], ids=["indices", "shares"])
def test_gradients_are_the_numerical_ones(loss, targets):
    made = make_loss(loss, C, False, COUNTS)
    z = logits().requires_grad_()
    assert made(z, targets).dtype == F64
    assert torch.autograd.gradcheck(lambda z: made(z, targets), z)


@pytest.mark.parametrize("classes", [1, C])
def test_gradients_of_several_labels_and_a_single_logit_are_the_numerical_ones(classes):
    made = make_loss(Loss(smoothing=0.1), classes, classes > 1, COUNTS)
    targets = SEVERAL if classes > 1 else LABELS.clamp_max(1)
    assert torch.autograd.gradcheck(lambda z: made(z, targets), logits(N, classes).requires_grad_())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_half_precision_logits_are_compared_in_float32_under_autocast(loss, dtype):
    made, z = make_loss(loss, C, False, COUNTS), logits().to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        got = made(z, LABELS)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), made(z.double(), LABELS), rtol=1e-5, atol=1e-6)


def test_large_logits_stay_finite():
    z = torch.tensor([[300.0, -300.0, 0.0]], requires_grad=True)
    for kind in ("bce", "ce"):
        value = make_loss(Loss(kind=kind), 3, False, COUNTS[:3])(z, torch.tensor([1]))
        assert value.isfinite() and torch.autograd.grad(value, z)[0].isfinite().all()


def test_weights_move_with_the_loss_and_are_no_part_of_a_checkpoint():
    loss = make_loss(Loss(class_weights="balanced"), C, False, COUNTS)
    assert loss.to("meta").weights.device.type == "meta" and not loss.state_dict()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (dict(kind="mse"), r"loss.kind='mse': allowed are 'bce', 'ce'"),
        (dict(off_label=1.0), r"loss.off_label=1.0: allowed are 'uniform' and numbers from 0 to below 1"),
        (dict(off_label=-0.1), r"loss.off_label=-0.1: allowed"),
        (dict(off_label=float("nan")), r"loss.off_label=nan: allowed"),
        (dict(off_label=True), r"loss.off_label=True: allowed"),
        (dict(off_label="mean"), r"loss.off_label='mean': allowed"),
        (dict(smoothing=1), r"loss.smoothing=1: allowed are numbers from 0 to below 1"),
        (dict(class_weights="inverse"), r"loss.class_weights='inverse': allowed are 'none', 'balanced'"),
        (dict(kind="ce", off_label="uniform"), r"a softmax has no such target; set off_label to 0, or kind"),
    ],
)
def test_values_that_make_no_loss_are_refused(fault, message):
    with pytest.raises(InputError, match=message):
        Loss(**fault)


def test_what_does_not_fit_the_labels_is_refused():
    balanced = Loss(class_weights="balanced")
    with pytest.raises(
        InputError,
        match="'ce' needs exactly one label for each image, and these images have several; use 'bce'",
    ):
        make_loss(Loss(kind="ce"), C, True, COUNTS)
    with pytest.raises(InputError, match=r"class 1 \(of 3\) has no sample to learn from"):
        make_loss(balanced, 3, False, torch.tensor([4, 0, 2]))
    with pytest.raises(InputError, match="5 class counts for 2 classes; give one for each"):
        make_loss(balanced, 1, False, COUNTS)


@pytest.mark.parametrize(
    ("classes", "multilabel", "shape", "targets", "message"),
    [
        (C, False, (N, C + 1), LABELS, r"logits of shape \(6, 6\); this loss takes \(N, 5\)"),
        (C, False, (N, C, 1), LABELS, r"logits of shape \(6, 5, 1\)"),
        (C, False, (N, C), LABELS[:2], r"targets of shape \(2,\); allowed are \(6,\) indices or \(6, 5\) sh"),
        (C, False, (N, C), SHARES[:, :4], r"targets of shape \(6, 4\)"),
        (C, True, (N, C), LABELS, r"targets of shape \(6,\); allowed are \(6, 5\) zeros and ones"),
        (1, False, (N, 1), SHARES, r"targets of shape \(6, 5\); allowed are \(6,\) indices or \(6, 2\) sh"),
    ],
)
def test_tensors_of_other_shapes_are_refused(classes, multilabel, shape, targets, message):
    with pytest.raises(InputError, match=message):
        make_loss(Loss(), classes, multilabel, COUNTS)(logits(*shape), targets)
