"""Label maps: what a network's class indices mean and how they are drawn.

A `LabelMap` holds the class names, their colours and the ignore index. The built-in
maps use the palettes that the data sets' own tools use.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

Color = tuple[int, int, int]


class LabelMapError(ValueError):
    """A label map that cannot be used; the message says what is wrong and what is accepted."""


@dataclass(frozen=True)
class LabelMap:
    """Class names and colours, one per class index, and the label that is not a class.

    Args:
        names: One unique, non-empty name per class; index 0 first. 1 to 65,536 of them.
        colors: One unique (red, green, blue) triple per class, each 0..255.
        ignore_index: The label of pixels that are neither trained on nor scored
            (unlabelled, void). Any integer that is not a class index.

    Raises:
        LabelMapError: Lengths differ, a name or colour repeats, or a value is out of range.

    Example:
        >>> LabelMap.from_names(["sky", "ground"]).names
        ('sky', 'ground')
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    ignore_index: int = 255

    VOC: ClassVar["LabelMap"]
    VOC7: ClassVar["LabelMap"]
    CAMVID: ClassVar["LabelMap"]
    CITYSCAPES: ClassVar["LabelMap"]
    ADE20K: ClassVar["LabelMap"]

    def __post_init__(self) -> None:
        names = _validated_names(self.names)
        colors = _validated_colors(self.colors, names)
        if isinstance(self.ignore_index, bool) or not isinstance(self.ignore_index, int):
            raise LabelMapError(f"ignore_index must be an integer, not {self.ignore_index!r}.")
        if 0 <= self.ignore_index < len(names):
            raise LabelMapError(
                f"ignore_index {self.ignore_index} is the index of class "
                f"{names[self.ignore_index]!r}; choose one outside 0..{len(names) - 1}."
            )
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "colors", colors)

    @classmethod
    def from_names(
        cls,
        names: Iterable[str],
        colors: Iterable[Sequence[int]] | None = None,
        ignore_index: int | None = None,
    ) -> "LabelMap":
        """A label map for one's own classes, with colours made up where none are given.

        Args:
            names: Class names, index 0 first.
            colors: One RGB triple per class; `distinct_colors` where None.
            ignore_index: 255 where None, or the number of classes where that is above 255.
        """
        names = _validated_names(names)
        if ignore_index is None:
            ignore_index = max(255, len(names))
        chosen = distinct_colors(len(names)) if colors is None else colors
        return cls(names, tuple(chosen), ignore_index)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """The class index of `name`; raises LabelMapError where there is no such class."""
        try:
            return self.names.index(name)
        except ValueError:
            raise LabelMapError(f"No class {name!r}; there are: {', '.join(self.names)}.") from None

    def color_hex(self, index: int) -> str:
        """The colour of a class as ``#rrggbb``."""
        return "#{:02x}{:02x}{:02x}".format(*self.colors[index])

    def palette(self) -> np.ndarray:
        """The colours as uint8 [len(self), 3]; `palette()[label_map]` colours a label map."""
        return np.array(self.colors, dtype=np.uint8)

    def to_config(self) -> dict[str, Any]:
        """The label map as the flat, JSON-only keys of a model's config.json."""
        return {
            "class_names": list(self.names),
            "class_colors": [list(color) for color in self.colors],
            "ignore_index": self.ignore_index,
        }


def _validated_names(names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise LabelMapError(f"Class names must be a list of strings, not {names!r}.")
    names = tuple(names)
    if not 1 <= len(names) <= 65_536:
        raise LabelMapError(f"A label map holds 1 to 65,536 classes, not {len(names)}.")
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise LabelMapError(f"A class name must be a non-empty string, not {name!r}.")
        if name in seen:
            raise LabelMapError(f"The class name {name!r} is given twice; names must be unique.")
        seen.add(name)
    return names


def _validated_colors(colors: Iterable[Sequence[int]], names: tuple[str, ...]) -> tuple[Color, ...]:
    if isinstance(colors, str) or not isinstance(colors, Iterable):
        raise LabelMapError(f"Class colours must be a list of RGB triples, not {colors!r}.")
    colors = tuple(colors)
    if len(colors) != len(names):
        raise LabelMapError(f"There are {len(names)} class names but {len(colors)} colours.")
    owner: dict[Color, str] = {}
    for name, color in zip(names, colors, strict=True):
        triple = _validated_color(color, name)
        if triple in owner:
            raise LabelMapError(
                f"Classes {owner[triple]!r} and {name!r} have the same colour {list(triple)}; "
                "colours must be unique."
            )
        owner[triple] = name
    return tuple(owner)


def _validated_color(color: Sequence[int], name: str) -> Color:
    is_triple = isinstance(color, Sequence | np.ndarray) and len(color) == 3
    if not is_triple or not all(
        isinstance(value, int | np.integer) and not isinstance(value, bool) and 0 <= value <= 255
        for value in color
    ):
        raise LabelMapError(
            f"The colour of class {name!r} must be three integers in 0..255, not {color!r}."
        )
    red, green, blue = (int(value) for value in color)
    return red, green, blue


def voc_color(index: int) -> Color:
    """The PASCAL VOC colour of a class index: its bits, dealt in turn to red, green and blue
    from the most significant bit down (VOCdevkit's ``VOClabelcolormap.m``). Unique below 2^24.
    """
    channels = [0, 0, 0]
    for bit in range(24):
        channels[bit % 3] |= ((index >> bit) & 1) << (7 - bit // 3)
    return channels[0], channels[1], channels[2]


def distinct_colors(count: int) -> tuple[Color, ...]:
    """`count` unique colours that are easy to tell apart, the same ones on every call.

    Up to 256 colours are picked greedily, each as far as possible in CIELAB from those before
    it and from black and white; above that (more than a palette image can hold) they are the
    VOC colours.
    """
    if count > 256:
        return tuple(voc_color(index) for index in range(1, count + 1))
    levels = np.linspace(0, 255, 13).round().astype(np.uint8)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    lab = _cielab(candidates)
    anchors = _cielab(np.array([[0, 0, 0], [255, 255, 255]], dtype=np.uint8))
    distance = np.linalg.norm(lab[:, None] - anchors, axis=-1).min(axis=1)
    chosen: list[Color] = []
    for _ in range(count):
        best = int(distance.argmax())
        red, green, blue = candidates[best].tolist()
        chosen.append((red, green, blue))
        distance = np.minimum(distance, np.linalg.norm(lab - lab[best], axis=-1))
    return tuple(chosen)


def _cielab(rgb: np.ndarray) -> np.ndarray:
    """uint8 sRGB [..., 3] as CIELAB (D65 white), in which distance is near to perceived."""
    srgb = rgb.astype(np.float64) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    xyz = linear @ to_xyz.T / to_xyz.sum(axis=1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _built_in(table: dict[str, str], ignore_index: int = 255) -> LabelMap:
    colors = tuple(tuple(bytes.fromhex(color[1:])) for color in table.values())
    return LabelMap(tuple(table), colors, ignore_index)  # type: ignore[arg-type]


# fmt: off
_VOC_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)

# PASCAL VOC 2012; the void label of its masks is 255.
LabelMap.VOC = LabelMap(_VOC_NAMES, tuple(voc_color(index) for index in range(21)))

# Seven classes of VOC; every other class counts as background. The colours are not VOC's, where
# cat is nearly black, but the palette of Okabe and Ito ("Color Universal Design", 2008), which
# people with any kind of colour vision can tell apart.
LabelMap.VOC7 = _built_in(
    {
        "background": "#000000",
        "cat": "#e69f00",
        "cow": "#56b4e9",
        "dog": "#0072b2",
        "horse": "#f0e442",
        "person": "#cc79a7",
        "sheep": "#009e73",
    }
)

# CamVid in the 11 classes of SegNet (Badrinarayanan et al., 2015); 11 is "unlabelled" there.
LabelMap.CAMVID = _built_in(
    {
        "sky": "#808080", "building": "#800000", "pole": "#c0c080", "road": "#804080",
        "pavement": "#3c28de", "tree": "#808000", "sign symbol": "#c08080", "fence": "#404080",
        "car": "#400080", "pedestrian": "#404000", "bicyclist": "#0080c0",
    },
    ignore_index=11,
)

# The 19 evaluation classes of Cityscapes in the order of their train ids (cityscapesScripts).
LabelMap.CITYSCAPES = _built_in(
    {
        "road": "#804080", "sidewalk": "#f423e8", "building": "#464646", "wall": "#66669c",
        "fence": "#be9999", "pole": "#999999", "traffic light": "#faaa1e",
        "traffic sign": "#dcdc00", "vegetation": "#6b8e23", "terrain": "#98fb98", "sky": "#4682b4",
        "person": "#dc143c", "rider": "#ff0000", "car": "#00008e", "truck": "#000046",
        "bus": "#003c64", "train": "#005064", "motorcycle": "#0000e6", "bicycle": "#770b20",
    }
)

# ADE20K scene parsing, 150 classes in the order of the benchmark (its mask value minus one;
# mask value 0 is "other"). In the usual palette road and skyscraper share #8c8c8c: skyscraper
# is bluer here so that a legend can tell them apart.
LabelMap.ADE20K = _built_in(
    {
        "wall": "#787878", "building": "#b47878", "sky": "#06e6e6", "floor": "#503232",
        "tree": "#04c803", "ceiling": "#787850", "road": "#8c8c8c", "bed": "#cc05ff",
        "windowpane": "#e6e6e6", "grass": "#04fa07", "cabinet": "#e005ff", "sidewalk": "#ebff07",
        "person": "#96053d", "earth": "#787846", "door": "#08ff33", "table": "#ff0652",
        "mountain": "#8fff8c", "plant": "#ccff04", "curtain": "#ff3307", "chair": "#cc4603",
        "car": "#0066c8", "water": "#3de6fa", "painting": "#ff0633", "sofa": "#0b66ff",
        "shelf": "#ff0747", "house": "#ff09e0", "sea": "#0907e6", "mirror": "#dcdcdc",
        "rug": "#ff095c", "field": "#7009ff", "armchair": "#08ffd6", "seat": "#07ffe0",
        "fence": "#ffb806", "desk": "#0aff47", "rock": "#ff290a", "wardrobe": "#07ffff",
        "lamp": "#e0ff08", "bathtub": "#6608ff", "railing": "#ff3d06", "cushion": "#ffc207",
        "base": "#ff7a08", "box": "#00ff14", "column": "#ff0829", "signboard": "#ff0599",
        "chest of drawers": "#0633ff", "counter": "#eb0cff", "sand": "#a09614", "sink": "#00a3ff",
        "skyscraper": "#8c8ca0", "fireplace": "#fa0a0f", "refrigerator": "#14ff00",
        "grandstand": "#1fff00", "path": "#ff1f00", "stairs": "#ffe000", "runway": "#99ff00",
        "case": "#0000ff", "pool table": "#ff4700", "pillow": "#00ebff", "screen door": "#00adff",
        "stairway": "#1f00ff", "river": "#0bc8c8", "bridge": "#ff5200", "bookcase": "#00fff5",
        "blind": "#003dff", "coffee table": "#00ff70", "toilet": "#00ff85", "flower": "#ff0000",
        "book": "#ffa300", "hill": "#ff6600", "bench": "#c2ff00", "countertop": "#008fff",
        "stove": "#33ff00", "palm": "#0052ff", "kitchen island": "#00ff29", "computer": "#00ffad",
        "swivel chair": "#0a00ff", "boat": "#adff00", "bar": "#00ff99", "arcade machine": "#ff5c00",
        "hovel": "#ff00ff", "bus": "#ff00f5", "towel": "#ff0066", "light": "#ffad00",
        "truck": "#ff0014", "tower": "#ffb8b8", "chandelier": "#001fff", "awning": "#00ff3d",
        "streetlight": "#0047ff", "booth": "#ff00cc", "television receiver": "#00ffc2",
        "airplane": "#00ff52", "dirt track": "#000aff", "apparel": "#0070ff", "pole": "#3300ff",
        "land": "#00c2ff", "bannister": "#007aff", "escalator": "#00ffa3", "ottoman": "#ff9900",
        "bottle": "#00ff0a", "buffet": "#ff7000", "poster": "#8fff00", "stage": "#5200ff",
        "van": "#a3ff00", "ship": "#ffeb00", "fountain": "#08b8aa", "conveyer belt": "#8500ff",
        "canopy": "#00ff5c", "washer": "#b800ff", "plaything": "#ff001f",
        "swimming pool": "#00b8ff", "stool": "#00d6ff", "barrel": "#ff0070", "basket": "#5cff00",
        "waterfall": "#00e0ff", "tent": "#70e0ff", "bag": "#46b8a0", "minibike": "#a300ff",
        "cradle": "#9900ff", "oven": "#47ff00", "ball": "#ff00a3", "food": "#ffcc00",
        "step": "#ff008f", "tank": "#00ffeb", "trade name": "#85ff00", "microwave": "#ff00eb",
        "pot": "#f500ff", "animal": "#ff007a", "bicycle": "#fff500", "lake": "#0abed4",
        "dishwasher": "#d6ff00", "screen": "#00ccff", "blanket": "#1400ff", "sculpture": "#ffff00",
        "hood": "#0099ff", "sconce": "#0029ff", "vase": "#00ffcc", "traffic light": "#2900ff",
        "tray": "#29ff00", "ashcan": "#ad00ff", "fan": "#00f5ff", "pier": "#4700ff",
        "crt screen": "#7a00ff", "plate": "#00ffb8", "monitor": "#005cff",
        "bulletin board": "#b8ff00", "shower": "#0085ff", "radiator": "#ffd600", "glass": "#19c2c2",
        "clock": "#66ff00", "flag": "#5c00ff",
    }
)
# fmt: on
