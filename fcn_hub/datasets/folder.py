"""A plain folder pair: images/ and masks/ with files of the same names, and a labels file.

With splits it is images/SPLIT and masks/SPLIT. The labels file, labels.json or labels.txt, says
what the masks hold.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcn_hub.datasets.base import (
    DatasetError,
    SegmentationDataset,
    existing_root,
    index_values,
    pair_by_stem,
    require_split,
)
from fcn_hub.labels import Color, LabelMap, LabelMapError

LABELS_FILES = ("labels.json", "labels.txt")


def open_folder(
    root: Path, split: str, *, labels: LabelMap | str | Path | None = None
) -> SegmentationDataset:
    """The pictures of root/images with the masks of root/masks.

    Args:
        root: The folder that holds images and masks.
        split: A folder inside images and masks; ``all`` where they have none.
        labels: The classes, or the path of a labels file; root/labels.json or root/labels.txt
            where None. See `read_labels`.

    Raises:
        DatasetError: A folder, the split or the labels file is missing or malformed.
    """
    pictures = existing_root([root / "images"], root, "a folder images")
    masks = existing_root([root / "masks"], root, "a folder masks")
    splits = sorted(path.name for path in pictures.iterdir() if path.is_dir())
    require_split("The folder", split, splits or ["all"], pictures)
    label_map, values = resolve_labels(labels, root)
    inside = split if splits else ""
    samples = pair_by_stem(pictures / inside, masks / inside)
    return SegmentationDataset("folder", split, samples, label_map, values)


def resolve_labels(
    labels: LabelMap | str | Path | None, root: Path
) -> tuple[LabelMap, dict[int | Color, int]]:
    """The classes given by the caller, or by a labels file, the one in `root` where None.

    Returns:
        The classes and the meaning of the masks' values, as `SegmentationDataset` takes them.
    """
    if isinstance(labels, LabelMap):
        colors: dict[int | Color, int] = {c: index for index, c in enumerate(labels.colors)}
        return labels, {**index_values(labels), **colors}
    if labels is not None:
        return read_labels(Path(labels))
    for name in LABELS_FILES:
        if (root / name).is_file():
            return read_labels(root / name)
    raise DatasetError(f"There is no {' or '.join(LABELS_FILES)} in {root}.")


def read_labels(path: Path) -> tuple[LabelMap, dict[int | Color, int]]:
    """Read a labels file.

    A ``.txt`` file holds one class name per line, class 0 first. A ``.json`` file holds

    - a list of names, or
    - a list of ``{"name": …, "color": [r, g, b] or "#rrggbb", "value": …, "ignore": …}``, of
      which only the name is required. `color` is both what the class is drawn with and its code
      in RGB masks, `value` its code in palette and grey masks (its place among the classes where
      left out), and an entry with ``"ignore": true`` is no class: its pixels are ignored; or
    - the ``id2label`` of a Transformers configuration, ``{"0": name, "1": name, …}``.

    The value 255 (the number of classes, where that is more) is ignored unless a class has it.

    Returns:
        The classes and the meaning of the masks' values, as `SegmentationDataset` takes them.

    Raises:
        DatasetError: The file is missing or malformed.

    Example:
        >>> read_labels(Path("labels.json"))  # doctest: +SKIP
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".json":
            entries = _json_entries(json.loads(text))
        else:
            entries = [_Entry(line.strip()) for line in text.splitlines() if line.strip()]
        return _label_map(entries)
    except OSError as error:
        raise DatasetError(f"The labels file {path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"The labels file {path} is malformed: {error}") from None


@dataclass(frozen=True)
class _Entry:
    name: str
    color: Color | None = None
    value: int | None = None
    ignore: bool = False


def _json_entries(content: Any) -> list[_Entry]:
    if isinstance(content, dict):
        if not all(isinstance(key, str) and key.isdecimal() for key in content):
            raise ValueError("an object must map class indices to names, as id2label does.")
        return [_Entry(content[key], value=int(key)) for key in sorted(content, key=int)]
    if not isinstance(content, list):
        raise ValueError("it must hold a list.")
    return [_json_entry(entry) for entry in content]


def _json_entry(entry: Any) -> _Entry:
    if isinstance(entry, str):
        return _Entry(entry)
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise ValueError(f"an entry must be a name or an object with a name, not {entry!r}.")
    if unknown := sorted(set(entry) - {"name", "color", "value", "ignore"}):
        raise ValueError(f"{entry['name']!r} has unknown keys: {', '.join(unknown)}.")
    value, ignore = entry.get("value"), entry.get("ignore", False)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise ValueError(f"the value of {entry['name']!r} must be an integer, not {value!r}.")
    if not isinstance(ignore, bool):
        raise ValueError(f"ignore of {entry['name']!r} must be true or false, not {ignore!r}.")
    return _Entry(entry["name"], _color(entry), value, ignore)


def _color(entry: dict[str, Any]) -> Color | None:
    color = entry.get("color")
    if isinstance(color, str) and len(color) == 7 and color[0] == "#":
        color = list(bytes.fromhex(color[1:]))
    if color is None:
        return None
    # LabelMap checks a triple's values, and also those of entries that are no class.
    return LabelMap((entry["name"],), (color,)).colors[0]


def _label_map(entries: list[_Entry]) -> tuple[LabelMap, dict[int | Color, int]]:
    classes = [entry for entry in entries if not entry.ignore]
    colors = [entry.color for entry in classes if entry.color is not None]
    if colors and len(colors) != len(classes):
        raise LabelMapError("either every class has a color or none.")
    labels = LabelMap.from_names([entry.name for entry in classes], colors or None)
    values: dict[int | Color, int] = {}
    for index, entry in enumerate(classes):
        _put(values, index if entry.value is None else entry.value, index)
        if entry.color is not None:
            _put(values, entry.color, index)
    for entry in entries:
        if entry.ignore:
            for key in (entry.value, entry.color):
                if key is not None:
                    _put(values, key, labels.ignore_index)
    values.setdefault(labels.ignore_index, labels.ignore_index)
    return labels, values


def _put(values: dict[int | Color, int], key: int | Color, index: int) -> None:
    if key in values:
        raise LabelMapError(f"the value {key} is given twice.")
    values[key] = index
