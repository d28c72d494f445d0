"""Opening pictures that nobody has looked at yet.

`open_image` takes whatever holds a picture and returns it upright, in RGB and fully decoded, or
raises an `ImageError` that says in one sentence why it cannot. Pillow decodes; the limits, the
conversions to 8-bit RGB and the messages are made here.
"""

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

ImageSource: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | np.ndarray
)

# Nothing else is ever tried on untrusted bytes: Pillow knows forty more formats, of which some
# are hardly tested and one (EPS) starts Ghostscript, an interpreter for programs. JPEG includes
# MPO, the cameras' several-JPEGs-in-one; PNG includes APNG.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM")

# What turns a picture upright, by its EXIF orientation (1 is upright).
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# 0..65,535 to 0..255, rounded: 65,535 is 257 × 255. (Pillow's own conversion clips at 255.)
_TO_8_BIT = ((np.arange(65_536) + 128) // 257).astype(np.uint8)


class ImageError(ValueError):
    """A picture that cannot be used; the message says what is wrong and what is accepted."""


def open_image(
    source: ImageSource, *, max_pixels: int = 64_000_000, max_bytes: int = 64 * 2**20
) -> Image.Image:
    """Open a picture of any common kind as upright 8-bit RGB.

    The EXIF orientation is applied, transparency is laid on white, 16-bit grey is scaled to
    8 bits and of an animation the first frame is taken. Colour profiles are not applied.

    Args:
        source: A path; the bytes of a file; a binary file object, read from where it stands and
            left open; a PIL image of any mode, left as it is; or a uint8 array [H,W] or [H,W,1]
            (grey), [H,W,3] (RGB) or [H,W,4] (RGBA). Grey of more than 8 bits must lie in
            0..65,535 (black to white), floating-point grey in 0..1.
        max_pixels: The most pixels (width × height) accepted, checked before decoding. Pillow
            has a limit of its own, `PIL.Image.MAX_IMAGE_PIXELS`: it warns above that and
            refuses above twice that (by default 179 million).
        max_bytes: The most bytes accepted of a file, checked before any are decoded.

    Returns:
        A new PIL image of mode RGB, decoded, without metadata.

    Raises:
        ImageError: Missing, empty, too large, not a picture, damaged or of an unsupported kind.

    Example:
        >>> open_image(np.zeros((2, 3), np.uint8)).size
        (3, 2)
    """
    try:
        if isinstance(source, Image.Image):
            image = source
        elif isinstance(source, np.ndarray):
            image = _from_array(source)
        else:
            image = _identify(_read(source, max_bytes), max_pixels)
        _check_size(*image.size, max_pixels)
        return _decode(image, max_pixels)
    except ImageError as error:
        # The messages of the functions below lack their subject, which only this one knows.
        raise ImageError(f"{_name(source)} {error}") from error.__cause__


def _name(source: ImageSource) -> str:
    """What messages call the source: its path where it has one."""
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source)
    name = getattr(source, "name", None) or getattr(source, "filename", None)
    return name if isinstance(name, str) and name else "The input"


def _read(source: Any, max_bytes: int) -> bytes:
    if isinstance(source, str | os.PathLike):
        data = _read_path(Path(os.fsdecode(source)), max_bytes)
    elif isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
    elif hasattr(source, "read"):
        data = _read_stream(source, max_bytes)
    else:
        raise ImageError(
            f"is of type {type(source).__name__}; accepted are a path, bytes, a binary file "
            "object, a PIL image and a uint8 array."
        )
    if not data:
        raise ImageError("is empty (0 bytes).")
    _check_bytes(len(data), max_bytes)
    return data


def _read_path(path: Path, max_bytes: int) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            _check_bytes(status.st_size, max_bytes)
            with path.open("rb") as file:
                return _read_stream(file, max_bytes)
    except ImageError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError("does not exist.") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise ImageError(f"cannot be read: {_reason(error)}.") from error
    # A device may have no end, and opening a pipe would wait for its writer.
    kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device or pipe"
    raise ImageError(f"is {kind}, not a picture file.")


def _read_stream(file: IO[bytes], max_bytes: int) -> bytes:
    """The rest of a file, but never more than `max_bytes` + 1 bytes of it."""
    chunks: list[bytes] = []
    room = max_bytes + 1
    try:
        while room > 0 and (chunk := file.read(room)):  # sockets give less than asked for
            chunks.append(chunk)
            room -= len(chunk)
        return b"".join(chunks)
    except (TypeError, UnicodeError):
        raise ImageError("gives text; open it in binary mode ('rb').") from None
    except (OSError, ValueError) as error:  # ValueError: it is closed
        raise ImageError(f"cannot be read: {_reason(error)}.") from error


def _check_bytes(count: int, max_bytes: int) -> None:
    if count > max_bytes:
        raise ImageError(f"has too many bytes; at most {max_bytes:,} are accepted.")


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"is zero-sized ({width} × {height} pixels).")
    if width * height > max_pixels:
        raise ImageError(
            f"has {width:,} × {height:,} = {width * height:,} pixels; "
            f"at most {max_pixels:,} are accepted."
        )


def _from_array(array: np.ndarray) -> Image.Image:
    grey = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    if array.dtype != np.uint8 or not (grey or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise ImageError(
            f"is a {array.dtype} array of shape {list(array.shape)}; accepted is uint8 "
            "[H,W], [H,W,1], [H,W,3] or [H,W,4]."
        )
    return Image.fromarray(array.reshape(array.shape[:2]) if grey else array)


def _identify(data: bytes, max_pixels: int) -> Image.Image:
    """Read the header only."""
    Image.init()  # registers the formats that this Pillow was built with
    with _pillow_errors(max_pixels):
        formats = [name for name in FORMATS if name in Image.OPEN]
        return Image.open(io.BytesIO(data), formats=formats)


def _decode(image: Image.Image, max_pixels: int) -> Image.Image:
    with _pillow_errors(max_pixels):
        image.load()
        turn = _turn(image)  # after load: PNG may keep its EXIF behind the pixels
        rgb = _to_rgb(image)
        if turn is not None:
            rgb = rgb.transpose(turn)
        rgb.info.clear()  # the old orientation with it, or the next reader would turn it again
        return rgb


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # malformed metadata does not make a bad picture
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return _to_8_bit_grey(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode == "La":  # premultiplied; Pillow has no direct way to RGBA
        image = image.convert("LA")
    image = image.convert("RGBA")
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image, mask=image)
    return canvas


def _to_8_bit_grey(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    most = 1 if image.mode == "F" else 65_535
    if not (values.min() >= 0 and values.max() <= most):  # NaN fails as well
        raise ImageError(
            f"has grey values {values.min():g} to {values.max():g}; accepted are 0 to {most:,} "
            f"in mode {image.mode}."
        )
    if image.mode == "F":
        return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    grey = _TO_8_BIT[values]
    # PNG names one grey as transparent; Pillow's own conversion misses it in 16 bits.
    grey[values == image.info.get("transparency", -1)] = 255
    return Image.fromarray(grey)


@contextmanager
def _pillow_errors(max_pixels: int) -> Iterator[None]:
    """Every exception of Pillow as an ImageError."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(
            f"is not a picture, or its beginning is damaged; accepted are {', '.join(FORMATS)}."
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(
            f"has too many pixels; at most {max_pixels:,} are accepted, "
            "and no more than PIL.Image.MAX_IMAGE_PIXELS allows."
        ) from None
    # Damaged bytes make Pillow raise OSError, SyntaxError, ValueError, RuntimeError, EOFError,
    # struct.error, zlib.error, MemoryError and whatever else a parser meets (TypeError,
    # KeyError, IndexError, OverflowError, …); no list of them is complete for long. Only
    # Pillow works here, and the cause is kept.
    except Exception as error:
        raise ImageError(
            f"cannot be decoded and is probably truncated or damaged: {_reason(error)}."
        ) from error


def _reason(error: Exception) -> str:
    """What an exception says, in one line and without its full stop."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()).rstrip(".") or type(error).__name__
