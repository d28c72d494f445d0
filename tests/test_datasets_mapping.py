"""Classes can be chosen, merged and ordered; what is left becomes background or ignored."""

import io

import numpy as np
import pytest
from PIL import Image

from fcn_hub import LabelMap
from fcn_hub.datasets import (
    VOC7,
    DatasetError,
    Sample,
    SegmentationDataset,
    class_mapping,
)
from fcn_hub.labels import LabelMapError

LABELS = LabelMap.from_names(["ground", "car", "bus", "tree", "a=b"])


def in_memory(values: list[int], labels: LabelMap = LABELS) -> SegmentationDataset:
    picture = np.zeros((1, len(values), 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    sample = Sample("only", buffer.getvalue(), np.array([values]))
    return SegmentationDataset("memory", "train", (sample,), labels)


def test_classes_are_merged_and_the_rest_ignored() -> None:
    mapping = class_mapping(LABELS, {"plant": ["tree"], "vehicle": ["bus", "car"]})

    dataset = in_memory([0, 1, 2, 3, 255]).mapped(mapping)

    assert dataset[0][1].tolist() == [[255, 1, 1, 0, 255]]
    assert dataset.labels.names == ("plant", "vehicle")
    assert dataset.labels.colors == (LABELS.colors[3], LABELS.colors[2])


def test_classes_are_written_as_on_a_command_line() -> None:
    items = ["ground", "vehicle=car+bus", "a=b"]

    mapping = class_mapping(LABELS, items, rest="ground")

    assert mapping.target.names == ("ground", "vehicle", "a=b")
    assert mapping.table == (0, 1, 1, 0, 2)


def test_mappings_can_follow_each_other() -> None:
    first = class_mapping(LABELS, ["ground", "vehicle=car+bus", "tree"])
    second = class_mapping(first.target, ["tree", "vehicle"], rest="tree")

    dataset = in_memory([0, 1, 2, 3, 4, 255]).mapped(first).mapped(second)

    assert dataset[0][1].tolist() == [[0, 1, 1, 0, 255, 255]]


def test_voc7_is_the_built_in_map() -> None:
    assert VOC7.target == LabelMap.VOC7
    assert [VOC7(LabelMap.VOC.index(name)) for name in LabelMap.VOC7.names] == list(range(7))
    assert sum(index == 0 for index in VOC7.table) == 21 - 6
    assert VOC7(255) == 255


def test_a_void_label_inside_the_byte_survives() -> None:
    mapping = class_mapping(LabelMap.CAMVID, ["sky", "road"])

    dataset = in_memory([0, 3, 5, 11], LabelMap.CAMVID).mapped(mapping)

    assert dataset[0][1].tolist() == [[0, 1, 11, 11]]


def test_a_negative_ignore_index_makes_wide_masks() -> None:
    labels = LabelMap.from_names(["a", "b"], ignore_index=-1)

    mask = in_memory([0, 1, -1], labels)[0][1]

    assert mask.tolist() == [[0, 1, -1]]


@pytest.mark.parametrize(
    ("classes", "rest", "fault"),
    [
        (["lorry"], "ignore", "No class 'lorry'"),
        (["car", "car"], "ignore", "'car' is given twice"),
        (["car", "v=bus+car"], "ignore", "'car' is taken by both 'car' and 'v'"),
        ([], "ignore", "at least one class"),
        ({"v": []}, "ignore", "'v' takes in no class"),
        (["car"], "ground", "rest must be 'ignore' or one of car, not 'ground'"),
        ("car", "ignore", "must be a list of names, not 'car'"),
    ],
)
def test_a_mapping_that_makes_no_sense_is_explained(classes, rest: str, fault: str) -> None:
    with pytest.raises(LabelMapError) as error:
        class_mapping(LABELS, classes, rest)

    assert fault in str(error.value)


def test_a_mapping_for_other_classes_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"class mapping is for background, .*memory are ground"):
        in_memory([0]).mapped(VOC7)
