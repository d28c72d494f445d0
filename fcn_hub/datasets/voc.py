"""PASCAL VOC 2012 in the layout of its development kit, with the SBD annotations where present.

VOC2012/JPEGImages, VOC2012/SegmentationClass and VOC2012/ImageSets/Segmentation/*.txt; the
extra annotations of Hariharan et al. (2011) are customarily unpacked to SegmentationClassAug
with a list trainaug.txt or train_aug.txt.
"""

from pathlib import Path

from fcn_hub.datasets.base import (
    DatasetError,
    Sample,
    SegmentationDataset,
    existing_root,
    require_split,
)
from fcn_hub.labels import LabelMap

_LISTS = Path("ImageSets") / "Segmentation"


def open_voc(root: Path, split: str) -> SegmentationDataset:
    """A split of PASCAL VOC 2012.

    Args:
        root: The folder VOC2012, its parent VOCdevkit, or the folder that holds VOCdevkit.
        split: The name of a list: ``train``, ``val``, ``trainval``, ``trainaug``. Where there is
            a folder SegmentationClassAug, lists whose name ends with ``aug`` take their masks
            from it. A list's lines are ids, or a picture's and a mask's path below VOC2012.

    Raises:
        DatasetError: The folder or the list is missing, or a line of the list is malformed.
    """
    lists = existing_root(
        (root / part / _LISTS for part in ("", "VOC2012", "VOCdevkit/VOC2012")),
        root,
        "PASCAL VOC 2012 (VOC2012/ImageSets/Segmentation)",
    )
    home = lists.parent.parent
    require_split("PASCAL VOC", split, (path.stem for path in lists.glob("*.txt")), lists)
    augmented = split.endswith("aug") and (home / "SegmentationClassAug").is_dir()
    masks = home / ("SegmentationClassAug" if augmented else "SegmentationClass")
    samples = []
    for line in (lists / f"{split}.txt").read_text(encoding="utf-8").splitlines():
        match line.split():
            case []:
                pass
            case [id]:
                picture = home / "JPEGImages" / f"{id}.jpg"
                samples.append(Sample(id, picture, masks / f"{id}.png"))
            case [picture_path, mask_path]:
                picture, mask = home / picture_path.lstrip("/"), home / mask_path.lstrip("/")
                samples.append(Sample(picture.stem, picture, mask))
            case _:
                raise DatasetError(
                    f"{lists / split}.txt has a line {line!r}; a line is an id, or the paths of a "
                    "picture and its mask."
                )
    return SegmentationDataset("voc", split, tuple(samples), LabelMap.VOC)
