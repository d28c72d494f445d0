"""The VGG-16 stages: names, shapes, and the rescaling that leaves the function unchanged."""

import pytest
import torch
from torch.nn import functional as F

from fcn_hub import FCN
from fcn_hub.backbone import VGG16


def test_layer_names_and_channels_are_those_of_vgg16():
    shapes = {name: tuple(p.shape) for name, p in VGG16().named_parameters() if "weight" in name}
    assert shapes == {
        "conv1_1.weight": (64, 3, 3, 3),
        "conv1_2.weight": (64, 64, 3, 3),
        "conv2_1.weight": (128, 64, 3, 3),
        "conv2_2.weight": (128, 128, 3, 3),
        "conv3_1.weight": (256, 128, 3, 3),
        "conv3_2.weight": (256, 256, 3, 3),
        "conv3_3.weight": (256, 256, 3, 3),
        "conv4_1.weight": (512, 256, 3, 3),
        "conv4_2.weight": (512, 512, 3, 3),
        "conv4_3.weight": (512, 512, 3, 3),
        "conv5_1.weight": (512, 512, 3, 3),
        "conv5_2.weight": (512, 512, 3, 3),
        "conv5_3.weight": (512, 512, 3, 3),
    }
    assert sum(p.numel() for p in VGG16().parameters()) == 14_714_688


def test_pools_have_strides_2_to_32():
    pools = VGG16(base_channels=2)(torch.randn(2, 3, 96, 64))
    assert [tuple(pool.shape) for pool in pools] == [
        (2, 2, 48, 32),
        (2, 4, 24, 16),
        (2, 8, 12, 8),
        (2, 16, 6, 4),
        (2, 16, 3, 2),
    ]


def test_matches_torchvisions_vgg16_features():
    from torchvision.models import vgg16

    torch.manual_seed(0)
    reference = vgg16(weights=None).features.eval()
    backbone = VGG16()
    convs = [layer for layer in reference if isinstance(layer, torch.nn.Conv2d)]
    for ours, theirs in zip((c for s in backbone.stages() for c in s), convs, strict=True):
        ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.allclose(backbone(x)[-1], reference(x), atol=1e-6)


def test_dividing_activations_changes_pool_outputs_by_that_factor_only():
    torch.manual_seed(0)
    backbone = VGG16(base_channels=4).double()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    before = backbone(x)
    divisors = [0.5 + index for index in range(13)]
    backbone.divide_activations(divisors)
    last_of_stage = [divisors[index] for index in (1, 3, 6, 9, 12)]
    for pool, old, divisor in zip(backbone(x), before, last_of_stage, strict=True):
        torch.testing.assert_close(pool * divisor, old, rtol=1e-9, atol=1e-12)


def test_dividing_by_the_measured_means_gives_unit_mean_activations():
    torch.manual_seed(0)
    backbone = VGG16(base_channels=4)
    x = 100 * torch.randn(2, 3, 64, 64)
    backbone.divide_activations(backbone.mean_activations(x))
    assert backbone.mean_activations(x) == pytest.approx([1.0] * 13, rel=1e-4)


def test_mean_activations_are_those_of_the_forward_pass():
    torch.manual_seed(0)
    backbone = VGG16(base_channels=4)
    x = torch.randn(1, 3, 32, 32)
    first = F.relu(backbone.conv1_1(x))
    second = F.relu(backbone.conv1_2(first))
    expected = [first.mean().item(), second.mean().item()]
    assert backbone.mean_activations(x)[:2] == pytest.approx(expected)


@pytest.mark.parametrize("divisors", [[1.0] * 12, [1.0] * 12 + [0.0], [float("nan")] * 13])
def test_useless_divisors_are_refused(divisors):
    with pytest.raises(ValueError, match=r"convolutions|positive finite"):
        VGG16(base_channels=1).divide_activations(divisors)


def test_initial_weights_keep_the_variance_through_the_whole_network():
    torch.manual_seed(0)
    model = FCN(21, base_channels=32)
    pools = model.backbone(torch.randn(1, 3, 128, 128))
    assert all(0.3 < pool.square().mean().sqrt() < 3 for pool in pools)
    step = F.relu(model.decoder.deconv1(pools[-1]))
    assert 0.5 < step.square().mean() / pools[-1].square().mean() < 2
    assert not model.backbone.conv1_1.bias.any()
