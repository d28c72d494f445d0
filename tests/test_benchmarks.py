"""The programs that measure speed run, and what they write down fits together."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import make_tiny_model

ROOT = Path(__file__).resolve().parent.parent


def run(program: str, *arguments: str) -> str:
    """What the program wrote to the standard error."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / program), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def compared(folder: Path, *arguments: str) -> dict[str, Any]:
    """The record of a comparison with a small network."""
    make_tiny_model().save_pretrained(folder / "model")
    fixed = ("--model", str(folder / "model"), "--threads", "1", "--rounds", "3")
    run("benchmark.py", *fixed, "--output", str(folder), *arguments)
    return json.loads((folder / "benchmark.json").read_text())


@pytest.mark.slow
def test_contenders_for_inference_are_compared_with_the_plain_network(tmp_path):
    found = compared(
        tmp_path,
        *("--contenders", "plain", "ours", "--cases", "1x64x96", "2x33x50", "--stream", "12"),
    )
    cases = [(row["contender"], row["case"]) for row in found["rows"]]
    expected = ["1×64×96", "2×33×50"]
    assert cases == [(name, case) for case in expected for name in ("plain", "ours")]
    for plain, ours in zip(found["rows"][::2], found["rows"][1::2], strict=True):
        assert plain["ratio"] == 1
        ratio = plain["seconds_per_picture"] / ours["seconds_per_picture"]
        assert ours["ratio"] == pytest.approx(ratio)
        assert 0 < plain["fraction_of_peak"] < 2
    assert set(found["profile"]) == {"plain", "ours"}
    for times in found["profile"].values():
        assert any("conv" in operation for operation in times) and min(times.values()) > 0
    least = {"float32": 0.999, "bfloat16": 0.95}[found["rows"][1]["precision"]]
    assert found["agreement"]["plain"] == 1
    assert least <= found["agreement"]["ours"] <= 1
    assert found["stream"]["pictures"] == 12
    assert {"decode", "preprocess", "network", "drawing"} <= set(found["stages"])
    assert (tmp_path / "benchmark.png").stat().st_size > 5000


@pytest.mark.slow
def test_the_road_from_uint8_pictures_to_labels_is_compared_too(tmp_path):
    found = compared(
        tmp_path,
        *("--contenders", "plain", "ours", "torchvision", "--cases", "2x64x96", "--stream", "0"),
        "--end-to-end",
    )
    assert found["machine"]["end_to_end"]
    assert [row["contender"] for row in found["rows"]] == ["plain", "ours"]
    assert found["not_measured"] == {"torchvision": "It is not measured end to end."}
    for name, times in found["profile"].items():  # normalising and finding labels are in it
        assert {"aten::div", "aten::argmax" if name == "plain" else "aten::max"} <= set(times)
    assert found["agreement"]["ours"] >= 0.95


@pytest.mark.slow
def test_a_training_step_is_compared_with_torchvisions(tmp_path):
    record = tmp_path / "found.json"
    options = ("--batch-size", "2", "--crop", "32", "64", "--rounds", "3", "--json", str(record))
    run("benchmark_training.py", *options)
    found = json.loads(record.read_text())
    peer = found["rows"]["torchvision fcn_resnet50"]
    assert peer["ratio"] == 1
    for row in found["rows"].values():
        assert row["ratio"] == pytest.approx(peer["seconds"] / row["seconds"], rel=0.02)
    assert found["rows"]["fcn-hub, conv1 and conv2 frozen"]["seconds"] > 0
