"""FCN the network: its arithmetic against a plain implementation, sizes, configuration."""

import copy
import json

import pytest
import torch
from conftest import make_tiny_model
from plain_fcn import PlainFCN
from safetensors.torch import save_file
from torch import nn

from fcn_hub import FCN, ConfigError, LabelMap
from fcn_hub.backbone import CAFFE_NORMALIZATION, TORCHVISION_NORMALIZATION, VGG16


def plain_twin(model: FCN) -> PlainFCN:
    plain = PlainFCN(model.num_classes, model.base_channels, model.config["skips"])
    plain.load_state_dict({k.split(".", 1)[1]: v for k, v in model.state_dict().items()})
    return plain.train(model.training)


def test_the_full_network_has_the_published_size():
    model = FCN(num_classes=21)
    assert model.num_parameters == 18_644_373
    assert len(model.state_dict()) == 63


@pytest.mark.parametrize("skips", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("training", [False, True])
def test_logits_and_gradients_equal_the_plain_implementation(skips, training):
    model = make_tiny_model(skips=skips).train(training)
    plain = plain_twin(model)
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    ours_x, plain_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours, theirs = model(ours_x), plain(plain_x)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2))
    (ours * weight).mean().backward()
    (theirs * weight).mean().backward()
    torch.testing.assert_close(ours_x.grad, plain_x.grad, rtol=0, atol=1e-5)
    plain_gradients = {name: p.grad for name, p in plain.named_parameters()}
    for name, parameter in model.named_parameters():
        expected = plain_gradients[name.split(".", 1)[1]]
        torch.testing.assert_close(parameter.grad, expected, rtol=0, atol=1e-5)
    for name, value in model.state_dict().items():  # running statistics were updated alike
        torch.testing.assert_close(value, plain.state_dict()[name.split(".", 1)[1]])


def test_the_full_width_network_equals_the_plain_implementation():
    torch.manual_seed(0)
    model = FCN(num_classes=21).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain_twin(model)(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (31, 33), (32, 32), (45, 64), (97, 3)])
def test_any_size_is_padded_with_zeros_and_cropped(tiny_model, size):
    height, width = size
    x = torch.randn(1, 3, height, width)
    padded = torch.zeros(1, 3, -(-height // 32) * 32, -(-width // 32) * 32)
    padded[..., :height, :width] = x
    with torch.no_grad():
        logits = tiny_model(x)
        expected = tiny_model(padded)[..., :height, :width]
    assert logits.shape == (1, 3, height, width)
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 4, 32, 32), (1, 3, 32)])
def test_input_of_another_shape_is_refused(tiny_model, shape):
    with pytest.raises(ValueError, match=r"Expected pictures as \[N, 3, H, W\]"):
        tiny_model(torch.zeros(shape))


def test_compiles_to_one_graph(tiny_model):
    compiled = torch.compile(tiny_model, fullgraph=True, backend="eager")
    x = torch.randn(1, 3, 50, 40)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), tiny_model(x))


def test_the_config_is_flat_json_and_rebuilds_the_network():
    names = ["sky", "ground"]
    model = FCN(2, class_names=names, ignore_index=7, base_channels=2, skips=1)
    config = json.loads(json.dumps(model.config))
    assert config == model.config
    assert config["class_names"] == names
    assert config["decoder"] == "deconv"
    version = config.pop("config_version")
    assert version == 1
    assert FCN(**config).config == model.config


def test_class_names_and_colours_default_to_distinct_ones():
    label_map = FCN(4, base_channels=1).label_map
    assert label_map.names == ("class_0", "class_1", "class_2", "class_3")
    assert len(set(label_map.colors)) == 4


def test_a_built_in_label_map_fits_the_constructor():
    model = FCN(21, base_channels=1, **LabelMap.VOC.to_config())
    assert model.label_map == LabelMap.VOC


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes must be an integer in 1..65536, not 0"),
        ({"num_classes": "21"}, "num_classes must be an integer"),
        ({"num_classes": True}, "num_classes must be an integer"),
        ({"decoder": "unet"}, "decoder must be one of deconv, fcn32s, fcn16s, fcn8s, not 'unet'"),
        ({"skips": 5}, "skips must be an integer in 0..4, not 5"),
        ({"base_channels": 0}, "base_channels must be an integer"),
        ({"image_mean": torch.zeros(3)}, "image_mean must be three numbers"),
        ({"image_mean": [123.68, 116.779, 103.939]}, "image_mean must be three numbers"),
        ({"image_std": [0.0, 1.0, 1.0]}, "image_std must be three numbers"),
        ({"image_std": [float("nan")] * 3}, "image_std must be three numbers"),
        ({"max_side": 0}, "max_side must be an integer in 1..65536, not 0"),
        ({"class_names": ["a", "b"]}, "num_classes is 21 but there are 2 names"),
        ({"num_classes": 2, "class_names": ["a", "a"]}, "given twice"),
        ({"num_classes": 2, "class_colors": [[0, 0, 0]] * 2}, "same colour"),
        ({"num_classes": 2, "ignore_index": 1}, "ignore_index 1 is the index of class"),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        FCN(**arguments)


def test_copies_are_independent_and_keep_the_config(tiny_model):
    twin = copy.deepcopy(tiny_model)
    assert twin.config == tiny_model.config
    with torch.no_grad():
        twin.decoder.classifier.bias.add_(1)
    assert not torch.equal(twin.decoder.classifier.bias, tiny_model.decoder.classifier.bias)


# --- from_imagenet ---------------------------------------------------------------------------


@pytest.fixture
def vgg_weights(tmp_path):
    torch.manual_seed(3)
    path = tmp_path / "vgg.safetensors"
    save_file(VGG16(base_channels=64).half().state_dict(), path)
    return path


def test_a_weights_file_gives_the_backbone_and_the_caffe_normalisation(vgg_weights):
    model = FCN.from_imagenet(2, weights=vgg_weights)
    assert (model.image_mean, model.image_std) == CAFFE_NORMALIZATION
    assert model.training
    assert model.backbone.conv1_1.weight.dtype == torch.float32


def test_rescaling_leaves_the_backbones_function_unchanged_up_to_scale(vgg_weights):
    from safetensors.torch import load_file

    plain = VGG16()
    plain.load_state_dict({k: v.float() for k, v in load_file(vgg_weights).items()})
    rescaled = FCN.from_imagenet(2, weights=vgg_weights).backbone
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        for before, after in zip(plain(x), rescaled(x), strict=True):
            # Random weights have zero biases, so the scale can be read off any element.
            ratio = before.norm() / after.norm()
            torch.testing.assert_close(after * ratio, before, rtol=1e-4, atol=1e-5 * ratio.item())


def test_calibration_pictures_give_unit_mean_activations(vgg_weights):
    pictures = torch.rand(2, 3, 32, 32)
    model = FCN.from_imagenet(2, weights=vgg_weights, calibration=pictures)
    mean = torch.tensor(model.image_mean).view(3, 1, 1)
    std = torch.tensor(model.image_std).view(3, 1, 1)
    means = model.backbone.mean_activations((pictures - mean) / std)
    assert means == pytest.approx([1.0] * 13, rel=1e-3)


def torch_home_with_vgg16(folder, monkeypatch, filename) -> nn.Module:
    """Put random VGG-16 weights where torchvision keeps its downloads."""
    from torchvision.models import vgg16

    monkeypatch.setenv("TORCH_HOME", str(folder))
    (folder / "hub" / "checkpoints").mkdir(parents=True)
    torch.manual_seed(4)
    features = vgg16(weights=None).features
    state = {f"features.{name}": value for name, value in features.state_dict().items()}
    torch.save(state, folder / "hub" / "checkpoints" / filename)
    return features.eval()


@pytest.mark.parametrize(
    ("weights", "filename", "normalization"),
    [
        ("torchvision", "vgg16-397923af.pth", TORCHVISION_NORMALIZATION),
        ("caffe", "vgg16_features-amdegroot-88682ab5.pth", CAFFE_NORMALIZATION),
    ],
)
def test_torchvisions_weights_come_with_their_normalisation(
    tmp_path, monkeypatch, weights, filename, normalization
):
    features = torch_home_with_vgg16(tmp_path, monkeypatch, filename)
    model = FCN.from_imagenet(2, weights=weights)
    assert (model.image_mean, model.image_std) == normalization
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected, pool5 = features(x), model.backbone(x)[-1]
    scale = 0.80 if weights == "caffe" else 1.0
    # The biases are divided as well, so the whole function is exactly rescaled.
    torch.testing.assert_close(pool5 * scale, expected, rtol=1e-4, atol=1e-6)


def test_no_constructor_touches_the_network():
    import socket

    class Refuse(socket.socket):
        def connect(self, *_):
            raise AssertionError("the constructor opened a connection")

    original, socket.socket = socket.socket, Refuse  # type: ignore[misc]
    try:
        FCN(2, base_channels=1)
    finally:
        socket.socket = original  # type: ignore[misc]
