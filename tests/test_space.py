"""The web app, served for real and used through its API."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from conftest import make_picture, make_tiny_model
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from fcn_hub import Segmenter

APP = Path(__file__).parents[1] / "space" / "app.py"


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    os.environ["GRADIO_TEMP_DIR"] = str(tmp_path_factory.mktemp("gradio"))
    spec = importlib.util.spec_from_file_location("space_app", APP)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # Gradio looks the components' source up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(make_tiny_model(), device="cpu", dtype="float32", max_pixels=1_000_000)


@pytest.fixture(scope="module")
def client(app, segmenter, tmp_path_factory):
    demo = app.build(segmenter)
    _, url, _ = demo.queue().launch(prevent_thread_lock=True, quiet=True, run_history=False)
    yield Client(url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))
    demo.close()


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(make_picture(60, 80)).save(path)
    return path


def test_the_answer_is_the_segmenters_to_the_pixel(client, segmenter, picture):
    overlay, legend, mask = client.predict(handle_file(picture), api_name="/segment")
    expected = segmenter(picture)
    np.testing.assert_array_equal(np.asarray(Image.open(mask)), expected.label_map)
    np.testing.assert_array_equal(np.asarray(Image.open(overlay)), np.asarray(expected.overlay()))
    for entry in expected.legend:
        assert f"background:{entry.color_hex}" in legend
        assert f"{entry.name}</td><td>{entry.fraction:.1%}" in legend


def test_only_the_segment_endpoint_is_public(client):
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/segment"]


def test_a_broken_file_gets_a_friendly_answer_and_the_app_lives_on(client, picture, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture.read_bytes()[:100])
    with pytest.raises(AppError, match=r"broken\.png (cannot be decoded|is not a picture)") as error:
        client.predict(handle_file(broken), api_name="/segment")
    assert os.environ["GRADIO_TEMP_DIR"] not in str(error.value)
    client.predict(handle_file(picture), api_name="/segment")


def test_too_large_a_picture_is_refused(client, tmp_path):
    Image.new("1", (1100, 1000)).save(tmp_path / "large.png")
    with pytest.raises(AppError, match="at most 1,000,000 are accepted"):
        client.predict(handle_file(tmp_path / "large.png"), api_name="/segment")


def test_nothing_is_segmented_without_a_picture(client):
    with pytest.raises(AppError, match="Choose a picture first"):
        client.predict(None, api_name="/segment")


def test_class_names_cannot_inject_html(app):
    model = make_tiny_model(class_names=["<script>", "a&b", "c"])
    result = Segmenter(model, device="cpu")(make_picture(40, 40))
    legend = app.legend_html(result, 0.1, "cpu")
    assert "<script>" not in legend


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_command_serves_the_page(checkpoint, tmp_path):
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "fcn_hub", "demo", "--model", checkpoint, "--port", str(port)],
        env={**os.environ, "GRADIO_TEMP_DIR": str(tmp_path / "gradio")},
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
                break
            except OSError:
                assert process.poll() is None, "the app ended"
                assert time.monotonic() < deadline, "the app did not answer"
                time.sleep(0.3)
        assert b"FCN: segment a picture" in page
    finally:
        process.terminate()
        process.wait(timeout=20)
