"""Segmentation: the legend, coloured pictures, files, the Hub's and COCO's formats."""

import dataclasses
import io
import json
import pickle
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from fcn_hub.labels import LabelMap
from fcn_hub.segmentation import LegendEntry, Segmentation

WIDE_LABELS = LabelMap.from_names(f"class {index}" for index in range(300))


def segmentation(label_map, labels=LabelMap.VOC, confidence=None, seed=0):
    """A segmentation of a noise picture by a given label map."""
    random = np.random.default_rng(seed)
    label_map = np.asarray(label_map, dtype=np.uint8 if len(labels) <= 256 else np.uint16)
    height, width = label_map.shape
    picture = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if confidence is None:
        confidence = random.random((height, width), dtype=np.float32)
    return Segmentation(Image.fromarray(picture), label_map, confidence, labels)


def random_labels(height, width, classes=7, seed=1):
    return np.random.default_rng(seed).integers(0, classes, (height, width))


def blocks(height, width, classes):
    """A label map of equal upright stripes, one per class."""
    return np.tile(np.arange(width) * classes // width, (height, 1))


# -- construction ---------------------------------------------------------------------------


def valid_arguments():
    return {
        "image": Image.new("RGB", (3, 2)),
        "label_map": np.zeros((2, 3), np.uint8),
        "confidence": np.ones((2, 3), np.float32),
        "labels": LabelMap.VOC7,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": Image.new("L", (3, 2))}, "RGB, not L"),
        ({"image": Image.new("RGB", (2, 3))}, r"uint8 \[3, 2\], not uint8 \[2, 3\]"),
        ({"label_map": np.zeros((3, 2), np.uint8)}, "label map"),
        ({"label_map": np.zeros((2, 3, 1), np.uint8)}, "label map"),
        ({"label_map": np.zeros((2, 3), np.int64)}, "must be uint8"),
        ({"label_map": np.zeros((2, 3), np.uint16)}, "must be uint8"),
        ({"labels": WIDE_LABELS}, "must be uint16"),
        ({"label_map": np.full((2, 3), 7, np.uint8)}, r"holds 7; labels are 0\.\.6"),
        ({"confidence": np.ones((2, 3), np.float64)}, "confidence .* float32"),
        ({"confidence": np.ones((2, 2), np.float32)}, "confidence"),
        ({"confidence": np.full((2, 3), 1.01, np.float32)}, "in 0..1"),
        ({"confidence": np.full((2, 3), -0.01, np.float32)}, "in 0..1"),
        ({"confidence": np.full((2, 3), np.nan, np.float32)}, "in 0..1"),
    ],
)
def test_parts_that_do_not_agree_are_refused(change, message):
    Segmentation(**valid_arguments())
    with pytest.raises(ValueError, match=message):
        Segmentation(**{**valid_arguments(), **change})


def test_an_empty_picture_is_refused():
    with pytest.raises(ValueError, match="label map"):
        segmentation(np.zeros((0, 5)))


def test_a_segmentation_cannot_be_reassigned_but_can_be_pickled():
    result = segmentation(random_labels(5, 4))
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.label_map = None
    assert pickle.loads(pickle.dumps(result)).legend == result.legend


def test_the_module_costs_no_torch():
    code = "import sys, fcn_hub.segmentation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- legend ---------------------------------------------------------------------------------


def test_the_legend_lists_present_classes_largest_first():
    result = segmentation([[8, 8, 0, 15], [8, 8, 8, 15]])
    assert result.legend == [
        LegendEntry(8, "cat", (64, 0, 0), 5, 5 / 8),
        LegendEntry(15, "person", (192, 128, 128), 2, 2 / 8),
        LegendEntry(0, "background", (0, 0, 0), 1, 1 / 8),
    ]
    assert result.legend[1].color_hex == "#c08080"


def test_classes_of_equal_size_come_by_index():
    result = segmentation([[9, 3, 5], [5, 9, 3]])
    assert [entry.index for entry in result.legend] == [3, 5, 9]
    once_or_twice = np.repeat(np.arange(150), 1 + np.arange(150) % 2)
    result = segmentation(once_or_twice[None], LabelMap.ADE20K)
    assert [entry.index for entry in result.legend] == [*range(1, 150, 2), *range(0, 150, 2)]


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (700, 900), (1, 300_000), (300_000, 1), (3, 262_145)]
)
def test_every_pixel_is_counted_once(height, width):
    labels = random_labels(height, width)
    legend = segmentation(labels).legend
    assert sum(entry.pixels for entry in legend) == height * width
    assert sum(entry.fraction for entry in legend) == pytest.approx(1)
    assert {entry.index: entry.pixels for entry in legend} == {
        index: count for index, count in enumerate(np.bincount(labels.ravel())) if count
    }


def test_the_legend_is_computed_once():
    result = segmentation(random_labels(5, 4))
    assert result.legend is result.legend


# -- pictures -------------------------------------------------------------------------------


def test_colored_gives_exactly_the_class_colours():
    labels = random_labels(600, 500, classes=21)
    colored = segmentation(labels).colored()
    assert colored.mode == "RGB"
    assert np.array_equal(np.asarray(colored), LabelMap.VOC.palette()[labels])


def test_above_256_classes_colours_and_counts_still_hold():
    labels = random_labels(600, 500, classes=300)
    result = segmentation(labels, WIDE_LABELS)
    assert np.array_equal(np.asarray(result.colored()), WIDE_LABELS.palette()[labels])
    assert len(result.legend) == 300


@pytest.mark.parametrize("opacity", [0, 0.25, 0.3, 0.5, 0.6, 1 / 3, 0.999, 1])
def test_overlay_blends_picture_and_colours_to_the_nearest_integer(opacity):
    labels = random_labels(600, 500, classes=21)
    result = segmentation(labels)
    exact = (1 - opacity) * np.asarray(result.image, float)
    exact += opacity * LabelMap.VOC.palette()[labels]
    overlay = result.overlay(opacity)
    assert overlay.mode == "RGB"
    assert np.abs(np.asarray(overlay) - exact).max() <= 0.5 + 1e-4


def test_opacity_0_is_the_picture_and_1_the_colours():
    result = segmentation(random_labels(30, 40))
    assert np.array_equal(result.overlay(0), result.image)
    assert np.array_equal(result.overlay(1), result.colored())


def test_the_default_opacity_is_six_tenths():
    result = segmentation(random_labels(30, 40))
    assert np.array_equal(result.overlay(), result.overlay(0.6))


@pytest.mark.parametrize("opacity", [-0.01, 1.01, float("nan"), float("inf")])
def test_an_opacity_outside_0_to_1_is_refused(opacity):
    with pytest.raises(ValueError, match=r"in 0\.\.1"):
        segmentation([[0]]).overlay(opacity)


def test_a_large_picture_needs_little_memory_beyond_the_results():
    result = segmentation(blocks(2000, 3000, 21))
    rgb_bytes = 3 * 2000 * 3000
    tracemalloc.start()
    for step in (lambda: result.legend, result.overlay, result.colored, result.to_dict):
        step()
        assert tracemalloc.get_traced_memory()[1] < rgb_bytes
    tracemalloc.stop()


# -- the drawn legend -----------------------------------------------------------------------


def panel_of(result):
    """The drawn legend as uint8 [H, W, 3], cut from the overlay; checks that it covers nothing."""
    plain, drawn = result.overlay(), result.overlay(legend=True)
    width, height = plain.size
    assert np.array_equal(drawn.crop((0, 0, width, height)), plain)
    beside = height > width
    left, top = (width, 0) if beside else (0, height)
    return np.asarray(drawn.crop((left, top, *drawn.size)))


def has_swatch(panel, color, side=8):
    """Whether the panel holds a solid square of exactly that colour."""
    hit = (panel == color).all(axis=-1)
    windows = np.lib.stride_tricks.sliding_window_view(hit, (side, side))
    return bool(windows.all(axis=(-1, -2)).any())


@pytest.mark.parametrize(
    ("height", "width"), [(375, 500), (500, 375), (400, 400), (1, 1), (2, 1), (30, 900), (900, 30)]
)
def test_the_drawn_legend_extends_the_picture_and_covers_nothing(height, width):
    result = segmentation(random_labels(height, width), LabelMap.CAMVID)
    panel = panel_of(result)
    assert panel.size
    for entry in result.legend:
        assert has_swatch(panel, entry.color)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (20, 20), (3000, 2000)])
@pytest.mark.parametrize("classes", [1, 2, 7, 21, 150])
def test_no_letter_or_swatch_touches_the_edge_of_the_panel(height, width, classes):
    labels = LabelMap.ADE20K
    panel = panel_of(segmentation(blocks(height, width, min(classes, width)), labels))
    frame = np.concatenate([panel[:4], panel[-4:]], 1), panel[:, :4], panel[:, -4:]
    assert all((part == 255).all() for part in frame)


def test_the_legend_is_beside_a_portrait_and_below_any_other_picture():
    for (height, width), beside in {(80, 60): True, (60, 80): False, (60, 60): False}.items():
        drawn = segmentation(random_labels(height, width)).overlay(legend=True)
        panel = drawn.crop((width, 0, *drawn.size) if beside else (0, height, *drawn.size))
        assert (np.asarray(panel) != 255).any()


def test_letters_grow_with_the_picture():
    def row_height(side):
        panel = panel_of(segmentation(np.zeros((side, side))))
        return len(panel)

    assert row_height(1) == row_height(300) >= 20
    assert row_height(2000) == pytest.approx(2 * row_height(1000), rel=0.1)


def test_many_classes_are_summed_up_and_the_largest_are_drawn(monkeypatch):
    texts = drawn_texts(monkeypatch)
    result = segmentation(random_labels(60, 80, classes=150), LabelMap.ADE20K)
    panel = panel_of(result)
    assert len(panel) < 8 * 40
    (more,) = [text for text in texts if text.startswith("+")]
    names = [text for text in texts if text in LabelMap.ADE20K.names]
    assert more == f"+{150 - len(names)} more"
    assert names == [entry.name for entry in result.legend[: len(names)]]
    rest = sum(entry.fraction for entry in result.legend[len(names) :])
    assert texts[-1] == f"{100 * rest:.1f} %"


def drawn_texts(monkeypatch):
    """A list that receives each text as it is drawn."""
    from PIL import ImageDraw

    texts, draw_text = [], ImageDraw.ImageDraw.text

    def record(self, position, text, *args, **kwargs):
        texts.append(text)
        return draw_text(self, position, text, *args, **kwargs)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    return texts


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("café", "cafe"),
        ("two\nlines", "two lines"),
        ("猫", "class 1"),
        ("a name that is far too long for any legend", "a name that is far too long for…"),
    ],
)
def test_names_are_drawn_with_the_letters_there_are(monkeypatch, name, drawn):
    texts = drawn_texts(monkeypatch)
    labels = LabelMap.from_names(["ground", name])
    segmentation([[1, 1, 1, 0]], labels).overlay(legend=True)
    assert texts == [drawn, "75.0 %", "ground", "25.0 %"]


def test_a_notebook_shows_the_overlay_with_its_legend_at_a_bounded_size():
    small = segmentation(random_labels(40, 50))
    shown = Image.open(io.BytesIO(small._repr_png_()))
    assert np.array_equal(shown, small.overlay(legend=True))
    large = Image.open(io.BytesIO(segmentation(np.zeros((1500, 3000)))._repr_png_()))
    assert large.format == "PNG"
    assert large.width == 1024


def test_its_repr_names_size_and_largest_classes():
    result = segmentation(np.repeat([0, 8], [712, 288]).reshape(10, 100))
    assert repr(result) == "Segmentation(100×10: background 71.2 %, cat 28.8 %)"
    many = segmentation(blocks(10, 100, 10))
    assert repr(many).endswith("boat 10.0 %, +5 more)")
    speck = np.zeros((100, 100))
    speck[0, 0] = 8
    assert "cat <0.1 %" in repr(segmentation(speck))


# -- files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [1, 2, 3, 4, 5, 16, 17, 21, 255, 256])
def test_a_png_gives_back_indices_and_colours(tmp_path, classes):
    labels = LabelMap.from_names(f"class {index}" for index in range(classes))
    label_map = random_labels(33, 47, classes)
    segmentation(label_map, labels).save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as picture:
        assert picture.mode == "P"
        assert np.array_equal(picture, label_map)
        palette = np.reshape(picture.getpalette(), (-1, 3))
        assert np.array_equal(palette[:classes], labels.palette())
        assert np.array_equal(picture.convert("RGB"), labels.palette()[label_map])


def test_a_png_of_more_than_256_classes_is_16_bit_grey(tmp_path):
    label_map = random_labels(33, 47, 300)
    segmentation(label_map, WIDE_LABELS).save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as picture:
        assert picture.mode.startswith("I;16")
        assert np.array_equal(picture, label_map)


@pytest.mark.parametrize(("classes", "labels"), [(21, LabelMap.VOC), (300, WIDE_LABELS)])
def test_an_npy_gives_back_the_label_map(tmp_path, classes, labels):
    result = segmentation(random_labels(33, 47, classes), labels)
    result.save(tmp_path / "mask.npy")
    loaded = np.load(tmp_path / "mask.npy", allow_pickle=False)
    assert loaded.dtype == result.label_map.dtype
    assert np.array_equal(loaded, result.label_map)


def test_a_json_holds_the_summary(tmp_path):
    labels = LabelMap.from_names(["ground", "ciel étoilé"])
    result = segmentation(random_labels(33, 47, 2), labels)
    result.save(tmp_path / "mask.json")
    text = (tmp_path / "mask.json").read_text(encoding="utf-8")
    assert json.loads(text) == result.to_dict()
    assert "ciel étoilé" in text


def test_label_maps_that_are_views_save_alike(tmp_path):
    whole = random_labels(40, 60).astype(np.uint8)
    view = segmentation(np.zeros((30, 20)))
    view = dataclasses.replace(view, label_map=whole[::2, ::2].T)
    view.save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as picture:
        assert np.array_equal(picture, whole[::2, ::2].T)
    assert view.to_coco() == dataclasses.replace(view, label_map=view.label_map.copy()).to_coco()


def test_paths_may_be_strings_and_suffixes_capital(tmp_path):
    segmentation([[0, 1]]).save(str(tmp_path / "MASK.PNG"))
    with Image.open(tmp_path / "MASK.PNG") as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize("name", ["mask.jpg", "mask", "mask.png.gz", ".png"])
def test_another_suffix_is_refused_by_name(tmp_path, name):
    with pytest.raises(ValueError, match=r"accepted are \.png, \.json, \.npy"):
        segmentation([[0]]).save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere to save mask\.png"):
        segmentation([[0]]).save(tmp_path / "nowhere" / "mask.png")


@pytest.mark.parametrize("suffix", ["png", "json", "npy"])
def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"mask.{suffix}"
    path.write_bytes(b"old")

    def fail(self, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Segmentation, f"_write_{suffix}", fail)
    with pytest.raises(OSError, match="disk full"):
        segmentation([[0]]).save(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


# -- summary, Hub, COCO ---------------------------------------------------------------------


def test_the_summary_is_json_ready():
    confidence = np.array([[0.5, 1, 0.25, 0.75]], np.float32)
    summary = segmentation([[8, 8, 0, 8]], confidence=confidence).to_dict()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary == {
        "width": 4,
        "height": 1,
        "classes": [
            {
                "index": 8,
                "name": "cat",
                "color": "#400000",
                "pixels": 3,
                "fraction": 0.75,
                "confidence": 0.75,
            },
            {
                "index": 0,
                "name": "background",
                "color": "#000000",
                "pixels": 1,
                "fraction": 0.25,
                "confidence": 0.25,
            },
        ],
    }


def test_hub_segments_are_masks_with_the_mean_confidence():
    labels = random_labels(700, 900, classes=5)
    result = segmentation(labels)
    segments = result.to_hub()
    assert [segment["label"] for segment in segments] == [entry.name for entry in result.legend]
    for entry, segment in zip(result.legend, segments, strict=True):
        inside = labels == entry.index
        assert segment["mask"].mode == "L"
        assert np.array_equal(segment["mask"], np.where(inside, 255, 0))
        assert isinstance(segment["score"], float)
        assert segment["score"] == pytest.approx(result.confidence[inside].mean(dtype=float))


def long_runs():
    labels = np.zeros((300, 400), np.uint8)
    labels[:, 100:350] = 1  # one run of 75,000
    labels[5, 360] = 1
    return labels


COCO_CASES = {
    "noise": random_labels(61, 83),
    "blobs": random_labels(9, 11, 3).repeat(13, axis=0).repeat(17, axis=1),
    "full": np.full((7, 9), 3),
    "one pixel": np.pad([[1]], ((3, 5), (2, 4))),
    "a single-pixel picture": np.zeros((1, 1)),
    "first pixel": np.pad([[1]], ((0, 5), (0, 4))),
    "last pixel": np.pad([[1]], ((5, 0), (4, 0))),
    "a column": random_labels(200, 1),
    "a row": random_labels(1, 200),
    "alternating": np.indices((20, 31)).sum(axis=0) % 2,
    "across columns": np.pad(np.zeros((2, 3)), ((1, 1), (1, 1)), constant_values=1),
    "runs above 2^15": long_runs(),
    "negative differences": np.repeat([0, 1, 0, 1, 0, 1], [900, 700, 5, 3, 40_000, 1])[:, None],
    "differences about the powers of 32": np.repeat(
        np.arange(40) % 2, np.random.default_rng(0).choice([1, 15, 16, 17, 31, 32, 511, 513], 40)
    )[None],
}


@pytest.mark.parametrize("case", COCO_CASES)
def test_coco_segments_equal_those_of_pycocotools(case):
    result = segmentation(COCO_CASES[case])
    segments = result.to_coco()
    assert json.loads(json.dumps(segments)) == segments
    assert [segment["category_id"] for segment in segments] == [e.index for e in result.legend]
    for segment in segments:
        inside = np.asfortranarray(result.label_map == segment["category_id"], dtype=np.uint8)
        expected = coco.encode(inside)
        code = segment["segmentation"]
        assert code == {"size": expected["size"], "counts": expected["counts"].decode()}
        assert np.array_equal(coco.decode(code), inside)
        assert segment["category_name"] == LabelMap.VOC.names[segment["category_id"]]
        assert segment["area"] == coco.area(expected)
        assert segment["bbox"] == coco.toBbox(expected).tolist()


@pytest.mark.parametrize("seed", range(20))
def test_coco_codes_of_random_masks_equal_those_of_pycocotools(seed):
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 120, 2)
    labels = random.random((height, width)) < random.random()
    for segment in segmentation(labels).to_coco():
        inside = np.asfortranarray(labels == segment["category_id"], dtype=np.uint8)
        assert segment["segmentation"]["counts"].encode() == coco.encode(inside)["counts"]
        assert segment["bbox"] == coco.toBbox(coco.encode(inside)).tolist()
