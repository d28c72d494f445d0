"""The VGG-16 convolution stages (Simonyan and Zisserman, 2015, configuration D).

Thirteen 3×3 convolutions in five stages, each stage closed by 2×2 max pooling: the part of
the ImageNet classifier that a fully convolutional network keeps (Long et al., 2015, §4.1).
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fcn_hub.layers import Conv2d

# Convolutions and channels of each stage, the channels in units of `base_channels`.
STAGES = ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8))


# torchvision's VGG16_Weights.IMAGENET1K_V1 and .IMAGENET1K_FEATURES: one must not be fed with
# the other's normalisation. Caffe's is 0..255 minus (123.68, 116.779, 103.939).
TORCHVISION_NORMALIZATION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CAFFE_NORMALIZATION = ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255))

# Mean activation after the ReLU of each convolution of the Caffe weights, conv1_1 first: the
# average of what 24 pictures of PASCAL VOC 2012 and 24 of CamVid give, cut to 320×320.
CAFFE_MEAN_ACTIVATIONS = (
    *(19.1, 99.8),
    *(161.0, 166.0),
    *(207.0, 228.0, 140.0),
    *(123.0, 66.8, 16.1),
    *(17.2, 7.32, 0.80),
)


class VGG16(nn.Module):
    """The five convolution stages of VGG-16, without classifier and with random weights.

    The convolutions are named ``conv1_1 … conv5_3``; each is 3×3 with padding 1 and a ReLU.

    Args:
        base_channels: Channels of stage 1; the stages have 1, 2, 4, 8 and 8 times as many.
            VGG-16 has 64. Smaller networks are quick to test and to teach with.
        padding: Of the very first convolution; the others have 1. The paper's networks have 100
            there, so that even the smallest picture leaves something for fc6 to look at.
        ceil_mode: Whether pooling keeps the last row and column of an odd number, as Caffe does.
    """

    def __init__(
        self, base_channels: int = 64, *, padding: int = 1, ceil_mode: bool = False
    ) -> None:
        super().__init__()
        self.ceil_mode = ceil_mode
        self.margin = padding - 1  # pixels that come before the picture's first, on each side
        self.channels = tuple(base_channels * factor for _, factor in STAGES)
        channels_in = 3
        for stage, (depth, _) in enumerate(STAGES, start=1):
            for position in range(1, depth + 1):
                channels_out = self.channels[stage - 1]
                margin = padding if stage == position == 1 else 1
                conv = Conv2d(channels_in, channels_out, kernel_size=3, padding=margin)
                self.add_module(f"conv{stage}_{position}", conv)
                channels_in = channels_out

    def stages(self) -> Iterator[list[nn.Conv2d]]:
        """The convolutions of each stage, shallowest first."""
        for stage, (depth, _) in enumerate(STAGES, start=1):
            yield [
                self.get_submodule(f"conv{stage}_{position}")  # type: ignore[misc]
                for position in range(1, depth + 1)
            ]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Compute the pool outputs of all five stages.

        Args:
            x: Normalised RGB pictures, float [N, 3, H, W].

        Returns:
            pool1 … pool5, float [N, C_i, H // 2^i, W // 2^i]: strides 2, 4, 8, 16 and 32. Where
            `padding` is not 1, H and W are first made larger by `margin` on each side.
        """
        pools = []
        for convs in self.stages():
            for conv in convs:
                x = F.relu(conv(x), inplace=True)
            x = F.max_pool2d(x, kernel_size=2, ceil_mode=self.ceil_mode)
            pools.append(x)
        pool1, pool2, pool3, pool4, pool5 = pools
        return pool1, pool2, pool3, pool4, pool5

    @torch.no_grad()
    def mean_activations(self, x: Tensor) -> list[float]:
        """The mean of every convolution's output after its ReLU, conv1_1 first.

        Args:
            x: Normalised RGB pictures, float [N, 3, H, W], H and W at least 16.
        """
        means = []
        for convs in self.stages():
            for conv in convs:
                x = F.relu(conv(x), inplace=True)
                means.append(x.mean().item())
            x = F.max_pool2d(x, kernel_size=2, ceil_mode=self.ceil_mode)
        return means

    @torch.no_grad()
    def divide_activations(self, divisors: Sequence[float]) -> None:
        """Rescale the weights so that each convolution's output is divided by its divisor.

        ReLU and max pooling are positively homogeneous, f(a·x) = a·f(x) for a > 0, so dividing
        one layer's weights and bias and multiplying the next layer's weights by the same
        number changes nothing but the scale in between. Dividing by `mean_activations` gives
        every layer unit mean activation: the normalised VGG of Gatys, Ecker and Bethge ("Image
        Style Transfer Using Convolutional Neural Networks", CVPR 2016, §2), who scale every
        filter on its own where this scales whole layers.

        Args:
            divisors: Thirteen positive numbers, conv1_1 first.

        Raises:
            ValueError: Not thirteen divisors, or one is not a positive finite number.
        """
        convs = [conv for stage in self.stages() for conv in stage]
        if len(divisors) != len(convs):
            raise ValueError(f"VGG-16 has {len(convs)} convolutions, not {len(divisors)}.")
        if not all(0 < divisor < float("inf") for divisor in divisors):
            raise ValueError(
                "An activation to divide by is not a positive finite number: "
                f"{', '.join(f'{divisor:.3g}' for divisor in divisors)}."
            )
        incoming = 1.0
        for conv, divisor in zip(convs, divisors, strict=True):
            conv.weight.mul_(incoming / divisor)
            conv.bias.div_(divisor)  # type: ignore[union-attr]
            incoming = divisor


def torchvision_state_dict(weights: str) -> dict[str, Tensor]:
    """ImageNet weights by this package's names, downloaded by torchvision on first use.

    Args:
        weights: ``"torchvision"`` (VGG16_Weights.IMAGENET1K_V1, to be fed with
            `TORCHVISION_NORMALIZATION`) or ``"caffe"`` (VGG16_Weights.IMAGENET1K_FEATURES, the
            authors' own, to be fed with `CAFFE_NORMALIZATION`, without fc6 and fc7).

    Raises:
        OSError: The download failed.
    """
    from torchvision.models import VGG16_Weights

    source = {
        "torchvision": VGG16_Weights.IMAGENET1K_V1,
        "caffe": VGG16_Weights.IMAGENET1K_FEATURES,
    }[weights].get_state_dict(progress=True, check_hash=True, weights_only=True)
    return from_torchvision(source)


def conv_names() -> list[str]:
    """``conv1_1 … conv5_3``."""
    return [f"conv{s}_{p}" for s, (depth, _) in enumerate(STAGES, 1) for p in range(1, depth + 1)]


def from_torchvision(source: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of torchvision's VGG-16 by this package's names, in float32.

    Args:
        source: ``features.N.*``, numbered through convolutions, ReLUs and poolings, and perhaps
            ``classifier.N.*``.

    Returns:
        ``conv1_1.weight …`` and, where the classifier is there (torchvision fills with NaN what
        it has not), ``fc6.*`` and ``fc7.*`` as `as_convolutions` gives them.

    Raises:
        ValueError: There are not thirteen convolutions.
    """
    numbers = sorted({int(key.split(".")[1]) for key in source if key.startswith("features.")})
    names = conv_names()
    if len(numbers) != len(names):
        raise ValueError(f"VGG-16 has {len(names)} convolutions, not {len(numbers)}.")
    state = {
        f"{name}.{kind}": source[f"features.{number}.{kind}"].float()
        for name, number in zip(names, numbers, strict=True)
        for kind in ("weight", "bias")
    }
    layers = {"fc6": "classifier.0", "fc7": "classifier.3"}
    found = {
        f"{name}.{kind}": source[f"{theirs}.{kind}"].float()
        for name, theirs in layers.items()
        for kind in ("weight", "bias")
        if f"{theirs}.{kind}" in source
    }
    if all(tensor.isfinite().all() for tensor in found.values()):
        state |= as_convolutions(found)
    return state


def as_convolutions(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """VGG-16's fully connected layers fc6 and fc7 as the convolutions they are (§3.1, §4.1).

    fc6 sees all 7×7 cells of pool5 at once: it is a 7×7 convolution. fc7 is a 1×1 convolution.

    Args:
        state: ``fc6.weight`` [O, C · 49], channels first, and ``fc7.weight`` [O, O], of any shape
            with as many values; everything else is passed on.
    """
    sides = {"fc6.weight": 7, "fc7.weight": 1}
    return {
        name: tensor.reshape(len(state[f"{name[:3]}.bias"]), -1, sides[name], sides[name])
        if name in sides
        else tensor
        for name, tensor in state.items()
    }
