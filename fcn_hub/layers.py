"""Convolutions as the network builds them: PyTorch's own, with other initial weights."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Conv2d(nn.Conv2d):
    """A convolution that starts with `he_normal_` weights."""

    def reset_parameters(self) -> None:
        he_normal_(self)


class ConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution that starts with `he_normal_` weights."""

    def reset_parameters(self) -> None:
        he_normal_(self)


class ScoreConv2d(nn.Conv2d):
    """A 1×1 convolution from features to class scores. It starts at zero (Long et al., 2015, §4.1).

    Args:
        channels: Of the features.
        num_classes: Number of scores.
        scale: What the features are multiplied by first.
    """

    def __init__(self, channels: int, num_classes: int, scale: float = 1.0) -> None:
        super().__init__(channels, num_classes, kernel_size=1)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        # The same as scaling the features, of which there are many more.
        return F.conv2d(x, self.weight * self.scale, self.bias)

    def reset_parameters(self) -> None:
        if self.weight.is_meta:
            return
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Interpolation(nn.ConvTranspose2d):
    """Bilinear upsampling as a transposed convolution, which it stays unless learned.

    The kernel is twice as wide as the factor, and there is neither padding nor bias, so that n
    cells become (n + 1) · factor (Long et al., 2015, §3.3 and §4.3). Cell i is centred on output
    pixel (i + 1) · factor - 1/2. Channels do not mix, though a learned kernel may come to.

    Args:
        channels: Of input and output.
        factor: How many times larger the output is.
        learn: Whether the weights take part in training.
    """

    def __init__(self, channels: int, factor: int, *, learn: bool = False) -> None:
        super().__init__(channels, channels, kernel_size=2 * factor, stride=factor, bias=False)
        self.weight.requires_grad_(learn)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        if self.weight.is_meta:
            return
        factor = self.stride[0]
        distance = (torch.arange(2 * factor) - (factor - 0.5)).abs()
        line = 1 - distance / factor
        self.weight.zero_()
        self.weight[range(self.in_channels), range(self.in_channels)] = torch.outer(line, line)


def he_normal_(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Random weights that keep the variance through a ReLU (He et al., 2015, §2.2); zero bias."""
    # A network on the meta device is about to get its weights from a file. There is nothing to
    # draw, and drawing nothing would make torch import its compiler: up to a second.
    if layer.weight.is_meta:
        return
    products: float = layer.in_channels * math.prod(layer.kernel_size)
    if layer.transposed:  # an output pixel meets every stride-th tap each way, on average
        products /= math.prod(layer.stride)
    nn.init.normal_(layer.weight, std=math.sqrt(2 / products))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
