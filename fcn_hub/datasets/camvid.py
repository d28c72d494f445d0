"""CamVid in the layout that SegNet made common: 11 classes, 367/101/233 pictures of 480×360.

CamVid/train.txt lists `/SegNet/CamVid/train/X.png /SegNet/CamVid/trainannot/X.png`; masks hold
0..10 and 11 for "unlabelled". Likewise for val and test.
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


def open_camvid(root: Path, split: str) -> SegmentationDataset:
    """A split of CamVid.

    Args:
        root: The folder that holds train.txt and train/, or its parent.
        split: The name of a list: ``train``, ``val``, ``test``. The last two parts of the paths
            in it (``train/X.png``) count, from `root`.

    Raises:
        DatasetError: The folder or the list is missing, or a line of the list is malformed.
    """
    homes = (root / "CamVid", root)
    home = existing_root(
        (home for home in homes if any(home.glob("*.txt"))), root, "the lists of CamVid (train.txt)"
    )
    require_split("CamVid", split, (path.stem for path in home.glob("*.txt")), home)
    samples = []
    for line in (home / f"{split}.txt").read_text(encoding="utf-8").splitlines():
        if not line.strip():
            continue
        paths = [home.joinpath(*Path(path).parts[-2:]) for path in line.split()]
        if len(paths) != 2:
            raise DatasetError(
                f"{home / split}.txt has a line {line!r}; a line is the paths of a picture and "
                "its mask."
            )
        samples.append(Sample(paths[0].stem, *paths))
    return SegmentationDataset("camvid", split, tuple(samples), LabelMap.CAMVID)
