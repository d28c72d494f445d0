"""A short clip: as many of its frames segmented as there is time for, under one legend."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fcn_hub import LabelMap, Segmentation
from fcn_hub.segmentation import LegendEntry, canvas_with_legend
from fcn_hub.video import Clip, Frame, write_video

MAX_SECONDS = 10.0
MAX_RATE = 25.0
# The longest side of what comes back, and of what the network sees.
SIDE = 480
# A GPU does every frame in less. Slow hardware does fewer frames a second, and still ends in time.
WORK_SECONDS = 60.0
_MOST_AT_ONCE = 16


@dataclass(frozen=True)
class Step:
    """How far a clip is.

    Args:
        seconds: The place in the clip that is reached.
        total: Where it will end.
        picture: The newest frame with the classes' colours over it.
    """

    seconds: float
    total: float
    picture: Image.Image


class Reel:
    """The segmented frames of a clip.

    Args:
        clip: The clip.
        labels: Names and colours of the classes.
        segment: Segments several frames, all of one size.
        clock: Tells the time in seconds.
    """

    def __init__(
        self,
        clip: Clip,
        labels: LabelMap,
        segment: Callable[[Sequence[Image.Image]], list[Segmentation]],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.clip = clip
        self.labels = labels
        self.total = min(clip.seconds or MAX_SECONDS, MAX_SECONDS)
        self._segment = segment
        self._clock = clock
        self._overlays: list[Frame] = []
        self._pixels = np.zeros(len(labels), np.int64)
        self._confidence = np.zeros(len(labels))  # summed over pixels

    def steps(self) -> Iterator[Step]:
        """Do the work, a little at a time.

        Raises:
            VideoError: Not a single frame can be decoded.
        """
        start = self._clock()
        due, chunk = 0.0, list[Frame]()
        frames = self.clip.frames(max_seconds=MAX_SECONDS, rate=MAX_RATE, max_side=SIDE)
        for frame in frames:
            spent = self._clock() - start
            if spent >= WORK_SECONDS:
                break
            if frame.seconds < due:
                continue
            chunk.append(frame)
            # What a frame takes, decoding and others' turns included, so far; what is left of the
            # clip gets as many frames as fit into what is left of the time.
            pace = spent / (len(self._overlays) + len(chunk) - 1) if self._overlays else 0
            due = frame.seconds + pace * (self.total - frame.seconds) / (WORK_SECONDS - spent)
            if len(chunk) >= (min(_MOST_AT_ONCE, 1 / pace) if pace else 1):
                yield self._add(chunk)
                chunk = []
        if chunk:
            yield self._add(chunk)

    def _add(self, frames: Sequence[Frame]) -> Step:
        results = self._segment([frame.image for frame in frames])
        for frame, result in zip(frames, results, strict=True):
            self._overlays.append(Frame(frame.seconds, result.overlay()))
            for each in result.to_dict()["classes"]:
                self._pixels[each["index"]] += each["pixels"]
                self._confidence[each["index"]] += each["pixels"] * each["confidence"]
        last = self._overlays[-1]
        return Step(last.seconds, self.total, last.image)

    def legend(self) -> list[LegendEntry]:
        """The classes present anywhere, with their share of all frames, largest first."""
        return [
            LegendEntry(
                index=index,
                name=self.labels.names[index],
                color=self.labels.colors[index],
                pixels=int(self._pixels[index]),
                fraction=float(self._pixels[index] / self._pixels.sum()),
            )
            for index in np.argsort(-self._pixels, kind="stable").tolist()
            if self._pixels[index]
        ]

    def write(self, path: Path) -> None:
        """Write the frames, each beside the same legend, as an MP4."""
        canvas = canvas_with_legend(self._overlays[0].image.size, self.legend())

        def with_legend() -> Iterator[Frame]:
            for seconds, overlay in self._overlays:
                frame = canvas.copy()
                frame.paste(overlay)
                yield Frame(seconds, frame)

        write_video(path, with_legend())

    def summary(self) -> dict[str, Any]:
        """What was found, JSON-ready.

        Returns:
            ``width``, ``height``, ``frames``, ``seconds`` (how much of the clip was segmented),
            ``clip_seconds`` (how long it claims to be, None where it says nothing) and
            ``classes`` as of `Segmentation.to_dict`, over all frames.
        """
        width, height = self._overlays[0].image.size
        return {
            "width": width,
            "height": height,
            "frames": len(self._overlays),
            "seconds": round(min(self._overlays[-1].seconds + 1 / self.clip.rate, self.total), 2),
            "clip_seconds": self.clip.seconds and round(self.clip.seconds, 2),
            "classes": [
                {
                    "index": entry.index,
                    "name": entry.name,
                    "color": entry.color_hex,
                    "pixels": entry.pixels,
                    "fraction": entry.fraction,
                    "confidence": float(self._confidence[entry.index] / entry.pixels),
                }
                for entry in self.legend()
            ],
        }
