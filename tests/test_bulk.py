"""Bulk prediction in one process: what is written, resumed, survived and reported."""

import io
import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_picture, make_tiny_model
from PIL import Image
from pyarrow import parquet
from pycocotools import mask as coco

from fcn_hub import Segmenter
from fcn_hub.bulk import PredictConfig, predict, predicting
from fcn_hub.bulk.predicting import PredictError
from fcn_hub.bulk.shards import ShardWriter

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return make_place(tmp_path_factory.mktemp("bulk"))


def make_place(root: Path) -> Path:
    """Eleven pictures, of which two are damaged, and a model beside them."""
    (root / "photos" / "sub").mkdir(parents=True)
    for index in range(11):
        path = root / "photos" / ("sub" if index % 3 == 0 else "") / f"{index:02}.png"
        Image.fromarray(make_picture(24, 32 + 8 * (index % 2), seed=index)).save(path)
    (root / "photos" / "04.png").write_bytes(b"no picture")
    (root / "photos" / "sub" / "09.png").write_bytes(b"")
    make_tiny_model().save_pretrained(root / "model")
    return root


@pytest.fixture
def config(place, tmp_path) -> PredictConfig:
    return make_config(place, tmp_path)


def make_config(place: Path, tmp_path: Path) -> PredictConfig:
    return PredictConfig(
        sources=(str(place / "photos"),),
        model=str(place / "model"),
        output=str(tmp_path / "out"),
        shard_size=4,
        device="cpu",
        dtype="float32",
        batch_size=3,
    )


def rows(output: str) -> list[dict]:
    """All rows, in the order of the shards."""
    files = sorted(Path(output).glob("part-*.parquet"))
    return [row for file in files for row in parquet.read_table(file).to_pylist()]


def files(output: str) -> dict[str, bytes]:
    """What makes up the result: everything but what tells of this very run."""
    root = Path(output)
    paths = [p for p in root.rglob("*") if p.is_file() and p.name not in ("report.json",)]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def test_every_picture_becomes_a_row_and_a_bad_one_a_row_with_its_error(config, place):
    report = predict(config)
    assert (report.done, report.failed, report.skipped) == (9, 2, 0)
    found = {row["id"]: row for row in rows(config.output)}
    names = {p.relative_to(place / "photos").as_posix() for p in (place / "photos").rglob("*.png")}
    assert found.keys() == names
    assert "is not a picture" in found["04.png"]["error"] and found["04.png"]["mask"] is None
    assert "is empty" in found["sub/09.png"]["error"]
    good = found["sub/03.png"]
    assert good["error"] is None and good["model"] == config.model
    expected = Segmenter.from_pretrained(config.model, device="cpu", dtype=config.dtype)(
        place / "photos/sub/03.png"
    )
    assert (good["width"], good["height"]) == expected.image.size
    assert dict(good["shares"]) == {each.name: each.fraction for each in expected.legend}
    assert good["confidence"] == pytest.approx(float(expected.confidence.mean()))
    label_map = np.full(expected.label_map.shape, 255)
    for segment in good["mask"]:
        code = {"size": [good["height"], good["width"]], "counts": segment["counts"]}
        label_map[coco.decode(code).astype(bool)] = segment["index"]
    np.testing.assert_array_equal(label_map, expected.label_map)


def test_masks_may_be_png_bytes_or_files(config, place):
    expected = Segmenter.from_pretrained(config.model, device="cpu", dtype=config.dtype)(
        place / "photos/01.png"
    )
    as_bytes = replace(config, masks="png", output=config.output + "-png")
    as_files = replace(config, masks="files", output=config.output + "-files")
    predict(as_bytes), predict(as_files)
    content = {row["id"]: row["mask"] for row in rows(as_bytes.output)}["01.png"]
    where = {row["id"]: row["mask"] for row in rows(as_files.output)}["01.png"]
    for mask in (Image.open(io.BytesIO(content)), Image.open(Path(as_files.output) / where)):
        np.testing.assert_array_equal(np.asarray(mask), expected.label_map)
        assert mask.getpalette()[:9] == np.ravel(expected.labels.colors).tolist()[:9]


def test_an_id_never_leads_out_of_the_output_folder(config, place, tmp_path):
    picture = str(place / "photos" / "01.png")
    manifest = tmp_path / "m.jsonl"
    ids = ["../../evil", "/evil", "//evil", "./evil", "evil", "%/evil", "e\0", "", "n" * 300]
    manifest.write_text("\n".join(json.dumps({"path": picture, "id": id}) for id in ids))
    report = predict(replace(config, sources=(str(manifest),), masks="files"))
    assert (report.done, report.failed) == (8, 1)
    by_id = {row["id"]: row for row in rows(config.output)}
    assert by_id["n" * 300]["error"] == "Its mask cannot be written: File name too long."
    masks = [row["mask"] for row in by_id.values() if row["mask"]]
    output = Path(config.output).resolve()
    places = {(output / mask).resolve() for mask in masks}
    assert len(places) == 8 and all(place.is_file() for place in places)
    assert all(place.is_relative_to(output / "masks") for place in places)


def test_a_rerun_does_what_is_missing_and_nothing_else(config):
    predict(config)
    before = files(config.output)
    second = Path(config.output) / "part-000001.parquet"
    second.unlink()
    kept = {path: path.stat().st_mtime_ns for path in Path(config.output).glob("part-*")}
    report = predict(config)
    assert report.done + report.failed == 4 and report.skipped == 7
    assert files(config.output) == before
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert predict(config).skipped == 11


def test_the_plan_is_kept_whatever_becomes_of_the_sources(config, place, tmp_path):
    listing = tmp_path / "list.txt"
    listing.write_text(f"{place}/photos/00.png\n{place}/photos/01.png\n")
    config = replace(config, sources=(str(listing),))
    predict(config)
    (Path(config.output) / "part-000000.parquet").unlink()
    listing.write_text("")
    predict(config)
    assert len(rows(config.output)) == 2


@pytest.mark.parametrize("change", [{"masks": "png"}, {"shard_size": 5}, {"max_side": 16}])
def test_other_options_in_the_same_folder_are_refused(config, change):
    predict(config)
    with pytest.raises(PredictError, match=f"other options: {next(iter(change))} "):
        predict(replace(config, **change))


def test_another_model_in_the_same_place_is_refused(config, place, tmp_path):
    own = replace(config, model=str(tmp_path / "model"))
    make_tiny_model(seed=1).save_pretrained(own.model)
    predict(own)
    make_tiny_model(seed=2).save_pretrained(own.model)
    with pytest.raises(PredictError, match="weights_sha256"):
        predict(own)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": ()}, "no source"),
        ({"shard_size": 0}, "shard_size must be 1 or more"),
        ({"workers": (3, 2)}, "workers are the least and the most"),
    ],
)
def test_wrong_options_are_refused(config, change, message):
    with pytest.raises(PredictError, match=message):
        replace(config, **change)


def test_the_report_is_written_too(config):
    report = predict(config)
    written = json.loads((Path(config.output) / "report.json").read_text())
    assert written["done"] == 9 and written["failed"] == 2
    assert written["pictures_per_second"] == pytest.approx(11 / report.seconds)
    assert str(report).startswith("9 done, 2 failed, 0 skipped")


def test_a_run_of_relative_paths_is_the_same_wherever_its_workers_stand(
    config, place, tmp_path, monkeypatch
):
    predict(config)
    monkeypatch.chdir(place)
    # A worker's working folder is none of the driver's: here it changes as soon as one starts.
    load = predicting._load

    def elsewhere(*args):
        monkeypatch.chdir("/")
        return load(*args)

    monkeypatch.setattr(predicting, "_load", elsewhere)
    output = os.path.relpath(tmp_path / "relative", place)
    predict(replace(config, sources=("photos",), model="model", output=output))
    named = {"model": "model"}  # as it was given
    found = rows(str(tmp_path / "relative"))
    assert found == [row | named for row in rows(config.output)]


# --- faults -------------------------------------------------------------------------------------


def dying(config: PredictConfig, shard: int) -> None:
    """Predict, and be killed in the middle of a shard."""
    original = ShardWriter._row

    def row(self, entry, *args):
        if entry.id == f"{shard:02}.png":
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, entry, *args)

    ShardWriter._row = row
    predict(config)


@pytest.mark.parametrize("picture", [1, 7, 10])
@pytest.mark.parametrize("masks", ["rle", "files"])
def test_killed_in_the_middle_and_rerun_it_equals_an_undisturbed_run(
    config, tmp_path, picture, masks
):
    config = replace(config, masks=masks)
    undisturbed = replace(config, output=str(tmp_path / "undisturbed"))
    predict(undisturbed)
    process = multiprocessing.get_context("spawn").Process(target=dying, args=(config, picture))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    finished = sorted(Path(config.output).glob("part-*.parquet"))
    assert len(finished) < 3
    predict(config)
    assert files(config.output) == files(undisturbed.output)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("masks", ["png", "files"])
def test_a_full_disk_stops_the_run_and_with_more_room_it_goes_on(config, tmp_path, masks):
    undisturbed = replace(config, masks=masks, output=str(tmp_path / "undisturbed"))
    predict(undisturbed)
    disk = tmp_path / "disk"
    full = replace(config, masks=masks, output=str(disk / "out"))
    with small_disk(disk, "256k"):
        (disk / "ballast").write_bytes(bytes(228 * 1024))
        with pytest.raises(OSError, match="No space left"):
            predict(full)
        assert list((disk / "out").rglob(".*.tmp")) == []
        (disk / "ballast").unlink()
        predict(full)
        assert files(full.output) == files(undisturbed.output)


def test_no_room_for_masks_is_not_the_fault_of_a_picture(config):
    with small_disk(Path(config.output) / "masks", "8k"):
        with pytest.raises(OSError, match="No space left"):
            predict(replace(config, masks="files"))
        assert list(Path(config.output).glob("part-*")) == []


# --- the program --------------------------------------------------------------------------------


def run_script(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "scripts" / "predict.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_program_predicts_and_says_in_one_line_what_is_wrong(config):
    options = ["--model", config.model, "--output", config.output]
    done = run_script(*config.sources, *options, "--device", "cpu", "--shard-size", "4")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("9 done, 2 failed, 0 skipped (done before); ")
    assert len(rows(config.output)) == 11
    wrong = run_script("nowhere", "--model", config.model, "--output", config.output + "2")
    assert wrong.returncode == 1
    assert wrong.stderr.splitlines()[-1] == "error: nowhere does not exist."


def test_the_benchmarks_counts_and_rates_fit_together(place, tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "benchmark_bulk.py")]
    command += ["--model", str(place / "model"), "--counts", "12", "24", "--engines", "local"]
    command += ["--shard-size", "2", "--side", "16", "--json", str(tmp_path / "record.json")]
    subprocess.run(command, check=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)})
    record = json.loads((tmp_path / "record.json").read_text())
    assert [(row["engine"], row["pictures"]) for row in record["rows"]] == [
        ("local", 12),
        ("local", 24),
    ]
    for row in record["rows"]:
        seconds = row["pictures"] / row["pictures_per_second"]
        assert row["seconds"] == pytest.approx(seconds, abs=0.006)  # rounded to hundredths
        assert row["steady_pictures_per_second"] > row["pictures_per_second"]  # nothing is loaded


def test_the_benchmarks_memory_is_the_most_of_a_quarter():
    memory = runpy.run_path(str(ROOT / "scripts" / "benchmark_bulk.py"))["memory"]
    mib = 2**20
    samples = [(shards, (100 + shards) * mib, 0) for shards in range(21)]
    assert memory(samples, 20) == {"driver": [110, 120]}  # and no actors
    with_actors = [(shards, mib, 7 * mib) for shards in range(21)]
    assert memory(with_actors, 20)["actor"] == [7, 7]
