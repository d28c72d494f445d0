"""Clips and the live camera, in a real browser."""

import time

import av
import numpy as np
import pytest
from browsing import needs_chromium, png
from conftest import make_picture
from PIL import Image
from serving import clips, service

from fcn_hub.video import Frame, open_clip, write_video

pytest_plugins = ["browser_fixtures"]
pytestmark = needs_chromium


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """One second of 10 frames that move over a picture."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    picture = make_picture(100, 160)
    frames = (Frame(i / 10, Image.fromarray(picture[:96, 4 * i : 4 * i + 112])) for i in range(10))
    write_video(path, frames)
    return path


def read(content: bytes, folder) -> list[Frame]:
    (folder / "film.mp4").write_bytes(content)
    film = open_clip(folder / "film.mp4")
    return list(film.frames(max_seconds=100, rate=100, max_side=2000))


def test_a_clip_comes_back_as_a_video_whose_frames_carry_the_legend(
    page, models, clip, tmp_path, monkeypatch
):
    add = clips.Reel._add

    def slowly(reel, frames):
        time.sleep(0.2)
        return add(reel, frames)

    monkeypatch.setattr(clips, "_MOST_AT_ONCE", 1)
    monkeypatch.setattr(clips.Reel, "_add", slowly)
    page.open("video")
    assert page.is_visible("text=Drop a short clip here")
    seen = []
    page.expose_function("tell", lambda text: seen.append(text))
    page.evaluate(
        """() => new MutationObserver(() =>
            tell(document.querySelector("#video .fcn-newest").src.slice(0, 22) + " " +
                 document.querySelector("#video progress").value)
        ).observe(document.querySelector("#video progress"), { attributes: true })"""
    )
    page.set_input_files(".fcn-clipfile", clip)
    page.wait_for("ready", "#video")
    assert any(text.startswith("data:image/jpeg;base64") for text in seen)  # a frame at a time
    assert len({text.split()[-1] for text in seen}) > 2

    frames = read(page.download(".fcn-save-clip"), tmp_path)
    assert len(frames) == 10
    assert page.inner_text(".fcn-video-status").startswith("Done: 10 frames in 1 seconds, on CPU")
    rows = page.locator("#video tr[data-present]").all()
    names = [row.locator("td").first.inner_text() for row in rows]
    labels = models.segmenter("animals").labels
    assert set(names) <= set(labels.names) and len(names) > 1
    for frame in frames:
        values = np.asarray(frame.image).astype(int)
        below = values[96:]
        assert below.size
        for name in names:
            color = labels.colors[labels.names.index(name)]
            assert (np.abs(below - color).max(axis=-1) <= 12).sum() > 50, name
        # And what is above is the package's own overlay of that frame.
    original = next(open_clip(clip).frames(max_seconds=1, rate=100, max_side=clips.SIDE))
    overlay = np.asarray(models.segmenter("animals")(original.image).overlay()).astype(int)
    shown = np.asarray(frames[0].image).astype(int)[:96, :112]

    def blocks(
        values,
    ):  # the tiny network's classes are as fine as noise; video has no such colours
        return values.reshape(12, 8, 14, 8, 3).mean(axis=(1, 3))

    assert np.abs(blocks(shown) - blocks(overlay)).mean() < 8
    assert np.abs(blocks(shown) - blocks(np.asarray(original.image))).mean() > 16


def test_the_browser_plays_the_video_in_the_legends_colours(page, models, clip):
    page.open("video").set_input_files(".fcn-clipfile", clip)
    page.wait_for("ready", "#video")
    page.wait_for_function("document.querySelector('.fcn-result').readyState >= 2")
    drawn = page.evaluate(
        """() => {
            const video = document.querySelector(".fcn-result");
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
            const context = canvas.getContext("2d");
            context.drawImage(video, 0, 0);
            const { width, height } = canvas;
            return [width, [...context.getImageData(0, 0, width, height).data]];
        }"""
    )
    pixels = np.reshape(drawn[1], (-1, drawn[0], 4))[96:, :, :3].astype(int)
    swatches = page.locator("#video tr[data-present] i").evaluate_all(
        "nodes => nodes.map(node => getComputedStyle(node).backgroundColor)"
    )
    for swatch in swatches:
        color = [int(part) for part in swatch[4:-1].split(",")]
        assert (np.abs(pixels - color).max(axis=-1) <= 12).sum() > 50, swatch


def test_the_example_clip_needs_no_file(page):
    page.open("video").click('#video [data-example="cat"]')
    page.wait_for("ready", "#video")
    assert "3" in page.inner_text(".fcn-video-status")
    page.click(".fcn-another-clip")
    page.wait_for("empty", "#video")
    assert page.locator("#video tr[data-present]").count() == 0


def test_of_a_long_clip_the_beginning_is_used_and_it_says_so(page, tmp_path):
    image = Image.fromarray(make_picture(32, 48))
    write_video(tmp_path / "long.mp4", (Frame(i / 2, image) for i in range(60)))
    page.open("video").set_input_files(".fcn-clipfile", tmp_path / "long.mp4")
    page.wait_for("ready", "#video")
    assert "of the first 10 of 30 seconds" in page.inner_text(".fcn-video-status")
    assert read(page.download(".fcn-save-clip"), tmp_path)[-1].seconds < clips.MAX_SECONDS


def large_clip(path) -> bytes:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 4096, 2304, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (4096, 2304)))))
        container.mux(stream.encode(None))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda path: b"This is no video.", "not a video of a kind that is known"),
        (lambda path: b"#EXTM3U\n#EXTINF:9,\n/etc/passwd\n", "not a video of a kind"),
        (lambda path: bytes(service.MAX_CLIP_BYTES + 1), "Up to 50 MB"),
        (large_clip, "Up to 9 megapixels"),
    ],
    ids=["no video", "play list", "too many bytes", "too many pixels"],
)
def test_a_clip_that_cannot_be_used_is_explained_and_the_next_one_works(
    page, clip, tmp_path, content, says
):
    (tmp_path / "bad.mp4").write_bytes(content(tmp_path / "new.mp4"))
    page.open("video").set_input_files(".fcn-clipfile", tmp_path / "bad.mp4")
    page.wait_for("error", "#video")
    assert page.inner_text("#video .fcn-error-title") == "This clip cannot be used"
    assert says in page.inner_text("#video .fcn-error-text")
    page.set_input_files(".fcn-clipfile", clip)
    page.wait_for("ready", "#video")


def test_the_camera_is_segmented_live_and_nothing_is_kept(page, models, cache):
    page.open("live")
    files = sorted(path for path in cache.rglob("*") if path.is_file())
    page.click(".fcn-start")
    page.wait_for("ready", "#live")
    clock = ".fcn-speed:not([hidden])"
    page.wait_for_selector(clock)
    first = page.pixels("#live canvas")
    page.wait_for_function(
        "data => document.querySelector('#live canvas').toDataURL() !== data",
        arg=page.evaluate("document.querySelector('#live canvas').toDataURL()"),
    )
    assert first.std() > 0
    assert "pictures a second" in page.inner_text(clock)
    assert page.locator("#live tr[data-present]").count() > 0
    page.wait_for_function("document.querySelector('.fcn-timing').textContent.includes('on CPU')")
    page.click(".fcn-stop")
    page.wait_for("empty", "#live")
    assert page.evaluate("document.querySelector('#live video').srcObject") is None
    assert sorted(path for path in cache.rglob("*") if path.is_file()) == files


def test_the_camera_shows_what_was_segmented_in_the_classes_colours(page, models):
    page.open("live")
    page.set_slider("#live .fcn-opacity input", 100)
    page.click(".fcn-start")
    page.wait_for_selector(".fcn-speed:not([hidden])")
    shown = {tuple(color) for color in page.pixels("#live canvas").reshape(-1, 3).tolist()}
    assert shown <= set(map(tuple, models.segmenter("animals").labels.palette().tolist()))
    page.click(".fcn-stop")


def test_one_picture_is_under_way_at_a_time_and_the_others_are_dropped(page):
    held = []

    def hold_the_first(route):
        held.append(route)
        if len(held) > 1:
            route.continue_()

    page.route("**/queue/join*", hold_the_first)
    page.open("live").click(".fcn-start")
    while not held:
        page.wait_for_timeout(50)
    page.wait_for_timeout(1000)  # the camera gives a good twenty pictures meanwhile
    assert len(held) == 1
    assert page.evaluate("window.fcnHub.live.at(-1)") == 1
    held[0].continue_()
    page.wait_for_selector(".fcn-speed:not([hidden])")
    page.wait_for_function("window.fcnHub.live.at(-1) > 2")  # one answer, one more picture
    page.click(".fcn-stop")


def test_leaving_the_tab_turns_the_camera_off(page):
    page.open("live").click(".fcn-start")
    page.wait_for_selector(".fcn-speed:not([hidden])")
    page.open("stage")
    assert page.evaluate("document.querySelector('#live video').srcObject") is None


# Tabs


def test_a_file_that_is_dropped_goes_to_the_tab_that_it_is_for(page, clip, picture):
    drop = """([name, type, bytes, count]) => {
        const data = new DataTransfer();
        for (let i = 0; i < count; i++)
            data.items.add(new File([new Uint8Array(bytes)], name, { type }));
        const how = { dataTransfer: data, bubbles: true, cancelable: true };
        document.body.dispatchEvent(new DragEvent("drop", how));
    }"""
    page.evaluate(drop, ["clip.mp4", "video/mp4", list(clip.read_bytes()), 1])
    page.wait_for("ready", "#video")
    page.evaluate(drop, ["a.png", "image/png", list(png(picture)), 2])
    page.wait_for_selector(".fcn-zip:not([hidden])")
    page.evaluate(drop, ["a.png", "image/png", list(png(picture)), 1])
    page.wait_for("ready")


def test_tabs_are_changed_by_keyboard(page):
    page.focus("#fcn-tab-stage")
    for name in ("batch", "video", "live", "stage"):
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.id") == f"fcn-tab-{name}"
        assert page.get_attribute(f"#fcn-tab-{name}", "aria-selected") == "true"
        visible = [p for p in ("stage", "batch", "video", "live") if page.is_visible(f"#{p}")]
        assert visible == [name]
