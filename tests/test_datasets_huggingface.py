"""Hugging Face data sets: from a saved folder or from files, columns found or named."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fcn_hub import LabelMap
from fcn_hub.datasets import DatasetError, check, open_dataset

datasets = pytest.importorskip("datasets")

LABELS = LabelMap.from_names(["ground", "river"])
MASKS = [np.array([[0, 1, 255]], np.uint8), np.array([[1, 1, 0]], np.uint8)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def make_table(image: str = "image", label: str = "label", more: dict | None = None):
    pictures = [Image.new("RGB", (3, 1), (10 * i, 20, 30)) for i in range(len(MASKS))]
    more = more or {}
    columns = {image: pictures, label: [Image.fromarray(mask) for mask in MASKS], **more}
    features = {image: datasets.Image(), label: datasets.Image()}
    features |= {name: datasets.Value("int64") for name in more}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def test_a_saved_data_set_with_splits(tmp_path: Path) -> None:
    table = make_table()
    datasets.DatasetDict(train=table, val=table.select([1])).save_to_disk(tmp_path / "saved")

    train = open_dataset("huggingface", tmp_path / "saved", "train", labels=LABELS)
    val = open_dataset("huggingface", tmp_path / "saved", "val", labels=LABELS)

    assert [mask.tolist() for _, mask in (train[0], train[1])] == [m.tolist() for m in MASKS]
    assert train[1][0][:, 0, 0].tolist() == [10, 20, 30]
    assert train[0][0].dtype == torch.uint8
    assert val[0][1].tolist() == MASKS[1].tolist()
    assert train.samples[1].id == "train/1"
    with pytest.raises(DatasetError, match=r"no split 'test' .*there are: train, val\."):
        open_dataset("huggingface", tmp_path / "saved", "test", labels=LABELS)


def test_a_saved_table_is_the_split_all(tmp_path: Path) -> None:
    make_table().save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "labels.txt").write_text("ground\nriver\n")

    dataset = open_dataset("huggingface", tmp_path / "saved", "all")

    assert len(dataset) == 2
    assert dataset.labels.names == LABELS.names
    assert check(dataset).pixels == (2, 3)


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    make_table().to_parquet(tmp_path / "set" / "train.parquet")

    dataset = open_dataset("huggingface", tmp_path / "set", "train", labels=LABELS)

    assert dataset[1][1].tolist() == MASKS[1].tolist()
    with pytest.raises(DatasetError, match=r"cannot be loaded: .*train"):
        open_dataset("huggingface", tmp_path / "set", "test", labels=LABELS)


@pytest.mark.parametrize(
    ("image", "label", "more", "given"),
    [
        ("image", "annotation", {"scene": [3, 4]}, {}),
        ("pixel_values", "label", {}, {}),
        ("image", "truth", {}, {}),
        ("frame", "label", {}, {}),
        ("image", "Mask", {"label": [3, 4]}, {}),
        ("frame", "truth", {}, {"image_column": "frame"}),
        ("frame", "truth", {}, {"label_column": "truth"}),
        ("frame", "truth", {}, {"image_column": "frame", "label_column": "truth"}),
        ("truth", "frame", {}, {"image_column": "truth", "label_column": "frame"}),
    ],
)
def test_columns_are_found_by_type_and_name(
    tmp_path: Path, image: str, label: str, more: dict, given: dict
) -> None:
    make_table(image, label, more).save_to_disk(tmp_path / "saved")

    dataset = open_dataset("huggingface", tmp_path / "saved", "all", labels=LABELS, **given)

    assert dataset[0][1].tolist() == MASKS[0].tolist()


def test_columns_that_cannot_be_told_apart_are_listed(tmp_path: Path) -> None:
    make_table("left", "right").save_to_disk(tmp_path / "saved")

    with pytest.raises(DatasetError, match=r"Cannot tell .* The columns are: left, right\."):
        open_dataset("huggingface", tmp_path / "saved", "all", labels=LABELS)
    with pytest.raises(DatasetError, match=r"no column 'mask'; there are: left, right\."):
        open_dataset("huggingface", tmp_path / "saved", "all", labels=LABELS, label_column="mask")


def test_a_column_that_holds_no_label_maps_is_refused(tmp_path: Path) -> None:
    make_table(more={"scene": [3, 4]}).save_to_disk(tmp_path / "saved")

    with pytest.raises(DatasetError, match=r"'scene' one of pictures or arrays; they are .*int64"):
        open_dataset("huggingface", tmp_path / "saved", "all", labels=LABELS, label_column="scene")


def test_labels_as_an_array_column(tmp_path: Path) -> None:
    features = datasets.Features(
        image=datasets.Image(), label=datasets.Array2D(shape=(1, 3), dtype="uint8")
    )
    columns = {"image": [Image.new("RGB", (3, 1))], "label": [MASKS[0]]}
    table = datasets.Dataset.from_dict(columns, features=features)
    table.save_to_disk(tmp_path / "saved")

    dataset = open_dataset("huggingface", tmp_path / "saved", "all", labels=LABELS)

    assert dataset[0][1].tolist() == MASKS[0].tolist()


def test_faults_name_the_row(tmp_path: Path) -> None:
    one_class = LabelMap.from_names(["ground"])
    make_table().save_to_disk(tmp_path / "saved")

    dataset = open_dataset("huggingface", tmp_path / "saved", "all", labels=one_class)

    with pytest.raises(DatasetError, match=r"Mask all/1 holds values .*: 1 \(2 pixels\)"):
        dataset[1]
    with pytest.raises(IndexError):
        dataset[2]


def test_an_empty_cell_is_a_fault(tmp_path: Path) -> None:
    table = make_table().select([0])
    columns = {"image": [None], "label": [table[0]["label"]]}
    datasets.Dataset.from_dict(columns, features=table.features).save_to_disk(tmp_path / "saved")

    dataset = open_dataset("huggingface", tmp_path / "saved", "all", labels=LABELS)

    assert [fault.message for fault in check(dataset).faults] == [
        "Sample all/0: The input is empty (0 bytes)."
    ]


def test_the_classes_must_be_known(tmp_path: Path) -> None:
    make_table().save_to_disk(tmp_path / "saved")

    with pytest.raises(DatasetError, match=r"no labels\.json or labels\.txt"):
        open_dataset("huggingface", tmp_path / "saved", "all")


def test_what_is_not_there_is_reported_without_a_network() -> None:
    with pytest.raises(DatasetError, match="owner/absent cannot be loaded"):
        open_dataset("huggingface", "owner/absent", "train", labels=LABELS)


def test_it_can_be_sent_to_loader_workers(tmp_path: Path) -> None:
    make_table().save_to_disk(tmp_path / "saved")
    dataset = open_dataset("huggingface", tmp_path / "saved", "all", labels=LABELS)
    dataset[0]

    copy = pickle.loads(pickle.dumps(dataset))

    assert copy[1][1].tolist() == MASKS[1].tolist()
