"""examples/call_space.py against the web app, served for real."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import make_picture
from PIL import Image
from serving import make_catalog, serve

EXAMPLE = Path(__file__).parents[2] / "examples" / "call_space.py"


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    catalog = make_catalog(tmp_path_factory.mktemp("models"))
    with serve(catalog, tmp_path_factory.mktemp("gradio")) as url:
        yield url, catalog.segmenter("animals")


def call(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, EXAMPLE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_program_prints_the_classes_and_keeps_the_pictures(app, tmp_path):
    url, segmenter = app
    Image.fromarray(make_picture(60, 80)).save(tmp_path / "photo.png")
    done = call(url, tmp_path / "photo.png", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    expected = segmenter(tmp_path / "photo.png")
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        entry.name for entry in expected.legend
    ]
    mask = np.asarray(Image.open(tmp_path / "out" / "mask.png"))
    np.testing.assert_array_equal(mask, expected.label_map)
    assert Image.open(tmp_path / "out" / "overlay.png").size == (80, 60)


def test_what_the_app_refuses_is_one_line(app, tmp_path):
    url, _ = app
    (tmp_path / "text.png").write_text("no picture")
    done = call(url, tmp_path / "text.png", "--output", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.startswith("error: text.png is not a picture")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
