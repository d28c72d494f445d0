"""Short video clips: reading those that nobody has looked at yet, and writing those that we draw.

PyAV, and through it FFmpeg's libraries, decodes and encodes. The limits, the choice of frames and
the messages are made here.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from fcn_hub.files import atomic_write

try:
    import av
except ModuleNotFoundError as error:
    raise ModuleNotFoundError('Video needs PyAV: pip install "fcn-hub[video]"') from error

# Nothing else is ever tried on untrusted bytes. FFmpeg knows hundreds of formats, among them play
# lists, which make it open other files and addresses.
CONTAINERS = ("mov", "mp4", "matroska", "webm", "avi")
CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mjpeg")
# A file may claim anything of its times; no more frames than this are decoded for a second.
MAX_RATE = 120
_ACCEPTED = "accepted are MP4, MOV, WebM, MKV and AVI with H.264, HEVC, VP8, VP9, AV1 or MPEG-4"
# Titles in other encodings than UTF-8 are no reason to refuse a clip; PyAV 19 needs not be told.
_LENIENT: dict = {} if av.__version__ >= "19" else {"metadata_errors": "replace"}
_TICKS = 90_000  # time stamps per second, a multiple of the usual frame rates


class VideoError(ValueError):
    """A clip that cannot be used; the message says what is wrong and what is accepted."""


class Frame(NamedTuple):
    """A picture of a clip.

    Args:
        seconds: When it is shown, from the beginning of the clip.
        image: Upright, RGB.
    """

    seconds: float
    image: Image.Image


@dataclass(frozen=True)
class Clip:
    """A clip whose header has been read and is within the limits; see `open_clip`.

    Args:
        path: The file.
        width, height: As stored, in pixels.
        seconds: The duration that the file claims; None where it says nothing.
        rate: The frames per second that it claims.
        max_pixels: The limit on its frames.
    """

    path: Path
    width: int
    height: int
    seconds: float | None
    rate: float
    max_pixels: int

    def frames(self, *, max_seconds: float, rate: float, max_side: int) -> Iterator[Frame]:
        """Decode the clip's beginning, one frame at a time.

        Args:
            max_seconds: Where to end, by the frames' own times.
            rate: Most frames per second to give; others are left out evenly.
            max_side: Frames are scaled down to this longest side, in pixels.

        Yields:
            Frames in the order of their times, no two at the same. Parts that are damaged are
            left out, as players do.

        Raises:
            VideoError: Not a single frame can be decoded.
        """
        due = 0.0
        begin: float | None = None
        with _opened(self.path) as container:
            stream = container.streams.video[0]
            # A later frame may be larger than the header says; decoders count padding as well.
            stream.codec_context.options = {"max_pixels": str(2 * self.max_pixels)}
            for count, frame in enumerate(_decoded(container)):
                time = count / self.rate if frame.time is None else frame.time
                begin = time if begin is None else begin
                seconds = time - begin
                if seconds >= max_seconds or count >= max_seconds * MAX_RATE:
                    return
                if seconds >= due - 0.5 / _TICKS:
                    due = max(due, seconds - 1 / rate) + 1 / rate
                    yield Frame(seconds, _upright(frame, self._size(stream, max_side)))
        if begin is None:
            raise VideoError(f"{self.path} holds no frame that can be decoded.")

    def _size(self, stream: av.VideoStream, max_side: int) -> tuple[int, int]:
        """Width and height to scale to, both even, with square pixels."""
        width = self.width * float(stream.codec_context.sample_aspect_ratio or 1)
        scale = min(1, max_side / max(width, self.height))
        width, height = (max(2, 2 * round(side * scale / 2)) for side in (width, self.height))
        return width, height


def open_clip(
    path: str | Path, *, max_pixels: int = 9_000_000, max_bytes: int = 64 * 2**20
) -> Clip:
    """Read the header of a clip.

    Args:
        path: MP4, MOV, WebM, MKV or AVI.
        max_pixels: The most pixels (width × height) accepted of a frame.
        max_bytes: The most bytes accepted of the file.

    Raises:
        VideoError: Missing, too large, or not a video of a kind in `CONTAINERS` and `CODECS`.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise VideoError(f"{path} cannot be read: {error.strerror}.") from error
    if size > max_bytes:
        raise VideoError(f"{path} has too many bytes; at most {max_bytes:,} are accepted.")
    with _opened(path) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context
        if codec is None or codec.width < 1 or codec.height < 1 or codec.name not in CODECS:
            raise VideoError(f"{path} is not a video of a kind that is known here; {_ACCEPTED}.")
        if codec.width * codec.height > max_pixels:
            raise VideoError(
                f"{path} has {codec.width:,} × {codec.height:,} pixels; at most {max_pixels:,} "
                "are accepted."
            )
        duration = container.duration
        return Clip(
            path,
            codec.width,
            codec.height,
            seconds=duration / av.time_base if duration and duration > 0 else None,
            rate=min(MAX_RATE, float(stream.average_rate or 0)) or 25.0,
            max_pixels=max_pixels,
        )


@contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
    """A file that holds video; it is read through Python and can name no other file."""
    options = {
        "format_whitelist": ",".join(CONTAINERS),
        "codec_whitelist": ",".join(CODECS),
        "protocol_whitelist": "none",
    }
    try:
        with (
            path.open("rb") as file,
            av.open(file, "r", options=options, **_LENIENT) as container,
        ):
            if not container.streams.video:
                raise VideoError(f"{path} holds no video, only sound or text.")
            yield container
    except (av.FFmpegError, OSError) as error:
        raise VideoError(
            f"{path} is not a video, or its beginning is damaged; {_ACCEPTED}."
        ) from error


def _decoded(container: av.container.InputContainer) -> Iterator[av.VideoFrame]:
    for packet in container.demux(container.streams.video[0]):
        try:
            yield from packet.decode()
        except av.FFmpegError:
            continue


def _upright(frame: av.VideoFrame, size: tuple[int, int]) -> Image.Image:
    image = frame.to_image(width=size[0], height=size[1])
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image


def write_video(path: str | Path, frames: Iterable[Frame]) -> None:
    """Write an MP4 with H.264, which every browser plays.

    Args:
        path: Where to; an existing file is replaced.
        frames: At least one, of one size, their times rising. An odd last row or column is cut
            off, as the format has one colour for 2×2 pixels.

    Raises:
        ValueError: No frames.
    """
    with (
        atomic_write(path) as temporary,
        av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
        stream: av.VideoStream | None = None
        for (seconds, image), length in _with_lengths(frames):
            width, height = (side // 2 * 2 for side in image.size)
            stream = stream or _add_stream(container, width, height)
            frame = av.VideoFrame.from_image(image.crop((0, 0, width, height))).reformat(
                format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
            )
            frame.pts, frame.duration = round(seconds * _TICKS), round(length * _TICKS)
            frame.time_base = Fraction(1, _TICKS)
            container.mux(stream.encode(frame))
        if stream is None:
            raise ValueError("A video needs at least one frame.")
        container.mux(stream.encode(None))


def _with_lengths(frames: Iterable[Frame]) -> Iterator[tuple[Frame, float]]:
    """Frames and how many seconds each is shown; the last as long as the one before it."""
    before: Frame | None = None
    length = 1 / 25
    for frame in frames:
        if before is not None:
            length = frame.seconds - before.seconds
            yield before, length
        before = frame
    if before is not None:
        yield before, length


def _add_stream(container: av.container.OutputContainer, width: int, height: int) -> av.VideoStream:
    stream = container.add_stream("libx264", options={"preset": "veryfast", "crf": "18"})
    codec = stream.codec_context
    codec.width, codec.height, codec.pix_fmt = width, height, "yuv420p"
    codec.time_base = Fraction(1, _TICKS)
    codec.flags |= 1 << 8  # AV_CODEC_FLAG_FRAME_DURATION: the last frame's is not lost
    # BT.709, said out loud: players guess otherwise, and the legend's colours change.
    codec.colorspace = codec.color_primaries = codec.color_trc = 1
    codec.color_range = 1
    return stream
