"""Segmenter: the road from a picture to a `Segmentation`.

It owns everything between the two: opening, resizing, normalising, batching, tiling of pictures
that are too large for one pass, and turning logits into class indices and confidences.
"""

import copy
import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from fcn_hub.compiled import CompiledFCN
from fcn_hub.hub import fetch_file
from fcn_hub.images import ImageError, ImageSource, open_image
from fcn_hub.model import FCN
from fcn_hub.optimize import OptimizedFCN, optimized
from fcn_hub.runtimes import BACKENDS, BackendError, export_files, load_network
from fcn_hub.segmentation import Segmentation
from fcn_hub.transfers import Transfers

# Neighbouring tiles share this many pixels. The outer quarter of it on each side, where a tile
# sees least around it, is left to the neighbour; over the middle half the two are blended.
TILE_OVERLAP = 256
_MIN_TILE = 3 * TILE_OVERLAP  # smaller, and tiles would meet more than their neighbours
_STRIDE = 32

# Logits are turned into labels this many values at a time, which bounds the extra memory. On a CPU
# they stay in its caches.
_BLOCK_VALUES = {"cpu": 2**20, "other": 2**24}


class _Picture(NamedTuple):
    """A picture, and the same at the size at which the network sees it."""

    image: Image.Image
    resized: Image.Image


class _Maps(NamedTuple):
    """The label map and the confidence of one picture, on the device."""

    label_map: Tensor
    confidence: Tensor

    def fill(self, logits: Tensor, y: int, x: int) -> None:
        """Fill in the area whose top left corner is (y, x) from its logits [C, h, w]."""
        step = _block_rows(logits)
        for top in range(0, logits.shape[1], step):
            block = logits[:, top : top + step].float()
            best, label = block.max(dim=0)
            area = np.s_[y + top : y + top + block.shape[1], x : x + block.shape[2]]
            self.label_map[area] = label
            # The softmax of the best class, whose own term of the sum is 1.
            self.confidence[area] = (block - best).exp_().sum(dim=0).reciprocal_()


class Segmenter:
    """Segments pictures of any size and kind with an FCN.

    Safe to call from several threads; the network runs for one of them at a time.

    Args:
        model: The network. A copy of it is used, so training it further has no effect here.
        device: ``"auto"`` (CUDA, then MPS, then the CPU) or any torch device.
        dtype: ``"auto"`` (bfloat16 where the hardware computes in it, else float32), or a
            floating-point torch dtype or its name. Batch norm always runs in float32. With
            OpenVINO also ``"int8"``, the quantised network.
        backend: What runs the network: ``"torch"``, or the CPU runtimes ``"onnx"`` (ONNX
            Runtime) and ``"openvino"``.
        compile: Run the network through torch.compile, for a GPU that many pictures go through:
            each of the first eight sizes takes a while to begin with. On a CPU it takes the place
            of the arrangement in `fcn_hub.optimize`. Not on ZeroGPU.
        exported: The folder in which `fcn_hub.export` has put the exported network for such a
            runtime. Where None, it is exported here and now, which takes some seconds.
        max_side: The longest side, in pixels, at which the network sees a picture; larger ones
            are scaled down for it. ``"auto"`` is the model's own, the size at which it has
            learned to see; None keeps every picture at its own size. Results have the picture's
            own size either way.
        pixel_budget: Pixels that pass through the network at once. A picture above it is
            processed in overlapping tiles, blended where they meet. Where memory runs out,
            batches and then this budget are halved, with a warning.
        max_pixels, max_bytes: Limits on pictures, as for `open_image`.

    Raises:
        ValueError: An argument has a wrong value, or the device is not there.

    Example:
        >>> segmenter = Segmenter.from_pretrained("owner/name")  # doctest: +SKIP
        >>> segmenter("photo.jpg").overlay(legend=True).save("overlay.png")  # doctest: +SKIP
    """

    def __init__(
        self,
        model: FCN,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        *,
        backend: str = "torch",
        compile: bool = False,
        exported: str | Path | None = None,
        max_side: int | Literal["auto"] | None = "auto",
        pixel_budget: int = 2 * 2**20,
        max_pixels: int = 64_000_000,
        max_bytes: int = 64 * 2**20,
    ) -> None:
        if max_side == "auto":
            max_side = model.max_side
        if max_side is not None and max_side < 1:
            raise ValueError(f"max_side must be at least 1 pixel, not {max_side}.")
        if pixel_budget < _MIN_TILE**2:
            raise ValueError(f"pixel_budget must be at least {_MIN_TILE**2}, not {pixel_budget}.")
        if compile and backend != "torch":
            raise ValueError(f"The backend {backend!r} cannot be compiled; it is an export.")
        self.backend = backend
        self.device = _resolve_device(device, backend)
        self.dtype = _resolve_dtype(dtype, self.device, backend)
        self.max_side = max_side
        self.pixel_budget = pixel_budget
        self.max_pixels = max_pixels
        self.max_bytes = max_bytes
        self.labels = model.label_map
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        if backend == "torch":
            self.network: nn.Module = self.model
            if self.device.type == "cpu" and not compile:
                self.network = optimized(self.model.cpu().float(), self.dtype)
            self.model.to(self.device, self.dtype)
            if self.network is self.model:
                self.model.to(memory_format=torch.channels_last)
            for module in self.model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.float()
            if compile:
                self.network = CompiledFCN(self.model)
        else:
            self.model.cpu().float()
            self.network = _load_exported(self.model, backend, self.dtype, exported)
        self._mean = torch.tensor(model.image_mean, device=self.device).view(3, 1, 1)
        self._std = torch.tensor(model.image_std, device=self.device).view(3, 1, 1)
        self._transfers = Transfers(self.device)
        # So many batches a stream lets the device begin before it waits for the oldest.
        self._ahead = 1 if self._transfers.overlap else 0
        self._lock = threading.Lock()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        revision: str | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        *,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        backend: str = "torch",
        **options: Any,
    ) -> "Segmenter":
        """A segmenter with a model from a folder or the Hub; see `FCN.from_pretrained`.

        Args:
            backend: As for the class; the exported network is among the model's files.
            **options: Further arguments of the class.
        """
        source: dict[str, Any] = {
            "revision": revision,
            "token": token,
            "cache_dir": cache_dir,
            "force_download": force_download,
            "local_files_only": local_files_only,
        }
        # First, so that a wrong argument is told before anything is fetched.
        resolved = _resolve_dtype(dtype, _resolve_device(device, backend), backend)
        model = FCN.from_pretrained(pretrained_model_name_or_path, **source)
        if backend != "torch":
            names = export_files(backend, resolved)
            paths = [fetch_file(pretrained_model_name_or_path, name, **source) for name in names]
            options["exported"] = paths[0].parents[1]
        return cls(model, device, dtype, backend=backend, **options)

    def __call__(self, picture: ImageSource) -> Segmentation:
        """Segment one picture.

        Args:
            picture: Path, bytes, binary file object, PIL image, or uint8 array [H, W, 3] (RGB).

        Raises:
            ImageError: The picture cannot be opened or exceeds a limit.
        """
        return next(self._begin([self._prepared(picture)]))

    @overload
    def stream(
        self, pictures: Iterable[ImageSource], *, batch_size: int = 8
    ) -> Iterator[Segmentation]: ...

    @overload
    def stream(
        self, pictures: Iterable[ImageSource], *, batch_size: int = 8, errors: Literal["raise"]
    ) -> Iterator[Segmentation]: ...

    @overload
    def stream(
        self, pictures: Iterable[ImageSource], *, batch_size: int = 8, errors: Literal["yield"]
    ) -> Iterator[Segmentation | ImageError]: ...

    def stream(
        self,
        pictures: Iterable[ImageSource],
        *,
        batch_size: int = 8,
        errors: Literal["raise", "yield"] = "raise",
    ) -> Iterator[Segmentation | ImageError]:
        """Segment many pictures, in order, decoding the next ones while the network works.

        Pictures of one size share a batch. A result does not depend on what shares its batch
        (beyond floating-point rounding), nor on `batch_size`. No more than three batches of
        pictures are held at once, whatever the length of `pictures`.

        Args:
            pictures: Any number of pictures, each as for a single call.
            batch_size: Most pictures to pass through the network at once.
            errors: With ``"yield"``, a picture that cannot be opened yields its ImageError in
                its place instead of ending the stream.

        Raises:
            ImageError: A picture cannot be opened, with ``errors="raise"``; in its place, after the
                results of those before it.
            ValueError: batch_size is below 1 or errors is something else.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
        if errors not in ("raise", "yield"):
            raise ValueError(f"errors must be 'raise' or 'yield', not {errors!r}.")
        return self._stream(iter(pictures), batch_size, errors == "yield")

    def _stream(
        self, pictures: Iterator[ImageSource], batch_size: int, yield_errors: bool
    ) -> Iterator[Segmentation | ImageError]:
        # Beside a network on the CPU, more than two would only be in its way.
        workers = 2 if self.device.type == "cpu" else min(8, os.cpu_count() or 2)
        pool = ThreadPoolExecutor(workers, thread_name_prefix="fcn-hub-decode")
        preparing: deque[Future[_Picture]] = deque()
        begun: deque[Iterator[Segmentation | ImageError]] = deque()
        try:
            while True:
                wanted = 2 * batch_size - len(preparing)
                preparing.extend(pool.submit(self._prepared, p) for p in islice(pictures, wanted))
                count = min(batch_size, len(preparing))
                batch = [_picture_or_error(preparing.popleft()) for _ in range(count)]
                if batch:
                    opened = [each for each in batch if isinstance(each, _Picture)]
                    begun.append(_in_place(batch, self._begin(opened)))
                while len(begun) > (self._ahead if batch else 0):
                    for result in begun.popleft():
                        if isinstance(result, ImageError) and not yield_errors:
                            raise result
                        yield result
                if not batch:
                    return
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _prepared(self, picture: ImageSource) -> _Picture:
        image = self._open(picture)
        return _Picture(image, self._resized(image))

    def _open(self, picture: ImageSource) -> Image.Image:
        return open_image(picture, max_pixels=self.max_pixels, max_bytes=self.max_bytes)

    def _resized(self, image: Image.Image) -> Image.Image:
        """An image at the size at which the network sees it; itself where that is its own."""
        longest = max(image.size)
        if self.max_side is None or longest <= self.max_side:
            return image
        width, height = (max(1, round(side * self.max_side / longest)) for side in image.size)
        return image.resize((width, height), Image.Resampling.BILINEAR)

    @torch.inference_mode()
    def _begin(self, pictures: Sequence[_Picture]) -> Iterator[Segmentation]:
        """Have the device begin; iterating waits for the results."""
        groups = []
        for indices in self._batches(pictures):
            with self._lock:
                maps = self._classify_group([pictures[index] for index in indices])
                groups.append((indices, self._transfers.download(maps)))
        return self._finish(pictures, groups)

    def _finish(
        self,
        pictures: Sequence[_Picture],
        groups: Sequence[tuple[list[int], Callable[[], list[tuple[np.ndarray, ...]]]]],
    ) -> Iterator[Segmentation]:
        results: dict[int, Segmentation] = {}
        for indices, wait in groups:
            for index, (label_map, confidence) in zip(indices, wait(), strict=True):
                image = pictures[index].image
                results[index] = Segmentation(image, label_map, confidence, self.labels)
        yield from (results[index] for index in range(len(pictures)))

    def _batches(self, pictures: Sequence[_Picture]) -> Iterator[list[int]]:
        """Indices of pictures that pass through the network together: of one size, in budget."""
        by_size: dict[tuple[int, int], list[int]] = {}
        for index, picture in enumerate(pictures):
            by_size.setdefault(picture.resized.size, []).append(index)
        for (width, height), indices in by_size.items():
            step = max(1, self.pixel_budget // (width * height))
            yield from (indices[start : start + step] for start in range(0, len(indices), step))

    def _logits(self, pixels: np.ndarray) -> Tensor:
        """uint8 [N, H, W, 3] through the network: float [N, num_classes, H, W] in `dtype`."""
        return self.network(self._normalized(self._transfers.upload(pixels)))

    def _normalized(self, pixels: Tensor) -> Tensor:
        """uint8 [N, H, W, 3], on the device, as the network takes it: float [N, 3, H, W]."""
        x = (pixels.permute(0, 3, 1, 2) / 255 - self._mean) / self._std
        if self.backend != "torch":
            return x
        return x.to(self.dtype).contiguous(memory_format=torch.channels_last)

    def _classify_group(self, pictures: Sequence[_Picture]) -> list[_Maps]:
        """The maps of pictures of one size; where memory runs out, in smaller parts."""
        width, height = pictures[0].resized.size
        pixels = width * height
        try:
            if len(pictures) == 1 and pixels > self.pixel_budget:
                return [self._classify_tiled(pictures[0])]
            return self._classify_whole(pictures)
        except torch.OutOfMemoryError:
            budget = min(pixels, self.pixel_budget) // 2
            if len(pictures) == 1 and budget < _MIN_TILE**2:
                raise
        # Out of the handler, whose traceback keeps what was allocated.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(pictures) > 1:
            half = len(pictures) // 2
            warnings.warn(
                f"Out of memory with {len(pictures)} pictures; trying {half}.", stacklevel=2
            )
            return self._classify_group(pictures[:half]) + self._classify_group(pictures[half:])
        warnings.warn(
            f"Out of memory; from now on, pictures above {budget:,} pixels are processed in tiles.",
            stacklevel=2,
        )
        self.pixel_budget = budget
        return self._classify_group(pictures)

    def _classify_whole(self, pictures: Sequence[_Picture]) -> list[_Maps]:
        pixels = np.stack([np.asarray(picture.resized) for picture in pictures])
        if all(picture.resized is picture.image for picture in pictures):
            return self._classify_pixels(self._transfers.upload(pixels))
        logits = self._logits(pixels)
        return [self._classify(one, each.image) for each, one in zip(pictures, logits, strict=True)]

    def _classify_pixels(self, pixels: Tensor) -> list[_Maps]:
        """The maps of pictures at their own size, uint8 [N, H, W, 3] on the device."""
        x = self._normalized(pixels)
        maps = [self._empty_maps(*each.shape[:2]) for each in pixels]
        if isinstance(self.network, OptimizedFCN):
            self.network(x, lambda index, y, rows: maps[index].fill(rows, y, 0))
        else:
            for each, logits in zip(maps, self.network(x), strict=True):
                each.fill(logits, 0, 0)
        return maps

    def _classify_tiled(self, picture: _Picture) -> _Maps:
        image, resized = picture
        tiles = blended_tiles(
            resized.height,
            resized.width,
            self.pixel_budget,
            lambda y0, y1, x0, x1: self._logits(np.array(resized.crop((x0, y0, x1, y1)))[None])[0],
        )
        if resized is image:
            maps = self._empty_maps(image.height, image.width)
            for y, x, logits in tiles:
                maps.fill(logits, y, x)
            return maps
        whole = torch.empty(len(self.labels), resized.height, resized.width, device=self.device)
        for y, x, logits in tiles:
            whole[:, y : y + logits.shape[1], x : x + logits.shape[2]] = logits
        return self._classify(whole, image)

    def _classify(self, logits: Tensor, image: Image.Image) -> _Maps:
        """The maps of an image at its own size from its logits [C, h, w] at any size."""
        maps = self._empty_maps(image.height, image.width)
        for y, rows in _upsampled_rows(logits, image.height, image.width):
            maps.fill(rows, y, 0)
        return maps

    def _empty_maps(self, height: int, width: int) -> _Maps:
        label_type = torch.uint8 if len(self.labels) <= 256 else torch.uint16
        return _Maps(
            torch.empty(height, width, dtype=label_type, device=self.device),
            torch.empty(height, width, device=self.device),
        )


def _picture_or_error(picture: Future[_Picture]) -> _Picture | ImageError:
    try:
        return picture.result()
    except ImageError as error:
        return error


def _in_place(
    items: Sequence[_Picture | ImageError], segmented: Iterator[Segmentation]
) -> Iterator[Segmentation | ImageError]:
    """The results in place of the pictures."""
    for item in items:
        yield item if isinstance(item, ImageError) else next(segmented)


def _upsampled_rows(logits: Tensor, height: int, width: int) -> Iterator[tuple[int, Tensor]]:
    """Logits [C, h, w] brought to [C, height, width] bilinearly, a few rows at a time.

    Full-size class logits of a large picture would take gigabytes. Bilinear interpolation is
    separable: all columns first, then each block of rows as a product with the weights of the
    rows that it lies between.
    """
    if logits.shape[1:] == (height, width):
        yield 0, logits
        return
    small = logits.shape[1]
    columns = F.interpolate(
        logits[None].float(), size=(small, width), mode="bilinear", align_corners=False
    )[0]
    step = _block_rows(columns)
    for top in range(0, height, step):
        rows = torch.arange(top, min(top + step, height), dtype=torch.float64)
        source = ((rows + 0.5) * (small / height) - 0.5).clamp(0, small - 1)
        first, last = int(source[0]), min(int(source[-1]) + 1, small - 1)
        weights = (1 - (source[:, None] - torch.arange(first, last + 1)).abs()).clamp(min=0)
        yield top, weights.to(columns) @ columns[:, first : last + 1]


def _block_rows(logits: Tensor) -> int:
    """How many rows of logits [C, h, w] to work on at once."""
    values = _BLOCK_VALUES["cpu" if logits.device.type == "cpu" else "other"]
    return max(1, values // (logits.shape[0] * logits.shape[2]))


def blended_tiles(
    height: int, width: int, pixel_budget: int, logits_of: Callable[[int, int, int, int], Tensor]
) -> Iterator[tuple[int, int, Tensor]]:
    """Logits of a large picture, computed tile by tile and blended where tiles overlap.

    Every pixel comes out exactly once, in rectangles, and only what later tiles still add to is
    kept: memory grows with the picture's width, not with its area. Tiles start at multiples of
    the network's stride, so each pixel meets the same phase of the pooling grid as in one pass.

    Args:
        height, width: The picture's size in pixels.
        pixel_budget: Most pixels of a tile, give or take one stride of height and width.
        logits_of: Gives the logits [C, y1 - y0, x1 - x0] of the area (y0, y1, x0, x1).

    Yields:
        y, x and blended logits, float32 [C, h, w], of the area with that top left corner.
    """
    side = int(pixel_budget**0.5)
    tall = _spans(height, pixel_budget // min(width, side))
    wide = _spans(width, pixel_budget // min(height, side))
    above: Tensor | None = None  # what the row of tiles above adds to this one, [C, overlap, W]
    for y0, y1 in tall:
        shared_above = TILE_OVERLAP if y0 > 0 else 0
        shared_below = TILE_OVERLAP if y1 < height else 0
        below: Tensor | None = None
        left: Tensor | None = None  # what the tile to the left adds to this one
        for x0, x1 in wide:
            shared_left = TILE_OVERLAP if x0 > 0 else 0
            shared_right = TILE_OVERLAP if x1 < width else 0
            logits = logits_of(y0, y1, x0, x1).float()
            logits = logits * _window(y1 - y0, shared_above, shared_below).to(logits)[:, None]
            logits = logits * _window(x1 - x0, shared_left, shared_right).to(logits)
            if above is not None:  # the columns shared with the left tile hold it already
                logits[:, :shared_above, shared_left:] += above[:, :, x0 + shared_left : x1]
            if left is not None:
                logits[:, :, :shared_left] += left
            done_y, done_x = y1 - y0 - shared_below, x1 - x0 - shared_right
            left = logits[:, :, done_x:].clone()
            if shared_below:
                if below is None:
                    below = logits.new_empty(logits.shape[0], shared_below, width)
                below[:, :, x0 : x0 + done_x] = logits[:, done_y:, :done_x]
            yield y0, x0, logits[:, :done_y, :done_x]
        above = below


def _spans(length: int, tile: int) -> list[tuple[int, int]]:
    """Starts and ends of tiles that cover `length` pixels, each sharing TILE_OVERLAP with the
    next; the steps between them are even and multiples of the network's stride.
    """
    if length <= tile:
        return [(0, length)]
    fresh = length - TILE_OVERLAP
    count = -(-fresh // (tile - TILE_OVERLAP))
    step = -(-fresh // (count * _STRIDE)) * _STRIDE
    return [(start, min(start + step + TILE_OVERLAP, length)) for start in range(0, fresh, step)]


def _window(length: int, shared_before: int, shared_after: int) -> Tensor:
    """Weights [length] of a tile along one axis; those of two neighbours add up to one."""
    weights = torch.ones(length)
    if shared_before:
        weights[:shared_before] = _ramp(shared_before)
    if shared_after:
        weights[length - shared_after :] = 1 - _ramp(shared_after)
    return weights


def _ramp(length: int) -> Tensor:
    """From 0 to 1 over the middle half of `length` pixels."""
    margin = length // 4
    return ((torch.arange(length) + 0.5 - margin) / (length - 2 * margin)).clamp(0, 1)


def _load_exported(
    model: FCN, backend: str, dtype: torch.dtype, folder: str | Path | None
) -> nn.Module:
    if folder is not None:
        return load_network(model, backend, dtype, Path(folder))
    if dtype == torch.int8:
        raise BackendError(
            "An int8 network needs pictures to calibrate with: export it with `fcn-hub export "
            "--backend openvino --int8 --calibration DIR`, then load the model's folder."
        )
    from fcn_hub.export import export

    with TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        export(model, scratch, backend)
        return load_network(model, backend, dtype, Path(scratch))


def _resolve_device(device: str | torch.device, backend: str) -> torch.device:
    if backend not in BACKENDS:
        raise BackendError(f"backend must be one of {', '.join(BACKENDS)}, not {backend!r}.")
    if backend != "torch":
        if str(device) not in ("auto", "cpu"):
            raise BackendError(f"The backend {backend!r} runs on the CPU, not on {device!r}.")
        return torch.device("cpu")
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, TypeError):
        raise ValueError(f"The device {device!r} is not available here.") from None
    return resolved


def _resolve_dtype(dtype: str | torch.dtype, device: torch.device, backend: str) -> torch.dtype:
    accepted = {
        "torch": (torch.float32, torch.bfloat16, torch.float16),
        "onnx": (torch.float32,),
        "openvino": (torch.float32, torch.bfloat16, torch.int8),
    }[backend]
    if dtype == "auto":
        is_faster = torch.bfloat16 in accepted and _computes_in_bfloat16(device)
        return torch.bfloat16 if is_faster else torch.float32
    resolved = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if resolved not in accepted:
        names = ", ".join(repr(str(each).removeprefix("torch.")) for each in accepted)
        raise ValueError(f"dtype must be 'auto' or one of {names}, not {dtype!r}.")
    return resolved


def _computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the hardware itself does, which is where bfloat16 is faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # Private, but the only question torch answers here: oneDNN's own check also says yes
        # where bfloat16 is only emulated.
        supports = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        return bool(supports())
    return False
