"""The pictures of a card: a sample and the legend."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from fcn_hub.card.text import one_line
from fcn_hub.files import atomic_write
from fcn_hub.labels import LabelMap
from fcn_hub.segmentation import LegendEntry, canvas_with_legend, drawable_name

if TYPE_CHECKING:
    from fcn_hub.images import ImageSource
    from fcn_hub.segmenter import Segmenter

SAMPLE_NAME = "sample.png"
LEGEND_NAME = "legend.png"
MOST_CLASSES = 256  # that the drawn legend and the card's table list


def make_sample(
    segmenter: "Segmenter", picture: "ImageSource", path: str | Path, *, credit: str | None = None
) -> None:
    """Write a card's sample.png: a picture, beside it the same with its classes, and a legend.

    Args:
        segmenter: The model.
        picture: A picture that may be published; anything that `Segmenter` takes.
        path: The file to write, `sample.png` in the model's folder.
        credit: Who made the picture and under which licence. It is kept in the file's metadata,
            and the card shows it.
    """
    result = segmenter(picture)
    views = result.image.copy(), result.overlay()
    for view in views:
        view.thumbnail((512, 512))
    width, height = views[0].size
    gap = 8
    canvas = canvas_with_legend((2 * width + gap, height), result.legend)
    canvas.paste(views[0], (0, 0))
    canvas.paste(views[1], (width + gap, 0))
    info = PngImagePlugin.PngInfo()
    if credit:
        info.add_itxt("Source", one_line(credit))
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        canvas.save(file, format="PNG", pnginfo=info, optimize=True)


def make_legend(labels: LabelMap, path: str | Path) -> None:
    """Write a card's legend.png: every class with its colour, the first 256 of them.

    Pictures are the one way to show a colour that every renderer of Markdown agrees on.
    """
    size, swatch, line = 16, 20, 28
    font = ImageFont.load_default(size)
    texts = [
        f"{index}  {drawable_name(LegendEntry(index, name, labels.colors[index], 1, 1.0))}"
        for index, name in enumerate(labels.names[:MOST_CLASSES])
    ]
    pitch = swatch + 10 + math.ceil(max(map(font.getlength, texts))) + 28
    columns = min(len(texts), max(1, 900 // pitch))
    rows = -(-len(texts) // columns)
    columns = -(-len(texts) // rows)
    canvas = Image.new("RGB", (columns * pitch + 12, rows * line + 12), "white")
    draw = ImageDraw.Draw(canvas)
    for index, text in enumerate(texts):
        x, y = 12 + index // rows * pitch, 6 + index % rows * line + (line - swatch) // 2
        box = (x, y, x + swatch - 1, y + swatch - 1)
        draw.rectangle(box, fill=labels.colors[index], outline="#808080")
        draw.text((x + swatch + 10, y + swatch // 2), text, "#202020", font, anchor="lm")
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        canvas.save(file, format="PNG", optimize=True)


def sample_credit(folder: Path | None) -> dict[str, Any] | None:
    if folder is None or not (folder / SAMPLE_NAME).is_file():
        return None
    try:
        with Image.open(folder / SAMPLE_NAME, formats=["PNG"]) as image:
            return {"credit": image.info.get("Source")}
    except (OSError, ValueError, SyntaxError):
        return None
