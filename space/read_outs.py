"""What every stage of the network makes of a picture.

Two kinds of read-out, neither of which trains anything. *Heat maps*: the mean over the channels of
each pool output. *The build-up*: the network's own prediction when the place of anything finer than
a given stride is withheld. For that, each finer pool output is averaged over cells of that stride
before the decoder adds it: how much of everything there is stays, where it is goes. So the decoder
meets activations of the kind that it was trained on, which would not be so if skips were left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fcn_hub import Segmenter
from fcn_hub.decoders import DeconvDecoder, ScoreDecoder

STRIDES = (32, 16, 8, 4, 2)
# On two CPU cores five decoder runs at this size take about as long as one picture on the page.
MAX_SIDE = 384


@dataclass(frozen=True)
class ReadOuts:
    """The stages of one picture.

    Args:
        picture: The picture as the network saw it.
        heat: Per pool output, pool1 first: mean activation, float32 [h, w].
        build_up: Per entry of STRIDES: the label map, [H, W] at the picture's size.
        finest: The stride of the finest pool output that the decoder makes use of.
    """

    picture: Image.Image
    heat: list[np.ndarray]
    build_up: list[np.ndarray]
    finest: int


@torch.inference_mode()
def read_out(segmenter: Segmenter, picture: Image.Image) -> ReadOuts:
    """Run a picture through the network and look at every stage.

    Args:
        segmenter: Gives the network and its normalisation.
        picture: RGB, of any size; scaled down to MAX_SIDE, or to what the segmenter looks at.
    """
    model = segmenter.model
    side = min(MAX_SIDE, segmenter.max_side or MAX_SIDE)
    if max(picture.size) > side:
        picture = picture.copy()
        picture.thumbnail((side, side))
    width, height = picture.size
    pixels = torch.from_numpy(np.array(picture)).to(segmenter.device).permute(2, 0, 1)[None]
    mean = torch.tensor(model.image_mean, device=segmenter.device).view(3, 1, 1)
    std = torch.tensor(model.image_std, device=segmenter.device).view(3, 1, 1)
    x = ((pixels / 255 - mean) / std).to(segmenter.dtype)
    # To multiples of the stride, as the network itself does it.
    multiple = model.decoder.multiple
    x = F.pad(x, (0, -width % multiple, 0, -height % multiple))
    pools = model.backbone(x.contiguous(memory_format=torch.channels_last))
    heat = []
    for stride, pool in zip(reversed(STRIDES), pools, strict=True):
        first = model.backbone.margin // stride
        rows, columns = -(-height // stride), -(-width // stride)
        inside = pool[0, :, first : first + rows, first : first + columns]
        heat.append(inside.float().mean(dim=0).cpu().numpy())
    build_up = []
    for stride in STRIDES:
        logits = model.decoder(withhold(pools, stride))[0, :, :height, :width]
        build_up.append(logits.argmax(dim=0).cpu().numpy())
    return ReadOuts(picture, heat, build_up, finest_stride(model.decoder))


def finest_stride(decoder: DeconvDecoder | ScoreDecoder) -> int:
    """The stride of the finest pool output that a decoder makes use of, 32 without skips."""
    return 32 >> decoder.skips if isinstance(decoder, DeconvDecoder) else decoder.stride


def withhold(pools: Sequence[Tensor], stride: int) -> list[Tensor]:
    """Pool outputs pool1 … pool5 (strides 2 … 32) that know no place finer than `stride`.

    Those of a finer stride are averaged over cells of `stride` pixels; the others stay.
    """
    withheld = []
    for own, pool in zip(reversed(STRIDES), pools, strict=True):
        if own < stride:
            rows, columns = pool.shape[-2:]
            cells = F.avg_pool2d(pool, stride // own, ceil_mode=True)
            cells = F.interpolate(cells, scale_factor=stride // own, mode="nearest")
            pool = cells[..., :rows, :columns]
        withheld.append(pool)
    return withheld
