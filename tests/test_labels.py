"""LabelMap: the built-in maps are the data sets' own, and no unusable map can be made."""

import json
from itertools import combinations

import numpy as np
import pytest

from fcn_hub.labels import LabelMap, LabelMapError, distinct_colors, voc_color

BUILT_IN = {
    "VOC": (LabelMap.VOC, 21, 255),
    "VOC7": (LabelMap.VOC7, 7, 255),
    "CAMVID": (LabelMap.CAMVID, 11, 11),
    "CITYSCAPES": (LabelMap.CITYSCAPES, 19, 255),
    "ADE20K": (LabelMap.ADE20K, 150, 255),
}


def color_of(label_map: LabelMap, name: str) -> tuple[int, int, int]:
    return label_map.colors[label_map.index(name)]


# The built-in maps


@pytest.mark.parametrize(("label_map", "classes", "ignore_index"), BUILT_IN.values(), ids=BUILT_IN)
def test_sizes_and_ignore_indices(label_map: LabelMap, classes: int, ignore_index: int) -> None:
    assert len(label_map) == len(label_map.names) == len(label_map.colors) == classes
    assert label_map.ignore_index == ignore_index


@pytest.mark.parametrize("label_map", [row[0] for row in BUILT_IN.values()], ids=BUILT_IN)
def test_names_and_colours_are_unique(label_map: LabelMap) -> None:
    assert len(set(label_map.names)) == len(set(label_map.colors)) == len(label_map)


def test_voc_has_the_colours_of_the_development_kit() -> None:
    assert color_of(LabelMap.VOC, "background") == (0, 0, 0)
    assert color_of(LabelMap.VOC, "aeroplane") == (128, 0, 0)
    assert color_of(LabelMap.VOC, "bicycle") == (0, 128, 0)
    assert color_of(LabelMap.VOC, "bird") == (128, 128, 0)
    assert color_of(LabelMap.VOC, "boat") == (0, 0, 128)
    assert color_of(LabelMap.VOC, "car") == (128, 128, 128)
    assert color_of(LabelMap.VOC, "cat") == (64, 0, 0)
    assert color_of(LabelMap.VOC, "person") == (192, 128, 128)
    assert color_of(LabelMap.VOC, "pottedplant") == (0, 64, 0)
    assert color_of(LabelMap.VOC, "tvmonitor") == (0, 64, 128)
    assert voc_color(255) == (224, 224, 192)  # the void label's cream outline
    assert LabelMap.VOC.names[:3] == ("background", "aeroplane", "bicycle")
    assert LabelMap.VOC.names[20] == "tvmonitor"


def test_voc_colours_stay_unique_beyond_one_byte() -> None:
    assert len({voc_color(index) for index in range(70_000)}) == 70_000


def test_voc7_is_part_of_voc_in_colours_that_everybody_can_tell_apart() -> None:
    assert LabelMap.VOC7.names == ("background", "cat", "cow", "dog", "horse", "person", "sheep")
    assert set(LabelMap.VOC7.names) < set(LabelMap.VOC.names)
    assert color_of(LabelMap.VOC7, "background") == (0, 0, 0)
    palette = LabelMap.VOC7.palette().astype(int)
    distances = np.abs(palette[:, None] - palette).sum(-1)
    assert distances[~np.eye(7, dtype=bool)].min() > 100


def test_camvid_has_the_colours_of_the_data_set() -> None:
    assert dict(zip(LabelMap.CAMVID.names, LabelMap.CAMVID.colors, strict=True)) == {
        "sky": (128, 128, 128),
        "building": (128, 0, 0),
        "pole": (192, 192, 128),
        "road": (128, 64, 128),
        "pavement": (60, 40, 222),
        "tree": (128, 128, 0),
        "sign symbol": (192, 128, 128),
        "fence": (64, 64, 128),
        "car": (64, 0, 128),
        "pedestrian": (64, 64, 0),
        "bicyclist": (0, 128, 192),
    }
    assert LabelMap.CAMVID.names[0] == "sky"
    assert LabelMap.CAMVID.names[10] == "bicyclist"


def test_cityscapes_is_in_the_order_of_its_train_ids() -> None:
    marks = {0: "road", 7: "traffic sign", 11: "person", 18: "bicycle"}
    assert {index: LabelMap.CITYSCAPES.names[index] for index in marks} == marks
    assert color_of(LabelMap.CITYSCAPES, "road") == (128, 64, 128)
    assert color_of(LabelMap.CITYSCAPES, "sky") == (70, 130, 180)
    assert color_of(LabelMap.CITYSCAPES, "person") == (220, 20, 60)
    assert color_of(LabelMap.CITYSCAPES, "car") == (0, 0, 142)
    assert color_of(LabelMap.CITYSCAPES, "bicycle") == (119, 11, 32)


def test_ade20k_is_in_the_order_of_the_benchmark() -> None:
    marks = {0: "wall", 12: "person", 20: "car", 80: "bus", 149: "flag"}
    assert {index: LabelMap.ADE20K.names[index] for index in marks} == marks
    assert color_of(LabelMap.ADE20K, "wall") == (120, 120, 120)
    assert color_of(LabelMap.ADE20K, "person") == (150, 5, 61)
    assert color_of(LabelMap.ADE20K, "car") == (0, 102, 200)
    assert color_of(LabelMap.ADE20K, "bus") == (255, 0, 245)
    assert color_of(LabelMap.ADE20K, "flag") == (92, 0, 255)
    # The usual palette gives these two the same colour.
    assert color_of(LabelMap.ADE20K, "road") == (140, 140, 140)
    assert color_of(LabelMap.ADE20K, "skyscraper") != (140, 140, 140)


# What a label map offers


def test_index_finds_a_class_or_lists_what_there_is() -> None:
    assert LabelMap.VOC.index("person") == 15
    with pytest.raises(LabelMapError, match=r"No class 'tiger'; there are: background, cat, cow"):
        LabelMap.VOC7.index("tiger")


def test_palette_colours_a_label_map() -> None:
    palette = LabelMap.VOC7.palette()
    assert palette.dtype == np.uint8
    assert palette.shape == (7, 3)
    assert palette[np.array([[0, 5]])].tolist() == [[[0, 0, 0], [204, 121, 167]]]


def test_color_hex() -> None:
    assert LabelMap.VOC.color_hex(0) == "#000000"
    assert LabelMap.CAMVID.color_hex(4) == "#3c28de"


@pytest.mark.parametrize("label_map", [row[0] for row in BUILT_IN.values()], ids=BUILT_IN)
def test_a_label_map_survives_json(label_map: LabelMap) -> None:
    config = json.loads(json.dumps(label_map.to_config()))
    assert list(config) == ["class_names", "class_colors", "ignore_index"]
    restored = LabelMap.from_names(
        config["class_names"], config["class_colors"], config["ignore_index"]
    )
    assert restored == label_map
    assert hash(restored) == hash(label_map)


def test_numpy_colours_become_plain_integers() -> None:
    label_map = LabelMap.from_names(["a", "b"], np.array([[1, 2, 3], [4, 5, 6]]))
    assert label_map.colors == ((1, 2, 3), (4, 5, 6))
    assert json.dumps(label_map.to_config()["class_colors"]) == "[[1, 2, 3], [4, 5, 6]]"


def test_a_label_map_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        LabelMap.VOC.ignore_index = 0  # type: ignore[misc]


# Classes of one's own


def test_from_names_takes_any_iterable_and_makes_colours_up() -> None:
    label_map = LabelMap.from_names(name for name in ("sky", "ground"))
    assert label_map.names == ("sky", "ground")
    assert label_map.colors == distinct_colors(2)
    assert label_map == LabelMap.from_names(["sky", "ground"])


def test_the_ignore_index_stays_clear_of_many_classes() -> None:
    assert LabelMap.from_names(map(str, range(255))).ignore_index == 255
    assert LabelMap.from_names(map(str, range(256))).ignore_index == 256
    assert LabelMap.from_names(map(str, range(300))).ignore_index == 300
    assert LabelMap.from_names(["a"], ignore_index=-100).ignore_index == -100


def test_65536_classes_are_the_most() -> None:
    names = [str(index) for index in range(65_537)]
    assert len(LabelMap.from_names(names[:-1])) == 65_536
    with pytest.raises(LabelMapError, match=r"1 to 65,536 classes, not 65537"):
        LabelMap.from_names(names)


@pytest.mark.parametrize("count", [0, 1, 2, 30, 256, 257, 1000])
def test_distinct_colors_are_unique_and_always_the_same(count: int) -> None:
    colors = distinct_colors(count)
    assert len(colors) == len(set(colors)) == count
    assert colors == distinct_colors(count)
    assert (0, 0, 0) not in colors
    assert all(0 <= value <= 255 and type(value) is int for color in colors for value in color)


def test_thirty_colors_are_easy_to_tell_apart() -> None:
    colors = np.array(distinct_colors(30), dtype=float)
    for first, second in combinations(colors, 2):
        assert np.linalg.norm(first - second) > 50  # of 442 between black and white
        assert perceived_distance(first, second) > 70  # of 765
    for color in colors:  # and from the black and white that label maps have around them
        assert min(np.linalg.norm(color), np.linalg.norm(255 - color)) > 50


def perceived_distance(first: np.ndarray, second: np.ndarray) -> float:
    """The "redmean" formula: weights red, green and blue differences as eyes do, 0..765."""
    red = (first[0] + second[0]) / 2
    weights = np.array([2 + red / 256, 4, 2 + (255 - red) / 256])
    return float(np.sqrt(weights @ (first - second) ** 2))


def test_more_classes_keep_the_colours_of_fewer() -> None:
    assert distinct_colors(30)[:12] == distinct_colors(12)


# What is refused

RGB = ((1, 2, 3), (4, 5, 6))


@pytest.mark.parametrize(
    ("names", "colors", "ignore_index", "message"),
    [
        (("a", "a"), RGB, 255, r"class name 'a' is given twice"),
        ((), (), 255, r"1 to 65,536 classes, not 0"),
        (("a", ""), RGB, 255, r"non-empty string, not ''"),
        (("a", "  "), RGB, 255, r"non-empty string, not '  '"),
        (("a", 7), RGB, 255, r"non-empty string, not 7"),
        (("a", None), RGB, 255, r"non-empty string, not None"),
        ("ab", RGB, 255, r"list of strings, not 'ab'"),
        (None, RGB, 255, r"list of strings, not None"),
        (("a", "b"), (RGB[0], RGB[0]), 255, r"'a' and 'b' have the same colour \[1, 2, 3\]"),
        (("a", "b"), RGB[:1], 255, r"2 class names but 1 colours"),
        (("a",), RGB, 255, r"1 class names but 2 colours"),
        (("a", "b"), "ab", 255, r"list of RGB triples, not 'ab'"),
        (("a", "b"), 5, 255, r"list of RGB triples, not 5"),
        (("a", "b"), (RGB[0], (0, 0)), 255, r"class 'b' must be three integers in 0..255"),
        (("a", "b"), (RGB[0], (0, 0, 0, 0)), 255, r"class 'b' must be three integers"),
        (("a", "b"), (RGB[0], (0, 0, 256)), 255, r"not \(0, 0, 256\)"),
        (("a", "b"), (RGB[0], (0, -1, 0)), 255, r"not \(0, -1, 0\)"),
        (("a", "b"), (RGB[0], (0, 0.5, 0)), 255, r"not \(0, 0.5, 0\)"),
        (("a", "b"), (RGB[0], (0, True, 0)), 255, r"not \(0, True, 0\)"),
        (("a", "b"), (RGB[0], 7), 255, r"not 7"),
        (("a", "b"), (RGB[0], "red"), 255, r"not 'red'"),
        (("a", "b"), RGB, 0, r"ignore_index 0 is the index of class 'a'"),
        (("a", "b"), RGB, 1, r"class 'b'; choose one outside 0..1"),
        (("a", "b"), RGB, True, r"ignore_index must be an integer, not True"),
        (("a", "b"), RGB, 255.0, r"ignore_index must be an integer, not 255.0"),
        (("a", "b"), RGB, None, r"ignore_index must be an integer, not None"),
    ],
)
def test_unusable_label_maps_are_refused(
    names: object, colors: object, ignore_index: object, message: str
) -> None:
    with pytest.raises(LabelMapError, match=message):
        LabelMap(names, colors, ignore_index)  # type: ignore[arg-type]


def test_from_names_refuses_the_same() -> None:
    with pytest.raises(LabelMapError, match="given twice"):
        LabelMap.from_names(["a", "a"])
    with pytest.raises(LabelMapError, match="2 class names but 1 colours"):
        LabelMap.from_names(["a", "b"], [(0, 0, 0)])
    with pytest.raises(LabelMapError, match="is the index of class"):
        LabelMap.from_names(["a", "b"], ignore_index=1)


def test_the_error_is_a_value_error() -> None:
    assert issubclass(LabelMapError, ValueError)
