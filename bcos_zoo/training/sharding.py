"""How the weights of a run lie on its processes: whole on each of them, or in shards (FSDP)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from timm.utils import adaptive_clip_grad, dispatch_clip_grad
from torch import Tensor, nn

from ..errors import InputError
from ..extras import required
from ..layers import BcosConv2d, BcosLinear
from .parameters import clip_adaptively, is_one_row

_CONTAINERS = (nn.Sequential, nn.ModuleList)


class Whole:
    """Each process has all weights and all of the optimiser's state; accelerate exchanges gradients.

    called: the wrapper that the images are given to. bare: the network inside it.
    through: a module that calls the network, to be called in its place.
    """

    def __init__(self, accelerator: Any, model: nn.Module, through: nn.Module | None = None) -> None:
        self.bare = model
        self.called: nn.Module = accelerator.prepare_model(model if through is None else through)

    def state_dict(self) -> dict[str, Tensor]:
        """The network's weights and buffers, whole on each process."""
        return self.bare.state_dict()

    def agreed(self, due: bool) -> bool:
        """Whether a state is to be written now, by the clock of the process that writes it."""
        return due

    def clip(self, limit: float, mode: str) -> None:
        """Clip gradients, by timm's mode "norm", "value" or "agc"."""
        if mode == "agc":
            clip_adaptively(self.bare, limit)
        else:
            dispatch_clip_grad(self.bare.parameters(), limit, mode)

    def step(self, optimizer: Any) -> None:
        """Let the optimiser do its step. Raises InputError if it cannot handle sharded weights."""
        optimizer.step()

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """The state of the optimiser, as accelerate prepared it, whole on the first process."""
        found: dict[str, Any] = optimizer.state_dict()
        return found

    def load(self, weights: dict[str, Tensor], optimizer: Any, state: dict[str, Any]) -> None:
        """Load what `state_dict` and `optimizer_state` gave."""
        self.bare.load_state_dict(weights)
        optimizer.load_state_dict(state)


class Sharded(Whole):
    """Each process keeps its rows of the weights, their gradients and their part of the optimiser's state.

    By PyTorch's `fully_shard` (FSDP2): the weights of a block are gathered while it computes. Works on CPUs,
    too, over gloo.
    Raises InputError for a single process.
    """

    def __init__(self, accelerator: Any, model: nn.Module, through: nn.Module | None = None) -> None:
        from torch.distributed.device_mesh import init_device_mesh  # missing in some builds of torch
        from torch.distributed.fsdp import fully_shard

        if accelerator.num_processes == 1:
            raise InputError("run.shard=true with one process; start several, such as with torchrun")
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        for block in blocks(model):
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        self.bare = model
        # All that accelerate does but DistributedDataParallel, which is for whole weights.
        called = model if through is None else through
        self.called = accelerator.prepare_model(called, evaluation_mode=True)

    def state_dict(self) -> dict[str, Tensor]:
        from torch.distributed.checkpoint.state_dict import get_model_state_dict

        found: dict[str, Any] = get_model_state_dict(self.bare, options=_options())
        return found

    def agreed(self, due: bool) -> bool:
        # All processes take part in gathering a state, and their clocks differ.
        utils = required("accelerate.utils", "accelerate", "train")
        return bool(utils.broadcast_object_list([due])[0])

    def clip(self, limit: float, mode: str) -> None:
        if mode == "agc":
            _clip_rows(self.bare, limit)
        else:
            super().clip(limit, mode)

    def step(self, optimizer: Any) -> None:
        try:
            super().step(optimizer)
        except RuntimeError as error:
            if "DTensor" not in str(error):
                raise
            name = type(optimizer.optimizer).__name__
            raise InputError(
                f"optimizer {name} does not support sharded weights (run.shard); take adamw or sgd"
            ) from error

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        options = _options(cpu_offload=True)  # only the first process gets it
        found: dict[str, Any] = get_optimizer_state_dict(self.bare, optimizer.optimizer, options=options)
        return found

    def load(self, weights: dict[str, Tensor], optimizer: Any, state: dict[str, Any]) -> None:
        from torch.distributed.checkpoint import state_dict

        # First the optimiser: it takes a step with zero gradients, to have a state to fill.
        state_dict.set_optimizer_state_dict(self.bare, optimizer.optimizer, state, options=_options())
        state_dict.set_model_state_dict(self.bare, dict[str, Any](weights), options=_options())


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The parts whose weights are gathered at once: what the outermost lists of a network hold.

    Single layers are not among them: the forward of one that is folded into the next is never called.
    """
    for child in model.children():
        if isinstance(child, (BcosConv2d, BcosLinear)):
            continue
        if isinstance(model, _CONTAINERS) and any(True for _ in child.children()):
            yield child
        else:
            yield from blocks(child)


def _options(cpu_offload: bool = False) -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True, cpu_offload=cpu_offload)


def _clip_rows(model: nn.Module, factor: float) -> None:
    """timm's adaptive clipping. Shards hold whole rows, whose norms need no exchange; vectors' norms do."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    for p in model.parameters():
        values, grad = p.detach(), p.grad
        if not (isinstance(values, DTensor) and isinstance(grad, DTensor)):
            continue  # it does not learn
        one_row = is_one_row(p)
        here = values.full_tensor().squeeze() if one_row else values.to_local()
        here.grad = grad.full_tensor().squeeze() if one_row else grad.to_local()
        adaptive_clip_grad([here], factor)
        if one_row:
            whole = here.grad.view(grad.shape)
            grad.copy_(distribute_tensor(whole, grad.device_mesh, grad.placements, src_data_rank=None))
