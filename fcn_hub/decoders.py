"""The decoders: from the backbone's pool outputs, coarse to fine, to one logit per class.

`DeconvDecoder` doubles the resolution five times with learned transposed convolutions and adds
the pool output of the same size after each: the skip connections of Long et al. (2015, §4.2),
added between feature maps instead of between scores, as in the widely copied
pochih/FCN-pytorch.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from fcn_hub.layers import Conv2d, ConvTranspose2d


class DeconvDecoder(nn.Module):
    """Five learned upsampling steps with up to four skips, then a 1×1 classifier.

    Each step is a 3×3 transposed convolution (``deconv1 … deconv5``) that exactly doubles height
    and width, then a ReLU. In steps 1 to 4 the pool output of the same size (pool4, pool3, pool2,
    pool1) is added after the ReLU. Batch normalisation (``bn1 … bn5``) comes after the addition.

    Args:
        channels: Channels of pool1 … pool5; those of the last step are half of pool1's.
        num_classes: Number of logits per pixel.
        skips: How many pool outputs are added, deepest first, 0 to 4. With 0, 1 and 2 of them
            this is FCN-pytorch's FCN32s, FCN16s and FCN8s. Its FCNs has the same tensors as 4
            but normalises before each addition.
    """

    stride = 32

    def __init__(self, channels: Sequence[int], num_classes: int, skips: int = 4) -> None:
        super().__init__()
        self.skips = skips
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
            if step <= self.skips:
                x = x + skips[-step]
            x = self.get_submodule(f"bn{step}")(x)
        return self.classifier(x)
