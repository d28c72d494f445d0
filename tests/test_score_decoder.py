"""The paper's networks: arithmetic, sizes, alignment, and the surgery between them."""

import json

import numpy as np
import pytest
import torch
from conftest import balance, make_picture, make_score_model, make_tiny_model
from PIL import Image
from plain_fcn import PlainFCNs, PlainScoreFCN
from torch import nn
from torch.nn import functional as F

from fcn_hub import FCN, ConfigError, LabelMap, Segmenter
from fcn_hub.backbone import CAFFE_MEAN_ACTIVATIONS, CAFFE_NORMALIZATION, from_torchvision
from fcn_hub.surgery import adapt_classes, refine

STRIDES = {"fcn32s": 32, "fcn16s": 16, "fcn8s": 8}
every_decoder = pytest.mark.parametrize("decoder", STRIDES)


def plain_twin(model: FCN) -> PlainScoreFCN:
    options = model.config
    plain = PlainScoreFCN(
        *(model.num_classes, STRIDES[model.decoder_name], model.base_channels),
        *(options["fc_channels"], options.get("at_once", False)),
    )
    plain.load_state_dict({k.split(".", 1)[1]: v for k, v in model.state_dict().items()})
    return plain.eval()


# --- the network -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decoder", "parameters"),
    [("fcn32s", 136_152_917), ("fcn16s", 134_815_994), ("fcn8s", 134_489_759)],
)
def test_the_full_networks_have_the_authors_sizes(decoder, parameters):
    with torch.device("meta"):
        model, plain = FCN(21, decoder), PlainScoreFCN(21, STRIDES[decoder])
    assert model.num_parameters == parameters
    ours = {name.split(".", 1)[1]: tensor.shape for name, tensor in model.state_dict().items()}
    assert ours == {name: tensor.shape for name, tensor in plain.state_dict().items()}


@pytest.mark.parametrize(
    ("decoder", "at_once"),
    [("fcn32s", None), ("fcn16s", None), ("fcn8s", None), ("fcn16s", True), ("fcn8s", True)],
)
@pytest.mark.parametrize("size", [(1, 1), (33, 64), (90, 51)])
def test_logits_equal_the_plain_implementation(decoder, at_once, size):
    model = make_score_model(decoder, at_once=at_once)
    x = 50 * torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits, expected = model(x), plain_twin(model)(x)
    assert logits.shape == (1, 3, *size)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@every_decoder
def test_every_size_comes_out_as_it_went_in(decoder):
    with torch.device("meta"):
        model = FCN(2, decoder, base_channels=1, fc_channels=1)
        for size in range(1, 66):
            assert model(torch.empty(1, 3, size, 66 - size)).shape == (1, 2, size, 66 - size)


@every_decoder
def test_output_lies_on_the_input_without_any_drift(decoder):
    """Mirror-symmetric kernels on a symmetric grid must give mirrored logits of mirrored input.

    An offset that is wrong by one pixel, or an interpolation by half of one, breaks the symmetry.
    """
    model = make_score_model(decoder)
    for parameter in model.parameters():
        if parameter.ndim == 4:
            turned = parameter + parameter.flip(2) + parameter.flip(3) + parameter.flip(2, 3)
            parameter.data = turned / 4
    side = 4 * 32 - 198 + 160  # with the padding's 198 pixels a multiple of 32
    assert (side + 198) % 32 == 0
    x = torch.randn(1, 3, side, side + 32)
    with torch.no_grad():
        logits, mirrored, flipped = model(x), model(x.flip(3)), model(x.flip(2))
    torch.testing.assert_close(mirrored, logits.flip(3), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(flipped, logits.flip(2), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(mirrored[..., 1:], logits.flip(3)[..., :-1], atol=1e-2)


@every_decoder
def test_a_picture_shifted_by_the_stride_gives_shifted_logits(decoder):
    model = make_score_model(decoder)
    x = torch.zeros(1, 3, 320, 320)
    x[..., 100:140, 90:150] = torch.randn(1, 3, 40, 60)
    with torch.no_grad():
        logits, shifted = model(x), model(x.roll((32, 64), (2, 3)))
    # Within 32 pixels of the edge the outermost cells fade out, wherever the picture is.
    inside, there = logits[..., 32:224, 32:192], shifted[..., 64:256, 96:256]
    torch.testing.assert_close(there, inside, rtol=1e-4, atol=1e-4)
    assert inside.std() > 0.1


@every_decoder
def test_interpolations_begin_as_bilinear_ones_and_stay_so_unless_learned(decoder):
    model = FCN(3, decoder, base_channels=1, fc_channels=2)
    ups = {n: m for n, m in model.decoder.named_children() if n.startswith("upscore")}
    assert ups and not any(up.weight.requires_grad for up in ups.values())
    learned = FCN(3, decoder, base_channels=1, fc_channels=2, learn_interpolation=True)
    assert all(p.requires_grad for p in learned.parameters())
    for up in ups.values():
        x, factor = torch.randn(1, 3, 7, 5), up.stride[0]
        expected = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
        inside = up(x)[..., factor // 2 : -factor // 2, factor // 2 : -factor // 2]
        margin = factor  # at the border F.interpolate repeats the outermost cells
        torch.testing.assert_close(
            inside[..., margin:-margin, margin:-margin],
            expected[..., margin:-margin, margin:-margin],
        )


@every_decoder
def test_scores_begin_at_zero_and_dropout_is_for_training_only(decoder):
    model = FCN(3, decoder, base_channels=2, fc_channels=8)
    x = torch.randn(1, 3, 40, 40)
    assert not model.eval()(x).any()
    nn.init.normal_(model.decoder.score_fr.weight)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


@every_decoder
def test_gradients_reach_every_weight_that_is_learned(decoder):
    model = make_score_model(decoder, learn_interpolation=True).train()
    F.cross_entropy(model(torch.randn(2, 3, 40, 50)), torch.ones(2, 40, 50).long()).backward()
    assert all(parameter.grad.any() for parameter in model.parameters())


@every_decoder
def test_compiles_to_one_graph(decoder):
    model = make_score_model(decoder)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    x = torch.randn(1, 3, 50, 40)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize("decoder", ["deconv", *STRIDES])
def test_the_config_holds_the_decoders_own_keys_and_rebuilds_it(decoder, tmp_path):
    model = FCN(2, decoder, base_channels=1, **({} if decoder == "deconv" else {"fc_channels": 2}))
    config = json.loads(json.dumps(model.config))
    own = {"skips", "bn_first", "fc_channels", "learn_interpolation", "at_once"} & set(config)
    assert own == {
        "deconv": {"skips", "bn_first"},
        "fcn32s": {"fc_channels", "learn_interpolation"},
    }.get(decoder, {"fc_channels", "learn_interpolation", "at_once"})
    model.save_pretrained(tmp_path)
    loaded = FCN.from_pretrained(tmp_path)
    assert loaded.config == config
    assert [p.requires_grad for p in loaded.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]
    x = torch.randn(1, 3, 20, 30)
    assert torch.equal(loaded(x), model.eval()(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decoder": "fcn8s", "skips": 2}, "decoder fcn8s has no skips"),
        ({"decoder": "fcn32s", "at_once": True}, "decoder fcn32s has no at_once"),
        ({"decoder": "deconv", "fc_channels": 8}, "decoder deconv has no fc_channels"),
        ({"decoder": "fcn8s", "fc_channels": 0}, "fc_channels must be an integer in 1"),
        ({"decoder": "fcn8s", "at_once": 1}, "at_once must be true or false, not 1"),
        ({"bn_first": "yes"}, "bn_first must be true or false, not 'yes'"),
    ],
)
def test_a_wrong_option_is_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        FCN(**arguments)


def test_bn_first_is_the_order_of_fcn_pytorchs_fcns():
    model = make_tiny_model(bn_first=True)
    plain = PlainFCNs(3, 4)
    plain.load_state_dict({k.split(".", 1)[1]: v for k, v in model.state_dict().items()})
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain.eval()(x), rtol=0, atol=1e-5)


# --- with everything else --------------------------------------------------------------------


@every_decoder
@pytest.mark.parametrize("size", [(70, 90), (45, 31)])
def test_the_segmenter_gives_the_networks_classes(decoder, size):
    model = make_score_model(decoder)
    picture = make_picture(*size)
    x = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.image_mean, model.image_std))
    with torch.no_grad():
        expected = model((x - mean) / std)[0].argmax(dim=0)
    result = Segmenter(model, "cpu", "float32")(picture)
    assert (torch.from_numpy(result.label_map) == expected).float().mean() > 0.999


@every_decoder
def test_tiles_agree_with_one_pass(decoder):
    model = make_score_model(decoder, base_channels=2, fc_channels=4)
    picture = make_picture(800, 1200)
    whole = Segmenter(model, "cpu", "float32")(picture)
    tiled = Segmenter(model, "cpu", "float32", pixel_budget=768 * 768)(picture)
    assert (whole.label_map == tiled.label_map).mean() > 0.98


# --- surgery ---------------------------------------------------------------------------------


def small_vgg(channels: int, fc: int) -> nn.Module:
    """torchvision's VGG-16 with fewer channels: its features and its classifier."""
    from torchvision.models.vgg import cfgs, make_layers

    widths = [each if each == "M" else each * channels // 64 for each in cfgs["D"]]
    vgg = nn.Module()
    vgg.features = make_layers(widths)
    first, second, last = nn.Linear(49 * 8 * channels, fc), nn.Linear(fc, fc), nn.Linear(fc, 10)
    vgg.classifier = nn.Sequential(
        *(first, nn.ReLU(), nn.Dropout()), *(second, nn.ReLU(), nn.Dropout()), last
    )
    return vgg.eval()


def test_transplanted_layers_compute_what_vggs_fully_connected_ones_do():
    torch.manual_seed(0)
    vgg = small_vgg(channels=4, fc=12)
    model = FCN(3, "fcn8s", base_channels=4, fc_channels=12).eval()
    model.transplant(from_torchvision(vgg.state_dict()))
    x = torch.randn(2, 3, 224, 224)
    model.backbone.conv1_1.padding = (1, 1)  # VGG's own: pool5 has 7×7 cells
    with torch.no_grad():
        expected = vgg.classifier[:5](vgg.features(x).flatten(1))  # up to fc7's ReLU
        pool5 = model.backbone(x)[-1]
        fc7 = F.relu(model.decoder.fc7(F.relu(model.decoder.fc6(pool5))))
    assert fc7.shape == (2, 12, 1, 1)
    assert expected.any()
    torch.testing.assert_close(fc7.flatten(1), expected, rtol=1e-4, atol=1e-5)


def test_a_classifier_of_another_width_is_left_out_and_other_convolutions_are_refused():
    state = from_torchvision(small_vgg(channels=4, fc=12).state_dict())
    model = FCN(3, "fcn8s", base_channels=4, fc_channels=6)
    before = model.decoder.fc6.weight.clone()
    model.transplant(state)
    assert torch.equal(model.decoder.fc6.weight, before)
    assert torch.equal(model.backbone.conv5_3.weight, state["conv5_3.weight"])
    with pytest.raises(ValueError, match="size mismatch for conv1_1"):
        FCN(3, base_channels=2).transplant(state)
    del state["conv1_1.bias"]
    with pytest.raises(ValueError, match="Missing key"):
        FCN(3, base_channels=4).transplant(state)


def torchvisions_file(vgg, folder, monkeypatch, name):
    """Put a network where torchvision keeps its downloads."""
    monkeypatch.setenv("TORCH_HOME", str(folder))
    (folder / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(vgg.state_dict(), folder / "hub" / "checkpoints" / name)


def test_from_imagenet_takes_over_the_classifier_too(tmp_path, monkeypatch):
    vgg = small_vgg(channels=4, fc=12)
    torchvisions_file(vgg, tmp_path, monkeypatch, "vgg16-397923af.pth")
    model = FCN.from_imagenet(2, "fcn16s", weights="torchvision", base_channels=4, fc_channels=12)
    assert torch.equal(model.decoder.fc6.weight.flatten(1), vgg.classifier[0].weight)
    assert torch.equal(model.decoder.fc7.weight.flatten(1), vgg.classifier[3].weight)


def test_rescaled_activations_reach_fc6_as_before(tmp_path, monkeypatch):
    vgg = small_vgg(channels=4, fc=12)
    torchvisions_file(vgg, tmp_path, monkeypatch, "vgg16_features-amdegroot-88682ab5.pth")
    options = {"base_channels": 4, "fc_channels": 12}
    model = FCN.from_imagenet(2, "fcn8s", **options)
    assert (model.image_mean, model.image_std) == CAFFE_NORMALIZATION
    plain = FCN.from_imagenet(2, "fcn8s", at_once=True, **options)
    x = 60 * torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        ours, theirs = model.backbone(x), plain.backbone(x)
        torch.testing.assert_close(ours[-1] * CAFFE_MEAN_ACTIVATIONS[-1], theirs[-1])
        torch.testing.assert_close(model.decoder.fc6(ours[-1]), plain.decoder.fc6(theirs[-1]))
    # at_once is the paper's own remedy, for activations as they are.
    assert torch.equal(plain.backbone.conv1_1.weight, vgg.features[0].weight)


def test_torchvisions_caffe_weights_without_a_classifier_leave_fc6_random(tmp_path, monkeypatch):
    vgg = small_vgg(channels=4, fc=12)
    for parameter in vgg.classifier.parameters():
        parameter.data.fill_(float("nan"))
    torchvisions_file(vgg, tmp_path, monkeypatch, "vgg16_features-amdegroot-88682ab5.pth")
    model = FCN.from_imagenet(2, "fcn8s", base_channels=4, fc_channels=12)
    assert model.decoder.fc6.weight.isfinite().all()


@pytest.mark.parametrize(
    ("before", "after"), [("fcn32s", "fcn16s"), ("fcn32s", "fcn8s"), ("fcn16s", "fcn8s")]
)
def test_a_finer_network_starts_as_its_parent(before, after):
    parent = make_score_model(before, num_classes=4)
    # Regions of a few hundred pixels, as a trained network finds them.
    small = Image.fromarray(make_picture(100, 133))
    picture = np.array(small.resize((1064, 800), Image.Resampling.BICUBIC))
    balance(parent, picture)
    child = refine(parent, after)
    assert (child.decoder_name, child.training) == (after, False)
    assert torch.equal(child.decoder.fc6.weight, parent.decoder.fc6.weight)
    ours, theirs = (Segmenter(m, "cpu", "float32")(picture).label_map for m in (child, parent))
    assert len(set(theirs.flatten())) > 1
    assert (ours == theirs).mean() >= 0.99


def test_fcn8s_from_a_trained_fcn16s_keeps_its_scores_and_takes_options():
    parent = make_score_model("fcn16s")
    child = refine(parent, "fcn8s", at_once=True, learn_interpolation=True)
    assert torch.equal(child.decoder.score_pool4.weight, parent.decoder.score_pool4.weight)
    assert not child.decoder.score_pool3.weight.any()
    assert child.config["at_once"]
    assert child.decoder.upscore8.weight.requires_grad


@pytest.mark.parametrize(
    ("before", "after"), [("fcn8s", "fcn16s"), ("deconv", "fcn8s"), ("fcn32s", "deconv")]
)
def test_only_finer_networks_can_be_made(before, after):
    model = FCN(2, before, base_channels=1, **({"fc_channels": 1} if before != "deconv" else {}))
    with pytest.raises(ConfigError, match=f"{after} cannot be made of {before}"):
        refine(model, after)


@every_decoder
def test_other_classes_keep_all_but_scores_and_interpolations(decoder):
    model = make_score_model(decoder)
    adapted = adapt_classes(model, LabelMap.from_names(["sky", "ground", "water"]))
    before, after = model.state_dict(), adapted.state_dict()
    kept = {name for name in before if torch.equal(before[name], after[name])}
    scores = {name for name in before if "decoder.score" in name}
    assert set(before) - kept == scores
    assert not any(after[name].any() for name in scores)
    fewer = adapt_classes(model, LabelMap.from_names(["sky", "ground"]))
    assert fewer.decoder.score_fr.weight.shape[0] == 2
    assert adapt_classes(model, model.label_map).state_dict().keys() == before.keys()
