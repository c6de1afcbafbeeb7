"""What a step minimises, as one module: backbone and method, over the processes of a world.

Each process forwards its rows, and gradients are the sums over all of them. The heads stay outside:
their weights are shared out, and every process has whole gradients of its own.

Batch normalisation takes each process's own rows for a batch, as the published experiments do, so
with it what is trained depends on how many processes share the rows. Running statistics are linear
in the batches', so their mean over processes is what is kept. With `shared_statistics` the rows of
all processes are one batch, and the number of processes does not matter.
"""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from mixbct.backbones.model import Inputs, forward
from mixbct.distributed import World
from mixbct.errors import RecipeError
from mixbct.heads.classifier import CosineHead, Head, LinearHead
from mixbct.methods import Features, Method, Progress
from mixbct.methods.method import Losses


class Objective(nn.Module):
    """Inputs and labels in, the method's losses out: this process's share of each.

    Args:
        backbone: on its device.
        method: on the same.
        dim: of the features.
        bf16: let the backbone multiply in bfloat16.
    """

    def __init__(self, backbone: nn.Module, method: Method, dim: int, bf16: bool = False) -> None:
        super().__init__()
        self.backbone, self.method, self.dim, self.bf16 = backbone, method, dim, bf16

    def features(self, inputs: Inputs) -> Float[Tensor, "b d"]:
        """Return what the backbone makes of its inputs, in the precision of what follows it.

        Raises:
            RecipeError: it is to be compiled, and cannot be.
        """
        try:
            with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.bf16):
                values = forward(self.backbone, inputs, self.dim)
        except RuntimeError as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            raise RecipeError(
                "torch cannot compile the backbone here: "
                f"{str(error).strip().splitlines()[0]}; set train.compile = false, or, on a "
                "processor, install a C++ compiler"
            ) from error
        return values.float() if self.bf16 else values

    def forward(
        self,
        inputs: Inputs,
        labels: Int64[Tensor, " trained"],
        counts: tuple[int, ...],
        old: Features,
        head: Head,
        progress: Progress,
    ) -> Losses:
        """Return the losses.

        Args:
            inputs: of the backbone; the first rows are those that have a label.
            labels: in [0, c).
            counts: how many labels each process has.
            old: the old rows of the step.
            head: the classifier in training.
            progress: how far the run is.
        """
        values = self.features(inputs)[: len(labels)]
        new = Features(values, labels, counts, old.world)
        return self.method.losses(new, old, head, progress)


def shared_out(objective: Objective, world: World, statistics: bool) -> nn.Module:
    """Return the objective with gradients that are summed over the processes as they come.

    What a method trains takes the statistics of all rows, the backbone where `statistics` says so.
    """
    if world.size == 1:
        return objective
    for each in (objective if statistics else objective.method).modules():
        if isinstance(each, _BatchNorm):
            each.forward = partial(_batch_norm, each, world)  # type: ignore[method-assign]
    apart = [name for name, _ in objective.named_buffers()]
    for name, module in objective.named_modules():
        if isinstance(module, CosineHead | LinearHead):
            apart += [f"{name}.{parameter}" for parameter, _ in module.named_parameters()]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(  # type: ignore[no-untyped-call]
        objective, apart
    )
    wrapped = DistributedDataParallel(objective)

    def summed(state, bucket):  # type: ignore[no-untyped-def]  # torch looks at annotations
        done = distributed.all_reduce(bucket.buffer(), async_op=True).get_future()
        return done.then(lambda future: future.value()[0])

    wrapped.register_comm_hook(None, summed)  # the default takes means
    return wrapped


def check_used(module: nn.Module) -> None:
    """Hold that every parameter had a gradient: sums over processes wait for each.

    Raises:
        RecipeError: one had none.
    """
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and parameter.grad is None:
            raise RecipeError(
                f"the backbone's {name} took no part in the loss, and several processes wait for "
                "the gradient of every parameter: use it, set requires_grad = False on it, or "
                "train with one process"
            )


def average_statistics(module: nn.Module, world: World) -> None:
    """Give every process the mean of all processes' running statistics."""
    for each in module.modules() if world.size > 1 else ():
        for values in (each.running_mean, each.running_var) if isinstance(each, _BatchNorm) else ():
            if values is not None:
                values.copy_(world.reduce(values.clone()) / world.size)


def _batch_norm(module: Any, world: World, values: Float[Tensor, "n c ..."]) -> Tensor:
    """Normalise as `module` does, by the statistics of all processes while it trains."""
    if not module.training:
        return type(module).forward(module, values)  # type: ignore[no-any-return]
    axes = [axis for axis in range(values.dim()) if axis != 1]
    exact = values.to(torch.promote_types(values.dtype, torch.float32))
    variance, mean = torch.var_mean(exact, axes, correction=0)
    count = exact.new_full((), values.numel() // values.shape[1])
    every = world.reduce(count.clone())
    of_all = world.sum(mean * count) / every
    variance = world.sum((variance + (mean - of_all).square()) * count) / every
    if module.running_mean is not None:
        module.num_batches_tracked += 1
        rate = module.momentum or 1 / float(module.num_batches_tracked)
        with torch.no_grad():
            module.running_mean.lerp_(of_all.to(module.running_mean), rate)
            module.running_var.lerp_((variance * every / (every - 1)).to(module.running_var), rate)
    scale = (variance + module.eps).rsqrt()
    if module.weight is not None:
        scale = scale * module.weight
    shift = -of_all * scale
    if module.bias is not None:
        shift = shift + module.bias
    shape = [-1 if axis == 1 else 1 for axis in range(values.dim())]
    return torch.addcmul(shift.view(shape), exact, scale.view(shape)).to(values.dtype)
