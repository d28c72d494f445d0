"""Importers of the paper's networks and of VGG-16: files as other code writes them, whose logits
must be those of the original arithmetic, BGR in 0..255 less the mean."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from caffe_files import MESSAGES, fill_blob, write_caffemodel
from conftest import make_picture
from plain_fcn import PlainFCN, PlainFCNs, PlainScoreFCN
from test_score_decoder import small_vgg
from torch import nn
from torch.nn import functional as F

from fcn_hub import FCN, CheckpointError, LabelMap
from fcn_hub.backbone import CAFFE_MEAN_ACTIVATIONS, CAFFE_NORMALIZATION, TORCHVISION_NORMALIZATION
from fcn_hub.importers import RELEASES, convert_checkpoint, import_checkpoint
from fcn_hub.importers.caffemodel import read_caffemodel

ROOT = Path(__file__).parents[1]
VOC_MEAN = (104.00699, 116.66877, 122.67892)
VGG_MEAN = (103.939, 116.779, 123.68)
STRIDES = {"fcn32s": 32, "fcn16s": 16, "fcn8s": 8}


def original(stride: int, num_classes: int = 21, at_once: bool = False) -> PlainScoreFCN:
    torch.manual_seed(stride)
    network = PlainScoreFCN(num_classes, stride, c=2, fc=5, at_once=at_once)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter)
    if at_once:
        network.score_pool3.weight.data *= 1000  # so that the scale is not lost in rounding
    return network.eval()


def assert_logits_of(model: FCN, network: nn.Module, mean=VOC_MEAN, divisor=1.0) -> None:
    """The package's road and the original's give the same logits for one picture."""
    picture = torch.from_numpy(make_picture(70, 93)).permute(2, 0, 1)[None].float()
    our_mean, our_std = (torch.tensor(v).view(3, 1, 1) for v in (model.image_mean, model.image_std))
    bgr = picture.flip(1) - torch.tensor(mean).view(3, 1, 1)
    with torch.no_grad():
        ours = model((picture / 255 - our_mean) / our_std)
        theirs = network(bgr / divisor)
    error = (ours - theirs).abs().max() / theirs.abs().max()
    assert theirs.std() > 0
    assert error < 1e-4, f"relative error {error:.1e}"


# --- the paper's networks ------------------------------------------------------------------------


@pytest.mark.parametrize("stride", STRIDES.values(), ids=STRIDES)
@pytest.mark.parametrize("file", ["fcn.caffemodel", "fcn.pth", "fcn.safetensors"])
def test_the_papers_networks_give_the_authors_logits(tmp_path, stride, file):
    network = original(stride)
    save(network.state_dict(), tmp_path / file)
    model = import_checkpoint(tmp_path / file)
    assert model.decoder_name == f"fcn{stride}s"
    assert (model.num_classes, model.training) == (21, False)
    assert_logits_of(model, network)


def save(state, path) -> None:
    if path.suffix == ".caffemodel":
        write_caffemodel(path, state)
    elif path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    else:
        torch.save(state, path)


@pytest.mark.parametrize("v1", [False, True], ids=["layer", "layers"])
@pytest.mark.parametrize("style", ["shape", "old", "double"])
def test_every_encoding_of_a_caffemodel_is_read(tmp_path, style, v1):
    network = original(8)
    write_caffemodel(tmp_path / "fcn.caffemodel", network.state_dict(), style=style, v1=v1)
    assert_logits_of(import_checkpoint(tmp_path / "fcn.caffemodel"), network)


def test_at_once_is_told_by_caffes_scale_layers(tmp_path):
    network = original(8, at_once=True)
    scales = {
        "scale_pool4.weight": torch.full((16,), 0.01),
        "scale_pool3.weight": torch.full((8,), 1e-4),
    }
    write_caffemodel(tmp_path / "fcn.caffemodel", {**network.state_dict(), **scales})
    model = import_checkpoint(tmp_path / "fcn.caffemodel")
    assert model.config["at_once"] is True
    assert_logits_of(model, network)
    scales["scale_pool3.weight"][3] = 0.5
    write_caffemodel(tmp_path / "fcn.caffemodel", {**network.state_dict(), **scales})
    with pytest.raises(CheckpointError, match=r"other values than 0\.0001 in scale_pool3"):
        import_checkpoint(tmp_path / "fcn.caffemodel")


def test_at_once_is_told_by_what_pytorch_fcns_trainer_saves(tmp_path):
    network = original(8, at_once=True)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    trained = {
        "epoch": 3,
        "arch": "FCN8sAtOnce",
        "optim_state_dict": {"state": {}, "param_groups": []},
        "model_state_dict": network.state_dict(),
        "best_mean_iu": np.float64(0.651),
    }
    torch.save(trained, tmp_path / "model_best.pth.tar")
    assert_logits_of(import_checkpoint(tmp_path / "model_best.pth.tar"), network)
    assert_logits_of(import_checkpoint(tmp_path / "weights.pth", at_once=True), network)


def test_sift_flows_semantic_head_is_taken_with_its_classes_and_mean(tmp_path):
    network = original(16, num_classes=33)
    heads = ("score", "upscore")
    state = {
        (name.replace(".", "_sem.") if name.startswith(heads) else name): tensor
        for name, tensor in network.state_dict().items()
    }
    state |= {"score_fr_geo.weight": torch.zeros(3, 5, 1, 1), "score_fr_geo.bias": torch.zeros(3)}
    file = tmp_path / "siftflow-fcn16s-heavy.caffemodel"
    write_caffemodel(file, state)
    model = import_checkpoint(file)
    assert model.label_map.names[-1] == "window"
    assert_logits_of(model, network, mean=(114.578, 115.294, 108.353))


@pytest.mark.parametrize(
    ("release", "classes", "mean"),
    [
        ("voc-fcn8s", 21, VOC_MEAN),
        ("nyud-fcn32s-color", 40, (116.190, 97.203, 92.318)),
        ("pascalcontext-fcn8s", 60, (104.007, 116.669, 122.679)),
    ],
)
def test_a_release_brings_its_classes_and_its_mean(tmp_path, release, classes, mean):
    network = original(32 if "32s" in release else 8, num_classes=classes)
    write_caffemodel(tmp_path / "fcn.caffemodel", network.state_dict())
    model = import_checkpoint(tmp_path / "fcn.caffemodel", release=release)
    assert model.label_map == RELEASES[release].labels
    assert len(model.label_map) == classes
    assert_logits_of(model, network, mean=mean)
    (published, *_) = RELEASES[release].files
    (tmp_path / "fcn.caffemodel").rename(tmp_path / published)
    assert import_checkpoint(tmp_path / published).config == model.config


# --- FCN-pytorch ---------------------------------------------------------------------------------


def fcn_pytorch_state(network: PlainFCN) -> dict[str, torch.Tensor]:
    """As pochih/FCN-pytorch names it: torchvision's VGG-16 under pretrained_net."""
    numbers = iter([0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28])
    names = dict.fromkeys(n.split(".")[0] for n in network.state_dict() if n.startswith("conv"))
    theirs = {name: f"pretrained_net.features.{next(numbers)}" for name in names}
    return {
        ".".join([theirs.get(name.split(".")[0], name.split(".")[0]), name.split(".")[1]]): tensor
        for name, tensor in network.state_dict().items()
    }


@pytest.mark.parametrize("skips", [0, 1, 2, 4])
def test_fcn_pytorchs_networks_give_its_logits(tmp_path, skips):
    torch.manual_seed(0)
    network = PlainFCNs(5, 4) if skips == 4 else PlainFCN(5, 4, skips)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    torch.save(fcn_pytorch_state(network.eval()), tmp_path / "fcn.pth")
    model = import_checkpoint(tmp_path / "fcn.pth", **({} if skips == 4 else {"skips": skips}))
    assert model.config["bn_first"] is (skips == 4)

    def padded(x):  # FCN-pytorch itself takes multiples of 32 only
        height, width = x.shape[-2:]
        return network(F.pad(x, (0, -width % 32, 0, -height % 32)))[..., :height, :width]

    assert_logits_of(model, padded, mean=VGG_MEAN, divisor=255)


# --- VGG-16, the classifier ----------------------------------------------------------------------


def vgg_logits(vgg, x):
    """fc7 after its ReLU, the last thing that an FCN keeps of VGG-16."""
    with torch.no_grad():
        return vgg.classifier[:5](vgg.features(x).flatten(1))


def our_fc7(model: FCN, x):
    model.backbone.conv1_1.padding = (1, 1)  # as in the classifier, which sees 224×224 exactly
    with torch.no_grad():
        return F.relu(model.decoder.fc7(F.relu(model.decoder.fc6(model.backbone(x)[-1])))).flatten(
            1
        )


def picture_224():
    return torch.from_numpy(make_picture(224, 224)).permute(2, 0, 1)[None].float()


def bgr_less_mean(picture):
    return picture.flip(1) - torch.tensor(VGG_MEAN).view(3, 1, 1)


def normalised(model: FCN, picture):
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.image_mean, model.image_std))
    return (picture / 255 - mean) / std


def caffe_names(vgg) -> dict[str, torch.Tensor]:
    names = iter(
        f"conv{s}_{p}" for s, depth in enumerate((2, 2, 3, 3, 3), 1) for p in range(1, depth + 1)
    )
    layers = [layer for layer in vgg.features if isinstance(layer, nn.Conv2d)]
    named = {next(names): layer for layer in layers}
    named |= {"fc6": vgg.classifier[0], "fc7": vgg.classifier[3], "fc8": vgg.classifier[6]}
    return {
        f"{name}.{kind}": getattr(layer, kind).data
        for name, layer in named.items()
        for kind in ("weight", "bias")
    }


def write_keras(path, vgg, *, names="{layer}/{layer}/{kind}:0", top=True) -> None:
    """VGG-16 as Keras saves it: kernels [H, W, in, out], pool5 flattened with channels last."""
    import h5py

    with h5py.File(path, "w") as file:
        for name, tensor in caffe_names(vgg).items():
            layer, kind = name.split(".")
            values = tensor
            if layer.startswith("fc"):
                if not top:
                    continue
                if layer == "fc6" and kind == "weight":
                    values = tensor.reshape(len(tensor), -1, 7, 7).permute(0, 2, 3, 1).flatten(1)
                values = values.T if kind == "weight" else values
                layer = {"fc6": "fc1", "fc7": "fc2", "fc8": "predictions"}[layer]
            else:
                values = tensor.permute(2, 3, 1, 0) if kind == "weight" else tensor
                layer = f"block{layer[4]}_conv{layer[6]}"
            kind = {"weight": "kernel", "bias": "bias"}[kind]
            file[names.format(layer=layer, kind=kind)] = values.numpy()


@pytest.mark.parametrize("file", ["vgg.caffemodel", "vgg.h5"])
def test_the_original_vgg16_gives_its_fc7(tmp_path, file):
    torch.manual_seed(1)
    vgg = small_vgg(channels=4, fc=12)
    if file.endswith("h5"):
        write_keras(tmp_path / file, vgg)
    else:
        write_caffemodel(tmp_path / file, caffe_names(vgg), style="old", v1=True)
    model = import_checkpoint(tmp_path / file, decoder="fcn8s", num_classes=4)
    assert model.config["fc_channels"] == 12
    expected = vgg_logits(vgg, bgr_less_mean(picture_224()))
    assert expected.any()
    ours = our_fc7(model, normalised(model, picture_224()))
    assert (ours - expected).abs().max() / expected.abs().max() < 1e-4
    assert not model.decoder.score_fr.weight.any()  # which is left to train


@pytest.mark.parametrize(
    "names", ["{layer}/{layer}/{kind}:0", "{layer}/{layer}_W_1:0", "model_weights/{layer}/{kind}"]
)
def test_keras_files_without_the_top_give_the_backbone(tmp_path, names):
    if "_W_1" in names:  # what the published file calls them
        names = "{layer}/{layer}_{kind}_1:0"
    torch.manual_seed(1)
    vgg = small_vgg(channels=4, fc=12)
    write_keras(tmp_path / "vgg16_notop.h5", vgg, names=names, top=False)
    model = import_checkpoint(tmp_path / "vgg16_notop.h5", num_classes=4)
    assert model.decoder_name == "deconv"
    assert (model.image_mean, model.image_std) == CAFFE_NORMALIZATION
    with torch.no_grad():
        expected = vgg.features(bgr_less_mean(picture_224()))
        pool5 = model.backbone(normalised(model, picture_224()))[-1]
    # For the deconvolution decoder activations are evened out, here by their stored means.
    ours = pool5 * CAFFE_MEAN_ACTIVATIONS[-1]
    assert (ours - expected).abs().max() / expected.abs().max() < 1e-4


def test_torchvisions_file_gives_its_fc7_and_its_normalisation(tmp_path):
    torch.manual_seed(1)
    vgg = small_vgg(channels=4, fc=12)
    torch.save(vgg.state_dict(), tmp_path / "vgg16.pth")
    model = import_checkpoint(tmp_path / "vgg16.pth", decoder="fcn32s", num_classes=4)
    assert (model.image_mean, model.image_std) == TORCHVISION_NORMALIZATION
    x = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(our_fc7(model, x), vgg_logits(vgg, x), rtol=1e-4, atol=1e-5)
    vgg.classifier[0].bias.data.fill_(float("nan"))
    torch.save(vgg.state_dict(), tmp_path / "features.pth")
    features = import_checkpoint(tmp_path / "features.pth", base_channels=4)
    assert (features.image_mean, features.image_std) == CAFFE_NORMALIZATION


# --- what the result is --------------------------------------------------------------------------


def test_the_folder_is_a_checkpoint_whose_card_says_where_it_is_from(tmp_path):
    file = tmp_path / "fcn8s-heavy-pascal.caffemodel"
    network = original(8)
    write_caffemodel(file, network.state_dict())
    convert_checkpoint(file, tmp_path / "fcn8s")
    loaded = FCN.from_pretrained(tmp_path / "fcn8s")
    assert loaded.label_map == LabelMap.VOC
    assert_logits_of(loaded, network)
    card = (tmp_path / "fcn8s" / "README.md").read_text()
    accuracy = card.split("## Accuracy")[1].split("## Training")[0]
    assert "Not measured." in accuracy
    assert "*published*" in accuracy
    assert "91.2, 77.6, 65.5 and 84.5 % pixel accuracy" in accuracy
    training = card.split("## Training")[1].split("## Limits")[0]
    assert "FCN-8s for PASCAL VOC by Long, Shelhamer and Darrell" in training
    assert "fcn8s-heavy-pascal.caffemodel" in training
    assert "Not recorded" not in training
    assert "license_name: bvlc-model-license-unrestricted" in card
    assert "model-index" not in card  # nothing was measured
    record = json.loads((tmp_path / "fcn8s" / "training.json").read_text())["imported"]
    assert record["format"] == "caffe"
    assert len(record["sha256"]) == 64


def test_an_unknown_file_is_said_to_be_of_unknown_origin(tmp_path):
    write_caffemodel(tmp_path / "mine.caffemodel", original(32).state_dict())
    convert_checkpoint(tmp_path / "mine.caffemodel", tmp_path / "mine")
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "mine.caffemodel" in card
    assert "*published*" not in card
    assert "license: unknown" in card


def script(*words: object) -> None:
    program = runpy.run_path(str(ROOT / "scripts" / "import_weights.py"))
    program["main"]([str(word) for word in words])


def test_the_script_puts_a_decoder_on_vgg16(tmp_path, capsys):
    write_caffemodel(tmp_path / "vgg.caffemodel", caffe_names(small_vgg(channels=4, fc=12)))
    script(tmp_path / "vgg.caffemodel", tmp_path / "fcn", "--decoder", "fcn8s", "--labels",
           "camvid", "--config", '{"at_once": true}', "--release", "vgg16")  # fmt: skip
    model = FCN.from_pretrained(tmp_path / "fcn")
    assert (model.decoder_name, model.label_map) == ("fcn8s", LabelMap.CAMVID)
    assert model.config["at_once"] is True
    assert "fcn8s, 11 classes" in capsys.readouterr().out
    assert "VGG-16 for ImageNet" in (tmp_path / "fcn" / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.pth"], "There is no file"),
        (["fcn.pth", "--config", '{"skips": 9}'], "decoder fcn8s has no skips"),
        (["fcn.pth", "--config", '{"colour": 1}'], "colour"),
        (["fcn.pth", "--num-classes", "4"], "num_classes|do not fit"),
    ],
)
def test_the_script_says_what_is_wrong_in_one_line(tmp_path, words, message):
    torch.save(original(8).state_dict(), tmp_path / "fcn.pth")
    file, *more = words
    with pytest.raises(SystemExit, match=message) as caught:
        script(tmp_path / file, tmp_path / "fcn", *more)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "fcn").exists()


# --- files that are not what they should be ------------------------------------------------------


def encoded(**layer) -> bytes:
    net = MESSAGES["NetParameter"]()
    net.layer.add(name="conv1_1").blobs.add(**layer)
    return net.SerializeToString()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 0 bytes"),
        (b"hello, this is no network", "not a .caffemodel, or is damaged"),
        (b"\xff" * 64, "more than ten bytes"),
        (b"\xa2\x06\xff\xff\xff\xff\x0f", "reaches beyond the end"),
        (b"\x0b", "unknown kind 3"),
        (b"\x80", "cut off"),
        (b"\x0a\x01a", "no layers with weights"),
        (b"\x08\x01" * 100_001, "more than 100,000 fields"),
        (encoded(data=[1, 2, 3], num=2, channels=1, height=1, width=1), "3 numbers do not fill"),
        (encoded(num=2**31 - 1, channels=2**31 - 1, height=9, width=9), "0 numbers do not fill"),
    ],
)
def test_a_damaged_caffemodel_is_refused(tmp_path, content, message):
    (tmp_path / "bad.caffemodel").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(tmp_path / "bad.caffemodel")


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.99])
def test_a_caffemodel_that_is_cut_off_is_refused(tmp_path, cut):
    write_caffemodel(tmp_path / "fcn.caffemodel", original(8).state_dict())
    content = (tmp_path / "fcn.caffemodel").read_bytes()
    (tmp_path / "fcn.caffemodel").write_bytes(content[: int(cut * len(content))])
    with pytest.raises(CheckpointError, match=r"damaged|has no|do not fit"):
        import_checkpoint(tmp_path / "fcn.caffemodel")


def test_blobs_come_as_the_file_states_them(tmp_path):
    net = MESSAGES["NetParameter"]()
    layer = net.layer.add(name="fc6")
    fill_blob(layer.blobs.add(), torch.arange(6.0).reshape(2, 3), "shape")
    fill_blob(layer.blobs.add(), torch.ones(2), "old")
    (tmp_path / "a.caffemodel").write_bytes(net.SerializeToString())
    weight, bias = read_caffemodel(tmp_path / "a.caffemodel")["fc6"]
    np.testing.assert_array_equal(weight, np.arange(6).reshape(2, 3))
    assert (bias.shape, bias.dtype) == ((1, 1, 1, 2), np.float32)


@pytest.mark.parametrize("missing", ["conv3_2", "fc7", "score_pool4"])
@pytest.mark.parametrize("file", ["fcn.caffemodel", "fcn.pth"])
def test_a_missing_layer_is_named(tmp_path, missing, file):
    state = {n: t for n, t in original(8).state_dict().items() if not n.startswith(missing)}
    save(state, tmp_path / file)
    with pytest.raises(CheckpointError, match=missing):
        import_checkpoint(tmp_path / file)


def test_a_classifier_without_all_its_convolutions_is_refused(tmp_path):
    vgg = small_vgg(channels=4, fc=12)
    state = caffe_names(vgg)
    del state["conv4_2.weight"], state["conv4_2.bias"]
    write_caffemodel(tmp_path / "vgg.caffemodel", state)
    with pytest.raises(CheckpointError, match=r"missing backbone\.conv4_2\.weight"):
        import_checkpoint(tmp_path / "vgg.caffemodel")
    state = {name: tensor for name, tensor in vgg.state_dict().items() if ".28." not in name}
    torch.save(state, tmp_path / "vgg.pth")
    with pytest.raises(CheckpointError, match="13 convolutions, not 12"):
        import_checkpoint(tmp_path / "vgg.pth")


def test_a_keras_file_may_not_point_elsewhere(tmp_path):
    import h5py

    (tmp_path / "secret").write_bytes(b"\0" * 4 * 3 * 3 * 3 * 4)
    with h5py.File(tmp_path / "vgg.h5", "w") as file:
        file.create_dataset(
            *("block1_conv1/kernel:0", (3, 3, 3, 4), "f4"),
            external=[(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)],
        )
    with pytest.raises(CheckpointError, match="in another file"):
        import_checkpoint(tmp_path / "vgg.h5")
    (tmp_path / "vgg.h5").write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match="not an HDF5 file"):
        import_checkpoint(tmp_path / "vgg.h5")


def test_an_unknown_release_and_another_codes_tensors_say_so(tmp_path):
    torch.save({"encoder.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"not a checkpoint of a known format.*encoder"):
        import_checkpoint(tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="release must be one of voc-fcn32s"):
        import_checkpoint(tmp_path / "other.pth", release="voc")
    with pytest.raises(CheckpointError, match="none of the paper's networks"):
        import_checkpoint(tmp_path / "other.pth", format="pytorch-fcn")
