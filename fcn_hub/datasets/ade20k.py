"""ADE20K in the layout of the scene parsing benchmark (ADEChallengeData2016), 150 classes.

images/{training,validation}/*.jpg and annotations/{training,validation}/*.png; a mask holds the
class index plus one, and 0 where a pixel is of no class.
"""

from pathlib import Path

from fcn_hub.datasets.base import SegmentationDataset, existing_root, pair_by_stem, require_split
from fcn_hub.labels import Color, LabelMap

_SHORT = {"train": "training", "val": "validation"}


def open_ade20k(root: Path, split: str) -> SegmentationDataset:
    """A split of ADE20K.

    Args:
        root: The folder ADEChallengeData2016 or its parent.
        split: ``training`` or ``validation``, ``train`` and ``val`` for short.

    Raises:
        DatasetError: The folder or the split is missing.
    """
    homes = (root / "images", root / "ADEChallengeData2016" / "images")
    pictures = existing_root(homes, root, "ADE20K (ADEChallengeData2016/images)")
    folder = _SHORT.get(split, split)
    splits = [path.name for path in pictures.iterdir() if path.is_dir()]
    require_split("ADE20K", folder, splits, pictures)
    labels = LabelMap.ADE20K
    values: dict[int | Color, int] = {index + 1: index for index in range(len(labels))}
    values[0] = labels.ignore_index
    samples = pair_by_stem(pictures / folder, pictures.parent / "annotations" / folder)
    return SegmentationDataset("ade20k", split, samples, labels, values)
