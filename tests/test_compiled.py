"""The network through torch.compile: the same labels, and few compilations."""

import shutil

import numpy as np
import pytest
import torch
from conftest import make_picture, make_score_model
from torch._dynamo.testing import CompileCounter

from fcn_hub import Segmenter
from fcn_hub.compiled import MOST_SHAPES, CompiledFCN, powers_of_two

SIZES = [(y, x) for y in (33, 70, 97) for x in (31, 40, 90, 128)]  # of 12 shapes


@pytest.fixture(autouse=True)
def nothing_compiled_yet():
    torch._dynamo.reset()


@torch.inference_mode()
def test_pictures_of_many_sizes_are_compiled_a_few_times_only(tiny_model):
    counter = CompileCounter()
    network = CompiledFCN(tiny_model, backend=counter)
    for height, width in SIZES * 2:
        x = torch.randn(1, 3, height, width)
        torch.testing.assert_close(network(x), tiny_model(x))
    assert counter.frame_count == len(network.shapes) == MOST_SHAPES


@torch.inference_mode()
def test_sizes_that_the_network_pads_to_one_share_a_compilation(tiny_model):
    counter = CompileCounter()
    network = CompiledFCN(tiny_model, backend=counter)
    for height, width in [(33, 65), (64, 96), (50, 80)]:
        assert network(torch.randn(1, 3, height, width)).shape == (1, 3, height, width)
    assert counter.frame_count == 1


@torch.inference_mode()
def test_batches_of_every_size_are_compiled_as_powers_of_two(tiny_model):
    counter = CompileCounter()
    network = CompiledFCN(tiny_model, backend=counter)
    for batch in (7, 3, 5, 8, 1):
        x = torch.randn(batch, 3, 32, 32)
        torch.testing.assert_close(network(x), tiny_model(x))
    assert counter.frame_count == 4  # of 8, 4, 2 and 1


@pytest.mark.parametrize("count", range(1, 18))
def test_powers_of_two_add_up(count):
    parts = powers_of_two(count)
    assert sum(parts) == count
    assert parts == sorted(set(parts), reverse=True)
    assert all(part & (part - 1) == 0 for part in parts)


@torch.inference_mode()
def test_the_papers_networks_which_pad_nothing_are_limited_too():
    model = make_score_model("fcn8s")
    counter = CompileCounter()
    network = CompiledFCN(model, backend=counter)
    for side in range(20, 20 + MOST_SHAPES + 3):
        x = torch.randn(1, 3, side, side)
        torch.testing.assert_close(network(x), model(x))
    assert counter.frame_count == MOST_SHAPES


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
def test_a_compiled_segmenter_finds_the_same(tiny_model):
    compiled = Segmenter(tiny_model, "cpu", "float32", compile=True)
    plain = Segmenter(tiny_model, "cpu", "float32")
    pictures = [make_picture(50, 70, seed) for seed in range(3)]
    for ours, theirs in zip(compiled.stream(pictures), plain.stream(pictures), strict=True):
        assert (ours.label_map == theirs.label_map).mean() > 0.999
        np.testing.assert_allclose(ours.confidence, theirs.confidence, atol=1e-3)
    assert compiled.network.shapes == {(2, 3, 64, 96), (1, 3, 64, 96)}


def test_an_export_is_not_compiled(tiny_model):
    with pytest.raises(ValueError, match="'onnx' cannot be compiled"):
        Segmenter(tiny_model, backend="onnx", compile=True)
