"""What the page draws, as files and as data URLs."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image
from read_outs import ReadOuts

from fcn_hub import LabelMap, Segmentation

# More than most screens show of a picture, and little for a phone to hold.
DISPLAY_SIDE = 1600


def write_for_page(result: Segmentation, files: Callable[[str], Path]) -> dict[str, Any]:
    """Write the files behind the page's picture and downloads.

    The picture and the maps are scaled down to DISPLAY_SIDE; the downloads have full size. The
    confidence has 256 levels.
    """
    result.save(files("mask.png"))
    result.save(files("summary.json"))
    files("coco.json").write_text(json.dumps(result.to_coco()), encoding="utf-8")
    confidence = Image.fromarray(np.rint(result.confidence * 255).astype(np.uint8))
    picture, colored = result.image, None
    if max(picture.size) > DISPLAY_SIDE or len(result.labels) > 256:
        picture = picture.copy()
        picture.thumbnail((DISPLAY_SIDE, DISPLAY_SIDE))
        confidence = confidence.resize(picture.size, Image.Resampling.BILINEAR)
        indices = np.array(Image.fromarray(result.label_map).resize(picture.size, 0))
        colored = Image.fromarray(result.labels.palette()[indices])
    picture.save(files("picture.jpg"), quality=92, subsampling=0)
    confidence.save(files("confidence.png"), compress_level=1)
    names = {"mask": "mask.png", "summary": "summary.json", "coco": "coco.json"}
    names |= {"picture": "picture.jpg", "confidence": "confidence.png", "labels": "mask.png"}
    if colored is not None:
        colored.save(files("labels.png"), compress_level=1)
        names["labels"] = "labels.png"
    return {key: gr.FileData(path=str(files(name))).model_dump() for key, name in names.items()}


def draw_stages(read_outs: ReadOuts, labels: LabelMap) -> dict[str, Any]:
    """Read-outs as pictures in data URLs: small, and gone with the page."""
    palette = labels.palette()
    heat = []
    for values in read_outs.heat:
        scaled = (values - values.min()) / max(float(np.ptp(values)), 1e-9)
        heat.append(data_url(Image.fromarray(np.rint(scaled * 255).astype(np.uint8)), "PNG"))
    return {
        "picture": data_url(read_outs.picture, "JPEG", quality=90),
        "width": read_outs.picture.width,
        "height": read_outs.picture.height,
        "heat": heat,
        "finest": read_outs.finest,
        "build_up": [
            data_url(Image.fromarray(palette[indices]), "PNG") for indices in read_outs.build_up
        ],
    }


def small_overlay(result: Segmentation, side: int = 240) -> Image.Image:
    """The overlay, small: each drawn pixel stands for the one at its place."""
    image = result.image.copy()
    image.thumbnail((side, side))
    indices = np.array(Image.fromarray(result.label_map).resize(image.size, 0))
    colors = Image.fromarray(result.labels.palette()[indices])
    return Image.blend(image, colors, 0.6)


def thumbnail(path: Path, side: int = 240) -> str:
    """A small copy of a picture as a data URL."""
    with Image.open(path) as image:
        image.thumbnail((side, side))
        return data_url(image.convert("RGB"), "JPEG", quality=85)


def data_url(image: Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
