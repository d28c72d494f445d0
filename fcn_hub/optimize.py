"""The same network arranged for speed: equal outputs, other operations.

What `optimized` changes, and what it leaves to the network as it stands, was decided by
measurement; docs/performance.md has figures.

- **Bands.** The first two stages and the last decoder step, which work on the largest maps, go
  through the picture in bands of rows. What a band needs stays in the processor's caches, and the
  large maps, logits included, never exist as a whole.
- **Winograd.** On processors with AVX2 but not AVX-512, 3×3 convolutions in float32 on large maps
  use NNPACK's Winograd algorithm F(6×6, 3×3) (Lavin and Gray, 2016), with 2.25 to 5 times fewer
  multiplications. Its rounding is a few times that of a direct convolution.
- **Pooling.** Without the places of the maxima, which only training needs, and before the ReLU:
  max(relu(x)) = relu(max(x)), and there is a quarter as much of it.
- **Folded batch normalisation.** bn(z) = a·(z + b/a). The scale goes into the weights of the layer
  that follows. In steps 1 to 4 the shift is added to the skip instead, *before* the transposed
  convolution, so that nothing changes at the border, where there is nothing to shift. bn5 goes
  into the 1×1 classifier as a whole.
"""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fcn_hub.decoders import DeconvDecoder
from fcn_hub.model import FCN

Consumer = Callable[[int, int, Tensor], None]

# Rows of a band, in rows of the map that it is made of.
_BAND_ROWS = 64

# Below this many pixels of a map, transforming the weights costs more than Winograd saves.
_LEAST_WINOGRAD_PIXELS = 48 * 48

# Beyond this many standard deviations, adding a shift and scaling afterwards would lose digits.
_LARGEST_SHIFT = 100.0


def optimized(model: FCN, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The network for inference on a CPU, its output equal to the model's up to rounding.

    Args:
        model: In float32 and eval mode, on the CPU.
        dtype: What to compute in. The convolutions of the backbone are shared with the model,
            which has them in this type from now on.

    Returns:
        A module like the model: normalised pictures [N, 3, H, W] to logits [N, classes, H, W];
        the model itself where its decoder is not `DeconvDecoder`, normalises before it adds, or
        has a batch normalisation that cannot be folded without losing digits.
    """
    if type(model.decoder) is not DeconvDecoder or not _foldable(model.decoder):
        return model.to(dtype)
    return OptimizedFCN(model, dtype).eval()


def _foldable(decoder: DeconvDecoder) -> bool:
    if decoder.bn_first:
        return False
    for step in range(1, 5):
        norm = decoder.get_submodule(f"bn{step}")
        _, shift = _scale_and_shift(norm)  # type: ignore[arg-type]
        deviation = (norm.running_var + norm.eps).sqrt()  # type: ignore[operator,union-attr]
        if not (shift.abs() <= _LARGEST_SHIFT * deviation).all():
            return False
    return True


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """a and s of batch normalisation in the form a·(z + s), float64 [C]."""
    mean, var = norm.running_mean.double(), norm.running_var.double()  # type: ignore[union-attr]
    scale = norm.weight.double() / (var + norm.eps).sqrt()
    return scale, norm.bias.double() / scale - mean


class OptimizedFCN(nn.Module):
    """An FCN with `DeconvDecoder`, arranged for a CPU; made by `optimized`."""

    def __init__(self, model: FCN, dtype: torch.dtype) -> None:
        super().__init__()
        decoder = model.decoder
        assert isinstance(decoder, DeconvDecoder)
        self.multiple = decoder.multiple
        self.skips = decoder.skips
        self.winograd = _winograd_is_faster(dtype)
        self.backbone = model.backbone
        self.deconvs = nn.ModuleList()
        scale = torch.ones(model.backbone.channels[-1], dtype=torch.float64)
        for step in range(1, 6):
            deconv: nn.ConvTranspose2d = copy.deepcopy(decoder.get_submodule(f"deconv{step}"))  # type: ignore[assignment]
            deconv.weight.data = _scaled(deconv.weight, scale.view(-1, 1, 1, 1))
            self.deconvs.append(deconv)
            norm: nn.BatchNorm2d = decoder.get_submodule(f"bn{step}")  # type: ignore[assignment]
            scale, shift = _scale_and_shift(norm)
            if step < 5:
                self.register_buffer(f"shift{step}", shift.float().view(-1, 1, 1))
        self.classifier = copy.deepcopy(decoder.classifier)
        weight = self.classifier.weight.double()
        constant = weight[:, :, 0, 0] @ (norm.bias - norm.running_mean * scale)  # type: ignore[operator]
        self.classifier.bias = nn.Parameter((self.classifier.bias + constant).float())  # type: ignore[operator]
        self.classifier.weight.data = _scaled(self.classifier.weight, scale.view(-1, 1, 1))
        self.to(dtype)
        # NNPACK wants channels first, oneDNN's transposed convolutions are faster with them last.
        self.memory_format = torch.contiguous_format if self.winograd else torch.channels_last
        self.backbone.to(memory_format=self.memory_format)
        self.deconvs.to(memory_format=torch.channels_last)
        self.classifier.to(memory_format=torch.channels_last)
        self.requires_grad_(False)

    def forward(self, x: Tensor, consume: Consumer | None = None) -> Tensor | None:
        """Compute the logits, whole or band by band.

        Args:
            x: Normalised pictures, [N, 3, H, W].
            consume: Called with the picture's index, y, and the logits [num_classes, h, W] of its
                rows from y on, from top to bottom; they may be changed, and are not kept.

        Returns:
            Logits [N, num_classes, H, W]; None with `consume`.
        """
        if consume is None:
            pictures = [torch.cat([rows for _, rows in self._bands(each)], dim=1) for each in x]
            return torch.stack(pictures)
        for index, picture in enumerate(x):
            for y, rows in self._bands(picture):
                consume(index, y, rows)
        return None

    def _bands(self, picture: Tensor) -> Iterator[tuple[int, Tensor]]:
        """y, and the logits [num_classes, h, W] of one picture's rows from y on."""
        height, width = picture.shape[-2:]
        x = F.pad(picture[None], (0, -width % self.multiple, 0, -height % self.multiple))
        x = x.contiguous(memory_format=self.memory_format)
        *pools, x = self._pools(x)
        for step in range(1, 5):
            x = self.deconvs[step - 1](x.contiguous(memory_format=torch.channels_last)).relu_()
            shift = self.get_buffer(f"shift{step}")
            x = x.add_(pools[-step] + shift if step <= self.skips else shift)
        for top in range(0, x.shape[2], _BAND_ROWS):
            if 2 * top >= height:
                return
            # An odd row of the output needs the input's next row as well.
            rows = self.deconvs[4](x[:, :, top : top + _BAND_ROWS + 1])[:, :, : 2 * _BAND_ROWS]
            logits = self.classifier(rows.relu_())[0]
            yield 2 * top, logits[:, : height - 2 * top, :width]

    def _pools(self, x: Tensor) -> list[Tensor]:
        pools = []
        for convs in self.backbone.stages():
            x = self._banded(convs, x) if len(convs) == 2 else self._stage(convs, x)
            pools.append(x)
        return pools

    def _stage(self, convs: list[nn.Conv2d], x: Tensor) -> Tensor:
        *first, last = convs
        for conv in first:
            x = self._convolve(conv, x).relu_()
        return _pooled(self._convolve(last, x)).relu_()

    def _banded(self, convs: list[nn.Conv2d], x: Tensor) -> Tensor:
        """A stage of two convolutions, band by band; each sees two more rows on either side."""
        height = x.shape[2]
        outputs = []
        for top in range(0, height, _BAND_ROWS):
            above, below = min(top, 2), min(max(height - top - _BAND_ROWS, 0), 2)
            rows = x[:, :, top - above : top + _BAND_ROWS + below]
            # What a convolution makes of rows next to a cut is wrong: it saw zeros beyond it.
            rows = _cropped(self._convolve(convs[0], rows), above // 2, below // 2).relu_()
            rows = _cropped(self._convolve(convs[1], rows), above // 2, below // 2)
            outputs.append(_pooled(rows).relu_())
        return torch.cat(outputs, dim=2)

    def _convolve(self, conv: nn.Conv2d, x: Tensor) -> Tensor:
        is_large = x.shape[2] * x.shape[3] >= _LEAST_WINOGRAD_PIXELS
        if self.winograd and is_large and conv.in_channels >= 16:
            return torch._nnpack_spatial_convolution(x.contiguous(), conv.weight, conv.bias, (1, 1))
        return conv(x)


def _pooled(x: Tensor) -> Tensor:
    """2×2 max pooling. Torch's own also finds the places, which takes eight times as long where
    channels come first.
    """
    if x.is_contiguous(memory_format=torch.channels_last):
        return F.max_pool2d(x, 2)
    rows = torch.maximum(x[:, :, 0::2], x[:, :, 1::2])
    return torch.maximum(rows[..., 0::2], rows[..., 1::2])


def _cropped(x: Tensor, above: int, below: int) -> Tensor:
    return x[:, :, above : x.shape[2] - below]


def _scaled(weight: Tensor, scale: Tensor) -> Tensor:
    return (weight.double() * scale).float()


def _winograd_is_faster(dtype: torch.dtype) -> bool:
    return (
        dtype == torch.float32
        and torch.backends.cpu.get_cpu_capability() == "AVX2"
        and torch._nnpack_available()
    )
