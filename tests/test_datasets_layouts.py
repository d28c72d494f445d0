"""Every data set's layout is read as it lies on disk, and what is wrong with it is named."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fcn_hub import LabelMap
from fcn_hub.datasets import DATASETS, DatasetError, open_dataset, read_labels

VOC_MASK = np.array([[0, 1, 20], [15, 8, 255]], np.uint8)


def save_picture(path: Path, size: tuple[int, int] = (3, 2), color=(10, 20, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


def save_mask(path: Path, values: np.ndarray, palette: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette:
        # Not one colour equals another's index: only the indices can give the right answer.
        image.putpalette(LabelMap.VOC.palette().tobytes() + bytes(3 * 234) + b"\xe0\xe0\xc0")
    image.save(path)
    return path


def save_lines(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def only_mask(dataset) -> list[list[int]]:
    assert len(dataset) == 1
    picture, mask = dataset[0]
    assert picture.dtype == torch.uint8
    assert picture.shape == (3, *mask.shape)
    return mask.tolist()


def make_voc(root: Path) -> Path:
    home = root / "VOCdevkit" / "VOC2012"
    save_picture(home / "JPEGImages" / "a.jpg")
    save_mask(home / "SegmentationClass" / "a.png", VOC_MASK, palette=True)
    save_lines(home / "ImageSets" / "Segmentation" / "train.txt", "a")
    save_lines(home / "ImageSets" / "Segmentation" / "val.txt", "a")
    return home


@pytest.mark.parametrize("root", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_is_found_from_any_of_its_folders(tmp_path: Path, root: str) -> None:
    make_voc(tmp_path)

    dataset = open_dataset("voc", tmp_path / root, "train")

    assert only_mask(dataset) == VOC_MASK.tolist()
    assert dataset.labels == LabelMap.VOC
    assert dataset.samples[0].id == "a"


def test_voc7_counts_every_other_class_as_background(tmp_path: Path) -> None:
    make_voc(tmp_path)

    dataset = open_dataset("voc7", tmp_path, "train")

    # aeroplane and tvmonitor are background; person is 5, cat is 1, void stays void.
    assert only_mask(dataset) == [[0, 0, 0], [5, 1, 255]]
    assert dataset.labels == LabelMap.VOC7
    assert dataset.name == "voc7"


@pytest.mark.parametrize(
    ("name", "line"),
    [("trainaug", "a"), ("train_aug", "/JPEGImages/a.jpg /SegmentationClassAug/a.png")],
)
def test_voc_takes_the_extra_annotations_where_asked(tmp_path: Path, name: str, line: str) -> None:
    home = make_voc(tmp_path)
    save_mask(home / "SegmentationClassAug" / "a.png", np.full((2, 3), 7, np.uint8))
    save_lines(home / "ImageSets" / "Segmentation" / f"{name}.txt", line)

    assert only_mask(open_dataset("voc", tmp_path, name)) == [[7] * 3] * 2
    assert only_mask(open_dataset("voc", tmp_path, "train")) == VOC_MASK.tolist()


def test_voc_aug_list_without_its_folder_uses_the_common_masks(tmp_path: Path) -> None:
    home = make_voc(tmp_path)
    save_lines(home / "ImageSets" / "Segmentation" / "trainaug.txt", "a", "")

    assert only_mask(open_dataset("voc", tmp_path, "trainaug")) == VOC_MASK.tolist()


@pytest.mark.parametrize("root", ["", "CamVid"])
def test_camvid_resolves_the_paths_of_its_lists_below_the_root(tmp_path: Path, root: str) -> None:
    save_picture(tmp_path / "CamVid" / "train" / "x.png")
    save_mask(
        tmp_path / "CamVid" / "trainannot" / "x.png", np.array([[0, 10, 11], [3, 4, 5]], np.uint8)
    )
    line = "/SegNet/CamVid/train/x.png /SegNet/CamVid/trainannot/x.png"
    save_lines(tmp_path / "CamVid" / "train.txt", line)
    save_lines(tmp_path / "readme.txt", "not a list")

    dataset = open_dataset("camvid", tmp_path / root, "train")

    assert only_mask(dataset) == [[0, 10, 11], [3, 4, 5]]
    assert dataset.labels.ignore_index == 11


def make_cityscapes(root: Path, kind: str, values: list[int]) -> None:
    save_picture(root / "leftImg8bit" / "val" / "ulm" / "ulm_1_leftImg8bit.png", (len(values), 1))
    save_mask(
        root / "gtFine" / "val" / "ulm" / f"ulm_1_gtFine_{kind}.png", np.array([values], np.uint8)
    )


# From cityscapesScripts; every other id is not scored.
CITYSCAPES_IDS = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}


def test_cityscapes_turns_label_ids_into_the_classes_that_are_scored(tmp_path: Path) -> None:
    make_cityscapes(tmp_path, "labelIds", list(range(34)))

    dataset = open_dataset("cityscapes", tmp_path, "val")

    [classes] = only_mask(dataset)
    names = {id: dataset.labels.names[index] for id, index in enumerate(classes) if index != 255}
    assert names == {id: name for name, id in CITYSCAPES_IDS.items()}
    assert dataset.samples[0].id == "ulm_1"


def test_cityscapes_reads_train_ids_where_only_they_are_there(tmp_path: Path) -> None:
    make_cityscapes(tmp_path, "labelTrainIds", [0, 18, 255])

    assert only_mask(open_dataset("cityscapes", tmp_path, "val")) == [[0, 18, 255]]


@pytest.mark.parametrize("split", ["validation", "val"])
@pytest.mark.parametrize("root", ["", "ADEChallengeData2016"])
def test_ade20k_shifts_classes_down_by_one(tmp_path: Path, root: str, split: str) -> None:
    home = tmp_path / "ADEChallengeData2016"
    save_picture(home / "images" / "validation" / "a.jpg")
    save_mask(
        home / "annotations" / "validation" / "a.png",
        np.array([[0, 1, 2], [149, 150, 0]], np.uint8),
    )

    dataset = open_dataset("ade20k", tmp_path / root, split)

    assert only_mask(dataset) == [[255, 0, 1], [148, 149, 255]]
    assert len(dataset.labels) == 150


def make_folder(root: Path, mask: np.ndarray, labels: object, split: str = "") -> Path:
    height, width = mask.shape[:2]
    save_picture(root / "images" / split / "a.jpg", (width, height))
    save_mask(root / "masks" / split / "a.png", mask)
    if isinstance(labels, str):
        (root / "labels.txt").write_text(labels)
    else:
        (root / "labels.json").write_text(json.dumps(labels))
    return root


def test_folder_reads_indices_with_a_text_file_of_names(tmp_path: Path) -> None:
    make_folder(tmp_path, np.array([[0, 1, 255]], np.uint8), "ground\nriver bed\n")

    dataset = open_dataset("folder", tmp_path, "all")

    assert only_mask(dataset) == [[0, 1, 255]]
    assert dataset.labels.names == ("ground", "river bed")


def test_folder_reads_splits(tmp_path: Path) -> None:
    make_folder(tmp_path, np.array([[1]], np.uint8), "a\nb\n", "train")
    make_folder(tmp_path, np.array([[0]], np.uint8), "a\nb\n", "val")

    assert only_mask(open_dataset("folder", tmp_path, "train")) == [[1]]
    assert only_mask(open_dataset("folder", tmp_path, "val")) == [[0]]
    with pytest.raises(DatasetError, match=r"no split 'test' .*there are: train, val\."):
        open_dataset("folder", tmp_path, "test")


def test_folder_reads_colour_coded_masks(tmp_path: Path) -> None:
    labels = [
        {"name": "ground", "color": [1, 2, 3]},
        {"name": "void", "color": "#ffffff", "ignore": True},
        {"name": "river", "color": "#0000ff"},
    ]
    mask = np.array([[[1, 2, 3], [0, 0, 255], [255, 255, 255]]], np.uint8)
    make_folder(tmp_path, mask, labels)

    dataset = open_dataset("folder", tmp_path, "all")

    assert only_mask(dataset) == [[0, 1, 255]]
    assert dataset.labels.colors == ((1, 2, 3), (0, 0, 255))
    # Loader workers that do not fork get a pickled copy.
    assert only_mask(pickle.loads(pickle.dumps(dataset))) == [[0, 1, 255]]


def test_folder_reads_values_that_are_not_class_indices(tmp_path: Path) -> None:
    labels = [{"name": "off", "value": 0}, {"name": "on", "value": 255}]
    make_folder(tmp_path, np.array([[0, 255]], np.uint8), labels)

    assert only_mask(open_dataset("folder", tmp_path, "all")) == [[0, 1]]


def test_folder_reads_an_id2label_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    make_folder(tmp_path, np.array([[2, 10, 1]], np.uint8), {"1": "a", "10": "c", "2": "b"})

    dataset = open_dataset("folder", tmp_path, "all")

    assert dataset.labels.names == ("a", "b", "c")
    assert only_mask(dataset) == [[1, 2, 0]]


def test_folder_takes_labels_given_by_the_caller(tmp_path: Path) -> None:
    make_folder(tmp_path, np.array([[[128, 0, 0], [0, 0, 0]]], np.uint8), "other\n")
    save_lines(tmp_path / "elsewhere.txt", "x", "y")

    by_map = open_dataset("folder", tmp_path, "all", labels=LabelMap.VOC)
    by_file = open_dataset("folder", tmp_path, "all", labels=tmp_path / "elsewhere.txt")

    assert only_mask(by_map) == [[1, 0]]
    assert by_file.labels.names == ("x", "y")


def test_more_classes_than_a_byte_holds(tmp_path: Path) -> None:
    labels = [f"class {index}" for index in range(300)]
    make_folder(tmp_path, np.array([[0, 255, 299, 300]], np.uint16), labels)

    dataset = open_dataset("folder", tmp_path, "all")
    _, mask = dataset[0]

    assert dataset.labels.ignore_index == 300
    assert mask.tolist() == [[0, 255, 299, 300]]
    assert mask.dtype == torch.int64


def test_a_bilevel_mask_holds_zero_and_one(tmp_path: Path) -> None:
    make_folder(tmp_path, np.array([[False, True]]), "no\nyes\n")

    assert only_mask(open_dataset("folder", tmp_path, "all")) == [[0, 1]]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", "malformed"),
        ("3", "must hold a list"),
        ('{"cat": 0}', "must map class indices to names"),
        ("[]", "1 to 65,536 classes, not 0"),
        ("[1]", "must be a name or an object with a name, not 1"),
        ('["a", "a"]', "'a' is given twice"),
        ('[{"name": "a", "colour": [0, 0, 0]}]', "'a' has unknown keys: colour"),
        ('[{"name": "a", "value": "0"}]', "value of 'a' must be an integer, not '0'"),
        ('[{"name": "a", "ignore": 1}]', "ignore of 'a' must be true or false, not 1"),
        ('[{"name": "a", "color": [0, 0]}]', "must be three integers in 0..255"),
        ('[{"name": "a", "color": "#gg0000"}]', "malformed"),
        ('[{"name": "a", "color": [0, 0, 0]}, "b"]', "either every class has a color or none"),
        ('["a", {"name": "b", "value": 0}]', "the value 0 is given twice"),
        ("[" * 100_000, "malformed"),
    ],
)
def test_a_malformed_labels_file_is_explained(tmp_path: Path, content: str, fault: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(content)

    with pytest.raises(DatasetError) as error:
        read_labels(path)

    assert fault in str(error.value)
    assert str(path) in str(error.value)


def test_a_missing_labels_file_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path, np.array([[0]], np.uint8), "a\n")
    (tmp_path / "labels.txt").unlink()

    with pytest.raises(DatasetError, match=r"no labels\.json or labels\.txt in "):
        open_dataset("folder", tmp_path, "all")
    with pytest.raises(DatasetError, match=r"nowhere\.txt cannot be read"):
        open_dataset("folder", tmp_path, "all", labels=tmp_path / "nowhere.txt")


def test_an_unknown_data_set_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as error:
        open_dataset("coco", tmp_path, "train")

    assert all(name in str(error.value) for name in DATASETS)


def test_an_option_of_another_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="'voc' takes no labels"):
        open_dataset("voc", tmp_path, "train", labels=LabelMap.VOC)


@pytest.mark.parametrize("name", ["voc", "voc7", "camvid", "cityscapes", "ade20k", "folder"])
def test_a_wrong_root_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=r"There is no folder .*nowhere"):
        open_dataset(name, tmp_path / "nowhere", "train")
    with pytest.raises(DatasetError, match=f"{tmp_path.name} does not hold"):
        open_dataset(name, tmp_path, "train")


def test_a_missing_split_names_the_splits_there_are(tmp_path: Path) -> None:
    make_voc(tmp_path)

    with pytest.raises(DatasetError, match=r"PASCAL VOC has no split 'tset' .*: train, val\."):
        open_dataset("voc", tmp_path, "tset")


def test_an_empty_split_is_an_error(tmp_path: Path) -> None:
    home = make_voc(tmp_path)
    (home / "ImageSets" / "Segmentation" / "train.txt").write_text("\n")

    with pytest.raises(DatasetError, match=r"split 'train' .* is empty"):
        open_dataset("voc", tmp_path, "train")


@pytest.mark.parametrize("name", ["voc", "camvid"])
def test_a_malformed_list_line_is_quoted(tmp_path: Path, name: str) -> None:
    home = make_voc(tmp_path)
    save_lines(home / "ImageSets" / "Segmentation" / "train.txt", "a b c")
    save_lines(tmp_path / "train.txt", "a b c")

    with pytest.raises(DatasetError, match=r"train.txt has a line 'a b c'"):
        open_dataset(name, tmp_path, "train")


def test_missing_files_are_named_and_counted(tmp_path: Path) -> None:
    make_folder(tmp_path, np.array([[0]], np.uint8), "a\n")
    save_picture(tmp_path / "images" / "b.jpg")
    save_mask(tmp_path / "masks" / "c.png", np.array([[0]], np.uint8))

    with pytest.raises(DatasetError) as error:
        open_dataset("folder", tmp_path, "all")
    dataset = open_dataset("folder", tmp_path, "all", verify=False)

    images, masks = tmp_path / "images", tmp_path / "masks"
    without_mask = f"Picture {images / 'b.jpg'} has no mask {masks / 'b.*'}."
    assert str(error.value) == f"{without_mask} (1 more like it.)"
    assert [sample.id for sample in dataset.samples] == ["a", "b", "c"]
    with pytest.raises(DatasetError) as error:
        dataset[1]
    assert str(error.value) == without_mask
    with pytest.raises(DatasetError) as error:
        dataset[2]
    assert str(error.value) == f"Mask {masks / 'c.png'} has no picture {images / 'c.*'}."


def test_a_listed_sample_without_any_file_is_named(tmp_path: Path) -> None:
    home = make_voc(tmp_path)
    save_lines(home / "ImageSets" / "Segmentation" / "train.txt", "b")

    with pytest.raises(DatasetError, match=r"Sample b is listed but has neither picture .* nor"):
        open_dataset("voc", tmp_path, "train")


def test_two_pictures_of_one_name_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, np.array([[0]], np.uint8), "a\n")
    save_picture(tmp_path / "images" / "a.png")

    with pytest.raises(DatasetError, match=r"a\.jpg and .*a\.png have the same name"):
        open_dataset("folder", tmp_path, "all")


def test_files_that_are_no_pictures_are_passed_over(tmp_path: Path) -> None:
    make_folder(tmp_path, np.array([[0]], np.uint8), "a\n")
    for name in ("notes.txt", ".hidden.png", "Thumbs.db"):
        (tmp_path / "images" / name).touch()

    assert len(open_dataset("folder", tmp_path, "all")) == 1


def test_sizes_that_differ_are_stated(tmp_path: Path) -> None:
    home = make_voc(tmp_path)
    save_picture(home / "JPEGImages" / "a.jpg", (4, 2))

    with pytest.raises(DatasetError) as error:
        open_dataset("voc", tmp_path, "train")[0]

    assert f"{home / 'JPEGImages' / 'a.jpg'} is 4×2 but its mask" in str(error.value)
    assert f"{home / 'SegmentationClass' / 'a.png'} is 3×2" in str(error.value)


def test_values_outside_the_map_are_listed_with_the_file(tmp_path: Path) -> None:
    home = make_voc(tmp_path)
    path = home / "SegmentationClass" / "a.png"
    save_mask(path, np.array([[0, 21, 21], [200, 20, 255]], np.uint8))

    with pytest.raises(DatasetError) as error:
        open_dataset("voc", tmp_path, "train")[0]

    assert str(error.value) == (
        f"Mask {path} holds values outside the label map: 21 (2 pixels), 200 (1 pixel); "
        "accepted are 0..20, 255."
    )


def test_a_long_list_of_values_is_cut(tmp_path: Path) -> None:
    make_folder(tmp_path, np.arange(20, dtype=np.uint8)[None], "a\n")

    with pytest.raises(DatasetError, match=r"5 \(1 pixel\) and 14 more; accepted are 0, 255\."):
        open_dataset("folder", tmp_path, "all")[0]


def test_a_colour_outside_the_map_is_shown_as_one(tmp_path: Path) -> None:
    labels = [{"name": "a", "color": "#000102"}, {"name": "b", "color": "#ff0000"}]
    mask = np.array([[[0, 1, 2], [0, 1, 3]]], np.uint8)
    make_folder(tmp_path, mask, labels)

    with pytest.raises(DatasetError, match=r"#000103 \(1 pixel\); accepted are #000102, #ff0000"):
        open_dataset("folder", tmp_path, "all")[0]


def test_a_colour_coded_mask_where_indices_belong_is_explained(tmp_path: Path) -> None:
    home = make_voc(tmp_path)
    save_picture(home / "SegmentationClass" / "a.png")

    with pytest.raises(DatasetError, match=r"a\.png is colour-coded; voc takes masks with one"):
        open_dataset("voc", tmp_path, "train")[0]


def test_a_mask_of_another_mode_is_refused(tmp_path: Path) -> None:
    home = make_voc(tmp_path)
    Image.new("LA", (3, 2)).save(home / "SegmentationClass" / "a.png")

    with pytest.raises(DatasetError, match=r"a\.png is a picture of mode LA; accepted are"):
        open_dataset("voc", tmp_path, "train")[0]


@pytest.mark.parametrize("damage", [b"", b"no picture", "half"])
@pytest.mark.parametrize("which", ["JPEGImages/a.jpg", "SegmentationClass/a.png"])
def test_an_unreadable_file_is_named(tmp_path: Path, which: str, damage: bytes | str) -> None:
    path = make_voc(tmp_path) / which
    data = path.read_bytes()
    path.write_bytes(damage if isinstance(damage, bytes) else data[: len(data) // 2])

    with pytest.raises(DatasetError) as error:
        open_dataset("voc", tmp_path, "train")[0]

    assert str(error.value).startswith(("Picture", "Mask"))
    assert str(path) in str(error.value)


def test_a_lossy_mask_is_refused(tmp_path: Path) -> None:
    home = make_voc(tmp_path)
    path = home / "SegmentationClass" / "a.png"
    Image.fromarray(VOC_MASK).save(path, format="JPEG")

    with pytest.raises(DatasetError, match=r"cannot be read .*accepted are PNG, BMP, TIFF"):
        open_dataset("voc", tmp_path, "train")[0]
