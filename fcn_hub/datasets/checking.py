"""Checking a data set before a training run trusts it: its statistics and every fault."""

import math
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from fcn_hub.datasets.base import (
    DatasetError,
    SegmentationDataset,
    missing_files,
    read_mask,
    read_picture,
    size_fault,
)
from fcn_hub.labels import LabelMap


@dataclass(frozen=True)
class Fault:
    """What is wrong with one sample: its id, and a sentence that names the file."""

    id: str
    message: str


@dataclass(frozen=True)
class DatasetReport:
    """What `check` found in one split.

    Args:
        name, split, labels: Of the data set.
        samples: How many the split has, faulty ones included.
        smallest, largest: The (width, height) of the pictures with the fewest and the most
            pixels; None where no picture is readable.
        pixels: Labelled pixels per class, of the samples without a fault.
        shown: Per sample, the classes that it shows; none where it has a fault.
        ignored: Pixels with the ignore index, of the samples without a fault.
        faults: Every fault, in the order of the samples.
    """

    name: str
    split: str
    labels: LabelMap
    samples: int
    smallest: tuple[int, int] | None
    largest: tuple[int, int] | None
    pixels: tuple[int, ...]
    shown: tuple[tuple[int, ...], ...]
    ignored: int
    faults: tuple[Fault, ...]

    @property
    def pictures(self) -> tuple[int, ...]:
        """Per class, how many samples without a fault show it."""
        counts = Counter(label for classes in self.shown for label in classes)
        return tuple(counts[label] for label in range(len(self.labels)))

    @property
    def frequencies(self) -> tuple[float, ...]:
        """The share of each class in the labelled pixels, 0..1; NaN where there are none."""
        total = sum(self.pixels)
        return tuple(count / total if total else math.nan for count in self.pixels)

    @property
    def ignored_share(self) -> float:
        """The share of the ignored pixels in all pixels, 0..1; NaN where there are none."""
        total = sum(self.pixels) + self.ignored
        return self.ignored / total if total else math.nan

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values, NaN as None."""
        classes = [
            {"name": name, "pixels": pixels, "pictures": pictures, "frequency": _number(frequency)}
            for name, pixels, pictures, frequency in zip(
                self.labels.names, self.pixels, self.pictures, self.frequencies, strict=True
            )
        ]
        return {
            "dataset": self.name,
            "split": self.split,
            "samples": self.samples,
            "smallest": list(self.smallest) if self.smallest else None,
            "largest": list(self.largest) if self.largest else None,
            "ignored_share": _number(self.ignored_share),
            "classes": classes,
            "shown": [list(classes) for classes in self.shown],
            "faults": [{"id": fault.id, "message": fault.message} for fault in self.faults],
        }

    def format_table(self) -> str:
        """The report as a text for people, faults last."""
        lines = [f"{self.name} {self.split}: {self.samples:,} samples"]
        if self.smallest and self.largest:
            small, large = ("{}×{}".format(*size) for size in (self.smallest, self.largest))
            lines[0] += f" of {small} pixels" if small == large else f", {small} to {large} pixels"
        lines[0] += f", {_percent(self.ignored_share).strip()} of the pixels ignored"
        width = max(len("class"), *(len(name) for name in self.labels.names))
        lines += ["", f"{'class':<{width}}  {'pixels':>15}  {'share':>8}  {'pictures':>8}"]
        for name, pixels, frequency, pictures in zip(
            self.labels.names, self.pixels, self.frequencies, self.pictures, strict=True
        ):
            lines.append(f"{name:<{width}}  {pixels:>15,}  {_percent(frequency)}  {pictures:>8,}")
        lines += ["", f"{len(self.faults):,} fault{'' if len(self.faults) == 1 else 's'}"]
        lines += [f"  {fault.message}" for fault in self.faults]
        return "\n".join(lines)


def check(dataset: SegmentationDataset, *, workers: int = 8) -> DatasetReport:
    """Read a whole split and gather its statistics and every fault.

    Open the data set with ``verify=False`` to have missing files reported along with the rest.

    Args:
        dataset: The split.
        workers: Threads that read and decode.

    Returns:
        The report. A faulty sample counts in no statistic but the number of samples.

    Example:
        >>> print(check(open_dataset("voc", "data", "val", verify=False)).format_table())
        ... # doctest: +SKIP
    """
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(lambda index: _examine(dataset, index), range(len(dataset)))
        title = f"Checking {dataset.name} {dataset.split}"
        # disable=None: silent where the output is no terminal.
        return _report(dataset, tqdm(found, title, len(dataset), disable=None))


@dataclass(frozen=True)
class _Finding:
    faults: tuple[Fault, ...]
    size: tuple[int, int] = (0, 0)
    pixels: np.ndarray | None = None  # int64, one count per class and one for ignored


def _examine(dataset: SegmentationDataset, index: int) -> _Finding:
    """Every fault of one sample, or its statistics."""
    sample = dataset.samples[index]
    messages = missing_files(sample)
    picture = mask = classes = None
    if not messages:
        try:
            picture = read_picture(sample)
        except DatasetError as error:
            messages.append(str(error))
        try:
            mask = read_mask(sample)
            classes = dataset.to_classes(sample, mask)
        except DatasetError as error:
            messages.append(str(error))
        if picture is not None and mask is not None:
            messages += [fault] if (fault := size_fault(sample, picture, mask)) else []
    if messages or picture is None or classes is None:
        return _Finding(tuple(Fault(sample.id, message) for message in messages))
    count = len(dataset.labels)
    bins = np.where(classes == dataset.labels.ignore_index, count, classes)
    pixels = np.bincount(bins.ravel(), minlength=count + 1)
    return _Finding((), picture.size, pixels)


def _report(dataset: SegmentationDataset, findings: Iterable[_Finding]) -> DatasetReport:
    count = len(dataset.labels)
    pixels = np.zeros(count + 1, np.int64)
    shown: list[tuple[int, ...]] = []
    faults: list[Fault] = []
    sizes: set[tuple[int, int]] = set()
    for finding in findings:
        faults += finding.faults
        shown.append(())
        if finding.pixels is not None:
            sizes.add(finding.size)
            pixels += finding.pixels
            shown[-1] = tuple(np.flatnonzero(finding.pixels[:count]).tolist())
    by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    return DatasetReport(
        name=dataset.name,
        split=dataset.split,
        labels=dataset.labels,
        samples=len(dataset),
        smallest=by_area[0] if by_area else None,
        largest=by_area[-1] if by_area else None,
        pixels=tuple(pixels[:count].tolist()),
        shown=tuple(shown),
        ignored=int(pixels[count]),
        faults=tuple(faults),
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _percent(value: float) -> str:
    return f"{'-':>8}" if math.isnan(value) else f"{value:>8.2%}"
