"""The names that other libraries keep to themselves and that are used here all the same: in this file alone.

torch, timm, accelerate, huggingface_hub, captum and Pillow may change such a name in any release, without a
word. `PRIVATE` lists each one with what to do on the day it is gone, `SEEN` the versions they were seen in.
Tests hold that all of them exist in the versions installed, and that no other file of the package touches
one.

A name is imported as `PRIVATE` calls it, `from .._compat import is_tracing`, and looked up only then, so
importing this file imports none of the libraries. What belongs to an object, such as the hooks of a module,
is behind a function.
"""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from torch import Tensor, nn

P = ParamSpec("P")
R = TypeVar("R")

# The oldest and the newest version of each library in which its names below were seen. The oldest are those
# of constraints/oldest.txt.
SEEN = {
    "torch": ("2.9.0", "2.14.1"),
    "timm": ("1.0.31", "1.0.31"),
    "accelerate": ("1.0.1", "1.15.0"),
    "huggingface_hub": ("1.0.0", "2.4.0"),
    "captum": ("0.9.0", "0.9.0"),
    "PIL": ("10.1.0", "13.0.0"),
}


@dataclass(frozen=True)
class Private:
    """A name that its library does not promise.

    module: where it is. path: its name there, with dots; what follows a class is of its objects.
    use: what it is needed for. gone: what to do when it is no longer there.
    """

    module: str
    path: str
    use: str
    gone: str

    @property
    def library(self) -> str:
        return self.module.partition(".")[0]


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_NO_FAST_WAY = "let layers/_switch.py `free` give False: the fast ways are left alone, the numbers stay"
_ASK_EVERY_MODULE = "let layers/_switch.py `untouched` give False: every module is called, somewhat slower"

PRIVATE = {
    "is_tracing": Private(
        "torch._C",
        "_is_tracing",
        "whether torch.jit.trace is recording",
        "torch.jit.is_tracing, a call slower",
    ),
    "dispatch_modes": Private(
        "torch._C", "_len_torch_dispatch_stack", "whether a TorchDispatchMode is watching", _NO_FAST_WAY
    ),
    "function_modes": Private(
        "torch._C", "_len_torch_function_stack", "whether a TorchFunctionMode is watching", _NO_FAST_WAY
    ),
    "function_transform": Private(
        "torch._C._functorch",
        "peek_interpreter_stack",
        "whether vmap, grad or another transform of torch.func is at work",
        _NO_FAST_WAY,
    ),
    "forward_mode": Private(
        "torch.autograd.forward_ad",
        "_current_level",
        "whether differentiation in forward mode is at work",
        _NO_FAST_WAY,
    ),
    "backward_task": Private(
        "torch._C",
        "_current_graph_task_id",
        "whether a backward pass runs, and so what is computed is computed again by a checkpoint",
        "look how torch.utils.checkpoint tells; or let norms track a checkpointed batch twice, and say so",
    ),
    "FakeTensor": Private(
        "torch._subclasses.fake_tensor",
        "FakeTensor",
        "what stands for a weight where torch.export reads a network",
        "torch.export would take the slow ways: leave it out of layers/_switch.py",
    ),
    "any_global_hook": Private(
        "torch.nn.modules.module",
        "_has_any_global_hook",
        "whether a hook hangs on all modules of the process",
        _ASK_EVERY_MODULE,
    ),
    "AnyBatchNorm": Private(
        "torch.nn.modules.batchnorm",
        "_BatchNorm",
        "torch's batch norms of every kind",
        "name its subclasses: BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm",
    ),
    **{
        f"hooks{name}": Private(
            "torch.nn",
            f"Module.{name}",
            "whether a hook hangs on a module, and a copy without",
            _ASK_EVERY_MODULE,
        )
        for name in _HOOKS
    },
    "submodules": Private(
        "torch.nn",
        "Module._modules",
        "a copy of a module whose submodules are copies too",
        "read them with named_children, and set them with setattr",
    ),
    "compiled_call": Private(
        "torch.nn",
        "Module._compiled_call_impl",
        "whether Module.compile compiled a module in its place",
        "compile a module, and look in vars() for what holds the compiled call",
    ),
    "compiled_from": Private(
        "torch._dynamo.eval_frame",
        "OptimizedModule._orig_mod",
        "the network inside what torch.compile gives",
        "the only child of such a module",
    ),
    "move": Private(
        "torch.nn",
        "Module._apply",
        "constants made anew when a network is moved: layers/heads.py overrides it",
        "make them buffers that are not persistent, and round them where the dtype changes",
    ),
    "version": Private(
        "torch",
        "Tensor._version",
        "whether an image was written over since it was recorded",
        "keep a copy of the image, and compare",
    ),
    "viewed": Private(
        "torch",
        "Tensor._base",
        "the tensor that an in-place function writes into through a view",
        "let conversion's `dispatch` remember, for each function of VIEWS, what it was given",
    ),
    "conv_forward": Private(
        "torch.nn",
        "Conv2d._conv_forward",
        "a convolution with another weight, padded in its own way",
        "torch.func.functional_call, with the weight in the place of its own",
    ),
    "conv_padding": Private(
        "torch.nn",
        "Conv2d._reversed_padding_repeated_twice",
        "the padding of a convolution as torch.nn.functional.pad takes it, also for padding='same'",
        "derive it from padding, dilation and kernel_size: for 'same' the right side gets the odd one",
    ),
    "check_indices": Private(
        "timm.models._features",
        "feature_take_indices",
        "which levels forward_intermediates returns, and its errors",
        "write it anew: an int is the last so many, a negative index counts from the end",
    ),
    "with_group_before": Private(
        "timm.models._manipulate",
        "MATCH_PREV_GROUP",
        "a parameter's group of layers is that of the group before (group_matcher)",
        "its value is (99999,)",
    ),
    "update_model_args": Private(
        "timm.models._input",
        "update_model_args",
        "arguments of a checkpoint, added to those that timm writes into config.json",
        "see where timm.models.get_model_args reads them, and add them there",
    ),
    "save_config_for_hf": Private(
        "timm.models._hub",
        "save_config_for_hf",
        "the config.json that timm reads from a folder or a repository",
        "timm.models.push_to_hf_hub writes the same; hub/folder.py would have to write it by itself",
    ),
    "RandomErasing": Private(
        "timm.data.random_erasing",
        "RandomErasing",
        "rectangles of noise over images",
        "torchvision has its own",
    ),
    "mixup_target": Private(
        "timm.data.mixup",
        "mixup_target",
        "labels of mixed images",
        "lam * one_hot(y) + (1 - lam) * one_hot(y.flip(0)), smoothed before",
    ),
    "orthogonalise": Private(
        "timm.optim.muon",
        "zeropower_via_newtonschulz",
        "Muon's iteration, which timm runs in bfloat16 where a processor may only emulate that",
        "see whether timm.optim.Muon takes a dtype; else leave Muon slow on processors",
    ),
    "forget_precision": Private(
        "accelerate.state",
        "AcceleratorState._reset_state",
        "that a run takes its own precision and not that of the first run of the process",
        "refuse a second run of another precision in one process",
    ),
    "shared_state": Private(
        "accelerate.state",
        "AcceleratorState._shared_state",
        "that a run leaves accelerate as it found it",
        "run in a process of its own, or let the run leave its trace",
    ),
    "http_get": Private(
        "huggingface_hub.file_download",
        "http_get",
        "a download that resumes, with timeouts and a bar",
        "httpx with a Range header; the tests of weights/download.py say all that it must do",
    ),
    "repo_folder_name": Private(
        "huggingface_hub.file_download",
        "repo_folder_name",
        "where the cache keeps a repository",
        "'models--' and the name of the repository, with -- for /",
    ),
    "SkLearnRidge": Private(
        "captum._utils.models.linear_model",
        "SkLearnRidge",
        "the ridge regression that LIME fits",
        "a class with fit(DataLoader) and representation() around sklearn.linear_model.Ridge",
    ),
    "captum_calls": Private(
        "captum.attr",
        "IntegratedGradients.attribute.__wrapped__",
        "captum calls the methods of an Attribution past the logging around them",
        "if captum asks for it no more, `wrapped_for_captum` can go",
    ),
    "imaging": Private(
        "PIL",
        "_imaging",
        "the C library of Pillow, in which libtiff's errors are heard",
        "leave them unheard: libtiff prints them on stderr, and guesses at faxes go unnoticed",
    ),
}


def __getattr__(name: str) -> Any:
    """A name of `PRIVATE`, as its library has it."""
    if name not in PRIVATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    private = PRIVATE[name]
    module = importlib.import_module(private.module)
    try:
        return getattr(module, private.path)
    except AttributeError:
        raise ImportError(f"{private.module} has no {private.path} any more; then: {private.gone}") from None


_module = cache(importlib.import_module)  # asked for once a layer


def forward_level() -> int:
    """How many levels of differentiation in forward mode are at work, less one: -1 if there is none."""
    level: int = _module("torch.autograd.forward_ad")._current_level
    return level


def watched(module: nn.Module) -> bool:
    """Whether a hook hangs on a module itself, or `Module.compile` has compiled it."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or module._compiled_call_impl is not None
    )


def unwatched(module: nn.Module) -> nn.Module:
    """The same parameters in a copy of the modules around them, in eval mode and without hooks."""
    copied: nn.Module = module.__new__(type(module))
    copied.__dict__.update(module.__dict__, training=False)
    for hooks in _HOOKS:
        copied.__dict__[hooks] = OrderedDict()
    copied.__dict__["_modules"] = {
        name: None if inner is None else unwatched(inner) for name, inner in module._modules.items()
    }
    return copied


def compiled_from(module: nn.Module) -> nn.Module | None:
    """The network inside what torch.compile gave; None for any other module."""
    inner: nn.Module | None = getattr(module, "_orig_mod", None)
    return inner


def is_compiled(module: nn.Module) -> bool:
    """Whether a module came from torch.compile, or was compiled in its place by `Module.compile`."""
    return compiled_from(module) is not None or getattr(module, "_compiled_call_impl", None) is not None


def version(x: Tensor) -> int:
    """How often x was written over, by torch's count."""
    return x._version


def viewed(x: Tensor) -> Tensor | None:
    """The tensor that x is a view of, in autograd's eyes; None if it is none."""
    return x._base


def convolve(conv: nn.Conv2d, x: Tensor, weight: Tensor) -> Tensor:
    """What `conv` makes of x, (..., K, H, W), with another weight and without a bias."""
    return conv._conv_forward(x, weight, None)


def padding_of(conv: nn.Conv2d) -> list[int]:
    """Pixels that `conv` pads: left, right, above, below, as `torch.nn.functional.pad` takes them."""
    pads: list[int] = conv._reversed_padding_repeated_twice
    return pads


def muon_in_float32() -> None:
    """Make timm's Muon iterate in float32 from now on, in this process. `set_muon_iteration` undoes it."""
    import torch
    from timm.optim import muon

    if not isinstance(muon.zeropower_via_newtonschulz, partial):
        muon.zeropower_via_newtonschulz = partial(muon.zeropower_via_newtonschulz, dtype=torch.float32)


def muon_iteration() -> Any:
    """The function by which timm's Muon iterates."""
    from timm.optim import muon

    return muon.zeropower_via_newtonschulz


def set_muon_iteration(function: Any) -> None:
    """Let timm's Muon iterate by `function`, as `muon_iteration` gave it."""
    from timm.optim import muon

    muon.zeropower_via_newtonschulz = function


def forget_precision() -> None:
    """Let accelerate's next Accelerator choose its own precision; processes stay as they are."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=False)


def accelerate_states() -> list[dict[str, Any]]:
    """What accelerate keeps for all Accelerators of a process: its own dicts, to be read and written."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    return [one._shared_state for one in (PartialState, AcceleratorState, GradientState)]


def wrapped_for_captum(function: Callable[P, R]) -> Callable[P, R]:
    """The same, with the `__wrapped__` by which captum calls methods past the logging around its own."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)

    return wrapper
