"""Cityscapes: leftImg8bit/SPLIT/CITY/*_leftImg8bit.png with the masks of gtFine.

The downloaded masks hold label ids (`*_gtFine_labelIds.png`), of which 19 classes are scored;
masks of train ids (`*_gtFine_labelTrainIds.png`), which cityscapesScripts can make, serve too.
"""

from pathlib import Path

from fcn_hub.datasets.base import Sample, SegmentationDataset, existing_root, require_split
from fcn_hub.labels import Color, LabelMap

# The label ids of the 19 classes in the order of their train ids; the other ids of 0..33 are
# not scored (cityscapesscripts/helpers/labels.py).
_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def open_cityscapes(root: Path, split: str) -> SegmentationDataset:
    """A split of Cityscapes.

    Args:
        root: The folder that holds leftImg8bit and gtFine.
        split: ``train`` or ``val``; the masks of ``test`` are withheld.

    Raises:
        DatasetError: The folder or the split is missing.
    """
    pictures = existing_root([root / "leftImg8bit"], root, "Cityscapes (leftImg8bit and gtFine)")
    masks = existing_root([root / "gtFine"], root, "the masks of Cityscapes (gtFine)")
    splits = (path.name for path in pictures.iterdir() if path.is_dir())
    require_split("Cityscapes", split, splits, pictures)
    by_train_id = not any((masks / split).glob("*/*_gtFine_labelIds.png")) and any(
        (masks / split).glob("*/*_gtFine_labelTrainIds.png")
    )
    kind = "labelTrainIds" if by_train_id else "labelIds"
    values = None if by_train_id else _label_id_values()
    samples = []
    for picture in sorted((pictures / split).glob("*/*_leftImg8bit.png")):
        id = picture.name.removesuffix("_leftImg8bit.png")
        mask = masks / split / picture.parent.name / f"{id}_gtFine_{kind}.png"
        samples.append(Sample(id, picture, mask))
    return SegmentationDataset("cityscapes", split, tuple(samples), LabelMap.CITYSCAPES, values)


def _label_id_values() -> dict[int | Color, int]:
    values: dict[int | Color, int] = dict.fromkeys(range(34), LabelMap.CITYSCAPES.ignore_index)
    values.update({label_id: index for index, label_id in enumerate(_LABEL_IDS)})
    return values
