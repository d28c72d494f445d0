"""The network arranged for speed gives what the network gives."""

import copy
import math

import numpy as np
import pytest
import torch
from conftest import make_picture, make_tiny_model

import fcn_hub.optimize as optimize
from fcn_hub import FCN, Segmenter
from fcn_hub.optimize import OptimizedFCN, optimized

SIZES = [(1, 1), (33, 47), (64, 64), (130, 70), (300, 97), (5, 400)]


def pictures(batch: int, height: int, width: int) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=["direct", "packed", "winograd", "winograd_and_packed"])
def way(request, monkeypatch):
    """Every way to convolve, on any processor that can."""
    winograd, packed = "winograd" in request.param, "packed" in request.param
    if winograd and not torch._nnpack_available():
        pytest.skip("This build of torch has no NNPACK for this processor.")
    is_x86 = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    if packed and not (is_x86 and torch.backends.mkldnn.is_available()):
        pytest.skip("This build of torch does not use oneDNN on this processor.")
    monkeypatch.setattr(
        optimize, "_winograd_is_faster", lambda dtype: winograd and dtype == torch.float32
    )
    # On AVX2, where there are both, small maps are left to oneDNN.
    monkeypatch.setattr(optimize, "_LEAST_WINOGRAD_PIXELS", 20 * 20 if packed else 1)
    if not packed:
        monkeypatch.setattr(optimize, "_packed", lambda convs, dtype: {})
    return request.param


def largest_difference(model: FCN, x: torch.Tensor) -> float:
    with torch.no_grad():
        expected, found = model(x), optimized(model)(x)
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("skips", [0, 2, 4])
def test_logits_are_equal_at_every_size(way, skips, size):
    model = make_tiny_model(base_channels=16, skips=skips)
    assert isinstance(optimized(model), OptimizedFCN)
    assert largest_difference(model, pictures(2, *size)) < 1e-4


@pytest.mark.parametrize("rows", [2, 4, 32, 1000])
def test_bands_of_any_height_give_the_same_logits(way, rows, monkeypatch):
    monkeypatch.setattr(optimize, "_band_rows", lambda *_: rows)
    assert largest_difference(make_tiny_model(base_channels=16), pictures(1, 100, 61)) < 1e-4


@pytest.mark.parametrize("height", [2, 4, 30, 512, 1026])
@pytest.mark.parametrize("row_bytes", [64, 4224, 2**16, 2**18 + 2, 10**8])
def test_bands_are_even_alike_and_no_larger_than_they_may_be(height, row_bytes):
    most_bytes = optimize._CACHED_BAND
    rows = optimize._band_rows(height, row_bytes, most_bytes)
    most_rows = max(2, most_bytes // row_bytes // 2 * 2)
    assert rows % 2 == 0
    assert 2 <= rows <= most_rows
    count = math.ceil(height / rows)
    assert count <= math.ceil(height / most_rows)
    assert rows < height / count + 2


def test_negative_scales_of_the_batch_normalisation_are_folded_exactly(way):
    model = make_tiny_model(base_channels=16)
    for step in range(1, 6):
        model.decoder.get_submodule(f"bn{step}").weight.data[::2] *= -1
    assert largest_difference(model, pictures(1, 70, 90)) < 1e-4


def test_a_channel_that_the_last_normalisation_switches_off_stays_off():
    model = make_tiny_model()
    model.decoder.bn5.weight.data[0] = 0
    assert isinstance(optimized(model), OptimizedFCN)
    assert largest_difference(model, pictures(1, 64, 64)) < 1e-4


def test_what_cannot_be_folded_without_losing_digits_stays_as_it_is():
    model = make_tiny_model()
    model.decoder.bn2.weight.data[0] = 1e-9
    assert optimized(model) is model
    model.decoder.bn2.weight.data[0] = 0
    assert optimized(model) is model


@pytest.mark.parametrize("config", [{"decoder": "fcn8s"}, {"bn_first": True}])
def test_a_network_of_another_kind_stays_as_it_is(config):
    model = make_tiny_model(**config)
    assert optimized(model) is model


def test_the_model_is_left_alone(way):
    model = make_tiny_model(base_channels=16)
    before = copy.deepcopy(model.state_dict())
    network = optimized(model)
    assert len(network.packed) == (13 + 5 if "packed" in way else 0)
    network(pictures(1, 64, 64))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_bands_come_in_order_and_add_up_to_the_logits(monkeypatch):
    monkeypatch.setattr(optimize, "_band_rows", lambda *_: 16)
    network, x = optimized(make_tiny_model()), pictures(2, 100, 40)
    found = torch.full((2, 3, 100, 40), float("nan"))
    seen = []

    def consume(index, y, rows):
        found[index, :, y : y + rows.shape[1]] = rows
        seen.append((index, y))

    with torch.no_grad():
        assert network(x, consume) is None
        torch.testing.assert_close(found, network(x), rtol=0, atol=0)
    assert seen == [(index, y) for index in (0, 1) for y in range(0, 100, 32)]


@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.9999), ("bfloat16", 0.97)])
def test_a_segmenter_on_the_cpu_uses_it_and_agrees(dtype, least):
    model = make_tiny_model(base_channels=16)
    picture = make_picture(150, 170)
    segmenter = Segmenter(model, "cpu", dtype)
    assert isinstance(segmenter.network, OptimizedFCN)
    with torch.no_grad():
        logits = model(segmenter._normalized(torch.from_numpy(picture[None])).float())[0]
    result = segmenter(picture)
    assert (result.label_map == logits.argmax(0).numpy()).mean() >= least
    confidence = logits.softmax(0).amax(0).numpy()
    assert np.abs(result.confidence - confidence).max() < (1e-4 if dtype == "float32" else 0.2)
