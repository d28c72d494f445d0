"""The result of segmenting one picture, and everything it can be turned into.

A `Segmentation` holds the picture, the class of every pixel and how sure the network was of it.
From these come the legend, coloured pictures, files, and the formats of the Hugging Face Hub and
of COCO. Whatever touches every pixel works on bands of rows, so that pictures of 100 megapixels
need little memory beyond their own.
"""

import io
import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fcn_hub.files import atomic_write
from fcn_hub.labels import Color, LabelMap

_BAND_PIXELS = 2**18


@dataclass(frozen=True)
class LegendEntry:
    """One class that is present in a picture.

    Args:
        index: Class index, the value in the label map.
        name: Class name.
        color: Red, green and blue, each 0..255.
        pixels: Number of pixels of the class, at least 1.
        fraction: Its share of the picture, above 0 and up to 1.
    """

    index: int
    name: str
    color: Color
    pixels: int
    fraction: float

    @property
    def color_hex(self) -> str:
        """The colour as ``#rrggbb``."""
        return "#{:02x}{:02x}{:02x}".format(*self.color)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A picture with the class of every pixel.

    Args:
        image: The RGB picture that was segmented, W×H.
        label_map: Class index of every pixel, uint8 [H, W]; uint16 where `labels` has more
            than 256 classes. Not to be changed afterwards.
        confidence: Softmax probability of that class, float32 [H, W] in 0..1.
        labels: Names and colours of the classes.

    Raises:
        ValueError: Sizes or types do not agree, or a value is out of range.

    Example:
        >>> picture = Image.new("RGB", (4, 2))
        >>> label_map = np.array([[0, 0, 0, 1]] * 2, dtype=np.uint8)
        >>> confidence = np.ones((2, 4), dtype=np.float32)
        >>> Segmentation(picture, label_map, confidence, LabelMap.VOC7)
        Segmentation(4×2: background 75.0 %, cat 25.0 %)
    """

    image: Image.Image
    label_map: np.ndarray
    confidence: np.ndarray
    labels: LabelMap

    def __post_init__(self) -> None:
        if self.image.mode != "RGB":
            raise ValueError(f"The picture must be RGB, not {self.image.mode}.")
        dtype = np.uint8 if len(self.labels) <= 256 else np.uint16
        _check_array("label map", self.label_map, dtype, self.image.size)
        _check_array("confidence", self.confidence, np.float32, self.image.size)
        if not (self.confidence.min() >= 0 and self.confidence.max() <= 1):
            raise ValueError("The confidence must be in 0..1; is a weight of the network NaN?")
        if (label := int(self.label_map.max())) >= len(self.labels):
            raise ValueError(f"The label map holds {label}; labels are 0..{len(self.labels) - 1}.")

    @cached_property
    def legend(self) -> list[LegendEntry]:
        """The classes present, largest first (ties by index); their pixels sum to H·W."""
        counts = np.zeros(len(self.labels), dtype=np.int64)
        for rows in self._bands():
            counts += np.bincount(self.label_map[rows].ravel(), minlength=len(counts))
        return [
            LegendEntry(
                index=index,
                name=self.labels.names[index],
                color=self.labels.colors[index],
                pixels=int(counts[index]),
                fraction=int(counts[index]) / self.label_map.size,
            )
            for index in np.argsort(-counts, kind="stable").tolist()
            if counts[index]
        ]

    def colored(self) -> Image.Image:
        """The label map as an RGB picture, each pixel in exactly the colour of its class."""
        return self.overlay(opacity=1)

    def overlay(self, opacity: float = 0.6, *, legend: bool = False) -> Image.Image:
        """The picture with the classes' colours laid over it.

        Each value is ``(1 - opacity) * picture + opacity * colour``, rounded to the nearest
        integer.

        Args:
            opacity: 0 (the picture) to 1 (the colours).
            legend: Draw the legend on a white panel that extends the picture: on the right of a
                portrait, else below. It lists as many classes as fit well, largest first. The
                letters it has are ASCII: accents are dropped, and a name in another script
                becomes ``class`` and the index.

        Returns:
            RGB picture of the picture's size; larger with a legend.

        Raises:
            ValueError: `opacity` is not in 0..1.
        """
        if not 0 <= opacity <= 1:
            raise ValueError(f"The opacity must be in 0..1, not {opacity}.")
        size = self.image.size
        canvas = canvas_with_legend(size, self.legend) if legend else Image.new("RGB", size)
        colors = self.labels.palette() * np.float32(opacity)
        for rows in self._bands():
            box = (0, rows.start, size[0], rows.stop)
            values = np.asarray(self.image.crop(box)) * np.float32(1 - opacity)
            values += colors[self.label_map[rows]]
            canvas.paste(Image.fromarray(np.rint(values, out=values).astype(np.uint8)), box)
        return canvas

    def save(self, path: str | Path) -> None:
        """Write the segmentation to a file, in the format of its suffix.

        ``.png``: a palette picture whose pixels are the label map and whose palette holds the
        classes' colours; above 256 classes 16-bit grey. ``.npy``: the label map, for
        `numpy.load`. ``.json``: `to_dict`. An existing file is replaced, as a whole or not at all.

        Raises:
            ValueError: Another suffix.
            OSError: The folder does not exist, or the file cannot be written.
        """
        path = Path(path)
        writers = {".png": self._write_png, ".json": self._write_json, ".npy": self._write_npy}
        if (write := writers.get(path.suffix.lower())) is None:
            raise ValueError(f"Cannot save as {path.name!r}; accepted are {', '.join(writers)}.")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"There is no folder {path.parent} to save {path.name} in.")
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            write(file)

    def to_png(self) -> bytes:
        """What `save` writes to a file that ends in ``.png``."""
        file = io.BytesIO()
        self._write_png(file)
        return file.getvalue()

    def to_hub(self) -> list[dict[str, Any]]:
        """The segments in the format of the Hub's image-segmentation task, largest first.

        Returns:
            One dict per class present: ``label`` (the name), ``mask`` (PIL picture of mode L and
            the picture's size, 255 inside and 0 outside), ``score`` (mean confidence, 0..1).
        """
        return [
            {
                "label": entry.name,
                "mask": Image.fromarray((self.label_map == entry.index).view(np.uint8) * 255),
                "score": self._mean_confidence[entry.index],
            }
            for entry in self.legend
        ]

    def to_coco(self) -> list[dict[str, Any]]:
        """The segments as COCO annotations, largest first.

        Returns:
            One JSON-ready dict per class present: ``category_id`` (the class index),
            ``category_name``, ``segmentation`` (compressed run-length code as of pycocotools:
            ``size`` [H, W] and ``counts``, a string), ``area`` in pixels, ``bbox`` [x, y, w, h].
        """
        height, width = self.label_map.shape
        column_major = self.label_map.ravel(order="F")
        edges = np.flatnonzero(column_major[1:] != column_major[:-1]) + 1
        starts = np.concatenate([[0], edges])
        stops = np.append(edges, column_major.size)
        labels = column_major[starts]
        segments = []
        for entry in self.legend:
            chosen = labels == entry.index
            runs = starts[chosen], stops[chosen]
            code = {"size": [height, width], "counts": _rle(*runs, column_major.size)}
            segments.append(
                {
                    "category_id": entry.index,
                    "category_name": entry.name,
                    "segmentation": code,
                    "area": entry.pixels,
                    "bbox": _bounding_box(*runs, height),
                }
            )
        return segments

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready summary.

        Returns:
            ``width``, ``height`` and ``classes``: those present, largest first, each with
            ``index``, ``name``, ``color`` (#rrggbb), ``pixels``, ``fraction`` and ``confidence``
            (the mean over its pixels).
        """
        classes = [
            {
                "index": entry.index,
                "name": entry.name,
                "color": entry.color_hex,
                "pixels": entry.pixels,
                "fraction": entry.fraction,
                "confidence": self._mean_confidence[entry.index],
            }
            for entry in self.legend
        ]
        return {"width": self.image.width, "height": self.image.height, "classes": classes}

    def __repr__(self) -> str:
        shown = [f"{entry.name} {_percent(entry.fraction)}" for entry in self.legend[:5]]
        if len(self.legend) > len(shown):
            shown.append(f"+{len(self.legend) - len(shown)} more")
        return f"Segmentation({self.image.width}×{self.image.height}: {', '.join(shown)})"

    def _repr_png_(self) -> bytes:
        """What a notebook shows: the overlay, at most 1024 pixels a side, with its legend."""
        preview = self.overlay()
        preview.thumbnail((1024, 1024))
        canvas = canvas_with_legend(preview.size, self.legend)
        canvas.paste(preview)
        file = io.BytesIO()
        canvas.save(file, format="PNG")
        return file.getvalue()

    @cached_property
    def _mean_confidence(self) -> dict[int, float]:
        sums = np.zeros(len(self.labels))
        for rows in self._bands():
            labels, weights = self.label_map[rows].ravel(), self.confidence[rows].ravel()
            sums += np.bincount(labels, weights, minlength=len(sums))
        return {entry.index: float(sums[entry.index]) / entry.pixels for entry in self.legend}

    def _bands(self) -> Iterator[slice]:
        """The rows in bands: numpy's 8-byte copies of a band are small, of a picture not."""
        height, width = self.label_map.shape
        step = max(1, _BAND_PIXELS // width)
        for start in range(0, height, step):
            yield slice(start, min(start + step, height))

    def _write_png(self, file: IO[bytes]) -> None:
        picture = Image.fromarray(self.label_map)
        if picture.mode == "L":
            picture.putpalette(self.labels.palette().tobytes())
        picture.save(file, format="PNG")

    def _write_json(self, file: IO[bytes]) -> None:
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        file.write(f"{text}\n".encode())

    def _write_npy(self, file: IO[bytes]) -> None:
        np.save(file, self.label_map, allow_pickle=False)


def _check_array(name: str, array: np.ndarray, dtype: type, size: tuple[int, int]) -> None:
    shape = size[::-1]
    if array.dtype != dtype or array.shape != shape or array.size == 0:
        raise ValueError(
            f"The {name} of a {size[0]}×{size[1]} picture must be {np.dtype(dtype)} "
            f"{list(shape)}, not {array.dtype} {list(array.shape)}."
        )


def _percent(fraction: float) -> str:
    return f"{fraction:.1%}".replace("%", " %") if fraction >= 0.001 else "<0.1 %"


def _rle(starts: np.ndarray, stops: np.ndarray, size: int) -> str:
    """The compressed run-length code of a mask that is 1 in [start, stop) and 0 elsewhere.

    The lengths of the runs of 0 and 1 in turn, beginning with 0, from the fourth on as the
    difference to the one two before; each in groups of five bits, lowest first, with a sixth bit
    that says whether more follow, plus 48 to make it a letter (pycocotools' ``rleToString``).
    """
    edges = np.stack([starts, stops], axis=1).ravel()
    lengths = np.diff(edges, prepend=0, append=size)
    if lengths[-1] == 0:
        lengths = lengths[:-1]
    rest = lengths.copy()
    rest[3:] -= lengths[1:-2]
    alive = np.ones(len(rest), dtype=bool)
    letters = []
    while alive.any():
        group, rest = rest & 31, rest >> 5
        # What remains is mere sign once it equals the group's highest bit, spread out.
        more = alive & (rest != -(group >> 4))
        letters.append(np.where(alive, group + 32 * more + 48, 0).astype(np.uint8))
        alive = more
    code = np.stack(letters, axis=1).ravel()
    return code[code > 0].tobytes().decode("ascii")


def _bounding_box(starts: np.ndarray, stops: np.ndarray, height: int) -> list[int]:
    """[x, y, w, h] of column-major runs; one that goes on in the next column has full height."""
    first, last = starts // height, (stops - 1) // height
    if (first < last).any():
        top, bottom = 0, height - 1
    else:
        top, bottom = int((starts % height).min()), int(((stops - 1) % height).max())
    left, right = int(first.min()), int(last.max())
    return [left, top, right - left + 1, bottom - top + 1]


def canvas_with_legend(picture: tuple[int, int], legend: list[LegendEntry]) -> Image.Image:
    """A white canvas with room for a picture of that size at its top left, and the legend drawn:
    on the right of a portrait, else below.
    """
    width, height = picture
    size = max(13, round(max(width, height) / 40))
    if height > width:
        panel = _legend_panel(legend, size, room=(width // 2, height))
        origin, extent = (width, 0), (width + panel.width, max(height, panel.height))
    else:
        panel = _legend_panel(legend, size, room=(width, height // 2))
        origin, extent = (0, height), (max(width, panel.width), height + panel.height)
    canvas = Image.new("RGB", extent, "white")
    canvas.paste(panel, origin)
    return canvas


def _legend_panel(legend: list[LegendEntry], size: int, room: tuple[int, int]) -> Image.Image:
    """The legend in columns of swatch, name and percentage, in letters of `size` pixels.

    It grows beyond `room`, its desired width and height, where that holds less than one column
    or eight rows. The classes that then do not fit are summed up in the last place.
    """
    font = ImageFont.load_default(size)
    swatch, gap, line = round(0.9 * size), size // 2, round(1.6 * size)
    names = [drawable_name(entry) for entry in legend]
    # At least 5 letters' width, for "+123 more".
    name_width = round(max(5 * size, *(font.getlength(name) for name in names)))
    column = swatch + gap + name_width + size + round(font.getlength("100.0 %"))
    pitch = column + 2 * size

    columns = max(1, room[0] // pitch)
    fitting = columns * max(8, (room[1] - size) // line)
    places: list[tuple[Color | None, str, str]] = [
        (entry.color, name, _percent(entry.fraction))
        for entry, name in zip(legend, names, strict=True)
    ]
    if len(places) > fitting:
        rest = legend[fitting - 1 :]
        total = _percent(sum(entry.fraction for entry in rest))
        places[fitting - 1 :] = [(None, f"+{len(rest)} more", total)]
    rows = -(-len(places) // columns)
    columns = -(-len(places) // rows)

    panel = Image.new("RGB", (columns * pitch, rows * line + size), "white")
    draw = ImageDraw.Draw(panel)
    for place, (color, name, percent) in enumerate(places):
        x = size + place // rows * pitch
        y = size // 2 + place % rows * line + (line - swatch) // 2
        if color is not None:
            draw.rectangle((x - 1, y - 1, x + swatch, y + swatch), fill="#808080")
            draw.rectangle((x, y, x + swatch - 1, y + swatch - 1), fill=color)
        # Capitals are 0.7 of the size high: this baseline puts them level with the swatch.
        baseline = y + round(0.8 * size)
        draw.text((x + swatch + gap, baseline), name, "#202020", font, anchor="ls")
        draw.text((x + column, baseline), percent, "#606060", font, anchor="rs")
    return panel


def drawable_name(entry: LegendEntry, longest: int = 32) -> str:
    """The name in letters that Pillow's own font has, on one line and not too long."""
    plain = unicodedata.normalize("NFKD", entry.name).encode("ascii", "ignore").decode()
    name = " ".join(plain.split()) or f"class {entry.index}"
    return name if len(name) <= longest else f"{name[: longest - 1]}…"
