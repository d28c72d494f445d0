"""Any Hugging Face `datasets` data set with a picture and a label column.

From the Hub, from a folder that `load_dataset` understands, or from one that `save_to_disk`
wrote. Pictures and masks are decoded here, under the same limits as everywhere else; `datasets`
only hands over their bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fcn_hub.datasets.base import DatasetError, Sample, SegmentationDataset, require_split
from fcn_hub.datasets.folder import resolve_labels
from fcn_hub.labels import LabelMap

_IMAGE_COLUMNS = ("image", "img", "picture", "photo", "pixel_values")
_LABEL_COLUMNS = (
    *("label", "labels", "mask", "masks", "annotation", "annotations", "semantic_mask"),
    *("segmentation", "segmentation_mask", "label_map", "label_mask", "semantic_segmentation"),
)


def open_huggingface(
    root: str | Path,
    split: str,
    *,
    labels: LabelMap | str | Path | None = None,
    config: str | None = None,
    revision: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> SegmentationDataset:
    """A split of a Hugging Face data set.

    Args:
        root: A folder, or a Hub id such as ``owner/name``.
        split: The split's name.
        labels: The classes, or the path of a labels file (see `fcn_hub.datasets.read_labels`).
            Where None, labels.json or labels.txt in a folder; data sets on the Hub do not say
            what their masks hold.
        config: The data set's configuration, where it has several.
        revision: Branch, tag or commit on the Hub.
        image_column, label_column: The columns' names; found by type and name where None.

    Raises:
        DatasetError: The data set, split or columns are not found, or there are no labels.
    """
    folder = Path(root)
    label_map, values = _labels(labels, folder)
    table = _load(root, split, config, revision)
    image_column, label_column = _columns(table.features, image_column, label_column)
    table = _undecoded(table, (image_column, label_column))
    samples = _Rows(table, split, image_column, label_column)
    name = folder.resolve().name if folder.is_dir() else str(root)
    return SegmentationDataset(name, split, samples, label_map, values)


def open_pictures(
    root: str | Path,
    split: str,
    *,
    config: str | None = None,
    revision: str | None = None,
    image_column: str | None = None,
) -> Sequence[Path | bytes]:
    """The pictures of a split, without labels, as files not decoded yet.

    Args:
        root, split, config, revision: As for `open_huggingface`.
        image_column: The column's name; where None, the only column of pictures.

    Raises:
        DatasetError: The data set, split or column is not found.
    """
    table = _load(root, split, config, revision)
    pictures = [name for name in table.features if _is_image(table.features[name])]
    column = (
        image_column or _only(pictures, but=None) or _only(pictures, but=None, among=_IMAGE_COLUMNS)
    )
    if column is None or column not in pictures:
        raise DatasetError(
            f"Which column holds the pictures? Give image_column, one of: {', '.join(pictures)}."
            if pictures
            else f"The data set {root} has no column of pictures."
        )
    return _Pictures(_undecoded(table, (column,)), column)


@dataclass(frozen=True)
class _Pictures(Sequence[Path | bytes]):
    """One column of a table, read when asked for."""

    table: Any
    column: str

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: Any) -> Any:
        return _content(self.table[index][self.column])


def _load(root: str | Path, split: str, config: str | None, revision: str | None) -> Any:
    try:
        import datasets
    except ImportError:
        raise DatasetError(
            "Hugging Face data sets need the package datasets: pip install datasets."
        ) from None
    folder = Path(root)
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        loaded = datasets.load_from_disk(str(folder))
        tables = loaded if isinstance(loaded, datasets.DatasetDict) else {"all": loaded}
        require_split("The data set", split, tables, folder)
        return tables[split]
    try:
        return datasets.load_dataset(str(root), config, split=split, revision=revision)
    # Not found, no permission, no such split or configuration, a broken file.
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise DatasetError(f"The data set {root} cannot be loaded: {error}") from None


def _labels(labels: LabelMap | str | Path | None, root: Path) -> Any:
    if labels is None and not root.is_dir():
        raise DatasetError(f"The classes of {root} are not known; give labels, a labels file.")
    return resolve_labels(labels, root)


def _columns(features: Any, image: str | None, label: str | None) -> tuple[str, str]:
    """The names of the picture and the label column, found where None."""
    for name in (image, label):
        if name is not None and name not in features:
            raise DatasetError(f"There is no column {name!r}; there are: {', '.join(features)}.")
    pictures = [name for name in features if _is_image(features[name])]
    maps = [name for name in features if name in pictures or _is_array(features[name])]
    image = image or _only(pictures, but=label, among=_IMAGE_COLUMNS)
    label = label or _only(maps, but=image, among=_LABEL_COLUMNS)
    # Where one is known by its name, the other may be the only one left.
    if image is None and label is not None:
        image = _only(pictures, but=label)
    if label is None and image is not None:
        label = _only(pictures, but=image)
    if image is None or label is None:
        raise DatasetError(
            "Cannot tell the picture column from the label column; give image_column and "
            f"label_column. The columns are: {', '.join(features)}."
        )
    if image not in pictures or label not in maps:
        raise DatasetError(
            f"{image!r} must be a column of pictures and {label!r} one of pictures or arrays; "
            f"they are {features[image]} and {features[label]}."
        )
    return image, label


def _only(names: list[str], *, but: str | None, among: tuple[str, ...] = ()) -> str | None:
    """The one name that is left without `but`, in `among` where given; None for none or many."""
    left = [name for name in names if name != but and (not among or name.lower() in among)]
    return left[0] if len(left) == 1 else None


def _is_image(feature: Any) -> bool:
    from datasets import Image

    return isinstance(feature, Image)


def _is_array(feature: Any) -> bool:
    from datasets import Array2D, List

    return isinstance(feature, Array2D) or (
        isinstance(feature, List) and isinstance(feature.feature, List)
    )


def _undecoded(table: Any, columns: Sequence[str]) -> Any:
    """The table with these columns only, pictures as their files' bytes or paths."""
    from datasets import Image

    table = table.select_columns(list(dict.fromkeys(columns)))
    for column in columns:
        if _is_image(table.features[column]):
            table = table.cast_column(column, Image(decode=False))
    return table


@dataclass(frozen=True)
class _Rows(Sequence[Sample]):
    """The rows of a table as samples, read when asked for."""

    table: Any
    split: str
    image_column: str
    label_column: str

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        row = self.table[int(index)]
        id = f"{self.split}/{index % len(self)}"
        return Sample(id, _content(row[self.image_column]), _content(row[self.label_column]))


def _content(cell: Any) -> Any:
    """A cell as a path, the bytes of a picture file, or an array; no bytes where it is empty."""
    if isinstance(cell, list):
        return np.asarray(cell)
    if cell and cell["bytes"] is None and cell["path"]:
        return Path(cell["path"])
    return (cell and cell["bytes"]) or b""
