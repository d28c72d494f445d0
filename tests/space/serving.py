"""The web app for its tests: tiny models on disk, the app around them, served for real."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conftest import make_tiny_model

SPACE = Path(__file__).parents[2] / "space"
sys.path.insert(0, str(SPACE))  # the tests take the app's modules from here

import app  # noqa: E402
import batch  # noqa: E402, F401
import catalog  # noqa: E402
import clips  # noqa: E402, F401
import fetch  # noqa: E402, F401
import read_outs  # noqa: E402, F401
import service  # noqa: E402
import texts  # noqa: E402, F401

MAX_PIXELS = 1_000_000


def save_models(folder: Path) -> list[Path]:
    """Two tiny networks: three classes named after animals, and four with names to beware of."""
    names = ["background", "cat", "dog"]
    colors = [[0, 0, 0], [230, 159, 0], [0, 114, 178]]
    make_tiny_model(class_names=names, class_colors=colors).save_pretrained(folder / "animals")
    names = ["<script>alert(1)</script>", "a&b", "naïve 猫", "class_3"]
    make_tiny_model(seed=1, num_classes=4, class_names=names).save_pretrained(folder / "odd-names")
    return [folder / "animals", folder / "odd-names"]


def make_catalog(folder: Path, **options) -> catalog.Catalog:
    sources = [catalog.Source.parse(str(path)) for path in save_models(folder)]
    options = {"device": "cpu", "dtype": "float32", "max_side": service.MAX_SIDE, **options}
    return catalog.Catalog(sources, **options)


@contextmanager
def serve(models: catalog.Catalog, folder: Path) -> Iterator[str]:
    """The app's address; its files go to `folder`."""
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    limit, service.MAX_PIXELS = service.MAX_PIXELS, MAX_PIXELS
    demo = app.build(models)
    try:
        _, url, _ = demo.queue(max_size=app.QUEUE_LENGTH).launch(
            prevent_thread_lock=True, quiet=True, **app.launch_options()
        )
        yield url
    finally:
        demo.close()
        service.MAX_PIXELS = limit
