"""The checkpoints that the project ships: each folder exactly what its Hub repository holds."""

import hashlib
import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from fcn_hub import FCN, Segmenter

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(path for path in (ROOT / "checkpoints").iterdir() if path.is_dir())

every_checkpoint = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def test_there_is_one_for_the_web_app():
    assert "fcn-vgg16-voc7" in [folder.name for folder in FOLDERS]


@every_checkpoint
def test_it_is_a_whole_repository_of_half_precision_weights(folder):
    names = {path.name for path in folder.iterdir()}
    records = {"training.json", "evaluation.json"}
    assert names == {"config.json", "model.safetensors", "README.md", *records} | {
        "legend.png",
        "sample.png",
    }
    assert (folder / "model.safetensors").stat().st_size < 40 * 2**20
    assert FCN.from_pretrained(folder).num_classes >= 7


@every_checkpoint
def test_the_figures_are_those_of_these_weights(folder):
    evaluation = json.loads((folder / "evaluation.json").read_text())
    weights = (folder / "model.safetensors").read_bytes()
    assert evaluation["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    card = ModelCard.load(folder / "README.md")
    figures = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert figures["mean_iou"] == evaluation["mean_iu"]
    assert figures["pixel_accuracy"] == evaluation["pixel_accuracy"]
    assert card.data.license_name


def test_the_seven_class_checkpoint_sees_the_cat():
    segmenter = Segmenter.from_pretrained(ROOT / "checkpoints" / "fcn-vgg16-voc7", device="cpu")
    result = segmenter(ROOT / "space" / "examples" / "cat.jpg")
    assert result.legend[0].name == "cat"
    assert result.legend[0].fraction > 0.6
