"""On a GPU everything comes out as on the CPU. Skipped where there is none."""

import numpy as np
import pytest
import torch
from conftest import balance, make_picture, make_score_model, make_tiny_model

from fcn_hub import FCN, Segmenter
from fcn_hub.transfers import Transfers

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def make_model(decoder: str) -> FCN:
    if decoder == "deconv":
        return make_tiny_model(base_channels=16)
    model = make_score_model(decoder, base_channels=16, fc_channels=32)
    balance(model, make_picture(96, 128))
    return model


def agreement(ours, theirs) -> float:
    return float((ours.label_map == theirs.label_map).mean())


@pytest.mark.parametrize("decoder", ["deconv", "fcn8s"])
@pytest.mark.parametrize(
    ("dtype", "compiled", "least"),
    [("float32", False, 0.99), ("bfloat16", False, 0.96), ("bfloat16", True, 0.96)],
)
@pytest.mark.parametrize("size", [(96, 128), (75, 101)])
def test_labels_and_confidences_are_those_of_the_cpu(decoder, dtype, compiled, least, size):
    model = make_model(decoder)
    picture = make_picture(*size)
    expected = Segmenter(model, "cpu", "float32")(picture)
    assert len(set(expected.label_map.flat)) > 1
    found = Segmenter(model, DEVICE, dtype, compile=compiled)(picture)
    assert agreement(found, expected) >= least
    assert np.abs(found.confidence - expected.confidence).mean() < 0.02
    assert (found.label_map.dtype, found.confidence.dtype) == (np.uint8, np.float32)


def test_a_stream_of_mixed_sizes_comes_back_in_order():
    model = make_model("deconv")
    pictures = [make_picture(40 + 16 * (k % 3), 64, seed=k) for k in range(11)]
    on_cpu = Segmenter(model, "cpu", "float32")
    found = list(Segmenter(model, DEVICE, "float32").stream(pictures, batch_size=4))
    assert len(found) == len(pictures)
    for result, picture in zip(found, pictures, strict=True):
        assert agreement(result, on_cpu(picture)) >= 0.99


@pytest.mark.parametrize("options", [{}, {"max_side": 96}], ids=["own_size", "scaled_down"])
def test_overlapped_copies_mix_no_pictures_up(options):
    segmenter = Segmenter(make_model("deconv"), DEVICE, "float32", **options)
    pictures = [make_picture(192, 160, seed=k) for k in range(120)]
    for result, picture in zip(segmenter.stream(pictures, batch_size=8), pictures, strict=True):
        single = segmenter(picture)
        assert agreement(result, single) > 0.999
        assert np.abs(result.confidence - single.confidence).max() < 1e-3


def test_copies_go_on_while_the_gpu_computes():
    transfers = Transfers(torch.device(DEVICE))
    compute = torch.cuda.current_stream()
    array = np.random.default_rng(0).integers(0, 256, (4, 256, 256, 3), dtype=np.uint8)
    for _ in range(2):  # at first the streams and the pinned memory are made
        torch.cuda._sleep(2 * 10**9)  # cycles, some second
        arrived = transfers.upload(array)
        transfers._both_streams()[0].synchronize()
        was_busy_at_upload = not compute.query()
        torch.cuda.synchronize()
        assert torch.equal(arrived.cpu(), torch.from_numpy(array))

        wait = transfers.download([(arrived, arrived.float() / 255)])
        torch.cuda._sleep(2 * 10**9)
        ((pixels, scaled),) = wait()
        was_busy_at_download = not compute.query()
        torch.cuda.synchronize()
        np.testing.assert_array_equal(pixels, array)
        np.testing.assert_allclose(scaled, array / np.float32(255))
    assert was_busy_at_upload and was_busy_at_download


def test_a_stream_keeps_the_gpu_a_batch_ahead():
    segmenter = Segmenter(make_model("deconv"), DEVICE)
    batches = []
    segmenter.network.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    stream = segmenter.stream([make_picture(64, 64)] * 24, batch_size=8)
    next(stream)
    assert batches == [8, 8]
    stream.close()


def test_a_picture_in_tiles_and_scaled_down_is_that_of_the_cpu():
    model = make_model("deconv")
    picture = make_picture(900, 1300)
    for options in ({"pixel_budget": 768**2}, {"max_side": 320}):
        expected = Segmenter(model, "cpu", "float32", **options)(picture)
        assert agreement(Segmenter(model, DEVICE, "float32", **options)(picture), expected) >= 0.99


def test_memory_does_not_grow_with_the_pictures():
    segmenter = Segmenter(make_model("deconv"), DEVICE)
    taken = []
    for _ in range(3):
        list(segmenter.stream([make_picture(256, 256)] * 16))
        taken.append(torch.cuda.memory_allocated())
    assert taken[1] == taken[2]


def test_out_of_memory_batches_become_smaller():
    segmenter = Segmenter(make_model("deconv"), DEVICE, "float32", pixel_budget=2**24)
    pictures = [make_picture(1024, 1024, seed=k) for k in range(8)]
    expected = [segmenter(picture) for picture in pictures]
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    # A network of 16 channels takes some 200 MB for a picture of this size.
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 6e8) / total)
    try:
        with pytest.warns(UserWarning, match="Out of memory with 8 pictures; trying 4"):
            found = list(segmenter.stream(pictures))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert all(agreement(a, b) > 0.999 for a, b in zip(found, expected, strict=True))


def test_from_pretrained_puts_the_tensors_on_the_device(checkpoint):
    model = FCN.from_pretrained(checkpoint, device=DEVICE)
    assert {p.device.type for p in model.parameters()} == {DEVICE}
    with torch.no_grad():
        assert model(torch.randn(1, 3, 40, 50, device=DEVICE)).device.type == DEVICE
