"""Evaluation counts every picture once, at its own resolution, in the data set's classes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_picture, make_tiny_model
from PIL import Image

pytest.importorskip("accelerate")
from typing import get_args

from fcn_hub import LabelMap, LabelMapError, Segmenter
from fcn_hub.datasets import DATASETS, open_dataset
from fcn_hub.evaluation import (
    TILE_PIXELS,
    WHOLE_PICTURE,
    DatasetName,
    class_table,
    compare,
    evaluate,
    evaluate_checkpoint,
    predict,
    spread,
    stacked,
)

ROOT = Path(__file__).resolve().parent.parent
NAMES = ["red", "green", "blue"]
SIZES = [(40, 56), (64, 33), (50, 50), (31, 70), (64, 64)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five pictures of different sizes with random labels, some ignored."""
    root = tmp_path / "data"
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for index, (height, width) in enumerate(SIZES):
        rng = np.random.default_rng(index)
        Image.fromarray(make_picture(height, width, index)).save(root / "images" / f"{index}.png")
        mask = rng.choice([0, 1, 2, 255], (height, width), p=[0.5, 0.3, 0.1, 0.1])
        Image.fromarray(mask.astype(np.uint8)).save(root / "masks" / f"{index}.png")
    (root / "labels.json").write_text(json.dumps(NAMES))
    return root


@pytest.fixture
def segmenter() -> Segmenter:
    return make_segmenter()


def make_segmenter(names=NAMES, **options) -> Segmenter:
    model = make_tiny_model(class_names=names)
    return Segmenter(model, "cpu", "float32", **{"pixel_budget": WHOLE_PICTURE, **options})


def counted(segmenter: Segmenter, data: Path, names=NAMES, indices=range(5)) -> np.ndarray:
    """The confusion matrix, computed the plain way."""
    matrix = np.zeros((3, 3), np.int64)
    for index in indices:
        truth = np.array(Image.open(data / "masks" / f"{index}.png"))
        found = segmenter(data / "images" / f"{index}.png").label_map
        for t, p in zip(truth.ravel(), found.ravel(), strict=True):
            if t != 255:
                matrix[t, NAMES.index(names[p])] += 1
    return matrix


def test_every_labelled_pixel_is_counted_at_the_labels_own_resolution(segmenter, data):
    found = evaluate(segmenter, open_dataset("folder", data, "all"))
    expected = counted(segmenter, data)

    assert np.array_equal(found.matrix, expected)
    union = expected.sum(0) + expected.sum(1) - expected.diagonal()
    assert found.metrics.mean_iu == pytest.approx((expected.diagonal() / union).mean(), abs=1e-12)
    assert found.pictures == 5
    assert found.seconds_per_picture > 0


def test_classes_are_matched_by_name_not_by_place(data):
    names = ["blue", "red", "green"]
    segmenter = make_segmenter(names)
    found = evaluate(segmenter, open_dataset("folder", data, "all"))
    assert np.array_equal(found.matrix, counted(segmenter, data, names))
    assert not np.array_equal(found.matrix, counted(segmenter, data, NAMES))


def test_other_classes_are_refused_by_name(data):
    segmenter = make_segmenter(["red", "green", "yellow"])
    with pytest.raises(LabelMapError, match="yellow only in the network, blue only in the data"):
        evaluate(segmenter, open_dataset("folder", data, "all"))
    with pytest.raises(LabelMapError, match="none only in the network, cat"):
        class_table(LabelMap.from_names(["background"]), LabelMap.VOC7)


def test_the_worst_picture_comes_first(segmenter, data):
    dataset = open_dataset("folder", data, "all")
    scores = evaluate(segmenter, dataset).scores
    assert sorted(index for index, _ in scores) == [0, 1, 2, 3, 4]
    values = [score for _, score in scores]
    assert values == sorted(values) and values[0] < values[-1]
    index, score = scores[0]
    matrix = counted(segmenter, data, indices=[index])
    union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    assert score == pytest.approx((matrix.diagonal() / union).mean())


def test_a_limit_takes_pictures_from_all_over_and_the_protocol_says_so(segmenter, data):
    found = evaluate(segmenter, open_dataset("folder", data, "all"), limit=2)
    assert sorted(index for index, _ in found.scores) == [0, 2] == spread(5, 2)
    assert "only 2 of 5 pictures" in found.protocol
    assert np.array_equal(found.matrix, counted(segmenter, data, indices=[0, 2]))


@pytest.mark.parametrize(("count", "limit"), [(101, 20), (7, 7), (5, 1), (3, 9), (10, None)])
def test_a_spread_has_no_index_twice(count, limit):
    indices = spread(count, limit)
    assert len(set(indices)) == len(indices) == min(count, limit or count)
    assert min(indices) == 0 and max(indices) < count


def test_scales_and_flip_average_probabilities(segmenter):
    image = Image.fromarray(make_picture(48, 64))
    model = segmenter.model

    def probabilities(picture: Image.Image) -> torch.Tensor:
        x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.image_mean, model.image_std))
        logits = model((x - mean) / std)
        return torch.nn.functional.interpolate(logits, size=(48, 64), mode="bilinear").softmax(1)[0]

    mirror = Image.Transpose.FLIP_LEFT_RIGHT
    half = image.resize((32, 24), Image.Resampling.BILINEAR)
    with torch.no_grad():
        expected = (
            probabilities(image)
            + probabilities(image.transpose(mirror)).flip(-1)
            + probabilities(half)
            + probabilities(half.transpose(mirror)).flip(-1)
        ).argmax(0)
    found = predict(segmenter, image, scales=(1.0, 0.5), flip=True)
    assert (found == expected.numpy()).mean() > 0.999
    plain = predict(segmenter, image)
    assert np.array_equal(plain, segmenter(image).label_map)
    assert (found != plain).any()


def test_a_flipped_picture_gets_the_flipped_labels(segmenter):
    image = Image.fromarray(make_picture(48, 64))
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    one, two = (predict(segmenter, each, flip=True) for each in (image, mirrored))
    assert (one == two[:, ::-1]).mean() > 0.999


@pytest.mark.parametrize("wrong", [{"scales": ()}, {"scales": (0.0,)}, {"limit": 0}])
def test_scales_and_limits_that_make_no_sense_are_refused(segmenter, data, wrong):
    with pytest.raises(ValueError, match="must be positive"):
        evaluate(segmenter, open_dataset("folder", data, "all"), **wrong)


def test_large_pictures_go_through_in_tiles_where_wanted(monkeypatch):
    segmenter = make_segmenter(pixel_budget=768**2)
    image = Image.fromarray(make_picture(400, 1700))
    sizes = []
    logits = Segmenter._logits

    def spy(self, pictures):
        sizes.append(pictures.shape[1] * pictures.shape[2])
        return logits(self, pictures)

    monkeypatch.setattr(Segmenter, "_logits", spy)
    tiled = predict(segmenter, image, flip=True)
    assert len(sizes) > 2 and max(sizes) <= 768**2
    whole = predict(make_segmenter(), image, flip=True)
    assert tiled.shape == whole.shape == (400, 1700)
    assert (tiled == whole).mean() > 0.98


def test_the_protocol_names_every_deviation(segmenter, data):
    dataset = open_dataset("folder", data, "all")
    plain = evaluate(segmenter, dataset)
    assert "all 5 pictures" in plain.protocol
    assert "single scale; no flip; whole pictures; float32 on cpu" in plain.protocol
    assert "labelled 255 are ignored" in plain.protocol
    other = make_segmenter(pixel_budget=TILE_PIXELS, max_side=32)
    altered = evaluate(other, dataset, scales=(0.5, 1.0), flip=True)
    for words in ("scales 0.5, 1;", "mirrored", "tiles of at most 1,048,576", "side at most 32"):
        assert words in altered.protocol
    assert altered.options["scales"] == [0.5, 1.0] and altered.options["flip"] is True


def test_a_strip_shows_picture_truth_and_prediction(segmenter, data):
    dataset = open_dataset("folder", data, "all")
    (strip,) = compare(segmenter, dataset, [1])
    image, truth = dataset.read(1)
    pixels = np.asarray(strip)
    height, width = truth.shape
    assert pixels.shape == (height, 3 * width, 3)
    assert np.array_equal(pixels[:, :width], np.asarray(image))
    assert (pixels[:, width : 2 * width][truth == 255] == 255).all()
    palette = dataset.labels.palette()
    assert np.array_equal(pixels[:, width : 2 * width][truth == 2][0], palette[2])
    assert np.array_equal(pixels[:, 2 * width :], palette[segmenter(image).label_map])
    assert stacked([strip, strip], width=300).size == (300, 2 * round(height * 300 / (3 * width)))


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    make_tiny_model(class_names=NAMES).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_record_holds_all_that_is_needed_to_judge_it(model_folder, data, tmp_path):
    out, report = tmp_path / "out" / "evaluation.json", tmp_path / "report"
    found = evaluate_checkpoint(
        str(model_folder), dataset="folder", data_root=data, split="all", json=out, report=report,
        device="cpu", worst=2,
    )  # fmt: skip
    record = json.loads(out.read_text())
    assert record["model"] == str(model_folder) and record["revision"] is None
    assert len(record["weights_sha256"]) == 64
    assert record["mean_iu"] == found.metrics.mean_iu
    assert list(record["class_iu"]) == NAMES
    assert record["confusion_matrix"] == found.matrix.tolist()
    assert record["pictures"] == 5 and record["ignore_index"] == 255
    assert record["options"]["split"] == "all" and record["options"]["dtype"] == "float32"
    assert {"torch", "fcn-hub", "python"} <= record["versions"].keys()
    assert record["seconds_per_picture"] > 0 and record["hardware"] and record["date"]
    worst = [index for index, _ in found.scores[:2]]
    names = sorted(path.name for path in report.iterdir())
    expected = [f"worst-{rank:02}-{index}.png" for rank, index in enumerate(worst, start=1)]
    assert names == ["confusion.png", *expected]
    table = found.format_table()
    for words in (*NAMES, "pixel accuracy", "mean IU", "single scale", "seconds per picture"):
        assert words in table


def test_the_command_line_offers_every_data_set():
    assert get_args(DatasetName) == DATASETS


def run(command: list[str], *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command, str(ROOT / "scripts" / "evaluate.py"), *arguments],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_count_what_one_counts(model_folder, data, tmp_path):
    out = tmp_path / "evaluation.json"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = run(launcher, str(model_folder), "--dataset", "folder", "--data-root", str(data),
               "--split", "all", "--json", str(out), "--device", "cpu")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("frequency-weighted IU") == 1
    record = json.loads(out.read_text())
    found = evaluate(make_segmenter(), open_dataset("folder", data, "all"))
    assert record["pictures"] == 5
    assert record["confusion_matrix"] == found.matrix.tolist()


@pytest.mark.slow
def test_mistakes_end_with_one_line(model_folder, data):
    done = run([], str(model_folder), "--dataset", "folder", "--data-root", str(data),
               "--split", "test")  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.strip().startswith("error: ") and done.stderr.count("\n") == 1
    assert "test" in done.stderr
