"""The page in a real browser: Debian's chromium, driven by Playwright."""

import io
import json
import re
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from browsing import Page, needs_chromium, png
from conftest import make_picture
from PIL import Image
from serving import app, serve, service

pytest_plugins = ["browser_fixtures"]
pytestmark = needs_chromium


# One picture


def test_the_empty_page_says_what_to_do_and_what_the_model_knows(page):
    assert page.inner_text("h1") == "What is where in a picture?"
    assert page.is_visible("text=Drop a photograph here")
    assert page.locator("#stage .fcn-entry").all_inner_texts() == ["background", "cat", "dog"]
    assert page.is_disabled(".fcn-save")


def test_a_picture_comes_back_with_its_legend(page, picture, expected):
    page.segment(picture)
    rows = page.locator("#stage tr[data-present]").all()
    assert len(rows) == len(expected.legend) > 1
    for row, entry, values in zip(
        rows, expected.legend, expected.to_dict()["classes"], strict=True
    ):
        cells = row.locator("td").all_inner_texts()
        share = f"{entry.fraction:.1%}" if entry.fraction >= 0.001 else "<0.1%"
        assert cells == [entry.name, share, f"{values['confidence']:.0%}"]


def test_the_legends_colours_are_those_of_the_picture_to_the_pixel(page, picture, expected):
    page.segment(picture)
    page.set_slider(".fcn-opacity input", 100)
    np.testing.assert_array_equal(page.pixels(), np.asarray(expected.colored()))
    swatches = page.locator("button.fcn-entry i").evaluate_all(
        "nodes => nodes.map(node => getComputedStyle(node).backgroundColor)"
    )
    assert swatches == ["rgb({}, {}, {})".format(*entry.color) for entry in expected.legend]


def test_the_overlay_is_the_packages_own(page, picture, expected):
    page.segment(picture)
    difference = page.pixels().astype(int) - np.asarray(expected.overlay(0.6))
    assert np.abs(difference).mean() < 2  # the picture below travels as JPEG


def test_a_click_on_a_class_hides_it_and_another_shows_it_again(page, picture, expected):
    page.segment(picture)
    before, plain = page.pixels(), page.pixels(".fcn-before")
    name = expected.legend[1].name
    inside = expected.label_map == expected.legend[1].index
    page.entry(name).click()
    page.mouse.move(0, 0)
    page.settle()
    assert page.entry(name).get_attribute("aria-pressed") == "false"
    np.testing.assert_array_equal(page.pixels()[inside], plain[inside])
    np.testing.assert_array_equal(page.pixels()[~inside], before[~inside])
    page.click(".fcn-show-all")
    page.settle()
    assert page.entry(name).get_attribute("aria-pressed") == "true"
    np.testing.assert_array_equal(page.pixels(), before)


def test_pointing_at_a_class_shows_it_alone(page, picture, expected):
    page.segment(picture)
    before = page.pixels()
    page.entry(expected.legend[0].name).hover()
    page.settle()
    inside = expected.label_map == expected.legend[0].index
    shown = page.pixels()
    np.testing.assert_array_equal(shown[inside], before[inside])
    assert (np.ptp(shown[~inside], axis=-1) == 0).all()  # the others are grey
    page.mouse.move(0, 0)
    page.settle()
    np.testing.assert_array_equal(page.pixels(), before)


def test_nothing_but_the_answer_needs_the_server(page, picture, expected):
    page.segment(picture)
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    before = page.pixels()
    page.set_slider(".fcn-opacity input", 20)
    assert (page.pixels() != before).any()
    assert page.inner_text("#stage .fcn-opacity output") == "20%"
    page.entry(expected.legend[0].name).click()
    page.show("compare")
    page.set_slider(".fcn-divider", 30)
    page.show("confidence")
    page.mouse.move(400, 400)
    page.click(".fcn-save")
    page.wait_for_timeout(300)
    assert [url for url in requests if not url.startswith("blob:")] == []


def test_the_divider_uncovers_the_picture_before(page, picture):
    page.segment(picture)
    page.show("compare")
    assert page.is_visible("text=Before")
    page.set_slider(".fcn-divider", 25)
    clip = "getComputedStyle(document.querySelector('.fcn-after')).clipPath"
    assert page.evaluate(clip) == "inset(0px 0px 0px 25%)"
    box = page.locator(".fcn-frame").bounding_box()
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 20)
    assert abs(float(page.input_value(".fcn-divider")) - 75) < 3
    page.show("overlay")
    assert page.evaluate(clip) == "none"


def test_a_click_reads_class_and_confidence_of_a_pixel(page, picture, expected):
    page.segment(picture)
    box = page.locator(".fcn-frame").bounding_box()
    x, y = 21, 43
    scale = box["width"] / 80
    page.mouse.click(box["x"] + (x + 0.5) * scale, box["y"] + (y + 0.5) * scale)
    name = expected.labels.names[expected.label_map[y, x]]
    sure = f"{round(float(expected.confidence[y, x]) * 255) / 255:.0%}"
    assert page.inner_text(".fcn-readout") == f"x {x}, y {y}: {name}, {sure} sure"
    assert page.inner_text(".fcn-tip") == f"{name} · {sure}"


def test_the_confidence_map_goes_from_violet_to_yellow(page, picture, expected):
    page.segment(picture)
    page.show("confidence")
    assert page.is_visible(".fcn-scale") and not page.is_visible(".fcn-opacity")
    levels = np.rint(expected.confidence * 255).astype(int)
    shown = page.pixels().astype(int)
    # One colour per level, and greener the surer.
    for level in np.unique(levels)[::20]:
        assert (shown[levels == level] == shown[levels == level][0]).all()
    sure, unsure = levels == levels.max(), levels == levels.min()
    assert shown[sure, 1].mean() > shown[unsure, 1].mean()


def test_the_downloads_hold_what_the_package_says(page, picture, expected):
    page.segment(picture)
    mask = Image.open(io.BytesIO(page.download('[data-file="mask"]')))
    assert mask.mode == "P"
    np.testing.assert_array_equal(np.asarray(mask), expected.label_map)
    np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), np.asarray(expected.colored()))
    assert json.loads(page.download('[data-file="summary"]')) == expected.to_dict()
    assert json.loads(page.download('[data-file="coco"]')) == expected.to_coco()
    shown = Image.open(io.BytesIO(page.download(".fcn-save"))).convert("RGB")
    np.testing.assert_array_equal(np.asarray(shown), page.pixels())


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_a_picture_may_be_pasted_or_dropped(page, picture, expected, way):
    page.evaluate(
        """([way, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "x.png", { type: "image/png" }));
            const event = way === "paste"
                ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
                : new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
            document.body.dispatchEvent(event);
        }""",
        [way, list(png(picture))],
    )
    page.wait_for("ready")
    assert page.locator("button.fcn-entry").count() == len(expected.legend)


def test_the_camera_takes_a_picture(page):
    page.click(".fcn-camera")
    page.wait_for("camera")
    page.click(".fcn-capture")
    page.wait_for("ready")
    assert page.locator("button.fcn-entry").count() > 0
    assert page.evaluate("document.querySelector('#stage video').srcObject") is None


def test_a_large_picture_is_drawn_smaller_but_read_and_saved_in_full(page, models):
    picture = make_picture(250, 2400)
    page.segment(picture)
    assert page.pixels().shape == (167, 1600, 3)
    mask = Image.open(io.BytesIO(page.download('[data-file="mask"]')))
    np.testing.assert_array_equal(np.asarray(mask), models.segmenter("animals")(picture).label_map)
    box = page.locator(".fcn-frame").bounding_box()
    page.mouse.click(box["x"] + box["width"] - 1, box["y"] + box["height"] - 1)
    x = int(re.match(r"x (\d+)", page.inner_text(".fcn-readout"))[1])
    assert 2390 <= x < 2400


def test_another_picture_replaces_the_first(page, picture, models):
    page.segment(picture)
    page.click(".fcn-another")
    page.wait_for("empty")
    assert page.locator("button.fcn-entry").count() == 0
    second = make_picture(70, 50, seed=3)
    page.segment(second)
    page.set_slider(".fcn-opacity input", 100)
    colored = models.segmenter("animals")(second).colored()
    np.testing.assert_array_equal(page.pixels(), np.asarray(colored))


def test_an_example_can_be_shared_with_its_settings(page, open_page):
    page.click('#stage [data-example="cat"]')
    page.wait_for("ready")
    hidden = page.locator("button.fcn-entry").first.inner_text()
    page.locator("button.fcn-entry").first.click()
    page.show("compare")
    page.click(".fcn-link")
    link = page.evaluate("navigator.clipboard.readText()")
    fragment = link[link.index("#") :]
    again = open_page(fragment)
    again.wait_for("ready")
    assert again.is_checked('.fcn-views input[value="compare"]')
    assert again.entry(hidden).get_attribute("aria-pressed") == "false"


# Models


def test_another_model_answers_without_a_restart(page, picture, models):
    page.segment(picture)
    page.select_option(".fcn-model select", "odd-names")
    page.wait_for("busy")
    page.wait_for("ready")
    expected = models.segmenter("odd-names")(picture)
    names = page.locator("button.fcn-entry").all_inner_texts()
    assert names == [entry.name for entry in expected.legend]  # as text, whatever they hold
    page.set_slider(".fcn-opacity input", 100)
    np.testing.assert_array_equal(page.pixels(), np.asarray(expected.colored()))


def test_figures_licence_device_and_times_are_shown(page, picture):
    facts = dict(
        zip(
            page.locator(".fcn-facts dt").all_inner_texts(),
            page.locator(".fcn-facts dd").all_inner_texts(),
            strict=True,
        )
    )
    assert facts == {
        "Mean IU": "not measured",
        "Pixel accuracy": "not measured",
        "Parameters": "0.1 million",
        "Licence": "not recorded",
    }
    page.segment(picture)
    assert re.search(r"Network \d+ ms on CPU", page.inner_text(".fcn-timing"))


# Errors


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("broken.png", png(make_picture(60, 80))[:2000], "damaged or incomplete"),
        ("empty.jpg", b"", "damaged or incomplete"),
        ("notes.png", b"This is no picture.", "not a picture of a kind that is known"),
        ("large.png", png(np.zeros((1000, 1100), np.uint8)), "Up to 1 megapixels"),
        ("heavy.png", bytes(service.MAX_FILE_BYTES + 1), "Up to 20 MB"),
    ],
    ids=["broken", "empty", "no picture", "too many pixels", "too many bytes"],
)
def test_a_file_that_cannot_be_used_is_explained_and_the_next_one_works(
    page, picture, tmp_path, name, content, says
):
    (tmp_path / name).write_bytes(content)
    page.choose(tmp_path / name)
    page.wait_for("error")
    assert page.inner_text("#stage .fcn-error-title") == "This picture cannot be used"
    assert says in page.inner_text("#stage .fcn-error-text")
    assert page.is_disabled(".fcn-save")
    page.segment(picture)


def test_a_server_that_does_not_answer_is_explained(page, picture):
    page.route("**/queue/join*", lambda route: route.fulfill(status=503, json={"detail": "full"}))
    page.choose(picture)
    page.wait_for("error")
    assert "The server gave no answer" in page.inner_text("#stage .fcn-error-text")
    page.unroute("**/queue/join*")
    page.segment(picture)


# Care


def boxes(page) -> dict:
    parts = (".fcn-stage", ".fcn-bar", ".fcn-legend", ".fcn-downloads")
    found = {part: page.locator(f"#stage {part}").bounding_box() for part in parts}
    return {**found, "model": page.locator("#model").bounding_box()}


def test_nothing_jumps_while_it_works(page, picture):
    empty = boxes(page)
    page.choose(picture)
    page.wait_for("busy")
    assert boxes(page) == empty
    page.wait_for("ready")
    assert boxes(page) == empty
    page.choose({"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"})
    page.wait_for("error")
    assert boxes(page) == empty


def test_a_phone_never_scrolls_sideways(open_page, picture):
    phone = {"width": 390, "height": 844}
    page = open_page(viewport=phone, has_touch=True, is_mobile=True, device_scale_factor=2)
    wide = "document.documentElement.scrollWidth"
    assert page.evaluate(wide) == 390
    stage, content = (page.locator(f"#stage .fcn-{it}").bounding_box() for it in ("stage", "empty"))
    assert stage["y"] <= content["y"]
    assert content["y"] + content["height"] <= stage["y"] + stage["height"]
    page.segment(picture)
    page.click(".fcn-go")
    page.wait_for_selector(".fcn-walk:not([hidden])")
    page.click(".fcn-api summary")
    assert page.evaluate(wide) == 390
    for panel in ("batch", "video", "live", "stage"):
        page.open(panel)
        assert page.evaluate(wide) == 390, panel
    page.locator("button.fcn-entry").first.tap()
    assert page.locator("button.fcn-entry").first.get_attribute("aria-pressed") == "false"


def test_dark_and_light_follow_the_visitor(open_page):
    background = "getComputedStyle(document.querySelector('.fcn-card')).backgroundColor"
    brightness = [
        sum(map(int, re.findall(r"\d+", open_page(color_scheme=scheme).evaluate(background))))
        for scheme in ("light", "dark")
    ]
    assert brightness[0] > 700 and brightness[1] < 120


def test_a_chinese_browser_sees_chinese(open_page, picture):
    page = open_page(locale="zh-CN")
    assert page.inner_text("h1") == "图里哪里是什么？"
    page.segment(picture)
    assert re.search(r"网络 \d+ 毫秒", page.inner_text(".fcn-timing"))
    texts = page.locator("[data-t]").all_inner_texts()
    english = [text for text in texts if re.fullmatch(r"[A-Za-z ,.]{3,}", text)]
    assert english == []
    page.choose({"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"})
    page.wait_for("error")
    assert "不是这里认识的图片格式" in page.inner_text("#stage .fcn-error-text")


def test_everything_works_by_keyboard(page, picture, expected):
    def tab_to(selector: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("s => document.activeElement.matches(s)", selector):
                return
        raise AssertionError(f"{selector} cannot be reached")

    tab_to(".fcn-choose")
    page.keyboard.press("Enter")
    while not page.choosers:
        page.wait_for_timeout(50)
    file = {"name": "picture.png", "mimeType": "image/png", "buffer": png(picture)}
    page.choosers[0].set_files(file)
    page.wait_for("ready")
    page.settle()
    before = page.pixels()
    assert page.evaluate("document.activeElement.matches('.fcn-frame')")  # focus is not lost
    page.keyboard.press("ArrowRight")
    assert page.inner_text(".fcn-readout").startswith("x 41, y 30:")
    page.keyboard.press("Shift+ArrowUp")
    assert page.inner_text(".fcn-readout").startswith("x 41, y 22:")
    tab_to(".fcn-views input")
    page.keyboard.press("ArrowRight")
    assert page.is_checked('.fcn-views input[value="compare"]')
    page.keyboard.press("ArrowLeft")
    tab_to(".fcn-opacity input")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    tab_to("button.fcn-entry")
    page.settle()
    others = expected.label_map != expected.legend[0].index
    assert (np.ptp(page.pixels()[others], axis=-1) == 0).all()  # focus shows a class alone
    page.keyboard.press("Space")
    assert page.locator("button.fcn-entry").first.get_attribute("aria-pressed") == "false"
    page.keyboard.press("Space")
    tab_to('[data-file="coco"]')
    page.settle()
    np.testing.assert_array_equal(page.pixels(), before)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(open_page, picture, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = open_page(color_scheme=scheme)

    def faults() -> Counter:
        violations = axe.Axe().run(page.tab).response["violations"]
        return Counter(
            f"{each['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
            for each in violations
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        )

    for panel in ("batch", "video", "live", "stage"):
        page.open(panel)
        assert not faults()
    page.segment(picture)
    page.click(".fcn-go")
    page.wait_for_selector(".fcn-walk:not([hidden])")
    page.click(".fcn-api summary")
    assert not faults()
    page.open("video").click('#video [data-example="cat"]')
    page.wait_for("ready", "#video")
    page.open("live").click(".fcn-start")
    page.wait_for_selector(".fcn-speed:not([hidden])")
    assert not faults()
    page.click(".fcn-stop")
    page.open("video")
    assert not faults()
    page.open("stage")
    page.choose({"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"})
    page.wait_for("error")
    assert not faults()


# Look inside


def test_every_stage_can_be_looked_at(page, picture, models):
    assert page.is_disabled(".fcn-go")
    page.segment(picture)
    page.click(".fcn-go")
    page.wait_for_selector(".fcn-walk:not([hidden])")
    assert page.locator(".fcn-strip button").count() == 10
    seen = set()
    for place in range(10):
        page.set_slider(".fcn-slide input", place)
        seen.add((page.inner_text(".fcn-told h3"), page.pixels(".fcn-screen canvas").tobytes()))
    assert len({title for title, _ in seen}) == 10
    assert len({pixels for _, pixels in seen}) > 5
    page.click(".fcn-strip button >> nth=0")
    assert page.inner_text(".fcn-told h3") == "pool1 · stride 2"
    assert page.input_value(".fcn-slide input") == "0"


def test_a_new_picture_puts_the_old_stages_away(page, picture):
    page.segment(picture)
    page.click(".fcn-go")
    page.wait_for_selector(".fcn-walk:not([hidden])")
    page.segment(make_picture(50, 50))
    assert page.is_hidden(".fcn-walk") and page.is_enabled(".fcn-go")


def numbers(page, kind: str) -> np.ndarray:
    cells = page.locator(f'output[data-kind="{kind}"]').all_inner_texts()
    side = int(len(cells) ** 0.5)
    return np.array(cells, float).reshape(side, side)


def test_the_matrices_compute_convolution_and_its_transpose(page):
    kernel = np.arange(1.0, 10).reshape(3, 3)
    picture, coarse = np.arange(16.0).reshape(4, 4), np.array([[1.0, 10], [100, 1000]])
    page.locator('input[data-kind="kernel"][data-index="4"]').first.fill("-2.5")
    kernel[1, 1] = -2.5
    assert page.locator('input[data-kind="kernel"][data-index="4"]').last.input_value() == "-2.5"
    small, fine = np.zeros((2, 2)), np.zeros((4, 4))
    for row in range(2):
        for column in range(2):
            window = np.s_[row : row + 3, column : column + 3]
            small[row, column] = (picture[window] * kernel).sum()
            fine[window] += coarse[row, column] * kernel
    np.testing.assert_allclose(numbers(page, "small"), small)
    np.testing.assert_allclose(numbers(page, "fine"), fine)
    page.hover('output[data-kind="small"] >> nth=3')
    lit = page.locator('input[data-kind="input"].fcn-lit')
    assert lit.count() == 9 and lit.first.get_attribute("data-index") == "5"


# Many pictures


def test_many_pictures_go_home_as_one_zip(page, models, picture):
    files = [
        {"name": "../=one.png", "mimeType": "image/png", "buffer": png(picture)},
        {"name": "broken.png", "mimeType": "image/png", "buffer": b"no picture"},
        {"name": "two.png", "mimeType": "image/png", "buffer": png(make_picture(40, 50, 5))},
    ]
    page.open("batch").set_input_files(".fcn-manyfiles", files)
    page.wait_for_selector(".fcn-zip:not([hidden])")
    assert page.inner_text(".fcn-batch-status") == "Done: 2 segmented, 1 could not be used."
    assert page.locator(".fcn-gallery li").count() == 3
    assert "not a picture of a kind that is known" in page.inner_text(".fcn-failed")
    archive = zipfile.ZipFile(io.BytesIO(page.download(".fcn-zip")))
    assert archive.namelist() == ["001-one.png", "003-two.png", "classes.csv"]
    mask = np.asarray(Image.open(archive.open("001-one.png")))
    np.testing.assert_array_equal(mask, models.segmenter("animals")(picture).label_map)


def test_too_many_pictures_are_refused_before_they_are_sent(page, picture):
    file = {"mimeType": "image/png", "buffer": b"x"}
    files = [{"name": f"{number}.png", **file} for number in range(service.MAX_BATCH + 1)]
    page.set_input_files(".fcn-manyfiles", files)
    assert page.inner_text(".fcn-batch-status") == "Those are too many. Up to 50 are accepted."


# Programs


def test_the_pages_python_code_runs_as_it_stands(page, picture, tmp_path, monkeypatch, capsys):
    page.click(".fcn-api summary")
    page.click(".fcn-snippet button >> nth=0")
    code = page.evaluate("navigator.clipboard.readText()")
    Image.fromarray(picture).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert re.search(r"^(background|cat|dog) [01]?\.\d+$", capsys.readouterr().out, re.MULTILINE)


def test_the_page_is_ready_soon(open_page):
    page = open_page()
    ready = page.evaluate("performance.now()")
    assert ready < 10_000, f"{ready:.0f} ms"


# Safety


def test_nothing_of_a_picture_stays_on_the_server(contexts, models, picture, tmp_path, monkeypatch):
    monkeypatch.setattr(app, "CACHE_SECONDS", 1)

    def files() -> list[Path]:
        return [path for path in (tmp_path / "gradio").rglob("*") if path.is_file()]

    with serve(models, tmp_path / "gradio") as url:
        page = Page(contexts({}), url)
        page.segment(picture)
        assert files()
        deadline = time.monotonic() + 20
        while left := files():
            assert time.monotonic() < deadline, left
            time.sleep(0.2)
        page.tab.close()
