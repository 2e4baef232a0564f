"""The table: what linear mode makes of each torch function that a converted network calls on the image.

Keys are names without the underscores of the in-place and operator forms, so that `torch.add`, `Tensor.add_`
and `+=` are one. A function that is not here is held as a whole. Of held factors and constants alone,
whatever is computed is held too, and needs no rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..layers import hold
from . import arithmetic as A
from . import operators as O
from . import writing as W
from .calls import Call
from .marks import mark_of, on_path, with_tensors

Rule = Callable[[Call], Any]


def passes(call: Call) -> Any:
    """Linear, or piecewise linear, in the first argument; the others, such as indices, are held."""
    mark = mark_of(call.args[0])
    if mark is None or mark.held:
        return call.held()
    rest = with_tensors(call.args[1:], _held)
    return call.path(call.func(*call.args[:1], *rest, **call.kwargs), gate=mark.gate)


def _held(x: Tensor) -> Tensor:
    return hold(lambda: x.clone()) if on_path(x) else x


def pooled(call: Call) -> Any:
    """As `passes`: the mean, or the maximum, of some positions."""
    y = passes(call)
    mark = mark_of(y) if isinstance(y, Tensor) else None
    return y if mark is None or mark.held else call.layer(y, pools=True)


def unknown(call: Call) -> Any:
    """Held as a whole."""
    return call.held()


# What reads a tensor without its numbers, is about the graph, or changes a tensor's shape in place.
TRANSPARENT = frozenset(
    """unsqueeze_ squeeze_ transpose_ t_ swapaxes_ swapdims_ requires_grad_ register_hook retain_grad size
    dim ndimension numel nelement stride element_size is_contiguous is_floating_point is_complex
    storage_offset data_ptr get_device __len__ __repr__ __format__ __hash__ is_same_size
    result_type""".split()
)
# New tensors that take no more than a shape from the image.
CONSTANTS = frozenset(
    """new_zeros new_ones new_full new_empty new_tensor zeros_like ones_like full_like empty_like rand_like
    randn_like broadcast_shapes""".split()
)
# What gives a part or another shape of the very tensor: what is written there is written into the tensor.
VIEWS = frozenset(
    """view reshape view_as reshape_as flatten unflatten squeeze unsqueeze permute transpose t movedim
    moveaxis swapaxes swapdims adjoint expand expand_as broadcast_to contiguous narrow select chunk split
    split_with_sizes tensor_split hsplit vsplit unbind unfold as_strided diagonal __getitem__ view_as_real
    view_as_complex""".split()
)
SHAPES = """repeat tile repeat_interleave clone roll flip fliplr flipud rot90 pixel_shuffle pixel_unshuffle
    fold gather index_select take_along_dim masked_select take type_as to type float double half bfloat16
    cpu cuda"""
SUMS = """sum mean nansum cumsum diff trace tril triu neg pos positive
    adaptive_avg_pool1d adaptive_avg_pool2d interpolate upsample
    upsample_nearest upsample_bilinear grid_sample fft fft2 fftn ifft ifft2 rfft rfft2 irfft irfft2 fft_rfft2
    fft_irfft2 fft_rfft fft_irfft fft_fft2 fft_ifft2"""
EXTREMES_OF_ONE = """amax amin sort topk kthvalue cummax cummin max_pool2d_with_indices
    adaptive_max_pool1d adaptive_max_pool2d abs"""
POOLS = "avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d"
GATES = """gelu silu mish hardswish elu celu selu relu6 softsign tanhshrink softshrink hardshrink"""
PIECEWISE = "relu leaky_relu prelu rrelu"
# Held as a whole: factors that may multiply the path, and what is not a number at all.
HELD = """softmax log_softmax softmin sigmoid hardsigmoid softplus logsigmoid exp exp2 expm1 log log2
    log1p sqrt rsqrt reciprocal sin cos tan erf std var std_mean norm vector_norm linalg_norm
    linalg_vector_norm cdist logsumexp prod rtruediv rdiv rpow argmax argmin argsort eq ne lt le gt ge
    isnan isinf sign round floor ceil trunc floor_divide floordiv remainder fmod long int bool detach
    any all nonzero bernoulli lstm gru rnn_tanh rnn_relu"""

RULES: dict[str, Rule] = {
    **dict.fromkeys(VIEWS, passes),
    **dict.fromkeys(f"{SHAPES} {SUMS} {EXTREMES_OF_ONE}".split(), passes),
    **dict.fromkeys(GATES.split(), O.gate),
    **dict.fromkeys(PIECEWISE.split(), O.activation),
    **dict.fromkeys(HELD.split(), unknown),
    **dict.fromkeys("add radd".split(), A.plus),
    **dict.fromkeys("sub subtract".split(), A.minus),
    **dict.fromkeys("rsub".split(), A.minus_reversed),
    **dict.fromkeys("mul rmul multiply".split(), A.times),
    **dict.fromkeys("div divide true_divide truediv".split(), A.divided),
    **dict.fromkeys(POOLS.split(), pooled),
    "square": A.square,
    "pow": A.power,
    **dict.fromkeys("matmul bmm mm mv".split(), A.matrix_product),
    "rmatmul": A.matrix_product_reversed,
    "einsum": A.einsum,
    "addcmul": A.plus_product,
    "addcdiv": A.plus_quotient,
    **dict.fromkeys("addmm baddbmm".split(), A.plus_matrix_product),
    "lerp": A.between,
    "where": A.chosen,
    "masked_fill": A.filled,
    **dict.fromkeys("max min maximum minimum fmax fmin".split(), A.extreme),
    **dict.fromkeys("cat concat concatenate stack hstack vstack dstack".split(), A.joined),
    "__setitem__": W.written,
    "copy": W.copied,
    "fill": W.filled,
    "zero": W.zeroed,
    **dict.fromkeys("normal uniform random exponential cauchy log_normal geometric".split(), W.drawn),
    "pad": A.padded,
    "linear": O.fully_connected,
    **dict.fromkeys("conv1d conv2d conv3d conv_transpose1d conv_transpose2d".split(), O.convolution),
    "respond": O.own_layer,
    "batch_norm": O.batch_norm,
    "layer_norm": O.layer_norm,
    "group_norm": O.group_norm,
    "instance_norm": O.instance_norm,
    "rms_norm": O.rms_norm,
    "normalize": O.normalized,
    "local_response_norm": O.locally_normalized,
    **dict.fromkeys("clamp clip clamp_min clamp_max hardtanh".split(), O.capped),
    "tanh": O.saturating,
    "glu": O.gated_halves,
    "scaled_dot_product_attention": O.attention,
    **dict.fromkeys("dropout dropout2d alpha_dropout feature_dropout".split(), O.dropped),
    "var_mean": O.moments,
}
