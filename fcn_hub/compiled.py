"""The network through torch.compile, without compiling again for every size that comes along.

Uncompiled, every bias, ReLU and normalisation is a pass of its own over large maps; the compiler
joins them. But it compiles anew for each shape of its input, which takes long. So shapes are kept
few: heights and widths in multiples of the network's stride, pictures in powers of two, and no more
than `MOST_SHAPES` of what that leaves.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fcn_hub.model import FCN

# Also torch's own limit (torch._dynamo.config.recompile_limit), above which it stops compiling.
MOST_SHAPES = 8


class CompiledFCN(nn.Module):
    """An FCN that is compiled for the first `MOST_SHAPES` shapes and runs as it is for others.

    Args:
        model: In eval mode, on its device; its weights are shared.
        backend: As for `torch.compile`.
    """

    def __init__(self, model: FCN, backend: str | Callable[..., Any] = "inductor") -> None:
        super().__init__()
        self.model = model
        self.multiple = model.decoder.multiple
        self.shapes: set[tuple[int, ...]] = set()
        self._compiled = torch.compile(model, dynamic=False, backend=backend)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, num_classes, H, W] of normalised pictures [N, 3, H, W], as the model's own."""
        return torch.cat([self._logits(part) for part in x.split(powers_of_two(len(x)))])

    def _logits(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        # What the model does itself, done before, so that the compiler sees one shape for many.
        x = F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple))
        if len(self.shapes) < MOST_SHAPES:
            self.shapes.add(tuple(x.shape))
        network = self._compiled if tuple(x.shape) in self.shapes else self.model
        return network(x)[..., :height, :width]


def powers_of_two(count: int) -> list[int]:
    """The powers of two that add up to a number, largest first."""
    return [1 << bit for bit in reversed(range(count.bit_length())) if count >> bit & 1]
