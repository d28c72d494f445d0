"""Checking a split gives its statistics and every fault, not only the first."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcn_hub.datasets import check, open_dataset


def save(root: Path, stem: str, mask: list[list[int]], size: tuple[int, int] | None = None) -> None:
    values = np.array(mask, np.uint8)
    for folder in ("images", "masks"):
        (root / folder).mkdir(exist_ok=True)
    Image.new("RGB", size or values.shape[::-1]).save(root / "images" / f"{stem}.png")
    Image.fromarray(values).save(root / "masks" / f"{stem}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "labels.txt").write_text("ground\nriver\nroad\n")
    save(tmp_path, "a", [[0, 0, 1, 255]])
    save(tmp_path, "b", [[0, 0], [0, 0], [0, 255]])
    return tmp_path


def test_statistics_of_a_sound_split(root: Path) -> None:
    report = check(open_dataset("folder", root, "all"))

    assert report.faults == ()
    assert report.samples == 2
    assert (report.smallest, report.largest) == ((4, 1), (2, 3))
    assert report.pixels == (7, 1, 0)
    assert report.pictures == (2, 1, 0)
    assert report.shown == ((0, 1), (0,))
    assert report.frequencies == (7 / 8, 1 / 8, 0)
    assert report.ignored == 2
    assert report.ignored_share == 2 / 10


def test_every_fault_is_reported_in_order(root: Path) -> None:
    save(root, "c", [[0, 7]])
    save(root, "d", [[0, 1]], size=(5, 5))
    save(root, "e", [[9, 9]])
    (root / "images" / "e.png").write_bytes(b"broken")
    (root / "images" / "f.jpg").write_bytes(b"")
    (root / "masks" / "a.png").unlink()

    report = check(open_dataset("folder", root, "all", verify=False), workers=3)

    assert report.shown == ((), (0,), (), (), (), ())
    assert [fault.id for fault in report.faults] == ["a", "c", "d", "e", "e", "f"]
    told = [fault.message for fault in report.faults]
    for message, part in zip(
        told,
        ("has no mask", "7 (1 pixel)", "is 5×5 but", "not a picture", "9 (2 pixels)", "no mask"),
        strict=True,
    ):
        assert part in message
    assert report.samples == 6
    assert report.pixels == (5, 0, 0)  # b alone is sound


def test_a_split_of_faults_only_still_has_a_report(root: Path) -> None:
    for path in (root / "masks").iterdir():
        path.unlink()

    report = check(open_dataset("folder", root, "all", verify=False))

    assert len(report.faults) == 2
    assert report.smallest is None
    assert all(math.isnan(value) for value in (*report.frequencies, report.ignored_share))
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["ignored_share"] is None
    assert "2 faults" in report.format_table()


def test_the_report_reads_well(root: Path) -> None:
    save(root, "c", [[0, 7]])

    report = check(open_dataset("folder", root, "all"))

    assert report.format_table().splitlines() == [
        "folder all: 3 samples, 4×1 to 2×3 pixels, 20.00% of the pixels ignored",
        "",
        "class            pixels     share  pictures",
        "ground                7    87.50%         2",
        "river                 1    12.50%         1",
        "road                  0     0.00%         0",
        "",
        "1 fault",
        f"  Mask {root / 'masks' / 'c.png'} holds values outside the label map: 7 (1 pixel); "
        "accepted are 0..2, 255.",
    ]
    assert report.to_dict()["classes"][1] == {
        "name": "river",
        "pixels": 1,
        "pictures": 1,
        "frequency": 1 / 8,
    }


def test_pictures_of_one_size_are_said_so(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("ground\n")
    save(tmp_path, "a", [[0, 0]])

    first_line = check(open_dataset("folder", tmp_path, "all")).format_table().splitlines()[0]

    assert first_line == "folder all: 1 samples of 2×1 pixels, 0.00% of the pixels ignored"
