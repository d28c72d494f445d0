"""Convolutions as the network builds them: PyTorch's own, with the weights of He et al. (2015)."""

import math

from torch import nn


class Conv2d(nn.Conv2d):
    """A convolution that starts with `he_normal_` weights."""

    def reset_parameters(self) -> None:
        he_normal_(self)


class ConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution that starts with `he_normal_` weights."""

    def reset_parameters(self) -> None:
        he_normal_(self)


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
