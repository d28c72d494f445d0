"""What the app does, apart from its page: pictures in, what the page and programs get out.

The limits stand here. Pictures are opened by `fcn_hub.open_image`, which refuses what is too large
before it is decoded; the network sees pictures scaled down; everything is answered in turn.
"""

try:  # on ZeroGPU this must come before anything that may initialise CUDA
    import spaces
except ImportError:
    spaces = None

import base64
import binascii
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from batch import Upload, segment_many
from catalog import Catalog
from clips import Reel
from drawing import data_url, draw_stages, small_overlay, write_for_page
from PIL import Image
from read_outs import ReadOuts, read_out

from fcn_hub import ImageError, Segmentation, open_image
from fcn_hub.video import VideoError, open_clip

MAX_FILE_BYTES = 20 * 2**20
MAX_PIXELS = 40_000_000
# The network sees no more than this: a phone's 12 megapixels would take 20 s on two CPU cores,
# and things would be larger than any it was trained on.
MAX_SIDE = 640
MAX_BATCH = 50
MAX_CLIP_BYTES = 50 * 2**20
MAX_CLIP_PIXELS = 9_000_000  # a frame of 4K
MAX_LIVE_BYTES = 512 * 2**10
GPU_SECONDS = 10
# Where each call borrows a GPU from the visitor's quota, a camera would use it up in a moment.
LIVE = not os.environ.get("SPACES_ZERO_GPU")

EXAMPLES = {
    name: Path(__file__).resolve().parent / "examples" / f"{name}.jpg"
    for name in ("cat", "astronaut", "pavilion")
}

EXAMPLE_CLIPS = {"cat": EXAMPLES["cat"].with_suffix(".mp4")}


class Service:
    """The functions behind the page and the API.

    Args:
        catalog: The models.
        folder: Where files for visitors go; it is up to the caller to clean it.
    """

    def __init__(self, catalog: Catalog, folder: Path) -> None:
        self.catalog = catalog
        self.folder = folder
        self._turn = threading.Lock()
        self._classify = on_gpu(self._classify_here)
        self._stages = on_gpu(self._stages_here)

    def segment(
        self, picture: str | None, model: str, opacity: float
    ) -> tuple[str, dict[str, Any], str]:
        """Segment a picture: find the class of every pixel.

        Args:
            picture: A photograph, at most 20 MiB and 40 megapixels; a file or its URL.
            model: Which network; the first of the choices where not given.
            opacity: How strongly the overlay covers the picture, 0 to 1.

        Returns:
            overlay: The picture with the classes' colours laid over it, a PNG.
            summary: What was found; classes lists those present, largest first, with index, name,
                color, pixels, fraction of the picture and mean confidence.
            mask: A palette PNG; a pixel's value is its class, the palette holds the colours.
        """
        if not picture:
            raise gr.Error("Choose a picture first.", print_exception=False)
        try:
            result, facts = self._answer(picture, model)
        except ImageError as error:
            # The file's path is the server's business; its name is enough.
            message = str(error).replace(picture, Path(picture).name)
            raise gr.Error(message, print_exception=False) from None
        start = time.perf_counter()
        files = self._new_files()
        result.overlay(opacity).save(files("overlay.png"), compress_level=1)
        result.save(files("mask.png"))
        summary = {**result.to_dict(), **_add_time(facts, start)}
        return str(files("overlay.png")), summary, str(files("mask.png"))

    def segment_for_page(
        self, picture: str | None, model: str, example: str | None, request: float
    ) -> dict[str, Any]:
        """What the page draws, or what is wrong with the picture."""
        about = {"request": request}
        try:
            result, facts = self._answer(EXAMPLES[example] if example else picture or "", model)
        except ImageError as error:
            return {**about, "error": error_kind(error)}
        start = time.perf_counter()
        files = write_for_page(result, self._new_files())
        return {**about, **result.to_dict(), **_add_time(facts, start), "files": files}

    def look_inside(
        self, picture: str | None, model: str, example: str | None, request: float
    ) -> dict[str, Any]:
        """Every stage of the network as small pictures."""
        about = {"request": request}
        source = EXAMPLES[example] if example else picture or ""
        try:
            image = open_image(source, max_pixels=MAX_PIXELS, max_bytes=MAX_FILE_BYTES)
        except ImageError as error:
            return {**about, "error": error_kind(error)}
        labels = self.catalog.segmenter(model).labels
        with self._turn:
            return {**about, **draw_stages(self._stages(image, model), labels)}

    def segment_batch(
        self,
        pictures: list[Upload],
        model: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[str, list[dict[str, Any]]]:
        """Segment many pictures.

        Args:
            pictures: At most 50 photographs, each within the limits of one.
            model: Which network; the first of the choices where not given.

        Returns:
            archive: A ZIP of the masks (palette PNG) and classes.csv, the share of each class.
            table: For each picture its file, mask, width, height and classes, or the error.
        """
        archive = self._new_files()("masks.zip")
        rows = []
        for row, _ in self._segment_many(pictures, model, archive):
            rows.append(row)
            progress((len(rows), len(pictures)), unit="pictures")
        return str(archive), rows

    def segment_batch_for_page(
        self, pictures: list[Upload], model: str, request: float
    ) -> Iterator[dict[str, Any]]:
        """The rows so far, with thumbnails, after every picture; at the end the ZIP."""
        archive = self._new_files()("masks.zip")
        about = {"request": request, "total": len(pictures)}
        rows: list[dict[str, Any]] = []
        for row, outcome in self._segment_many(pictures, model, archive):
            if isinstance(outcome, ImageError):
                row["error"] = error_kind(outcome)
            else:
                row["thumbnail"] = data_url(small_overlay(outcome), "JPEG", quality=80)
            rows.append(row)
            yield {**about, "rows": rows}
        yield {**about, "rows": rows, "zip": gr.FileData(path=str(archive)).model_dump()}

    def segment_video(
        self,
        clip: str | None,
        model: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[str, dict[str, Any]]:
        """Segment a short video clip: find the class of every pixel in its frames.

        Args:
            clip: MP4, MOV, WebM, MKV or AVI, at most 50 MiB and 4K; its first 10 seconds are
                used; a file or its URL.
            model: Which network; the first of the choices where not given.

        Returns:
            video: An MP4 of the frames with the classes' colours laid over them and a legend.
            summary: The number of frames, the seconds covered, and the classes present, largest
                first, with index, name, color, pixels, fraction and mean confidence.
        """
        if not clip:
            raise gr.Error("Choose a clip first.", print_exception=False)
        try:
            reel = self._reel(clip, model)
            for step in reel.steps():
                progress(step.seconds / step.total)
        except VideoError as error:
            message = str(error).replace(clip, Path(clip).name)
            raise gr.Error(message, print_exception=False) from None
        video = self._new_files()("segmented.mp4")
        reel.write(video)
        return str(video), {**reel.summary(), "model": model, "device": self._device(model)}

    def segment_video_for_page(
        self, clip: str | None, model: str, example: str | None, request: float
    ) -> Iterator[dict[str, Any]]:
        """How far it is, with the newest frame; at the end the video and what was found."""
        about = {"request": request}
        try:
            reel = self._reel(EXAMPLE_CLIPS[example] if example else clip or "", model)
            for step in reel.steps():
                frame = data_url(step.picture, "JPEG", quality=85)
                yield {**about, "seconds": step.seconds, "total": step.total, "frame": frame}
        except VideoError as error:
            yield {**about, "error": error_kind(error)}
            return
        video = self._new_files()("segmented.mp4")
        reel.write(video)
        file = gr.FileData(path=str(video)).model_dump()
        yield {**about, **reel.summary(), "device": self._device(model), "video": file}

    def _reel(self, clip: str | Path, model: str) -> Reel:
        labels = self.catalog.segmenter(model).labels

        def segment(images: Sequence[Image.Image]) -> list[Segmentation]:
            with self._turn:
                maps, _ = self._classify(images, model)
            return [
                Segmentation(image, label_map, confidence, labels)
                for image, (label_map, confidence) in zip(images, maps, strict=True)
            ]

        limits = {"max_pixels": MAX_CLIP_PIXELS, "max_bytes": MAX_CLIP_BYTES}
        return Reel(open_clip(clip, **limits), labels, segment)

    def segment_live(self, frame: str, model: str, request: float) -> dict[str, Any]:
        """The classes of a camera's picture that comes as a data URL; nothing is written."""
        about = {"request": request}
        limits = {"max_pixels": MAX_SIDE**2, "max_bytes": MAX_LIVE_BYTES}
        try:
            result, facts = self._answer(from_data_url(frame), model, **limits)
        except ImageError as error:
            return {**about, "error": error_kind(error)}
        labels = data_url(result.colored(), "PNG", compress_level=1)
        return {**about, **result.to_dict(), **facts, "labels": labels}

    def _segment_many(
        self, pictures: Sequence[Upload], model: str, archive: Path
    ) -> Iterator[tuple[dict[str, Any], Segmentation | ImageError]]:
        if not pictures:
            raise gr.Error("Choose at least one picture.", print_exception=False)
        if len(pictures) > MAX_BATCH:
            message = f"At most {MAX_BATCH} pictures are accepted, not {len(pictures)}."
            raise gr.Error(message, print_exception=False)
        names = [each["name"] for each in self.catalog.facts(model)["classes"]]
        return segment_many(pictures, names, lambda path: self._answer(path, model)[0], archive)

    def _answer(
        self, picture: str | Path | bytes, model: str, **limits: int
    ) -> tuple[Segmentation, dict[str, Any]]:
        """The segmented picture, and what is to be said about how that went."""
        limits = {"max_pixels": MAX_PIXELS, "max_bytes": MAX_FILE_BYTES, **limits}
        segmenter = self.catalog.segmenter(model)  # here, as a GPU process forgets what it loads
        start = time.perf_counter()
        image = open_image(picture, **limits)
        decode = time.perf_counter() - start
        with self._turn:  # waiting for it is no work
            start = time.perf_counter()
            [(label_map, confidence)], network = self._classify([image], model)
            other = time.perf_counter() - start - network
        seconds = {"decode": decode, "network": network, "other": other}
        facts = {
            "model": model,
            "device": self._device(model),
            "milliseconds": {key: round(1000 * value, 1) for key, value in seconds.items()},
        }
        return Segmentation(image, label_map, confidence, segmenter.labels), facts

    # On ZeroGPU these two run in a process of their own; arguments and results can be pickled.

    def _classify_here(
        self, images: Sequence[Image.Image], model: str
    ) -> tuple[list[tuple[np.ndarray, np.ndarray]], float]:
        """Label map and confidence of each, and the network's own time in seconds."""
        segmenter = self.catalog.segmenter(model)
        with stopwatch(segmenter.network) as seconds:
            results = list(segmenter.stream(images))
        return [(each.label_map, each.confidence) for each in results], sum(seconds)

    def _stages_here(self, image: Image.Image, model: str) -> ReadOuts:
        return read_out(self.catalog.segmenter(model), image)

    def _device(self, model: str) -> str:
        device = self.catalog.segmenter(model).device
        if device.type == "cuda":
            return torch.cuda.get_device_name(device)
        return device.type.upper()

    def _new_files(self) -> Callable[[str], Path]:
        """Gives the files of one answer names that nobody can guess."""
        self.folder.mkdir(parents=True, exist_ok=True)
        token = secrets.token_hex(16)
        return lambda name: self.folder / f"{token}-{name}"


def on_gpu(function: Callable) -> Callable:
    """On ZeroGPU a function that gets a GPU for the while; anywhere else the function itself."""
    return spaces.GPU(duration=GPU_SECONDS)(function) if spaces else function


@contextmanager
def stopwatch(module: torch.nn.Module) -> Iterator[list[float]]:
    """Gives a list to which each forward pass of `module` adds its seconds."""
    starts: list[float] = []
    seconds: list[float] = []

    def now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    handles = (
        module.register_forward_pre_hook(lambda *_: starts.append(now())),
        module.register_forward_hook(lambda *_: seconds.append(now() - starts.pop())),
    )
    try:
        yield seconds
    finally:
        for handle in handles:
            handle.remove()


def _add_time(facts: dict[str, Any], start: float) -> dict[str, Any]:
    """The facts with the time since `start` counted as neither decoding nor network."""
    spent = facts["milliseconds"]
    other = round(spent["other"] + 1000 * (time.perf_counter() - start), 1)
    return {**facts, "milliseconds": {**spent, "other": other}}


def from_data_url(text: str) -> bytes:
    """The bytes of a data URL.

    Raises:
        ImageError: It is none.
    """
    try:
        return base64.b64decode(text.partition(";base64,")[2], validate=True)
    except binascii.Error:
        raise ImageError("The picture is not a data URL.") from None


def error_kind(error: ImageError | VideoError) -> str:
    """Which of the page's texts fits: bytes, pixels, format or damaged."""
    message = str(error)
    if "too many bytes" in message:
        return "bytes"
    if "pixels; at most" in message:
        return "pixels"
    return "format" if "is not a" in message else "damaged"
