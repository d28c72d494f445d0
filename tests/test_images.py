"""open_image: every kind of picture becomes the right RGB pixels, every bad one an ImageError."""

import io
import os
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from fcn_hub.images import ImageError, open_image

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255,) * 3, (0,) * 3

Image.init()
needs_avif = pytest.mark.skipif("AVIF" not in Image.SAVE, reason="Pillow without AVIF")


# What the tests are made of


def noise(height: int = 12, width: int = 20, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(image: Image.Image | np.ndarray, format: str, **options: object) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    size: tuple[int, int],
    bits: int,
    color_type: int,
    rows: bytes | None,
    before: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """A PNG file by hand, for what Pillow does not write; `rows` None leaves the pixels out."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, color_type, 0, 0, 0))
    data = b"" if rows is None else chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + before + data + after + chunk(b"IEND", b"")


def pixels(source: object, **limits: int) -> np.ndarray:
    image = open_image(source, **limits)  # type: ignore[arg-type]
    assert type(image) is Image.Image
    assert image.mode == "RGB"
    return np.asarray(image)


def refusal(source: object, **limits: int) -> str:
    """The message of the ImageError: always one line and one sentence."""
    with pytest.raises(ImageError) as caught:
        open_image(source, **limits)  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


# Sources


def test_every_kind_of_source_gives_the_same_pixels(tmp_path: Path) -> None:
    expected = noise()
    data = encoded(expected, "PNG")
    path = tmp_path / "a picture – ñ.png"
    path.write_bytes(data)
    sources = [
        *(str(path), path),
        *(data, bytearray(data), memoryview(data)),
        *(io.BytesIO(data), path.open("rb"), path.open("rb", buffering=0)),
        *(Image.open(path), Image.fromarray(expected), expected),
    ]
    for source in sources:
        np.testing.assert_array_equal(pixels(source), expected)
        if isinstance(source, io.IOBase):
            source.close()


def test_arrays_of_every_accepted_shape() -> None:
    grey = noise(channels=1)
    as_rgb = np.repeat(grey, 3, axis=2)
    np.testing.assert_array_equal(pixels(grey), as_rgb)
    np.testing.assert_array_equal(pixels(grey[..., 0]), as_rgb)
    rgba = np.concatenate([noise(), np.full((12, 20, 1), 255, np.uint8)], axis=2)
    np.testing.assert_array_equal(pixels(rgba), noise())


def test_an_array_may_be_a_strided_view_and_is_not_shared() -> None:
    array = noise()
    view = array[::-2, ::3, ::-1]
    expected = view.copy()
    image = open_image(view)
    np.testing.assert_array_equal(np.asarray(image), expected)
    array[:] = 0
    np.testing.assert_array_equal(np.asarray(image), expected)


def test_a_file_object_is_read_from_where_it_stands_and_left_open() -> None:
    file = io.BytesIO(b"something before" + encoded(noise(), "PNG"))
    file.seek(len(b"something before"))
    np.testing.assert_array_equal(pixels(file), noise())
    assert not file.closed


class Trickle(io.RawIOBase):
    """A stream that gives a few bytes at a time and cannot seek, as sockets do."""

    def __init__(self, data: bytes) -> None:
        self.rest = data

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        piece, self.rest = self.rest[: min(size, 7)], self.rest[min(size, 7) :]
        return piece


def test_a_stream_may_give_less_than_asked_for() -> None:
    np.testing.assert_array_equal(pixels(Trickle(encoded(noise(), "PNG"))), noise())


def test_a_callers_image_is_neither_changed_nor_closed_nor_shared(tmp_path: Path) -> None:
    path = tmp_path / "turned.png"
    rgba = noise(channels=4)
    Image.fromarray(rgba).save(path, exif=exif(6))
    with Image.open(path) as image:
        opened = open_image(image)
        opened.paste(RED, (0, 0, *opened.size))
        assert (image.mode, image.size) == ("RGBA", (20, 12))
        assert image.getexif()[0x0112] == 6
        np.testing.assert_array_equal(np.asarray(image), rgba)
    plain = Image.new("RGB", (2, 2), BLUE)
    open_image(plain).putpixel((0, 0), RED)
    assert plain.getpixel((0, 0)) == BLUE


def test_a_callers_animation_stays_at_the_frame_that_is_shown() -> None:
    data = animation("GIF")
    with Image.open(io.BytesIO(data)) as image:
        image.seek(1)
        assert open_image(image).getpixel((0, 0)) == GREEN
        assert image.tell() == 1


# Modes: (mode, value of every pixel, expected RGB)


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("1", 255, WHITE),
        ("1", 0, BLACK),
        ("L", 100, (100,) * 3),
        ("RGB", (1, 2, 3), (1, 2, 3)),
        ("RGBX", (1, 2, 3, 4), (1, 2, 3)),
        ("CMYK", (0, 255, 255, 0), RED),
        ("CMYK", (0, 0, 0, 128), (127,) * 3),
        ("YCbCr", (128, 128, 128), (128,) * 3),
        ("YCbCr", (76, 85, 255), (254, 0, 0)),
        ("HSV", (85, 255, 255), GREEN),
        # On white: value × alpha + 255 × (1 − alpha), rounded.
        ("LA", (100, 0), WHITE),
        ("LA", (100, 128), (177,) * 3),
        ("LA", (100, 255), (100,) * 3),
        ("RGBA", (200, 100, 0, 0), WHITE),
        ("RGBA", (200, 100, 0, 64), (241, 216, 191)),
        ("RGBA", (200, 100, 0, 255), (200, 100, 0)),
        ("RGBa", (50, 25, 0, 64), (241, 216, 191)),
        ("La", (50, 128), (177,) * 3),
        # 16 bits: 65,535 = 257 × 255; halves cannot occur as 257 is odd.
        ("I;16", 65535, WHITE),
        ("I;16", 128, BLACK),
        ("I;16", 129, (1,) * 3),
        ("I;16", 128 * 257, (128,) * 3),
        ("I;16L", 128 * 257 - 129, (127,) * 3),
        ("I;16B", 128 * 257 - 128, (128,) * 3),
        ("I", 65535, WHITE),
        ("I", 300, (1,) * 3),
        ("F", 1.0, WHITE),
        ("F", 0.4, (102,) * 3),
    ],
)
def test_every_mode_becomes_rgb(mode: str, value: object, expected: tuple[int, ...]) -> None:
    image = open_image(Image.new(mode, (3, 2), value))  # type: ignore[arg-type]
    assert image.mode == "RGB"
    assert image.size == (3, 2)
    assert (np.asarray(image) == expected).all()


def test_lab_becomes_rgb() -> None:
    pytest.importorskip("PIL.ImageCms")
    red = open_image(Image.new("LAB", (1, 1), (137, 208, 195))).getpixel((0, 0))
    np.testing.assert_allclose(red, RED, atol=12)  # L* 54, a* 80, b* 67


def test_all_16_bit_greys_are_scaled_and_rounded() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.round(values / 257).astype(np.uint8)
    image = Image.fromarray(values)
    for data in (
        encoded(image, "PNG"),
        encoded(image, "TIFF"),
        encoded(image, "PPM"),
        encoded(image, "JPEG2000", irreversible=False),
        image,
        Image.fromarray(values.astype(np.int32)),
        Image.fromarray(values.astype(">u2")),
    ):
        np.testing.assert_array_equal(pixels(data), np.stack([expected] * 3, axis=-1))


def test_16_bit_colour_is_scaled() -> None:
    values = np.array([[0, 257, 32896, 65535, 513, 40000]], dtype=np.uint16)
    rows = b"\0" + values.astype(">u2").tobytes()
    result = pixels(png((2, 1), 16, 2, rows)).reshape(1, 6)
    # Pillow keeps the high byte, which may be one less than the rounded value.
    np.testing.assert_allclose(result, values / 257, atol=1)
    assert result[0, 3] == 255


@pytest.mark.parametrize("data_type", [np.int32, np.float32])
def test_grey_values_of_unclear_meaning_are_refused(data_type: type) -> None:
    most = 65535 if data_type is np.int32 else 1
    for bad in (-1, most + 1):
        image = Image.fromarray(np.array([[0, bad]], dtype=data_type))
        assert f"accepted are 0 to {most:,}" in refusal(image)
    assert "accepted are 0 to 1" in refusal(Image.fromarray(np.array([[0, np.nan]], np.float32)))


def test_palettes_with_and_without_transparency() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([0, 1, 2])
    for format in ("PNG", "GIF", "BMP", "TIFF"):
        assert pixels(encoded(image, format)).tolist() == [[[*RED], [*GREEN], [*BLUE]]]
    for format in ("PNG", "GIF"):
        data = encoded(image, format, transparency=1)
        assert pixels(data).tolist() == [[[*RED], [*WHITE], [*BLUE]]]
    # One alpha per palette entry; the last entry has none and is opaque.
    data = encoded(image, "PNG", transparency=bytes([0, 128]))
    assert pixels(data).tolist() == [[[*WHITE], [127, 255, 127], [*BLUE]]]
    rgba = Image.fromarray(np.array([[[200, 100, 0, 64]]], np.uint8))
    assert open_image(rgba.convert("PA")).size == (1, 1)


def test_a_colour_named_transparent_becomes_white() -> None:
    grey = encoded(np.array([[5, 6]], np.uint8), "PNG", transparency=5)
    assert pixels(grey)[0, :, 0].tolist() == [255, 6]
    rgb = encoded(np.array([[[1, 2, 3], [1, 2, 4]]], np.uint8), "PNG", transparency=(1, 2, 3))
    assert pixels(rgb).tolist() == [[[*WHITE], [1, 2, 4]]]
    deep = encoded(np.array([[5 * 257, 6 * 257]], np.uint16), "PNG", transparency=5 * 257)
    assert pixels(deep)[0, :, 0].tolist() == [255, 6]
    bits = png((8, 1), 1, 0, b"\0\x0f", before=chunk(b"tRNS", b"\0\0"))
    assert pixels(bits)[0, :, 0].tolist() == [255] * 8


def test_alpha_of_16_bits_is_laid_on_white() -> None:
    rows = b"\0" + struct.pack(">8H", 65535, 0, 0, 65535, 65535, 0, 0, 0)
    assert pixels(png((2, 1), 16, 6, rows)).tolist() == [[[*RED], [*WHITE]]]
    rows = b"\0" + struct.pack(">4H", 0, 65535, 0, 0)
    assert pixels(png((2, 1), 16, 4, rows)).tolist() == [[[*BLACK], [*WHITE]]]


# File formats


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_deflate"}),
        ("WEBP", {"lossless": True}),
        ("JPEG2000", {"irreversible": False}),
    ],
)
def test_lossless_formats_keep_every_pixel(format: str, options: dict) -> None:
    np.testing.assert_array_equal(pixels(encoded(noise(), format, **options)), noise())


@pytest.mark.parametrize(
    "format", ["JPEG", "MPO", "WEBP", "JPEG2000", pytest.param("AVIF", marks=needs_avif)]
)
def test_lossy_formats_keep_the_picture(format: str) -> None:
    smooth = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[:, None, None], (64, 48, 3))
    result = pixels(encoded(smooth.copy(), format, quality=95))
    np.testing.assert_allclose(result.astype(int), smooth.astype(int), atol=6)


def test_a_cmyk_jpeg_has_its_colours() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    np.testing.assert_allclose(pixels(encoded(image, "JPEG", quality=95))[8, 8], RED, atol=4)


def animation(format: str) -> bytes:
    frames = [Image.new("RGB", (8, 6), color) for color in (RED, GREEN, BLUE)]
    options = {"lossless": True} if format == "WEBP" else {}
    return encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_taken(format: str) -> None:
    data = animation(format)
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 3  # type: ignore[attr-defined]
    result = pixels(data)
    assert result.shape == (6, 8, 3)
    assert (result == RED).all()


# Orientation

# The upright picture by EXIF orientation, from the definition (where row 0 and column 0 are).
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored[::-1].swapaxes(0, 1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: stored[:, ::-1].swapaxes(0, 1),
}


def exif(orientation: object) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("JPEG", {"quality": 100, "subsampling": 0}),
        ("PNG", {}),
        ("TIFF", {}),
        ("WEBP", {"lossless": True}),
        pytest.param("AVIF", {"quality": 100, "subsampling": "4:4:4"}, marks=needs_avif),
    ],
)
def test_the_exif_orientation_is_applied(format: str, options: dict, orientation: int) -> None:
    stored = np.kron(noise(3, 5, 1), np.ones((8, 8, 3), np.uint8))  # blocks survive JPEG and AVIF
    data = encoded(stored, format, exif=exif(orientation), **options)
    result = pixels(data)
    expected = UPRIGHT[orientation](stored)
    assert result.shape == expected.shape
    np.testing.assert_allclose(result.astype(int), expected.astype(int), atol=4)


def test_an_orientation_that_follows_the_pixels_is_applied() -> None:
    tags = exif(6).removeprefix(b"Exif\0\0")
    data = png((2, 1), 8, 0, b"\0\x10\x20", after=chunk(b"eXIf", tags))
    assert pixels(data)[..., 0].tolist() == [[16], [32]]


def test_a_result_can_be_opened_again_without_turning_again() -> None:
    once = open_image(encoded(noise(), "PNG", exif=exif(6)))
    assert once.info == {}
    np.testing.assert_array_equal(pixels(once), np.asarray(once))


@pytest.mark.parametrize(
    "tags",
    [
        exif(0),
        exif(9),
        exif(65535),
        b"Exif\0\0",
        b"Exif\0\0nonsense",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.filterwarnings("ignore")
def test_malformed_exif_is_ignored(format: str, tags: bytes) -> None:
    data = encoded(np.full((8, 16, 3), 90, np.uint8), format, exif=tags)
    np.testing.assert_allclose(pixels(data), np.full((8, 16, 3), 90), atol=2)


# Limits, checked before decoding


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "PPM", "JPEG2000"])
def test_the_pixel_limit_is_checked_before_decoding(format: str) -> None:
    data = encoded(noise(100, 150), format)
    assert pixels(data, max_pixels=15_000).shape == (100, 150, 3)
    # Only half of the pixels are there: who decodes, stumbles over that first.
    half = data[: len(data) // 2]
    assert "truncated" in refusal(half)
    message = refusal(half, max_pixels=14_999)
    assert message == "The input has 150 × 100 = 15,000 pixels; at most 14,999 are accepted."


def test_the_pixel_limit_of_webp_is_checked_before_decoding() -> None:
    data = bytearray(encoded(noise(), "WEBP", lossless=True))
    start = data.index(b"VP8L") + 9  # 14 bits of width − 1, then 14 bits of height − 1
    (header,) = struct.unpack_from("<I", data, start)
    struct.pack_into("<I", data, start, header & ~0xFFFFFFF | 999 << 14 | 999)
    assert "cannot be decoded" in refusal(bytes(data))
    assert "1,000,000 pixels" in refusal(bytes(data), max_pixels=999_999)


def test_the_pixel_limit_holds_for_images_and_arrays() -> None:
    for source in (noise(), Image.fromarray(noise())):
        assert open_image(source, max_pixels=240).size == (20, 12)
        assert "at most 239 are accepted" in refusal(source, max_pixels=239)


def test_the_pixel_limit_is_checked_before_a_callers_image_is_decoded() -> None:
    image = Image.open(io.BytesIO(png((5000, 5000), 8, 2, None)))
    assert "25,000,000 pixels" in refusal(image, max_pixels=1000)


def test_a_header_that_claims_ten_gigapixels_is_refused() -> None:
    data = png((100_000, 100_000), 8, 2, None)
    assert "too many pixels; at most 64,000,000 are accepted" in refusal(data)
    assert "PIL.Image.MAX_IMAGE_PIXELS" in refusal(data, max_pixels=10**11)


def test_pillows_warning_about_pixels_may_be_an_error() -> None:
    data = png((10_000, 10_000), 8, 2, None)
    with pytest.warns(Image.DecompressionBombWarning):
        assert "100,000,000 pixels" in refusal(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "too many pixels" in refusal(data)


def test_the_byte_limit_is_checked_before_reading_a_file(tmp_path: Path) -> None:
    path = tmp_path / "sparse.png"
    with path.open("wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    tracemalloc.start()
    message = refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert message == f"{path} has too many bytes; at most 67,108,864 are accepted."


def test_the_byte_limit_holds_for_every_source(tmp_path: Path) -> None:
    data = encoded(noise(), "PNG")
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    for make in (lambda: path, lambda: data, lambda: io.BytesIO(data), lambda: Trickle(data)):
        assert open_image(make(), max_bytes=len(data)).size == (20, 12)  # type: ignore[arg-type]
        assert "too many bytes" in refusal(make(), max_bytes=len(data) - 1)


def test_an_endless_stream_is_read_no_further_than_the_limit() -> None:
    class Endless(io.RawIOBase):
        given = 0

        def read(self, size: int = -1) -> bytes:
            assert 0 < size <= 1001
            self.given += size
            return bytes(size)

    stream = Endless()
    assert "at most 1,000 are accepted" in refusal(stream, max_bytes=1000)
    assert stream.given == 1001


# Bad input


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.png"
    assert refusal(missing) == f"{missing} does not exist."
    assert refusal(str(missing)) == f"{missing} does not exist."
    assert refusal(tmp_path) == f"{tmp_path} is a folder, not a picture file."
    (tmp_path / "file").touch()
    assert "does not exist" in refusal(tmp_path / "file" / "inside.png")
    assert "cannot be read" in refusal("null\0character.png")
    assert "cannot be read" in refusal("x" * 5000)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.touch(mode=0)
    assert refusal(path) == f"{path} cannot be read: Permission denied."


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders here")
def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    assert refusal(pipe) == f"{pipe} is a device or pipe, not a picture file."
    assert "is a device or pipe" in refusal("/dev/zero")


def test_empty_input(tmp_path: Path) -> None:
    path = tmp_path / "empty.png"
    path.touch()
    assert refusal(path) == f"{path} is empty (0 bytes)."
    for source in (b"", bytearray(), memoryview(b""), io.BytesIO()):
        assert refusal(source) == "The input is empty (0 bytes)."


@pytest.mark.parametrize(
    "data", [b"\0", b"\xff", b"hello, world" * 100, b"<svg></svg>", b"%PDF-1.7"]
)
def test_what_is_not_a_picture(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.jpg"
    path.write_bytes(data)
    message = refusal(path)
    assert message.startswith(f"{path} is not a picture")
    assert "accepted are JPEG, PNG, " in message


@pytest.mark.parametrize("format", ["EPS", "ICO", "TGA", "PCX", "SGI", "DDS"])
def test_formats_that_are_not_listed_are_never_opened(format: str) -> None:
    assert "is not a picture" in refusal(encoded(Image.new("RGB", (16, 16)), format))


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize(
    "format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", pytest.param("AVIF", marks=needs_avif)]
)
def test_a_picture_cut_short_anywhere_is_refused(format: str, tmp_path: Path) -> None:
    data = encoded(noise(40, 40), format)
    path = tmp_path / "cut.img"
    for kept in np.linspace(1, 0.98 * len(data), 40).astype(int):
        path.write_bytes(data[:kept])
        assert refusal(path).startswith(f"{path} ")
    if format != "AVIF":  # whose index says at once that bytes are missing
        assert "truncated" in refusal(path)


def test_a_png_whose_pixels_are_damaged_is_refused() -> None:
    broken = png((4, 4), 8, 2, None, before=chunk(b"IDAT", b"not zlib at all"))
    assert "truncated or damaged" in refusal(broken)


def test_zero_sized_pictures() -> None:
    for source in (Image.new("RGB", (0, 5)), Image.new("L", (5, 0)), np.zeros((0, 5, 3), np.uint8)):
        assert "is zero-sized" in refusal(source)
    assert refusal(np.zeros((4, 0), np.uint8)) == "The input is zero-sized (0 × 4 pixels)."
    refusal(png((0, 1), 8, 0, b""))
    refusal(b"P6 0 0 255\n")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((4, 4, 3), np.int8),
        np.zeros((4, 4), bool),
        np.zeros((4, 4), object),
        np.zeros((), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4, 4, 0), np.uint8),
        np.zeros((3, 4, 5), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)
def test_arrays_of_other_shapes_and_types_are_refused(array: np.ndarray) -> None:
    message = refusal(array)
    assert f"{array.dtype} array of shape {list(array.shape)}" in message
    assert "accepted is uint8 [H,W]" in message


@pytest.mark.parametrize("source", [None, 7, 1.5, ["a.png"], object(), {"path": "a.png"}])
def test_sources_of_other_types_are_refused(source: object) -> None:
    assert f"is of type {type(source).__name__}; accepted are" in refusal(source)


def test_file_objects_that_give_no_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(noise(), "PNG"))
    with path.open(encoding="utf-8") as file:
        assert refusal(file) == f"{path} gives text; open it in binary mode ('rb')."
    assert "binary mode" in refusal(io.StringIO("text"))
    with path.open("ab") as file:
        assert refusal(file).startswith(f"{path} cannot be read: ")
    with path.open("rb") as file:
        pass
    assert "closed file" in refusal(file)


def test_a_closed_image_is_refused() -> None:
    image = Image.open(io.BytesIO(encoded(noise(), "PNG")))
    image.close()
    assert "cannot be decoded" in refusal(image)


def test_the_cause_is_kept_for_those_who_debug() -> None:
    with pytest.raises(ImageError) as caught:
        open_image(encoded(noise(), "PNG")[:-300])
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000"])
def test_damaged_files_give_a_picture_or_an_image_error(format: str) -> None:
    random = np.random.default_rng(sum(format.encode()))
    options = {"exif": exif(6)} if format in ("JPEG", "PNG", "WEBP", "TIFF") else {}
    intact = np.frombuffer(encoded(noise(10, 14), format, **options), np.uint8)
    for case in range(80):
        damaged = intact.copy()
        # Half of the cases damage the header, where the structure is.
        end = len(damaged) if case % 2 else min(len(damaged), 120)
        damaged[random.integers(0, end, size=random.integers(1, 6))] = random.integers(0, 256)
        try:
            assert open_image(damaged.tobytes(), max_pixels=10**6).mode == "RGB"
        except ImageError as error:
            assert str(error).startswith("The input ")


# Manners


def test_pillows_global_settings_are_left_alone() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    open_image(noise())
    refusal(encoded(noise(), "PNG")[:100])
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


def test_opening_pictures_needs_no_torch() -> None:
    code = "import sys, fcn_hub.images, fcn_hub.labels; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
