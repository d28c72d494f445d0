"""The same network arranged for speed: equal outputs, other operations.

What `optimized` changes, and what it leaves to the network as it stands, was decided by
measurement; docs/performance.md has figures.

- **Bands.** The stages of the backbone and the last two steps of the decoder, which work on the
  largest maps, go through the picture in bands of rows. What a band needs stays in the processor's
  caches, and the large maps, logits included, never exist as a whole.
- **Winograd.** On processors with AVX2 but not AVX-512, 3×3 convolutions in float32 on large maps
  use NNPACK's Winograd algorithm F(6×6, 3×3) (Lavin and Gray, 2016), with 2.25 to 5 times fewer
  multiplications. Its rounding is a few times that of a direct convolution.
- **Pooling.** Without the places of the maxima, which only training needs. What a ReLU gives is
  not negative, and such floats are ordered like the integers of the same bits, which are compared
  in half the time. Where the ReLU is not part of the convolution, it comes after the pooling:
  max(relu(x)) = relu(max(x)), and there is a quarter as much of it.
- **Packed weights.** oneDNN, which computes everything else, reads weights in an order of its own.
  They are brought into it once rather than at every call, and the ReLU is part of the convolution.
  The model keeps its own, so the weights are held twice.
- **Folded batch normalisation.** bn(z) = a·(z + b/a). The scale goes into the weights of the layer
  that follows. In steps 1 to 4 the shift is added with the skip instead, *before* the transposed
  convolution, so that nothing changes at the border, where there is nothing to shift. bn5 goes
  into the 1×1 classifier as a whole.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fcn_hub.decoders import DeconvDecoder
from fcn_hub.model import FCN

Consumer = Callable[[int, int, Tensor], None]
_Conv = nn.Conv2d | nn.ConvTranspose2d

# Bytes of what a band's convolutions write, at most. Those of 8 MiB stay in the processor's caches.
# Bands of three convolutions see more rows beside their own, too many for that; they only keep
# below the 32 MiB from which on the C library fetches memory anew and gives it back.
_CACHED_BAND, _LARGEST_BAND = 2**23, 2**24

# Height and width of the map for which oneDNN is asked how it wants the weights. In that order they
# serve every other size too; where it wants another one, it makes it at each call, which takes up
# to about a hundredth of the time.
_PACKING_SIZE = (64, 64)

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
        convs = [conv for stage in self.backbone.stages() for conv in stage]
        self.packed = _packed([*convs, *self.deconvs], dtype)  # type: ignore[list-item]

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
        for step in range(1, 4):
            x = self._add_skip(step, self._deconvolve(step, x), pools[-step])
        row_bytes = 2 * x.shape[3] * pools[0].shape[1] * x.element_size()
        band = _band_rows(2 * x.shape[2], row_bytes, _CACHED_BAND) // 2
        for top in range(0, x.shape[2], band):
            if 4 * top >= height:
                return
            # An odd row of an output needs the input's next row as well.
            rows = self._deconvolve(4, x[:, :, top : top + band + 1])[:, :, : 2 * band + 1]
            rows = self._add_skip(4, rows, pools[0][:, :, 2 * top : 2 * (top + band) + 1])
            rows = self._deconvolve(5, rows)[:, :, : 4 * band]
            logits = self.classifier(rows)[0]
            yield 4 * top, logits[:, : height - 4 * top, :width]

    def _pools(self, x: Tensor) -> list[Tensor]:
        pools = []
        for convs in self.backbone.stages():
            x = self._stage(convs, x)
            pools.append(x)
        return pools

    def _stage(self, convs: list[nn.Conv2d], x: Tensor) -> Tensor:
        """A stage of the backbone, band by band."""
        height, width = x.shape[2:]
        size = (1, convs[-1].out_channels, height // 2, width // 2)
        output = torch.empty(size, dtype=x.dtype, memory_format=self.memory_format)
        row_bytes = width * convs[-1].out_channels * x.element_size()
        most_bytes = _CACHED_BAND if len(convs) == 2 else _LARGEST_BAND
        band = _band_rows(height, row_bytes, most_bytes)
        rectified = convs[-1] in self.packed and not self.winograd
        for top in range(0, height, band):
            bottom = min(top + band, height)
            # A convolution sees zeros beyond a cut, so its row next to it is wrong, and as many
            # more rows are needed there as convolutions follow.
            more = len(convs)
            start = max(top - more, 0)
            rows = x[:, :, start : bottom + more]
            for conv in convs:
                more -= 1
                rows = self._convolve(conv, rows, relu=rectified or more > 0)
                rows = rows[:, :, max(top - more, 0) - start : bottom + more - start]
                start = max(top - more, 0)
            _pool(rows, output[:, :, top // 2 : bottom // 2], rectified)
        return output

    def _convolve(self, conv: nn.Conv2d, x: Tensor, relu: bool) -> Tensor:
        is_large = x.shape[2] * x.shape[3] >= _LEAST_WINOGRAD_PIXELS
        if self.winograd and is_large and conv.in_channels >= 16:
            x = x.contiguous()
            x = torch._nnpack_spatial_convolution(x, conv.weight, conv.bias, (1, 1))
        elif conv in self.packed:
            return _run_packed(conv, self.packed[conv], x, "relu" if relu else "none")
        else:
            x = conv(x)
        return x.relu_() if relu else x

    def _deconvolve(self, step: int, x: Tensor) -> Tensor:
        """Step's transposed convolution and ReLU."""
        x = x.contiguous(memory_format=torch.channels_last)
        deconv: nn.ConvTranspose2d = self.deconvs[step - 1]  # type: ignore[assignment]
        if deconv in self.packed:
            return _run_packed(deconv, self.packed[deconv], x, "relu")
        return deconv(x).relu_()

    def _add_skip(self, step: int, x: Tensor, pool: Tensor) -> Tensor:
        if step <= self.skips:
            x.add_(pool)
        return x.add_(self.get_buffer(f"shift{step}"))


def _packed(convs: Iterable[_Conv], dtype: torch.dtype) -> dict[_Conv, Tensor]:
    """The weights in oneDNN's order; none where oneDNN does not compute in this type."""
    is_x86 = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    if not (is_x86 and torch.backends.mkldnn.is_available()):
        return {}
    has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if dtype != torch.float32 and not (dtype == torch.bfloat16 and has_bfloat16):
        return {}
    packed = {}
    for conv in convs:
        reorder, _, geometry = _onednn(conv)
        packed[conv] = reorder(conv.weight, *geometry, [1, conv.in_channels, *_PACKING_SIZE])
    return packed


def _run_packed(conv: _Conv, weight: Tensor, x: Tensor, then: str) -> Tensor:
    _, run, geometry = _onednn(conv)
    return run(x, weight, conv.bias, *geometry, then, [], "")


def _onednn(conv: _Conv) -> tuple[Any, Any, tuple[Any, ...]]:
    """What brings the weights into order, what computes, and the arguments that both share."""
    ops, last = torch.ops.mkldnn, (conv.stride, conv.dilation, conv.groups)
    if isinstance(conv, nn.ConvTranspose2d):
        geometry = (conv.padding, conv.output_padding, *last)
        run = ops._convolution_transpose_pointwise
        return ops._reorder_convolution_transpose_weight, run, geometry
    return ops._reorder_convolution_weight, ops._convolution_pointwise, (conv.padding, *last)


def _band_rows(height: int, row_bytes: int, most_bytes: int) -> int:
    """Rows of a band; even, for the pooling, and alike but for the last, which may be smaller."""
    most = max(2, most_bytes // row_bytes // 2 * 2)
    count = -(-height // most)
    return -(-height // (2 * count)) * 2


def _pool(x: Tensor, out: Tensor, rectified: bool) -> None:
    """2×2 max pooling, and a ReLU unless x has been through one."""
    if rectified:
        integer = {2: torch.int16, 4: torch.int32}[x.element_size()]
        x, out = x.view(integer), out.view(integer)
    rows = torch.maximum(x[:, :, 0::2], x[:, :, 1::2])
    torch.maximum(rows[..., 0::2], rows[..., 1::2], out=out)
    if not rectified:
        out.relu_()


def _scaled(weight: Tensor, scale: Tensor) -> Tensor:
    return (weight.double() * scale).float()


def _winograd_is_faster(dtype: torch.dtype) -> bool:
    return (
        dtype == torch.float32
        and torch.backends.cpu.get_cpu_capability() == "AVX2"
        and torch._nnpack_available()
    )
