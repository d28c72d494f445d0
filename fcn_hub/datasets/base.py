"""What all data sets have in common: samples, their class lookup, and how they are read.

A data set's module only says which pictures and masks belong together and what the masks'
values mean. Reading, checking and converting them happens here, the same way for all.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from fcn_hub.datasets.mapping import ClassMapping
from fcn_hub.images import ImageError, open_image
from fcn_hub.labels import Color, LabelMap

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")

# Lossless ones only: compression as in JPEG makes up values at every edge.
_MASK_FORMATS = ("PNG", "BMP", "TIFF")


class DatasetError(ValueError):
    """A data set that cannot be used; the message names the file and says what is accepted."""


@dataclass(frozen=True)
class Sample:
    """A picture and its mask, not read yet.

    Args:
        id: What the sample is called in messages and in result files.
        picture: The encoded picture: a path, or the bytes of a picture file.
        mask: The encoded mask: a path, the bytes of a picture file, or an integer array [H, W].
    """

    id: str
    picture: Path | bytes = field(repr=False)
    mask: Path | bytes | np.ndarray = field(repr=False)


@dataclass(frozen=True, eq=False)
class SegmentationDataset(Dataset[tuple[Tensor, Tensor]]):
    """One split of a data set: pictures with their label maps.

    Indexing gives what a data loader needs; `picture` and `mask` give the same at original size
    as a PIL picture and a NumPy array.

    Args:
        name: The data set's name, for messages and records.
        split: The split's name.
        samples: The pictures and masks, in a fixed order. May be lazy.
        labels: The classes.
        values: What each value of a mask file means: a class index or `labels.ignore_index`.
            Keys are integers for palette and grey masks, RGB triples for colour-coded ones.
            Where None, a value is its own class index and `labels.ignore_index` is ignored.

    Example:
        >>> dataset = open_dataset("voc", "VOCdevkit", "val")  # doctest: +SKIP
        >>> picture, mask = dataset[0]  # uint8 [3, H, W] and uint8 [H, W]  # doctest: +SKIP
    """

    name: str
    split: str
    samples: Sequence[Sample] = field(repr=False)
    labels: LabelMap = field(repr=False)
    values: Mapping[int | Color, int] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """One sample as tensors.

        Returns:
            The RGB picture, uint8 [3, H, W], and its class indices, `mask_dtype` [H, W].

        Raises:
            DatasetError: A file is missing or unreadable, the sizes differ, or the mask holds a
                value that has no class.
        """
        picture, mask = self.read(index)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        return pixels, torch.from_numpy(mask)

    def read(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """One sample as an RGB picture and its class indices, `mask_dtype` [H, W].

        Raises:
            DatasetError: As for indexing.
        """
        sample = self.samples[index]
        if missing := missing_files(sample):
            raise DatasetError(missing[0])
        picture = read_picture(sample)
        raw = read_mask(sample)
        if fault := size_fault(sample, picture, raw):
            raise DatasetError(fault)
        return picture, self.to_classes(sample, raw)

    @property
    def mask_dtype(self) -> np.dtype:
        """uint8 where it holds every class index and the ignore index, else int64."""
        fits = len(self.labels) <= 256 and 0 <= self.labels.ignore_index <= 255
        return np.dtype(np.uint8 if fits else np.int64)

    def to_classes(self, sample: Sample, raw: np.ndarray) -> np.ndarray:
        """The class indices, `mask_dtype` [H, W], of a mask as `read_mask` gives it.

        Raises:
            DatasetError: The mask holds a value that has no class.
        """
        if raw.ndim == 3:
            if not self._color_lookup.keys.size:
                raise DatasetError(
                    f"Mask {mask_name(sample)} is colour-coded; {self.name} takes masks with one "
                    "channel of class values (palette or grey PNG)."
                )
            lookup, raw = self._color_lookup, _packed(raw)
        else:
            lookup = self._value_lookup
        classes, known = lookup(raw)
        if not known.all():
            raise DatasetError(
                f"Mask {mask_name(sample)} holds values outside the label map: "
                f"{lookup.listing(raw[~known])}; accepted are {lookup.accepted}."
            )
        return classes

    def mapped(self, mapping: ClassMapping) -> "SegmentationDataset":
        """The same samples with other classes; see `class_mapping`.

        Raises:
            DatasetError: The mapping starts from other classes than this data set's.
        """
        if mapping.source.names != self.labels.names:
            raise DatasetError(
                f"The class mapping is for {', '.join(mapping.source.names)}; the classes of "
                f"{self.name} are {', '.join(self.labels.names)}."
            )
        values = {value: mapping(index) for value, index in self._values.items()}
        return replace(self, labels=mapping.target, values=values)

    def verify(self) -> None:
        """Check that every file of the split is there, without opening any.

        Raises:
            DatasetError: One is missing; the message names the first and counts them.
        """
        if not isinstance(self.samples, tuple):  # rows of a table, which holds its files itself
            return
        faults = [fault for sample in self.samples for fault in missing_files(sample)]
        if faults:
            more = f" ({len(faults) - 1} more like it.)" if len(faults) > 1 else ""
            raise DatasetError(faults[0] + more)

    @cached_property
    def _values(self) -> Mapping[int | Color, int]:
        return index_values(self.labels) if self.values is None else self.values

    @cached_property
    def _value_lookup(self) -> "_Lookup":
        values = {key: index for key, index in self._values.items() if isinstance(key, int)}
        return _Lookup.build(values, self.mask_dtype, str)

    @cached_property
    def _color_lookup(self) -> "_Lookup":
        values = {
            int(_packed(np.array(key))): index
            for key, index in self._values.items()
            if not isinstance(key, int)
        }
        return _Lookup.build(values, self.mask_dtype, _hex)


def index_values(labels: LabelMap) -> dict[int | Color, int]:
    """The lookup of masks that hold class indices and the ignore index as they are."""
    return {index: index for index in (*range(len(labels)), labels.ignore_index)}


def missing_files(sample: Sample) -> list[str]:
    """One sentence for each file of the sample that is not there."""
    has_picture = not isinstance(sample.picture, Path) or sample.picture.is_file()
    has_mask = not isinstance(sample.mask, Path) or sample.mask.is_file()
    picture, mask = picture_name(sample), mask_name(sample)
    if not has_picture and not has_mask:
        return [f"Sample {sample.id} is listed but has neither picture {picture} nor mask {mask}."]
    if not has_mask:
        return [f"Picture {picture} has no mask {mask}."]
    if not has_picture:
        return [f"Mask {mask} has no picture {picture}."]
    return []


def picture_name(sample: Sample) -> str:
    """The picture's path, or the sample's id where it has none."""
    return str(sample.picture) if isinstance(sample.picture, Path) else sample.id


def mask_name(sample: Sample) -> str:
    """The mask's path, or the sample's id where it has none."""
    return str(sample.mask) if isinstance(sample.mask, Path) else sample.id


def read_picture(sample: Sample) -> Image.Image:
    """The sample's picture, RGB and upright.

    Raises:
        DatasetError: It cannot be read.
    """
    try:
        return open_image(sample.picture)
    except ImageError as error:
        subject = "Picture" if isinstance(sample.picture, Path) else f"Sample {sample.id}:"
        raise DatasetError(f"{subject} {error}") from None


def read_mask(sample: Sample) -> np.ndarray:
    """The values of the sample's mask as they stand in the file.

    Returns:
        Integers [H, W] of a palette or grey picture, or uint8 [H, W, 3] of an RGB picture.

    Raises:
        DatasetError: It cannot be read.
    """
    source = sample.mask
    if isinstance(source, np.ndarray):
        if source.ndim != 2 or source.dtype.kind not in "iu":
            raise DatasetError(
                f"Mask {sample.id} must be integers [H, W], not {source.dtype} "
                f"{list(source.shape)}."
            )
        return source
    try:
        file = BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=_MASK_FORMATS) as image:
            mode = image.mode
            values = np.asarray(image.convert("RGB") if mode == "RGBA" else image)
    # Damaged bytes make Pillow raise nearly anything (see fcn_hub.images).
    except Exception as error:
        raise DatasetError(
            f"Mask {mask_name(sample)} cannot be read ({error}); accepted are "
            f"{', '.join(_MASK_FORMATS)}."
        ) from error
    if mode == "1":
        values = values.astype(np.uint8)
    if mode not in ("RGB", "RGBA") and (values.ndim != 2 or values.dtype.kind not in "iu"):
        raise DatasetError(
            f"Mask {mask_name(sample)} is a picture of mode {mode}; accepted are palette, grey "
            "and RGB pictures."
        )
    return values


def size_fault(sample: Sample, picture: Image.Image, mask: np.ndarray) -> str | None:
    """A sentence where picture and mask differ in size, else None."""
    height, width = mask.shape[:2]
    if picture.size == (width, height):
        return None
    return (
        f"Picture {picture_name(sample)} is {picture.width}×{picture.height} but its mask "
        f"{mask_name(sample)} is {width}×{height}; they must be the same size."
    )


@dataclass(frozen=True, eq=False)
class _Lookup:
    """Mask values to class indices, as fast as the values' type allows."""

    keys: np.ndarray  # int64, ascending
    classes: np.ndarray  # of the mask's dtype, one per key
    show: Callable[[int], str]

    @classmethod
    def build(
        cls, values: Mapping[int, int], dtype: np.dtype, show: Callable[[int], str]
    ) -> "_Lookup":
        keys = sorted(values)
        classes = np.array([values[key] for key in keys], dtype=dtype)
        return cls(np.array(keys, dtype=np.int64), classes, show)

    def __call__(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The class of each value, and whether it has one; both the shape of `raw`."""
        if not self.keys.size:
            return np.zeros(raw.shape, self.classes.dtype), np.zeros(raw.shape, bool)
        if raw.dtype in (np.uint8, np.uint16):
            table, has_class = self._tables[raw.dtype.name]
            return table[raw], has_class[raw]
        position = np.searchsorted(self.keys, raw).clip(max=len(self.keys) - 1)
        return self.classes[position], self.keys[position] == raw

    @cached_property
    def _tables(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        tables = {}
        for kind, size in (("uint8", 2**8), ("uint16", 2**16)):
            inside = (self.keys >= 0) & (self.keys < size)
            table, has_class = np.zeros(size, self.classes.dtype), np.zeros(size, bool)
            table[self.keys[inside]] = self.classes[inside]
            has_class[self.keys[inside]] = True
            tables[kind] = table, has_class
        return tables

    def listing(self, values: np.ndarray, most: int = 5) -> str:
        found, counts = np.unique(values, return_counts=True)
        shown = [
            f"{self.show(int(value))} ({count:,} pixel{'s' if count > 1 else ''})"
            for value, count in zip(found[:most], counts[:most], strict=True)
        ]
        more = f" and {len(found) - most} more" if len(found) > most else ""
        return ", ".join(shown) + more

    @property
    def accepted(self) -> str:
        """The keys, runs of numbers folded: ``0..20, 255``."""
        runs = np.split(self.keys, np.flatnonzero(np.diff(self.keys) != 1) + 1)
        parts = [
            self.show(int(run[0]))
            if len(run) == 1
            else f"{self.show(int(run[0]))}..{self.show(int(run[-1]))}"
            for run in runs
            if len(run)
        ]
        return ", ".join(parts) or "none"


def _hex(color: int) -> str:
    return f"#{color:06x}"


def _packed(rgb: np.ndarray) -> np.ndarray:
    """uint8 colours [..., 3] as one number each, 0xRRGGBB."""
    red, green, blue = (rgb[..., channel].astype(np.int64) for channel in range(3))
    return (red << 16) | (green << 8) | blue


def existing_root(candidates: Iterable[Path], root: Path, expected: str) -> Path:
    """The first folder of `candidates` that exists.

    Raises:
        DatasetError: `root` does not exist, or holds none of them; `expected` says what it
            should hold.
    """
    if not root.is_dir():
        raise DatasetError(f"There is no folder {root}.")
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise DatasetError(f"{root} does not hold {expected}.")


def require_split(name: str, split: str, splits: Iterable[str], root: Path) -> None:
    """Raise a DatasetError that names the splits there are unless `split` is one of them."""
    splits = sorted(splits)
    if split not in splits:
        there = f"there are: {', '.join(splits)}" if splits else "there is none at all"
        raise DatasetError(f"{name} has no split {split!r} in {root}; {there}.")


def pair_by_stem(pictures: Path, masks: Path) -> tuple[Sample, ...]:
    """The pictures of one folder with the masks of another, matched by file name less suffix.

    A file without its counterpart becomes a sample too, so that reading it reports the fault.

    Raises:
        DatasetError: Two files of a folder differ only in their suffix.
    """
    found_pictures = _by_stem(pictures, PICTURE_SUFFIXES)
    found_masks = _by_stem(masks, MASK_SUFFIXES)
    return tuple(
        Sample(
            stem,
            found_pictures.get(stem, pictures / f"{stem}.*"),
            found_masks.get(stem, masks / f"{stem}.*"),
        )
        for stem in sorted({*found_pictures, *found_masks})
    )


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if path.stem in found:
            raise DatasetError(f"{found[path.stem]} and {path} have the same name; keep one.")
        found[path.stem] = path
    return found
