"""Fixtures of the tests in a browser: the app, its models, windows and pages."""

import json

import playwright.sync_api
import pytest
from browsing import CHROMIUM, FLAGS, Page
from conftest import make_picture
from serving import make_catalog, serve


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_catalog(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("gradio")


@pytest.fixture(scope="module")
def url(models, cache):
    with serve(models, cache) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_api.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def contexts(browser):
    """Browser windows by their options. Those with the same ones share a window and its cache."""
    found = {}

    def context(options: dict):
        key = json.dumps(options, sort_keys=True)
        if key not in found:
            plain = {"viewport": {"width": 1280, "height": 900}, "locale": "en-US"}
            found[key] = browser.new_context(**{**plain, **options})
            found[key].grant_permissions(["clipboard-read", "clipboard-write", "camera"])
        return found[key]

    yield context
    for each in found.values():
        each.close()


@pytest.fixture
def open_page(contexts, url):
    pages = []

    def open_page(fragment: str = "", **options) -> Page:
        pages.append(Page(contexts(options), url + fragment))
        return pages[-1]

    yield open_page
    for page in pages:
        page.tab.close()
        assert not page.errors


@pytest.fixture
def page(open_page):
    return open_page()


@pytest.fixture(scope="module")
def picture():
    return make_picture(60, 80)


@pytest.fixture(scope="module")
def expected(models, picture):
    return models.segmenter("animals")(picture)
