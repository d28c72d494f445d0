"""Segmenter: what it computes, tiles and batches, threads, devices and types."""

import io
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
import torch
from conftest import make_picture, make_tiny_model
from PIL import Image
from torch.nn import functional as F

from fcn_hub import ImageError, Segmenter
from fcn_hub import segmenter as segmenter_module
from fcn_hub.segmenter import TILE_OVERLAP, blended_tiles

CPU = {"device": "cpu", "dtype": "float32"}


def logits_by_hand(model, picture: np.ndarray) -> torch.Tensor:
    x = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
    x = (x - torch.tensor(model.image_mean).view(3, 1, 1)) / torch.tensor(model.image_std).view(
        3, 1, 1
    )
    with torch.no_grad():
        return model(x)[0]


@pytest.mark.parametrize("size", [(64, 96), (33, 47), (1, 1), (100, 5)])
def test_the_result_is_the_argmax_and_softmax_of_the_networks_logits(tiny_model, size):
    picture = make_picture(*size)
    result = Segmenter(tiny_model, **CPU)(picture)
    probabilities = logits_by_hand(tiny_model, picture).softmax(dim=0)
    assert result.label_map.dtype == np.uint8
    assert result.confidence.dtype == np.float32
    np.testing.assert_array_equal(result.label_map, probabilities.argmax(0).numpy())
    np.testing.assert_allclose(result.confidence, probabilities.amax(0).numpy(), atol=1e-5)
    np.testing.assert_array_equal(np.asarray(result.image), picture)
    assert result.labels == tiny_model.label_map


def test_every_kind_of_picture_gives_the_same_result(tiny_model, tmp_path):
    picture = make_picture(40, 50)
    image = Image.fromarray(picture)
    image.save(tmp_path / "picture.png")
    data = (tmp_path / "picture.png").read_bytes()
    segmenter = Segmenter(tiny_model, **CPU)
    expected = segmenter(picture).label_map
    path = tmp_path / "picture.png"
    for source in (path, str(path), data, io.BytesIO(data), image):
        np.testing.assert_array_equal(segmenter(source).label_map, expected)


def test_more_than_256_classes_give_a_16_bit_label_map():
    model = make_tiny_model(num_classes=300)
    picture = make_picture(64, 64)
    result = Segmenter(model, **CPU)(picture)
    assert result.label_map.dtype == np.uint16
    np.testing.assert_array_equal(
        result.label_map, logits_by_hand(model, picture).argmax(0).numpy()
    )


def test_max_side_limits_what_the_network_sees_but_not_the_result(tiny_model):
    picture = make_picture(120, 200)
    result = Segmenter(tiny_model, max_side=100, **CPU)(picture)
    small = np.asarray(Image.fromarray(picture).resize((100, 60), Image.Resampling.BILINEAR))
    logits = logits_by_hand(tiny_model, small)
    full = F.interpolate(logits[None], (120, 200), mode="bilinear", align_corners=False)[0]
    assert result.label_map.shape == (120, 200)
    assert (result.label_map == full.argmax(0).numpy()).mean() > 0.999
    np.testing.assert_allclose(result.confidence, full.softmax(0).amax(0).numpy(), atol=1e-4)


@pytest.mark.parametrize("values", [1, 5000, 2**20])
@pytest.mark.parametrize(
    ("small", "full"),
    [((30, 40), (301, 400)), ((1, 1), (50, 3)), ((7, 200), (8, 200)), ((375, 5), (3000, 40))],
)
def test_rows_of_any_number_are_scaled_up_bilinearly(monkeypatch, small, full, values):
    monkeypatch.setitem(segmenter_module._BLOCK_VALUES, "cpu", values)
    logits = torch.randn(4, *small, generator=torch.Generator().manual_seed(0))
    blocks = list(segmenter_module._upsampled_rows(logits, *full))
    expected = F.interpolate(logits[None].double(), full, mode="bilinear", align_corners=False)[0]
    assert [y for y, _ in blocks] == list(range(0, full[0], blocks[0][1].shape[1]))
    found = torch.cat([rows for _, rows in blocks], dim=1).double()
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_a_small_picture_is_not_scaled_up(tiny_model):
    picture = make_picture(40, 50)
    limited = Segmenter(tiny_model, max_side=100, **CPU)(picture)
    np.testing.assert_array_equal(
        limited.label_map, Segmenter(tiny_model, **CPU)(picture).label_map
    )


def test_the_size_at_which_the_network_has_learned_to_see_travels_with_it():
    model, picture = make_tiny_model(max_side=100), make_picture(120, 200)
    assert Segmenter(model, **CPU).max_side == 100
    np.testing.assert_array_equal(
        Segmenter(model, **CPU)(picture).confidence,
        Segmenter(make_tiny_model(), max_side=100, **CPU)(picture).confidence,
    )
    np.testing.assert_array_equal(
        Segmenter(model, max_side=None, **CPU)(picture).confidence,
        Segmenter(make_tiny_model(), **CPU)(picture).confidence,
    )


def test_the_model_is_copied_and_left_alone(tiny_model):
    picture = make_picture(32, 32)
    tiny_model.train()
    segmenter = Segmenter(tiny_model, device="cpu", dtype="bfloat16")
    before = segmenter(picture)
    assert tiny_model.training
    assert {p.dtype for p in tiny_model.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in tiny_model.parameters())
    with torch.no_grad():
        for parameter in tiny_model.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(segmenter(picture).label_map, before.label_map)


def test_bfloat16_agrees_with_float32(tiny_model):
    picture = make_picture(128, 128)
    narrow = Segmenter(tiny_model, device="cpu", dtype=torch.bfloat16)(picture)
    wide = Segmenter(tiny_model, **CPU)(picture)
    assert (narrow.label_map == wide.label_map).mean() > 0.97
    assert narrow.confidence.dtype == np.float32


def test_auto_finds_a_device_and_a_type(tiny_model):
    segmenter = Segmenter(tiny_model)
    assert segmenter.device.type in ("cuda", "mps", "cpu")
    assert segmenter.dtype in (torch.float32, torch.bfloat16)
    assert segmenter(make_picture(32, 32)).label_map.shape == (32, 32)


def test_from_pretrained_loads_a_folder(checkpoint, tiny_model):
    picture = make_picture(48, 48)
    loaded = Segmenter.from_pretrained(checkpoint, **CPU)
    expected = Segmenter(tiny_model, **CPU)(picture)
    np.testing.assert_array_equal(loaded(picture).label_map, expected.label_map)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "abacus"}, "device 'abacus' is not available"),
        ({"device": "cuda:99"}, "device 'cuda:99' is not available"),
        ({"dtype": "int8"}, "dtype must be 'auto'"),
        ({"dtype": "nonsense"}, "dtype must be 'auto'"),
        ({"max_side": 0}, "max_side must be at least 1"),
        ({"pixel_budget": 1000}, "pixel_budget must be at least"),
    ],
)
def test_a_wrong_argument_is_named(tiny_model, arguments, message):
    with pytest.raises(ValueError, match=message):
        Segmenter(tiny_model, **arguments)


def test_the_limits_on_pictures_are_those_given(tiny_model):
    with pytest.raises(ImageError, match="pixels"):
        Segmenter(tiny_model, max_pixels=100, **CPU)(make_picture(11, 10))
    image = io.BytesIO()
    Image.fromarray(make_picture(30, 30)).save(image, "png")
    with pytest.raises(ImageError, match="bytes"):
        Segmenter(tiny_model, max_bytes=100, **CPU)(image.getvalue())


# --- streams ---------------------------------------------------------------------------------


@pytest.fixture(params=[0, 1], ids=["as_on_a_cpu", "as_on_a_gpu"])
def streaming(request, tiny_model) -> Segmenter:
    """Without and with a batch that the device has begun before the last one's results come."""
    segmenter = Segmenter(tiny_model, **CPU)
    segmenter._ahead = request.param
    return segmenter


@pytest.fixture
def mixed_pictures():
    sizes = [(64, 64), (33, 47), (64, 64), (1, 1), (64, 64), (47, 33), (33, 47), (96, 32)]
    return [make_picture(*size, seed=seed) for seed, size in enumerate(sizes)]


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_a_stream_equals_single_calls_in_order(streaming, mixed_pictures, batch_size):
    results = list(streaming.stream(mixed_pictures, batch_size=batch_size))
    assert len(results) == len(mixed_pictures)
    for picture, result in zip(mixed_pictures, results, strict=True):
        np.testing.assert_array_equal(np.asarray(result.image), picture)
        single = streaming(picture)
        np.testing.assert_array_equal(result.label_map, single.label_map)
        np.testing.assert_allclose(result.confidence, single.confidence, atol=1e-5)


def test_an_empty_stream_is_empty(streaming):
    assert list(streaming.stream([])) == []


def test_the_device_begins_with_the_next_batch_before_it_is_waited_for(streaming):
    batches = []
    streaming.network.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    begun = [len(batches) for _ in streaming.stream([make_picture(32, 32)] * 10, batch_size=4)]
    assert batches == [4, 4, 2]
    if streaming._ahead:
        assert begun == [2] * 4 + [3] * 6
    else:
        assert begun == [1] * 4 + [2] * 4 + [3] * 2


def test_a_stream_reads_ahead_by_a_bounded_number_of_pictures(streaming):
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield make_picture(32, 32)

    stream = streaming.stream(endless(), batch_size=4)
    for count in range(1, 21):
        next(stream)
        assert taken <= count + 3 * 4
    stream.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("fcn-hub-decode")]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_bad_picture_ends_a_stream_or_takes_its_place(streaming, mixed_pictures, batch_size):
    pictures = [*mixed_pictures[:3], b"not a picture", *mixed_pictures[3:]]
    stream = streaming.stream(pictures, batch_size=batch_size)
    for picture in mixed_pictures[:3]:  # what comes before it is not lost
        np.testing.assert_array_equal(np.asarray(next(stream).image), picture)
    with pytest.raises(ImageError):
        next(stream)
    results = list(streaming.stream(pictures, batch_size=batch_size, errors="yield"))
    assert isinstance(results.pop(3), ImageError)
    for picture, result in zip(mixed_pictures, results, strict=True):
        np.testing.assert_array_equal(np.asarray(result.image), picture)


def test_a_stream_of_bad_pictures_only_yields_their_errors(streaming):
    results = list(streaming.stream([b"not a picture"] * 5, batch_size=2, errors="yield"))
    assert [type(result) for result in results] == [ImageError] * 5


def test_a_stream_holds_three_batches_of_pictures_at_most(streaming):
    opened = []
    held = []
    open_picture = streaming._open

    def pictures():
        for seed in range(40):
            held.append(sum(image() is not None for image in opened))
            yield make_picture(32, 32, seed)

    def watched(picture):
        image = open_picture(picture)
        opened.append(weakref.ref(image))
        return image

    streaming._open = watched
    assert sum(1 for _ in streaming.stream(pictures(), batch_size=4)) == 40
    assert 4 <= max(held) <= 3 * 4


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"errors": "ignore"}])
def test_a_wrong_stream_argument_fails_before_any_picture_is_read(tiny_model, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Segmenter(tiny_model, **CPU).stream(iter(lambda: pytest.fail("read"), 0), **arguments)


def test_threads_get_the_results_of_their_own_pictures(tiny_model, mixed_pictures):
    segmenter = Segmenter(tiny_model, **CPU)
    expected = [segmenter(picture).label_map for picture in mixed_pictures]
    wrong = []

    def work(index):
        for _ in range(5):
            if not np.array_equal(segmenter(mixed_pictures[index]).label_map, expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(mixed_pictures))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- tiles -----------------------------------------------------------------------------------

SMALLEST_BUDGET = (3 * TILE_OVERLAP) ** 2


@pytest.mark.parametrize(
    "size", [(900, 900), (700, 3000), (3000, 40), (1793, 1111), (768, 769), (2600, 2600)]
)
def test_tiles_cover_every_pixel_once_and_blend_to_the_whole(size):
    # Where all tiles agree on the logits of a pixel, blending must give exactly those.
    height, width = size
    torch.manual_seed(0)
    whole = torch.randn(2, height, width)
    seen = []

    def logits_of(y0, y1, x0, x1):
        assert y0 % 32 == x0 % 32 == 0
        assert (y1 - y0) * (x1 - x0) <= 1.2 * SMALLEST_BUDGET
        seen.append((y0, x0))
        return whole[:, y0:y1, x0:x1]

    blended = torch.full_like(whole, float("nan"))
    for y, x, logits in blended_tiles(height, width, SMALLEST_BUDGET, logits_of):
        area = blended[:, y : y + logits.shape[1], x : x + logits.shape[2]]
        assert area.isnan().all()
        area.copy_(logits)
    torch.testing.assert_close(blended, whole, rtol=0, atol=1e-5)
    assert len(seen) == len(set(seen)) > (1 if height * width > SMALLEST_BUDGET else 0)


def test_neighbouring_tiles_fade_into_each_other():
    tiles = iter(range(100))
    row = torch.cat(
        [
            logits[0, 0]
            for _, _, logits in blended_tiles(
                500,
                2500,
                SMALLEST_BUDGET,
                lambda y0, y1, x0, x1: torch.full((1, y1 - y0, x1 - x0), float(next(tiles))),
            )
        ]
    )
    steps = row.diff()
    assert row[0] == 0
    assert row[-1] == next(tiles) - 1
    assert steps.min() >= 0
    assert steps.max() < 2 / (TILE_OVERLAP / 2)


def test_a_tiled_picture_agrees_with_the_whole(tiny_model):
    picture = make_picture(1200, 1500)
    whole = Segmenter(tiny_model, pixel_budget=2_000_000, **CPU)(picture)
    tiled = Segmenter(tiny_model, pixel_budget=SMALLEST_BUDGET, **CPU)(picture)
    assert len(np.unique(whole.label_map)) > 1
    assert (whole.label_map == tiled.label_map).mean() > 0.99
    assert np.abs(whole.confidence - tiled.confidence).mean() < 0.01


def test_a_tiled_picture_that_is_also_scaled_has_its_own_size(tiny_model):
    picture = make_picture(1200, 1600)
    segmenter = Segmenter(tiny_model, pixel_budget=SMALLEST_BUDGET, max_side=1500, **CPU)
    result = segmenter(picture)
    assert result.label_map.shape == result.confidence.shape == (1200, 1600)
    whole = Segmenter(tiny_model, max_side=1500, **CPU)(picture)
    assert (whole.label_map == result.label_map).mean() > 0.99


# --- memory ----------------------------------------------------------------------------------


class SmallMemory(torch.nn.Module):
    """Runs a network on as many pixels as fit, and is out of memory beyond."""

    def __init__(self, network: torch.nn.Module, pixels: int) -> None:
        super().__init__()
        self.network, self.pixels, self.seen = network, pixels, []

    def forward(self, x):
        self.seen.append(x.shape[0])
        if x.shape[0] * x.shape[2] * x.shape[3] > self.pixels:
            raise torch.OutOfMemoryError("out of memory")
        return self.network(x)


def test_out_of_memory_halves_the_batch_with_a_warning(streaming):
    pictures = [make_picture(64, 64, seed) for seed in range(5)]
    segmenter = streaming
    expected = [segmenter(picture).label_map for picture in pictures]
    segmenter.network = SmallMemory(segmenter.network, 2 * 64 * 64)
    with pytest.warns(UserWarning) as warnings:
        results = list(segmenter.stream(pictures))
    messages = [str(warning.message) for warning in warnings]
    assert messages == [f"Out of memory with {n} pictures; trying {n // 2}." for n in (5, 3)]
    assert segmenter.network.seen == [5, 2, 3, 1, 2]
    for result, label_map in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result.label_map, label_map)


def test_out_of_memory_with_one_picture_goes_on_in_tiles_with_a_warning(tiny_model):
    picture = make_picture(1100, 1300)
    segmenter = Segmenter(tiny_model, **CPU)
    expected = segmenter(picture).label_map
    segmenter.network = SmallMemory(segmenter.network, 1_000_000)
    with pytest.warns(UserWarning, match="above 715,000 pixels are processed in tiles"):
        result = segmenter(picture)
    assert (result.label_map == expected).mean() > 0.99
    failures = len(segmenter.network.seen)
    segmenter(picture)  # it has learned: no attempt at the whole picture
    assert len(segmenter.network.seen) == failures + failures - 1


def test_a_picture_for_which_even_tiles_are_too_large_is_an_error(tiny_model):
    segmenter = Segmenter(tiny_model, **CPU)
    segmenter.network = SmallMemory(segmenter.network, 1000)
    with pytest.raises(torch.OutOfMemoryError):
        segmenter(make_picture(64, 64))


@pytest.mark.slow
def test_a_picture_of_100_megapixels_takes_less_than_3_gb(checkpoint):
    program = f"""
from pathlib import Path
import numpy as np
from PIL import Image
from fcn_hub import Segmenter
def kib(key):
    return int(Path("/proc/self/status").read_text().split(key)[1].split()[0])
segmenter = Segmenter.from_pretrained({str(checkpoint)!r}, max_pixels=100_000_000)
segmenter(np.zeros((64, 64, 3), np.uint8))
image = Image.radial_gradient("L").resize((10_000, 10_000)).convert("RGB")
before = kib("VmRSS:")
result = segmenter(image)
assert result.label_map.shape == (10_000, 10_000)
print((kib("VmHWM:") - before) * 1024)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 3e9
