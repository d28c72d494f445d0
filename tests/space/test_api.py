"""The web app, served for real and used through its API."""

import asyncio
import base64
import csv
import io
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import httpx
import numpy as np
import pytest
import safehttpx
from conftest import make_picture
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from serving import clips, fetch, make_catalog, serve, service

from fcn_hub.video import Frame, open_clip, write_video


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return make_catalog(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("gradio")


@pytest.fixture(scope="module")
def client(catalog, cache, tmp_path_factory):
    with serve(catalog, cache) as url:
        yield Client(url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(make_picture(60, 80)).save(path)
    return path


def test_the_answer_is_the_segmenters_to_the_pixel(client, catalog, picture):
    overlay, summary, mask = client.predict(handle_file(picture), api_name="/segment")
    expected = catalog.segmenter("animals")(picture)
    np.testing.assert_array_equal(np.asarray(Image.open(mask)), expected.label_map)
    np.testing.assert_array_equal(np.asarray(Image.open(overlay)), np.asarray(expected.overlay()))
    assert {key: summary[key] for key in ("width", "height", "classes")} == expected.to_dict()
    assert summary["model"] == "animals"
    assert summary["device"] == "CPU"
    assert set(summary["milliseconds"]) == {"decode", "network", "other"}


def test_the_masks_palette_is_the_legend(client, picture):
    _, summary, mask = client.predict(handle_file(picture), api_name="/segment")
    palette = np.reshape(Image.open(mask).getpalette(), (-1, 3))
    for entry in summary["classes"]:
        assert bytes(palette[entry["index"]].tolist()).hex() == entry["color"][1:]


def test_model_and_opacity_can_be_chosen(client, catalog, picture):
    overlay, summary, mask = client.predict(
        picture=handle_file(picture), model="odd-names", opacity=1, api_name="/segment"
    )
    expected = catalog.segmenter("odd-names")(picture)
    assert summary["model"] == "odd-names"
    np.testing.assert_array_equal(np.asarray(Image.open(mask)), expected.label_map)
    np.testing.assert_array_equal(np.asarray(Image.open(overlay)), np.asarray(expected.colored()))


@pytest.mark.parametrize("name", ["owner/name", "../animals", "/etc", ""])
def test_no_visitor_loads_a_model_that_is_not_offered(client, catalog, picture, name):
    with pytest.raises((AppError, ValueError), match="list of choices"):
        client.predict(handle_file(picture), model=name, api_name="/segment")
    assert set(catalog.loaded) <= set(catalog.names)


def test_many_pictures_give_masks_and_shares_and_one_bad_file_stops_nothing(
    client, catalog, picture, tmp_path
):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    Image.fromarray(make_picture(40, 50, 5)).save(tmp_path / "two.png")
    paths = [picture, tmp_path / "broken.png", tmp_path / "two.png"]
    archive, table = client.predict(
        [handle_file(path) for path in paths], api_name="/segment_batch"
    )
    assert [row["mask"] for row in table] == ["001-picture.png", None, "003-two.png"]
    assert table[1]["error"].startswith("broken.png is not a picture")
    with zipfile.ZipFile(archive) as file:
        assert file.testzip() is None
        lines = list(csv.reader(io.TextIOWrapper(file.open("classes.csv"), "utf-8-sig")))
    assert lines[0] == ["picture", "mask", "error", "background", "cat", "dog"]
    for line, path in zip([lines[1], lines[3]], [paths[0], paths[2]], strict=True):
        legend = {entry.name: entry.fraction for entry in catalog.segmenter("animals")(path).legend}
        shares = [legend.get(name, 0) for name in lines[0][3:]]
        np.testing.assert_allclose([float(cell) for cell in line[3:]], shares, atol=1e-6)


def test_an_empty_or_too_long_batch_is_refused(client, picture):
    with pytest.raises(AppError, match="at least one"):
        client.predict([], api_name="/segment_batch")
    with pytest.raises(AppError, match="At most 50 pictures are accepted, not 51"):
        client.predict([handle_file(picture)] * 51, api_name="/segment_batch")


def test_only_the_three_endpoints_are_public_and_they_are_described(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert sorted(endpoints) == ["/segment", "/segment_batch", "/segment_video"]
    parameters = endpoints["/segment"]["parameters"]
    assert [each["parameter_name"] for each in parameters] == ["picture", "model", "opacity"]
    assert [each["label"] for each in endpoints["/segment"]["returns"]] == [
        "overlay",
        "summary",
        "mask",
    ]


@pytest.fixture
def clip(tmp_path):
    frames = (Frame(i / 10, Image.fromarray(make_picture(48, 64, i))) for i in range(5))
    write_video(tmp_path / "clip.mp4", frames)
    return tmp_path / "clip.mp4"


def test_a_clip_gives_a_video_and_a_summary(client, catalog, clip):
    film, summary = client.predict(handle_file(clip), api_name="/segment_video")
    written = list(open_clip(film).frames(max_seconds=9, rate=99, max_side=999))
    assert len(written) == summary["frames"] == 5
    assert written[0].image.width >= 64 and written[0].image.height > 48  # the legend is below
    assert (summary["width"], summary["height"], summary["model"]) == (64, 48, "animals")
    expected = [
        catalog.segmenter("animals")(frame.image).label_map
        for frame in open_clip(clip).frames(max_seconds=9, rate=99, max_side=999)
    ]
    counts = np.bincount(np.ravel(expected), minlength=3)
    assert {each["index"]: each["pixels"] for each in summary["classes"]} == {
        index: count for index, count in enumerate(counts) if count
    }


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"no video", "bad.mp4 is not a video"), (bytes(1001), "at most 1,000 are accepted")],
)
def test_a_clip_that_cannot_be_used_gets_a_friendly_answer(
    client, tmp_path, cache, monkeypatch, content, says
):
    monkeypatch.setattr(service, "MAX_CLIP_BYTES", 1000)
    (tmp_path / "bad.mp4").write_bytes(content)
    with pytest.raises(AppError, match=says) as error:
        client.predict(handle_file(tmp_path / "bad.mp4"), api_name="/segment_video")
    assert str(cache) not in str(error.value)
    with pytest.raises(AppError, match="Choose a clip first"):
        client.predict(None, api_name="/segment_video")


def test_others_are_answered_while_a_clip_is_segmented(client, catalog, picture, clip, monkeypatch):
    begun, may_go_on = threading.Event(), threading.Event()
    add = clips.Reel._add

    def waits(reel, frames):
        begun.set()
        assert may_go_on.wait(60)
        return add(reel, frames)

    monkeypatch.setattr(clips.Reel, "_add", waits)
    job = client.submit(handle_file(clip), api_name="/segment_video")
    assert begun.wait(60)
    client.predict(handle_file(picture), api_name="/segment")
    assert not job.done()
    may_go_on.set()
    assert job.result()[1]["frames"] == 5


def test_live_frames_are_answered_without_a_file_and_within_limits(catalog, tmp_path):
    answers = service.Service(catalog, tmp_path / "files")
    file = io.BytesIO()
    Image.fromarray(make_picture(48, 64)).save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    answer = answers.segment_live(url, "animals", 7)
    expected = catalog.segmenter("animals")(file.getvalue())
    assert answer["request"] == 7 and answer["classes"] == expected.to_dict()["classes"]
    labels = Image.open(io.BytesIO(base64.b64decode(answer["labels"].partition(",")[2])))
    np.testing.assert_array_equal(np.asarray(labels), np.asarray(expected.colored()))
    assert not (tmp_path / "files").exists()
    large = f"data:image/png;base64,{base64.b64encode(bytes(service.MAX_LIVE_BYTES + 1)).decode()}"
    assert answers.segment_live(large, "animals", 8) == {"request": 8, "error": "bytes"}
    assert answers.segment_live("/etc/passwd", "animals", 9)["error"] in ("damaged", "format")


def test_a_broken_file_gets_a_friendly_answer_and_the_app_lives_on(
    client, picture, tmp_path, cache
):
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture.read_bytes()[:100])
    with pytest.raises(
        AppError, match=r"broken\.png (cannot be decoded|is not a picture)"
    ) as error:
        client.predict(handle_file(broken), api_name="/segment")
    assert str(cache) not in str(error.value)
    client.predict(handle_file(picture), api_name="/segment")


def test_too_large_a_picture_is_refused(client, tmp_path):
    Image.new("1", (1100, 1000)).save(tmp_path / "large.png")
    with pytest.raises(AppError, match="at most 1,000,000 are accepted"):
        client.predict(handle_file(tmp_path / "large.png"), api_name="/segment")


def test_nothing_is_segmented_without_a_picture(client):
    with pytest.raises(AppError, match="Choose a picture first"):
        client.predict(None, api_name="/segment")


def test_requests_at_the_same_time_wait_in_the_queue_and_all_succeed(client, catalog, tmp_path):
    paths = []
    for seed in range(6):
        paths.append(tmp_path / f"{seed}.png")
        Image.fromarray(make_picture(40 + seed, 64, seed)).save(paths[-1])
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(lambda path: client.predict(handle_file(path), api_name="/segment"), paths)
        )
    for path, (_, _, mask) in zip(paths, answers, strict=True):
        expected = catalog.segmenter("animals")(path).label_map
        np.testing.assert_array_equal(np.asarray(Image.open(mask)), expected)


def test_all_files_are_in_gradios_cache_and_nowhere_else(client, picture, cache):
    before = set(cache.rglob("*.png"))
    client.predict(handle_file(picture), api_name="/segment")
    new = {path.name.partition("-")[2] for path in set(cache.rglob("*.png")) - before}
    assert {"overlay.png", "mask.png"} <= new


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/secret.png", "http://localhost/a.png", "http://169.254.169.254/"]
)
def test_urls_inside_the_servers_network_are_refused(client, url):
    with pytest.raises(AppError, match="could not be fetched"):
        client.predict(handle_file(url), api_name="/segment")


@pytest.fixture
def internet(monkeypatch):
    """Answers for URLs, by path; every host counts as public."""
    answers: dict[str, httpx.Response] = {}

    async def validate(host):
        return "203.0.113.1"

    monkeypatch.setattr(safehttpx, "async_validate_url", validate)
    transport = httpx.MockTransport(lambda request: answers[request.url.path])
    monkeypatch.setattr(safehttpx, "AsyncSecureTransport", lambda ip: transport)
    return answers


def test_a_picture_by_url_is_fetched_under_a_name_of_the_servers_own(internet, tmp_path):
    internet["/../../a.png"] = internet["/a.png"] = httpx.Response(200, content=b"picture")
    internet["/old"] = httpx.Response(302, headers={"Location": "/a.png"})
    path = asyncio.run(fetch.fetch("https://example.org/old", tmp_path, 100))
    assert path.read_bytes() == b"picture"
    assert path.parent == tmp_path and "a.png" not in path.name


def test_a_picture_by_url_has_the_same_limit_of_bytes(internet, tmp_path):
    internet["/large"] = httpx.Response(200, content=bytes(101))
    with pytest.raises(gr.Error, match="too many bytes; at most 100 are accepted"):
        asyncio.run(fetch.fetch("https://example.org/large", tmp_path, 100))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["/missing", "/loop"])
def test_a_url_that_gives_nothing_is_a_friendly_error(internet, tmp_path, path):
    internet["/missing"] = httpx.Response(404)
    internet["/loop"] = httpx.Response(302, headers={"Location": "/loop"})
    with pytest.raises(gr.Error, match="could not be fetched"):
        asyncio.run(fetch.fetch(f"https://example.org{path}", tmp_path, 100))


def test_no_component_may_download_without_the_limit(client):
    # Gradio fetches URLs in whatever is sent to any component, not only in pictures.
    smuggled = {"path": "http://127.0.0.1:9/x", "meta": {"_type": "gradio.FileData"}}
    body = json.dumps({"data": [None, smuggled, 0.6]}).encode()
    post = urllib.request.Request(
        f"{client.src}gradio_api/call/segment", body, {"Content-Type": "application/json"}
    )
    event = json.load(urllib.request.urlopen(post))["event_id"]
    answer = urllib.request.urlopen(f"{client.src}gradio_api/call/segment/{event}").read()
    assert b"could not be fetched" in answer


def test_requests_other_than_uploads_are_small(client):
    def post(size: int) -> int:
        body = b'{"data": [null, "animals", "' + b"x" * size + b'"]}'
        content = (body[at : at + 2**16] for at in range(0, len(body), 2**16))
        headers = {"Content-Type": "application/json"}
        url = f"{client.src}gradio_api/call/segment"
        return httpx.post(url, content=content, headers=headers).status_code  # in chunks

    assert post(1000) == 200
    assert post(2**20) == 413
    assert post(1000) == 200


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_command_serves_the_page(checkpoint, tmp_path):
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "fcn_hub", "demo", "--model", checkpoint, "--port", str(port)],
        env={**os.environ, "GRADIO_TEMP_DIR": str(tmp_path / "gradio")},
        cwd=Path(__file__).parents[2],
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


def test_on_zerogpu_the_network_runs_in_another_process(catalog, picture, tmp_path, monkeypatch):
    calls = []

    def gpu(duration):
        """As of the package spaces: arguments and results cross a process border."""

        def decorate(function):
            def call(*arguments):
                calls.append((function.__name__, duration))
                return pickle.loads(pickle.dumps(function(*pickle.loads(pickle.dumps(arguments)))))

            return call

        return decorate

    monkeypatch.setattr(service, "spaces", SimpleNamespace(GPU=gpu))
    with serve(catalog, tmp_path / "gradio") as url:
        client = Client(url, verbose=False, download_files=str(tmp_path / "downloads"))
        _, _, mask = client.predict(handle_file(picture), api_name="/segment")
    expected = catalog.segmenter("animals")(picture).label_map
    np.testing.assert_array_equal(np.asarray(Image.open(mask)), expected)
    assert calls == [("_classify_here", service.GPU_SECONDS)]
