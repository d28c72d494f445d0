"""The decoders: from the backbone's pool outputs, coarse to fine, to one logit per class.

`ScoreDecoder` is that of Long et al. (2015, §4.2): VGG-16's fully connected layers as
convolutions, and class scores that are interpolated and added. `DeconvDecoder` doubles the
resolution five times with learned transposed convolutions and adds feature maps instead, as in the
widely copied pochih/FCN-pytorch.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from fcn_hub.layers import Conv2d, ConvTranspose2d, Interpolation, ScoreConv2d


class DeconvDecoder(nn.Module):
    """Five learned upsampling steps with up to four skips, then a 1×1 classifier.

    Each step is a 3×3 transposed convolution (``deconv1 … deconv5``) that exactly doubles height
    and width, then a ReLU. In steps 1 to 4 the pool output of the same size (pool4, pool3, pool2,
    pool1) is added after the ReLU. Batch normalisation (``bn1 … bn5``) comes after the addition.

    Args:
        channels: Channels of pool1 … pool5; those of the last step are half of pool1's.
        num_classes: Number of logits per pixel.
        skips: How many pool outputs are added, deepest first, 0 to 4. With 0, 1 and 2 of them
            this is FCN-pytorch's FCN32s, FCN16s and FCN8s.
        bn_first: Batch normalisation comes before the addition, as in FCN-pytorch's FCNs.
    """

    multiple = 32  # the height and width of pictures must be multiples of this

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        skips: int = 4,
        bn_first: bool = False,
    ) -> None:
        super().__init__()
        self.skips = skips
        self.bn_first = bn_first
        pool1, pool2, pool3, pool4, pool5 = channels
        widths = (pool5, pool4, pool3, pool2, pool1, max(1, pool1 // 2))
        for step, (channels_in, channels_out) in enumerate(pairwise(widths), start=1):
            deconv = ConvTranspose2d(
                channels_in, channels_out, kernel_size=3, stride=2, padding=1, output_padding=1
            )
            self.add_module(f"deconv{step}", deconv)
            self.add_module(f"bn{step}", nn.BatchNorm2d(channels_out))
        self.classifier = Conv2d(widths[-1], num_classes, kernel_size=1)

    def forward(self, pools: Sequence[Tensor]) -> Tensor:
        """Compute the logits.

        Args:
            pools: pool1 … pool5 of a picture whose height and width are multiples of 32.

        Returns:
            float [N, num_classes, H, W] at the picture's size.
        """
        *skips, x = pools
        for step in range(1, 6):
            x = F.relu(self.get_submodule(f"deconv{step}")(x), inplace=True)
            if self.bn_first:
                x = self.get_submodule(f"bn{step}")(x)
            if step <= self.skips:
                x = x + skips[-step]
            if not self.bn_first:
                x = self.get_submodule(f"bn{step}")(x)
        return self.classifier(x)


class ScoreDecoder(nn.Module):
    """The decoder of FCN-32s, FCN-16s and FCN-8s (Long et al., 2015, §4.1 and §4.2).

    ``fc6`` (7×7) and ``fc7`` (1×1) are VGG-16's fully connected layers as convolutions, each with
    ReLU and dropout, and ``score_fr`` turns what they find into class scores, one for every 32
    pixels. FCN-32s interpolates these to pixels (``upscore``). FCN-16s doubles them
    (``upscore2``), adds scores of pool4 (``score_pool4``) and interpolates the sum
    (``upscore16``). FCN-8s doubles that sum again (``upscore_pool4``), adds scores of pool3
    (``score_pool3``) and interpolates (``upscore8``). Names, kernels and offsets are those of the
    authors' networks (github.com/shelhamer/fcn.berkeleyvision.org).

    The offsets: the backbone pads the picture by 100 pixels, so its cells begin before the
    picture does. Of the scores that are added, those that have no partner are cut off, and of the
    result what lies before the picture's first pixel.

    Args:
        channels: Channels of pool1 … pool5.
        num_classes: Number of scores per pixel.
        stride: 32, 16 or 8: how many pixels the last interpolation makes of a cell.
        fc_channels: Channels of fc6 and fc7; VGG-16 has 4096.
        learn_interpolation: Whether the interpolations take part in training. They begin as
            bilinear ones, and the authors saw no gain in learning them.
        at_once: Scale pool4 by 0.01 and pool3 by 0.0001 before they are scored, which lets all
            three streams be trained together from the original VGG-16 weights.
    """

    multiple = 1

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        stride: int,
        *,
        fc_channels: int = 4096,
        learn_interpolation: bool = False,
        at_once: bool = False,
    ) -> None:
        super().__init__()
        self.stride = stride
        *_, pool3, pool4, pool5 = channels

        def interpolation(factor: int) -> Interpolation:
            return Interpolation(num_classes, factor, learn=learn_interpolation)

        self.fc6 = Conv2d(pool5, fc_channels, kernel_size=7)
        self.fc7 = Conv2d(fc_channels, fc_channels, kernel_size=1)
        self.score_fr = ScoreConv2d(fc_channels, num_classes)
        if stride == 32:
            self.upscore = interpolation(32)
            return
        self.upscore2 = interpolation(2)
        self.score_pool4 = ScoreConv2d(pool4, num_classes, 0.01 if at_once else 1.0)
        if stride == 16:
            self.upscore16 = interpolation(16)
            return
        self.upscore_pool4 = interpolation(2)
        self.score_pool3 = ScoreConv2d(pool3, num_classes, 0.0001 if at_once else 1.0)
        self.upscore8 = interpolation(8)

    def forward(self, pools: Sequence[Tensor]) -> Tensor:
        """Compute the logits.

        Args:
            pools: pool1 … pool5 of a picture that the backbone has padded by 100 pixels.

        Returns:
            float [N, num_classes, h, w] from the picture's first pixel on, with h and w not below
            the picture's height and width.
        """
        *_, pool3, pool4, x = pools
        x = F.dropout(F.relu(self.fc6(x), inplace=True), 0.5, self.training)
        x = F.dropout(F.relu(self.fc7(x), inplace=True), 0.5, self.training)
        x = self.score_fr(x)
        if self.stride == 32:
            return self.upscore(x)[..., 19:, 19:]
        x = self.upscore2(x)
        x = x + _crop(self.score_pool4(pool4), 5, x)
        if self.stride == 16:
            return self.upscore16(x)[..., 27:, 27:]
        x = self.upscore_pool4(x)
        x = x + _crop(self.score_pool3(pool3), 9, x)
        return self.upscore8(x)[..., 31:, 31:]


def _crop(scores: Tensor, offset: int, like: Tensor) -> Tensor:
    """The part of `scores` that lies under `like`, whose first cell is that at (offset, offset)."""
    height, width = like.shape[-2:]
    return scores[..., offset : offset + height, offset : offset + width]
