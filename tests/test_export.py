"""Exported networks: they give what the network gives, and refuse what they were not made for."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_picture, make_tiny_model
from PIL import Image

from fcn_hub import FCN, CheckpointError, Segmenter, cli
from fcn_hub.export import (
    TARGETS,
    EndToEnd,
    ExportError,
    calibration_pictures,
    export,
)
from fcn_hub.runtimes import (
    BACKENDS,
    copy_exports,
    export_name,
    file_digest,
    fingerprint,
    load_network,
)

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("openvino")

RUNTIMES = ("onnx", "openvino")
SIZES = [(1, 1, 1), (2, 33, 47), (3, 64, 96), (1, 5, 200)]


@pytest.fixture(scope="module")
def model() -> FCN:
    return make_tiny_model()


@pytest.fixture(scope="module")
def folder(model: FCN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder with all that can be exported without calibration."""
    folder = tmp_path_factory.mktemp("exported")
    model.save_pretrained(folder)
    for target in TARGETS:
        export(model, folder, target)
    export(model, folder, "onnx", end_to_end=True)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(4):
        Image.fromarray(make_picture(60 + seed, 90, seed)).save(folder / f"{seed}.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


@pytest.mark.parametrize("backend", RUNTIMES)
@pytest.mark.parametrize("size", SIZES)
def test_an_exported_network_gives_the_networks_logits_at_any_size(model, folder, backend, size):
    network = load_network(model, backend, torch.float32, folder)
    batch, height, width = size
    x = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(network(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("decoder", ["fcn32s", "fcn8s"])
def test_the_papers_networks_are_exported_like_any_other(decoder, tmp_path):
    model = make_tiny_model(decoder=decoder)
    for name, parameter in model.decoder.named_parameters():
        if name.startswith("score"):  # they start at zero
            torch.nn.init.normal_(parameter, std=0.1)
    export(model, tmp_path, "openvino")
    network = load_network(model, "openvino", torch.float32, tmp_path)
    x = torch.randn(1, 3, 33, 47, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(x)
        assert expected.abs().max() > 0
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_torch_exports_program_gives_the_networks_logits_at_any_size(model, folder, size):
    program = torch.export.load(folder / "torch-export" / "model.pt2").module()
    batch, height, width = size
    x = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(program(x), model(x))


@pytest.mark.parametrize("size", SIZES)
def test_end_to_end_pixels_go_in_and_labels_come_out(model, folder, size):
    import onnxruntime

    batch, height, width = size
    pictures = np.stack([make_picture(height, width, seed) for seed in range(batch)])
    session = onnxruntime.InferenceSession(folder / "onnx" / "end_to_end.onnx")
    (labels,) = session.run(None, {"pictures": pictures})
    assert labels.dtype == np.uint8
    segmenter = Segmenter(model, device="cpu", dtype="float32")
    expected = np.stack([segmenter(picture).label_map for picture in pictures])
    assert (labels == expected).mean() > 0.999


def test_more_than_256_classes_come_out_as_32_bit_labels():
    pictures = torch.from_numpy(make_picture(32, 32)[None])
    assert EndToEnd(make_tiny_model(num_classes=300))(pictures).dtype == torch.int32


@pytest.mark.parametrize("name", ["model", "end_to_end"])
def test_the_onnx_file_names_its_inputs_outputs_and_free_axes(folder, name):
    import onnx

    path = folder / "onnx" / f"{name}.onnx"
    onnx.checker.check_model(path)
    (given,), (result,) = onnx.load(path).graph.input, onnx.load(path).graph.output
    axes = [dim.dim_param or dim.dim_value for dim in given.type.tensor_type.shape.dim]
    expected = {
        "model": (["batch", 3, "height", "width"], "logits"),
        "end_to_end": (["batch", "height", "width", 3], "labels"),
    }
    assert (given.name, (axes, result.name)) == ("pictures", expected[name])


# --- running them ------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", RUNTIMES)
def test_a_segmenter_runs_the_exported_network_of_a_folder(model, folder, backend):
    segmenter = Segmenter.from_pretrained(folder, backend=backend, dtype="float32")
    picture = make_picture(70, 90)
    result, expected = segmenter(picture), Segmenter(model, "cpu", "float32")(picture)
    assert segmenter.device.type == "cpu"
    assert (result.label_map == expected.label_map).mean() > 0.999
    np.testing.assert_allclose(result.confidence, expected.confidence, atol=1e-4)
    assert len(list(segmenter.stream([picture, make_picture(33, 40), picture]))) == 3


@pytest.mark.parametrize("backend", RUNTIMES)
def test_a_segmenter_exports_a_network_that_has_no_folder(model, backend):
    picture = make_picture(40, 50)
    result = Segmenter(model, backend=backend)(picture)
    expected = Segmenter(model, "cpu", "float32")(picture)
    assert (result.label_map == expected.label_map).mean() > 0.99


def test_a_folder_without_an_export_says_how_to_make_one(checkpoint):
    with pytest.raises(CheckpointError, match=r"no onnx/model\.json\. .*`fcn-hub export`"):
        Segmenter.from_pretrained(checkpoint, backend="onnx")


def test_an_export_of_other_weights_is_refused(model, folder):
    other = make_tiny_model(seed=1)
    with pytest.raises(CheckpointError, match="exported from other weights"):
        Segmenter(other, backend="onnx", exported=folder)


@pytest.mark.parametrize("name", ["onnx/model.onnx", "openvino/model.bin", "openvino/model.xml"])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_export_is_refused(model, folder, tmp_path, name, damage):
    copy_exports(model, folder, tmp_path)
    file = tmp_path / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    if damage == "missing":
        file.unlink()
    with pytest.raises(CheckpointError, match=f"{file.name} is missing or damaged"):
        load_network(model, file.parent.name, torch.float32, tmp_path)


@pytest.mark.parametrize("backend", RUNTIMES)
def test_a_file_that_no_runtime_can_read_is_one_clear_error(model, folder, tmp_path, backend):
    copy_exports(model, folder, tmp_path)
    path = tmp_path / export_name(backend)
    path.write_bytes(b"\0 no network")
    record = path.with_suffix(".json")
    facts = json.loads(record.read_text())
    facts["files"][path.name] = file_digest(path)
    record.write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match="cannot be run") as raised:
        load_network(model, backend, torch.float32, tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"weights": "", "files": {"../../etc/passwd": ""}}']
)
def test_a_record_that_is_none_is_refused(model, folder, tmp_path, content):
    copy_exports(model, folder, tmp_path)
    (tmp_path / "onnx" / "model.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"model\.json"):
        load_network(model, "onnx", torch.float32, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "abacus"}, "backend must be one of torch, onnx, openvino, not 'abacus'"),
        ({"backend": "onnx", "device": "cuda"}, "'onnx' runs on the CPU, not on 'cuda'"),
        ({"backend": "onnx", "dtype": "bfloat16"}, "'auto' or one of 'float32', not 'bfloat16'"),
        ({"backend": "openvino", "dtype": "float16"}, "not 'float16'"),
        ({"backend": "openvino", "dtype": "int8"}, "fcn-hub export --backend openvino --int8"),
        ({"dtype": "int8"}, "dtype must be 'auto'"),
    ],
)
def test_what_a_backend_cannot_do_is_named(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        Segmenter(model, **arguments)


def test_a_missing_library_is_named_with_what_installs_it(model, folder):
    program = f"""
import sys
sys.modules["onnxruntime"] = sys.modules["openvino"] = None
from fcn_hub import Segmenter
for backend in ("onnx", "openvino"):
    try:
        Segmenter.from_pretrained({str(folder)!r}, backend=backend)
    except ValueError as error:
        print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.splitlines() == [
        "The backend 'onnx' needs onnxruntime: pip install \"fcn-hub[export]\"",
        "The backend 'openvino' needs openvino: pip install \"fcn-hub[openvino]\"",
    ], run.stderr


def test_the_command_knows_the_backends():
    assert cli._BACKENDS == BACKENDS
    assert cli._EXPORTS == TARGETS


# --- int8 --------------------------------------------------------------------------------------


def test_calibration_pictures_are_spread_over_a_folder(pictures, monkeypatch):
    assert [path.name for path in calibration_pictures(pictures)] == [f"{i}.png" for i in range(4)]
    monkeypatch.setattr("fcn_hub.export.MOST_CALIBRATION_PICTURES", 2)
    assert [path.name for path in calibration_pictures(pictures)] == ["0.png", "2.png"]


def test_an_int8_network_is_made_from_pictures_and_agrees(tmp_path, pictures, capsys):
    pytest.importorskip("nncf")
    model = make_tiny_model(base_channels=8)
    model.save_pretrained(tmp_path)
    arguments = ["--backend", "openvino", "--int8", "--calibration", str(pictures)]
    assert cli.main(["export", str(tmp_path), *arguments, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["path"] == str(tmp_path / "openvino" / "model_int8.xml")
    xml = (tmp_path / "openvino" / "model_int8.xml").read_text()
    assert "FakeQuantize" in xml
    assert 'element_type="i8"' in xml
    picture = make_picture(80, 100, seed=9)
    result = Segmenter.from_pretrained(tmp_path, backend="openvino", dtype="int8")(picture)
    expected = Segmenter(model, "cpu", "float32")(picture)
    assert (result.label_map == expected.label_map).mean() > 0.95
    assert not (tmp_path / "openvino" / "model.xml").exists()


# --- making them -------------------------------------------------------------------------------


def test_a_wrong_conversion_writes_nothing(model, tmp_path, monkeypatch):
    import openvino

    convert = openvino.convert_model
    other = make_tiny_model(seed=1)
    monkeypatch.setattr(openvino, "convert_model", lambda _, **options: convert(other, **options))
    with pytest.raises(ExportError, match="differs from the network"):
        export(model, tmp_path, "openvino")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("backend", "options", "message"),
    [
        ("caffe", {}, "exported for onnx, openvino, torch-export, not for 'caffe'"),
        ("openvino", {"end_to_end": True}, "End to end goes with onnx"),
        ("onnx", {"calibration": []}, "int8 goes with openvino"),
        ("openvino", {"calibration": []}, "at least one picture"),
    ],
)
def test_options_that_do_not_go_together_are_named(model, tmp_path, backend, options, message):
    with pytest.raises(ExportError, match=message):
        export(model, tmp_path, backend, **options)


def test_a_folder_without_pictures_cannot_calibrate(tmp_path):
    with pytest.raises(ExportError, match="no pictures"):
        calibration_pictures(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["owner/name"], "needs --output DIR"),
        (["FOLDER", "--int8"], "--calibration DIR belong together"),
        (["FOLDER", "--calibration", "x"], "--calibration DIR belong together"),
        (["FOLDER", "--int8", "--calibration", "nowhere"], "no pictures in 'nowhere'"),
    ],
)
def test_the_command_explains_wrong_usage(checkpoint, arguments, message, capsys):
    arguments = [str(checkpoint) if word == "FOLDER" else word for word in arguments]
    assert cli.main(["export", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_script_exports_and_the_command_segments_with_it(checkpoint, tmp_path):
    root = Path(__file__).parents[1]
    Image.fromarray(make_picture(40, 50)).save(tmp_path / "photo.png")
    for arguments in (
        ["scripts/export.py", checkpoint, "--backend", "openvino"],
        [
            *("-m", "fcn_hub", "segment", tmp_path / "photo.png", "--model", checkpoint),
            *("--backend", "openvino", "--output", tmp_path / "out"),
        ],
    ):
        run = subprocess.run([sys.executable, *arguments], cwd=root, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
    assert (tmp_path / "out" / "photo.png").is_file()


# --- taking them along -------------------------------------------------------------------------


def test_a_fingerprint_tells_weights_apart_whatever_their_type(model):
    half = make_tiny_model().half()
    assert fingerprint(half) == fingerprint(half.float())
    assert fingerprint(model) != fingerprint(half)
    assert fingerprint(model) == fingerprint(make_tiny_model())


def test_exports_of_the_same_weights_are_copied_others_left_out(model, folder, tmp_path, caplog):
    copy_exports(model, folder, tmp_path / "same")
    found = {path.relative_to(tmp_path / "same") for path in (tmp_path / "same").rglob("*.*")}
    expected = {path for target in TARGETS for path in (folder / target).iterdir()}
    assert found == {path.relative_to(folder) for path in expected}
    copy_exports(make_tiny_model(seed=1), folder, tmp_path / "other")
    assert not [path for path in (tmp_path / "other").rglob("*") if path.is_file()]
    assert "other weights; left out" in caplog.text
