"""The programs in examples/ that need neither the Hub nor the web app, as users run them."""

import io
import os
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import make_picture
from PIL import Image

from fcn_hub import Segmenter

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: object) -> str:
    command = [sys.executable, EXAMPLES / name, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_listed_and_run_by_a_test():
    names = {path.name for path in EXAMPLES.glob("*.py")}
    page = (EXAMPLES / "README.md").read_text()
    tests = "".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py"))
    for name in names:
        assert f"({name})" in page
        assert f'"{name}"' in tests


def test_segment_says_what_is_in_the_picture_and_writes_it(checkpoint, tmp_path):
    picture = tmp_path / "photo.png"
    Image.fromarray(make_picture(50, 70)).save(picture)
    printed = run("segment.py", picture, "--model", checkpoint, "--output", tmp_path / "out")
    expected = Segmenter.from_pretrained(checkpoint, device="cpu")(picture)
    assert [line.split(":")[0] for line in printed.splitlines()] == [
        entry.name for entry in expected.legend
    ]
    mask = np.asarray(Image.open(tmp_path / "out" / "mask.png"))
    np.testing.assert_array_equal(mask, expected.label_map)
    cutout = np.asarray(Image.open(tmp_path / "out" / "cutout.png"))
    largest = expected.label_map == expected.legend[0].index
    np.testing.assert_array_equal(cutout[..., 3] == 255, largest)
    assert Image.open(tmp_path / "out" / "overlay.png").width >= 70


def test_features_tell_bright_pictures_from_dark_ones(checkpoint, tmp_path):
    for name, offset in (("bright", 90), ("dark", 0)):
        (tmp_path / "classes" / name).mkdir(parents=True)
        for number in range(8):
            picture = make_picture(40, 40, number) // 2 + offset
            Image.fromarray(picture.astype(np.uint8)).save(
                tmp_path / "classes" / name / f"{number}.png"
            )
    printed = run(
        "feature_extractor.py", tmp_path / "classes", "--model", checkpoint, "--steps", 100
    )
    assert printed == "4 of 4 held-out pictures are classified right\n"


# --- the service -------------------------------------------------------------------------------


@pytest.fixture
def service(checkpoint, monkeypatch):
    """A client of the app, and the app's own variables."""
    testclient = pytest.importorskip("fastapi.testclient")
    monkeypatch.setenv("FCN_HUB_MODEL", str(checkpoint))
    app = runpy.run_path(str(EXAMPLES / "serve_fastapi.py"))["app"]
    (route,) = [route for route in app.routes if getattr(route, "path", "") == "/segment"]
    with testclient.TestClient(app) as client:
        yield client, route.endpoint.__globals__


@pytest.fixture
def picture() -> bytes:
    file = io.BytesIO()
    Image.fromarray(make_picture(50, 70)).save(file, format="PNG")
    return file.getvalue()


def test_the_service_answers_in_three_ways(service, checkpoint, picture):
    client, _ = service
    expected = Segmenter.from_pretrained(checkpoint, device="cpu")(picture)
    assert client.post("/segment", content=picture).json() == expected.to_dict()
    mask = client.post("/segment?answer=mask", content=picture)
    assert mask.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(mask.content))), expected.label_map
    )
    overlay = client.post("/segment?answer=overlay", content=picture)
    assert Image.open(io.BytesIO(overlay.content)).size == expected.overlay(legend=True).size


def test_the_service_refuses_in_words(service, picture):
    client, names = service
    for body, status, words in (
        (b"text", 422, "is not a picture"),
        (b"", 422, "is empty"),
        (picture[:200], 422, "The input"),
        (bytes(names["MAX_BYTES"] + 1), 413, "at most 20,971,520 are accepted"),
    ):
        answer = client.post("/segment", content=body)
        assert (answer.status_code, list(answer.json())) == (status, ["error"])
        assert words in answer.json()["error"]
    assert client.post("/segment?answer=gif", content=picture).status_code == 422
    assert client.post("/segment", content=picture).status_code == 200


def test_the_service_turns_away_what_it_cannot_hold(service, picture):
    client, names = service
    names["open_requests"] = names["MAX_OPEN"]
    answer = client.post("/segment", content=picture)
    assert (answer.status_code, answer.json()["error"][:8]) == (503, "Too many")
    names["open_requests"] = 0
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: client.post("/segment", content=picture), range(8)))
    assert [answer.status_code for answer in answers] == [200] * 8
    assert names["open_requests"] == 0
