"""Augmentation of pictures together with their label maps, on torchvision's v2 transforms.

Pictures are resized bilinearly with antialiasing, label maps to the nearest pixel, and what a
crop takes from outside a picture has the ignore index. The random numbers of a sample depend
on the seed, the epoch and the sample alone (`Augmented`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from fcn_hub.datasets.sampling import sample_seed

# The mean colour of ImageNet, as both of VGG-16's normalisations have it, in 0..255 RGB.
MEAN_COLOR = (124, 116, 104)

# How far brightness, contrast, saturation and hue change; see `training_transform`.
JITTER = (0.3, 0.3, 0.3, 0.05)


def training_transform(
    crop: tuple[int, int],
    *,
    scale: tuple[float, float] = (0.5, 2.0),
    max_side: int | None = None,
    flip: float = 0.5,
    jitter: Sequence[float] | None = JITTER,
    ignore_index: int = 255,
    fill: Sequence[int] = MEAN_COLOR,
) -> v2.Transform:
    """The augmentation that networks are trained with.

    In this order: scale, random crop, colour jitter, padding of crops that are too small, and
    horizontal flip.

    Args:
        crop: (height, width) of the result.
        scale: The (least, largest) factor on both sides, drawn uniformly.
        max_side: Pictures whose longest side is above it, in pixels, are scaled as if they had
            been brought down to it first, as `Segmenter` brings them.
        flip: Probability of mirroring left and right, 0..1.
        jitter: How much (brightness, contrast, saturation, hue) change: the first three are
            multiplied by 1 ± the number, the hue is turned by ± the number of full circles, at
            most 0.5. None or zeros leave colours as they are.
        ignore_index: What padding has in the label map.
        fill: What padding has in the picture, RGB 0..255; where the network subtracts its mean,
            that mean is the right one.

    Returns:
        A transform of (`tv_tensors.Image` uint8 [3, H, W], `tv_tensors.Mask` [H, W]) to the same
        types with height and width `crop`. Random numbers come from torch's global generator.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> transform = training_transform((320, 320), scale=(0.75, 1.6))
    """
    if len(crop) != 2 or min(crop) < 1:
        raise ValueError(f"crop must be (height, width), both 1 or more, not {crop}.")
    if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
        raise ValueError(f"scale must be (least, largest), both above 0, not {scale}.")
    if not 0 <= flip <= 1:
        raise ValueError(f"flip must be a probability, 0..1, not {flip}.")
    if jitter is not None and len(jitter) != 4:
        raise ValueError(
            f"jitter must be (brightness, contrast, saturation, hue) or None, not {jitter}."
        )
    steps: list[Callable[..., Any]] = [RandomScale(*scale, max_side), RandomCropWithin(crop)]
    if jitter is not None and any(jitter):
        steps.append(v2.ColorJitter(*jitter))
    # Padding comes after the jitter so that it keeps its colour, which the network sees as zero.
    steps += [RandomPad(crop, fill, ignore_index), v2.RandomHorizontalFlip(flip)]
    return v2.Compose(steps)


class RandomScale(v2.Transform):
    """Resize by a factor drawn uniformly from `least`..`largest`, at least to 1×1.

    The factor is on the picture as it is with its longest side at most `max_side`.
    """

    def __init__(self, least: float, largest: float, max_side: int | None = None) -> None:
        super().__init__()
        self.least = least
        self.largest = largest
        self.max_side = max_side

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        factor = self.least + (self.largest - self.least) * torch.rand(()).item()
        height, width = F.get_size(flat_inputs[0])
        if self.max_side is not None:
            factor *= min(1.0, self.max_side / max(height, width))
        return {"size": [max(1, round(height * factor)), max(1, round(width * factor))]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if isinstance(inpt, tv_tensors.Mask):
            # Plain NEAREST takes the pixel left above, which shifts the mask against the picture.
            # torchvision's own mask kernel has no NEAREST_EXACT in older versions.
            resized = F.resize_image(
                inpt.as_subclass(Tensor)[None], params["size"], InterpolationMode.NEAREST_EXACT
            )
            return tv_tensors.wrap(resized[0], like=inpt)
        return F.resize(inpt, params["size"], InterpolationMode.BILINEAR, antialias=True)


class RandomCropWithin(v2.Transform):
    """Crop to `size` (height, width), or less where the picture is smaller, at a random place."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        there = F.get_size(flat_inputs[0])
        height, width = (min(pair) for pair in zip(self.size, there, strict=True))
        top, left = _random_int(there[0] - height), _random_int(there[1] - width)
        return {"top": top, "left": left, "height": height, "width": width}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return F.crop(inpt, **params)


class RandomPad(v2.Transform):
    """Pad to at least `size` (height, width), the picture at a random place in it.

    Pictures get the colour `fill`, label maps `ignore_index`.
    """

    def __init__(self, size: tuple[int, int], fill: Sequence[int], ignore_index: int) -> None:
        super().__init__()
        self.size = size
        self.fill = list(fill)
        self.ignore_index = ignore_index

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = F.get_size(flat_inputs[0])
        down, across = max(0, self.size[0] - height), max(0, self.size[1] - width)
        top, left = _random_int(down), _random_int(across)
        return {"padding": [left, top, across - left, down - top]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not any(params["padding"]):
            return inpt
        fill: Any = self.ignore_index if isinstance(inpt, tv_tensors.Mask) else self.fill
        return F.pad(inpt, params["padding"], fill=fill)


def _random_int(most: int) -> int:
    """A whole number of 0..most, both included."""
    return int(torch.randint(most + 1, ()))


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """A data set under random transforms that anyone can repeat.

    Indexed by what `EpochSampler` yields. A sample's random numbers come from the seed, the
    epoch and the index, so that it is the same in whichever process, order or run it is made;
    torch's global random state stays as it was.

    Args:
        dataset: Gives (picture uint8 [3, H, W], label map [H, W]) for an index, such as a
            `SegmentationDataset`.
        transform: Any v2 transform, such as `training_transform`'s.
        seed: 0 or more.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> train = Augmented(dataset, training_transform((320, 320)))  # doctest: +SKIP
        >>> loader = DataLoader(train, 8, sampler=EpochSampler(len(train)))  # doctest: +SKIP
    """

    def __init__(
        self, dataset: Any, transform: Callable[..., tuple[Tensor, Tensor]], *, seed: int = 0
    ) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The sample `key` = (epoch, index): picture uint8 [3, h, w] and label map [h, w]."""
        epoch, index = key
        picture, mask = self.dataset[index]
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: that would also reset the accelerators' generators.
            torch.default_generator.manual_seed(sample_seed(self.seed, epoch, index))
            picture, mask = self.transform(tv_tensors.Image(picture), tv_tensors.Mask(mask))
        return picture.as_subclass(Tensor), mask.as_subclass(Tensor)
