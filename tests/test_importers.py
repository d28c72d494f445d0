"""Importers: checkpoints of the tutorial's network, and files that must not be opened."""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from plain_fcn import PlainFCN
from safetensors.torch import save_file

from fcn_hub import FCN, CheckpointError
from fcn_hub.importers import import_checkpoint


def tutorial_network(num_classes: int = 5, channels: int = 4) -> PlainFCN:
    torch.manual_seed(0)
    network = PlainFCN(num_classes, channels)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network.eval()


def tutorial_state(network: PlainFCN, prefix: str = "") -> dict[str, torch.Tensor]:
    """The state dict as the tutorial's classes name it: the VGG part under "features"."""
    return OrderedDict(
        (prefix + ("features." if name.startswith("conv") else "") + name, tensor)
        for name, tensor in network.state_dict().items()
    )


def assert_same_logits(model: FCN, network: PlainFCN) -> None:
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model(x), network(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("format", ["auto", "tutorial"])
def test_logits_equal_the_tutorials(tmp_path, format):
    network = tutorial_network()
    torch.save(tutorial_state(network), tmp_path / "fcn.pth")
    model = import_checkpoint(tmp_path / "fcn.pth", format=format)
    assert not model.training
    assert model.num_classes == 5
    assert_same_logits(model, network)


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model", "net"])
def test_training_scripts_wrappers_and_prefixes_are_removed(tmp_path, wrapper):
    network = tutorial_network()
    content = {wrapper: tutorial_state(network, "module."), "epoch": 3, "best": 0.5}
    torch.save(content, tmp_path / "fcn.pt")
    assert_same_logits(import_checkpoint(tmp_path / "fcn.pt"), network)


def test_the_old_file_format_and_missing_counters_are_read(tmp_path):
    network = tutorial_network()
    state = {k: v for k, v in tutorial_state(network).items() if "num_batches" not in k}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_same_logits(import_checkpoint(tmp_path / "old.pth"), network)


def test_half_precision_and_safetensors_are_read(tmp_path):
    network = tutorial_network().half()
    save_file(tutorial_state(network), tmp_path / "fcn.safetensors")
    model = import_checkpoint(tmp_path / "fcn.safetensors")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert_same_logits(model, network.float())


def test_the_config_can_be_given_and_the_result_is_an_ordinary_checkpoint(tmp_path):
    torch.save(tutorial_state(tutorial_network(2)), tmp_path / "fcn.pth")
    model = import_checkpoint(
        tmp_path / "fcn.pth", class_names=["sky", "ground"], image_mean=[0.5, 0.5, 0.5]
    )
    model.save_pretrained(tmp_path / "fcn")
    loaded = FCN.from_pretrained(tmp_path / "fcn")
    assert loaded.label_map.names == ("sky", "ground")
    assert loaded.image_mean == (0.5, 0.5, 0.5)


def test_another_networks_tensors_are_named(tmp_path):
    state = tutorial_state(tutorial_network())
    del state["deconv3.bias"]
    state["deconv6.bias"] = torch.zeros(1)
    torch.save(state, tmp_path / "fcn.pth")
    with pytest.raises(CheckpointError, match=r"missing decoder\.deconv3\.bias; unexpected"):
        import_checkpoint(tmp_path / "fcn.pth")


@pytest.mark.parametrize(
    "content",
    [{}, [], {"epoch": 3}, {1: torch.zeros(1)}, {"layer.weight": torch.zeros(1)}, torch.zeros(3)],
)
def test_what_is_no_such_network_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "fcn.pth")
    with pytest.raises(CheckpointError, match=r"no state dict|more than named|not a checkpoint of"):
        import_checkpoint(tmp_path / "fcn.pth")


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_never_runs(tmp_path, zipped):
    fuse = tmp_path / "exploded"
    content = {"state_dict": tutorial_state(tutorial_network()), "extra": Bomb(fuse)}
    torch.save(content, tmp_path / "bad.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="would run code"):
        import_checkpoint(tmp_path / "bad.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb(fuse)))
    with pytest.raises(CheckpointError):
        import_checkpoint(tmp_path / "plain.pth")
    assert not fuse.exists()


def test_a_whole_pickled_network_is_refused_with_advice(tmp_path):
    torch.save(tutorial_network(), tmp_path / "whole.pth")
    with pytest.raises(CheckpointError, match=r"torch\.save\(model\.state_dict\(\)"):
        import_checkpoint(tmp_path / "whole.pth")


@pytest.mark.parametrize("keep", [0, 10, 1000])
def test_a_damaged_file_is_refused(tmp_path, keep):
    torch.save(tutorial_state(tutorial_network()), tmp_path / "fcn.pth")
    data = (tmp_path / "fcn.pth").read_bytes()
    (tmp_path / "fcn.pth").write_bytes(data[:keep])
    with pytest.raises(CheckpointError, match=r"damaged") as caught:
        import_checkpoint(tmp_path / "fcn.pth")
    assert "\n" not in str(caught.value)


def test_a_zip_file_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "fcn.pth", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(CheckpointError, match="not a checkpoint, or is damaged"):
        import_checkpoint(tmp_path / "fcn.pth")


def test_a_missing_file_and_an_unknown_format_say_so(tmp_path):
    with pytest.raises(CheckpointError, match="There is no file"):
        import_checkpoint(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="format must be one of auto, tutorial"):
        import_checkpoint(tmp_path / "none.pth", format="onnx")
