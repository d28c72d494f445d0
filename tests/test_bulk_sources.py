"""The sources of a bulk prediction: each kind lists the same pictures."""

import io
import json
import tarfile

import datasets
import numpy as np
import pyarrow as pa
import pytest
from conftest import make_picture
from PIL import Image
from pyarrow import parquet

from fcn_hub import open_image
from fcn_hub.bulk.plan import Plan, make_plan
from fcn_hub.bulk.sources import Entry, Opener, SourceError, entries


@pytest.fixture
def photos(tmp_path):
    """Three pictures in a tree, and what must not be taken for one."""
    root = tmp_path / "photos"
    for index, name in enumerate(["b.png", "a/c.png", "a/d.png"]):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_picture(20, 30 + index)).save(path)
    (root / "notes.txt").write_text("b.png")
    (root / ".hidden.png").write_bytes(b"")
    (root / ".cache").mkdir()
    (root / ".cache" / "e.png").write_bytes(b"")
    return root


def listed(source, split="train", image_column=None) -> list[Entry]:
    return list(entries(str(source), split, image_column))


def widths(found: list[Entry]) -> list[int]:
    opener = Opener("train", None)
    return [open_image(opener(entry)).width for entry in found]


def test_a_folder_is_walked_in_a_fixed_order_without_hidden_files(photos):
    found = listed(photos)
    assert [entry.id for entry in found] == ["b.png", "a/c.png", "a/d.png"]
    assert widths(found) == [30, 31, 32]


def test_what_a_glob_finds_keeps_its_place_below_the_fixed_part(photos):
    assert [entry.id for entry in listed(photos / "*" / "*.png")] == ["a/c.png", "a/d.png"]


def test_a_single_picture_is_a_source(photos):
    assert listed(photos / "b.png") == [Entry("b.png", str(photos / "b.png"))]


def test_relative_sources_mean_the_same_from_any_folder(photos, tmp_path, monkeypatch):
    (tmp_path / "list.txt").write_text("photos/a/d.png\n")
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(photos / "b.png", "b.png")
    rows = datasets.Dataset.from_dict({"photo": [str(photos / "b.png")]})
    rows.cast_column("photo", datasets.Image()).save_to_disk(str(tmp_path / "table"))
    monkeypatch.chdir(tmp_path)
    sources = ["photos", "photos/*/c.png", "photos/b.png", "list.txt", "shard.tar"]
    found = [entry for source in sources for entry in listed(source)]
    table = listed("table", "all")
    monkeypatch.chdir("/")
    assert widths(found) == [30, 31, 32, 31, 30, 32, 30]
    assert open_image(Opener("all", None)(table[0])).width == 30


def test_paths_of_a_list_are_relative_to_it(photos, tmp_path):
    (tmp_path / "list.txt").write_text(f"photos/b.png\n\n{photos / 'a' / 'c.png'}\n")
    found = listed(tmp_path / "list.txt")
    assert [entry.id for entry in found] == ["photos/b.png", str(photos / "a" / "c.png")]
    assert widths(found) == [30, 31]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_manifest_has_paths_and_may_have_ids(photos, tmp_path, suffix):
    rows = [{"path": "photos/b.png", "id": "first"}, {"path": "photos/a/c.png", "id": None}]
    path = tmp_path / f"manifest.{suffix}"
    if suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        parquet.write_table(pa.Table.from_pylist(rows), path)
    found = listed(path)
    assert [entry.id for entry in found] == ["first", "photos/a/c.png"]
    assert widths(found) == [30, 31]


def test_pictures_in_a_tar_are_read_from_their_place_in_it(photos, tmp_path):
    path = tmp_path / "shard-0.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("b.png", "a/c.png", "notes.txt"):
            tar.add(photos / name, name)
    for found in (listed(path), listed(tmp_path / "shard-*.tar")):
        assert [entry.id for entry in found] == ["shard-0/b.png", "shard-0/a/c.png"]
        assert widths(found) == [30, 31]


def test_a_tar_that_has_become_shorter_gives_an_image_error_not_an_end(photos, tmp_path):
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(photos / "b.png", "b.png")
    (found,) = listed(path)
    path.write_bytes(path.read_bytes()[: found.offset])
    with pytest.raises(ValueError, match="has become shorter"):
        open_image(Opener("train", None)(found))


def test_rows_of_a_saved_data_set_are_pictures(photos, tmp_path):
    features = datasets.Features({"photo": datasets.Image(), "other": datasets.Value("string")})
    rows = {"photo": [str(photos / "b.png"), str(photos / "a" / "d.png")], "other": ["x", "y"]}
    datasets.Dataset.from_dict(rows, features).save_to_disk(str(tmp_path / "table"))
    found = listed(tmp_path / "table", "all")
    assert [entry.id for entry in found] == ["all/0", "all/1"]
    opener = Opener("all", None)
    assert [open_image(opener(entry)).width for entry in found] == [30, 32]
    with pytest.raises(SourceError, match="Give image_column, one of: photo"):
        listed(tmp_path / "table", "all", "other")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing", None, "does not exist"),
        ("m.jsonl", b'{"path": "a.png"}\n{"id": "a"}', "line 2: expected"),
        ("m.jsonl", b"not json", "line 1: expected"),
        ("m.jsonl", b'{"path": 3}', "line 1: expected"),
        ("m.parquet", b"not parquet", "must be a Parquet file with a column path"),
        ("m.tar", b"not a tar", "no uncompressed tar"),
        ("m.tar", b"\x1f\x8b\x08\x00", "no uncompressed tar"),
    ],
)
def test_a_source_that_cannot_be_listed_says_why(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        listed(tmp_path / name)


def test_a_manifest_without_paths_is_refused(tmp_path):
    parquet.write_table(pa.table({"file": ["a.png"]}), tmp_path / "m.parquet")
    with pytest.raises(SourceError, match="a column path"):
        listed(tmp_path / "m.parquet")


# --- the plan -----------------------------------------------------------------------------------


def test_a_plan_gives_every_shard_its_entries_and_survives_reading_back(tmp_path):
    all_entries = [Entry(f"{n}é", f"/p/{n}", offset=n, length=2) for n in range(7)]
    plan = make_plan(iter(all_entries), tmp_path, 3)
    again = Plan.read(tmp_path)
    assert again is not None and len(plan) == len(again) == 3 and again.pictures == 7
    shards = [again.shard(index, 3) for index in range(3)]
    assert [len(shard) for shard in shards] == [3, 3, 1]
    assert [entry for shard in shards for entry in shard] == all_entries
    np.testing.assert_array_equal(plan.starts, again.starts)


def test_two_pictures_of_one_id_are_refused_by_name(tmp_path):
    found = [Entry("a", "1"), Entry("b", "2"), Entry("a", "3")]
    with pytest.raises(SourceError, match="Two pictures are called 'a'"):
        make_plan(found, tmp_path, 2)
    assert Plan.read(tmp_path) is None


def test_no_picture_at_all_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="no pictures"):
        make_plan([], tmp_path, 2)


def test_a_plan_that_was_not_finished_is_none(tmp_path):
    def dying():
        yield Entry("a", "1")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        make_plan(dying(), tmp_path, 2)
    assert Plan.read(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_reading_a_slice_in_pieces_gives_all_of_it_and_no_more(tmp_path):
    (tmp_path / "file").write_bytes(b"0123456789")
    file = Opener("train", None)(Entry("x", str(tmp_path / "file"), offset=2, length=5))
    assert [file.read(2), file.read(9), file.read(1)] == [b"23", b"456", b""]
    assert io.BytesIO(b"").read() == file.read()
