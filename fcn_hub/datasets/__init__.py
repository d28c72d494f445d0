"""Data sets for semantic segmentation: pictures with their label maps.

`open_dataset` opens a split of any of them; `check` goes over a whole split and reports its
statistics and every fault. Augmentation is in `fcn_hub.datasets.transforms`, the order in which
samples are drawn in `fcn_hub.datasets.sampling`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from fcn_hub.datasets.ade20k import open_ade20k
from fcn_hub.datasets.base import DatasetError, Sample, SegmentationDataset
from fcn_hub.datasets.camvid import open_camvid
from fcn_hub.datasets.checking import DatasetReport, Fault, check
from fcn_hub.datasets.cityscapes import open_cityscapes
from fcn_hub.datasets.folder import open_folder, read_labels
from fcn_hub.datasets.huggingface import open_huggingface
from fcn_hub.datasets.mapping import VOC7, ClassMapping, class_mapping
from fcn_hub.datasets.voc import open_voc

DATASETS = ("voc", "voc7", "camvid", "cityscapes", "ade20k", "folder", "huggingface")

__all__ = [
    "DATASETS",
    "VOC7",
    "ClassMapping",
    "DatasetError",
    "DatasetReport",
    "Fault",
    "Sample",
    "SegmentationDataset",
    "check",
    "class_mapping",
    "open_dataset",
    "read_labels",
]


def open_dataset(
    name: str, root: str | Path, split: str, *, verify: bool = True, **options: Any
) -> SegmentationDataset:
    """Open one split of a data set on disk or on the Hub.

    Args:
        name: One of `DATASETS`. ``"voc7"`` is PASCAL VOC with every class but cat, cow, dog,
            horse, person and sheep counted as background.
        root: The data set's folder; for ``"huggingface"`` a folder or a Hub id.
        split: The split's name, such as ``"train"`` or ``"val"``.
        verify: Check that every picture has its mask and every mask its picture. Without it a
            missing file is an error only when it is read, and `check` reports them all.
        **options: `labels` of ``"folder"``; `labels`, `config`, `revision`, `image_column` and
            `label_column` of ``"huggingface"``. See `open_folder` and `open_huggingface` in
            their modules.

    Raises:
        DatasetError: The name is unknown, or the folder, the split, a picture or a mask is
            missing; the message names what there is.

    Example:
        >>> train = open_dataset("camvid", "CamVid", "train")  # doctest: +SKIP
        >>> train.labels.names[:2]  # doctest: +SKIP
        ('sky', 'building')
    """
    if name not in DATASETS:
        raise DatasetError(f"There is no data set {name!r}; there are: {', '.join(DATASETS)}.")
    if name == "folder":
        dataset = open_folder(Path(root), split, **options)
    elif name == "huggingface":
        dataset = open_huggingface(root, split, **options)
    elif options:
        raise DatasetError(f"The data set {name!r} takes no {' or '.join(options)}.")
    else:
        dataset = _open_benchmark(name, Path(root), split)
    if not len(dataset):
        raise DatasetError(f"The split {split!r} of {root} is empty.")
    if verify:
        dataset.verify()
    return dataset


def _open_benchmark(name: str, root: Path, split: str) -> SegmentationDataset:
    if name == "voc7":
        return replace(open_voc(root, split).mapped(VOC7), name="voc7")
    openers = {
        "voc": open_voc,
        "camvid": open_camvid,
        "cityscapes": open_cityscapes,
        "ade20k": open_ade20k,
    }
    return openers[name](root, split)
