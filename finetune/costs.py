"""What training costs, counted in pictures that go once, forward, through the whole network."""

import torch
from torch import nn

from finetune.surgery import Operated, depths_of

# The gradient with respect to activations and the one with respect to weights take a forward pass's products each.
FORWARD_AND_BACKWARD = 3


def macs_by_depth(operated: Operated) -> list[int]:
    """Return the multiply-adds of a picture in each stage of a body and behind the last, as `depths_of` counts them.

    Convolutions and linear layers are counted; the rest is small beside them.
    """
    body, depths = operated.network.body, depths_of(operated).modules
    counts = [0] * (len(operated.stages) + 1)
    handles = []

    def count(depth: int) -> object:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            counts[depth] += output[0].numel() * module.weight[0].numel()  # type: ignore[index]

        return hook

    for name, module in body.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            handles.append(module.register_forward_hook(count(depths[name])))  # type: ignore[arg-type]
    training = body.training
    try:
        body.eval()
        with torch.no_grad():
            body(torch.zeros(1, len(operated.spec.mean), *operated.spec.crop))
    finally:
        body.train(training)
        for handle in handles:
            handle.remove()
    return counts


def share_behind(operated: Operated, frozen: int) -> float:
    """Return which part of a network's multiply-adds come after the first `frozen` stages."""
    counts = macs_by_depth(operated)
    return sum(counts[frozen:]) / max(sum(counts), 1)
