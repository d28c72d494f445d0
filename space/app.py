"""The web app: a picture goes in; the class of every pixel, a legend and files come out.

Runs on a Hugging Face Space, with `make demo` in a checkout and with `fcn-hub demo` anywhere.
Environment: FCN_HUB_MODEL (a Hub id or folder) or FCN_HUB_MODELS (several, see `catalog`); by
default the checkpoints of the checkout. PORT (default 7860).

The page is made of HTML components, each with a script of its own: `top` (title and tabs), `stage`
(the picture and its classes), `video`, `live` (the camera), `batch` (many pictures), `model`,
`inside` (the stages of the network) and `programs` (the API), in the words of `texts`; what they
share is in `common.js`. The server (`service`) answers once per picture with a label map and a
confidence map; all that follows (highlighting, opacity, reading pixels) happens in the browser.
"""

import functools
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # also where this file is run without being the main program

import service  # noqa: E402, I001  (first, as it imports what ZeroGPU wants first)
import clips  # noqa: E402
from batch import Upload  # noqa: E402
from bodies import LimitBodies  # noqa: E402
from catalog import Catalog, offered  # noqa: E402
from drawing import thumbnail  # noqa: E402
from fetch import limit_fetching  # noqa: E402
from read_outs import STRIDES  # noqa: E402
from texts import I18N, LOCALE, TEXTS  # noqa: E402

MODELS_IN_MEMORY = 2
QUEUE_LENGTH = 32
CACHE_SECONDS = 3600
HAS_MCP = importlib.util.find_spec("mcp") is not None

# One queue for the pictures of the page and the API, those of cameras among them. What takes long,
# a batch or a clip, has one of its own: between its pictures the network serves others.
SINGLE: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "single"}
LONG: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "long"}
# A listener that only the page itself uses.
PRIVATE: dict[str, Any] = {
    "api_visibility": "private",
    "show_progress": "hidden",
    "trigger_mode": "multiple",
}


def build(catalog: Catalog) -> gr.Blocks:
    """The page and the API around a catalog of models."""
    with gr.Blocks(
        title="FCN: segment a picture",
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(CACHE_SECONDS, CACHE_SECONDS),
    ) as demo:
        answers = service.Service(catalog, Path(demo.GRADIO_CACHE) / "fcn-hub")
        parts = page(catalog)
        with gr.Row(visible=False):
            slots = Slots(catalog)
            connect(answers, parts, slots)
    limit_fetching(demo, service.MAX_FILE_BYTES, {slots.clip: service.MAX_CLIP_BYTES})
    return demo


def page(catalog: Catalog) -> dict[str, gr.HTML]:
    """The parts of the page, from top to bottom."""
    limits = {"max_bytes": service.MAX_FILE_BYTES, "max_pixels": service.MAX_PIXELS}
    clip_limits = {
        "max_bytes": service.MAX_CLIP_BYTES,
        "max_pixels": service.MAX_CLIP_PIXELS,
        "max_seconds": clips.MAX_SECONDS,
    }
    examples = {name: thumbnail(path) for name, path in service.EXAMPLES.items()}
    clip_examples = {name: examples[name] for name in service.EXAMPLE_CLIPS}
    models = [catalog.facts(name) for name in catalog.names]
    props: dict[str, dict[str, Any]] = {
        "top": {},
        "stage": {"models": models, "examples": examples, **limits},
        "batch": {"most": service.MAX_BATCH, **limits},
        "video": {"models": models, "examples": clip_examples, **clip_limits},
        "live": {"models": models, "possible": service.LIVE, "most": service.MAX_SIDE},
        "model": {"models": models},
        "inside": {"strides": STRIDES},
        "programs": {"model": catalog.names[0], "mcp": HAS_MCP},
    }
    return {name: part(name, **each) for name, each in props.items()}


class Slots:
    """What the listeners take and give; the page has its own, nicer controls for them."""

    def __init__(self, catalog: Catalog) -> None:
        self.picture = gr.Image(label="picture")
        self.pictures = gr.File(file_count="multiple", label="pictures")
        self.clip = gr.File(label="clip")
        self.frame = gr.Textbox(label="frame")
        self.model = gr.Dropdown(catalog.names, value=catalog.names[0], label="model")
        self.opacity = gr.Slider(0, 1, 0.6, label="opacity")
        self.example = gr.Dropdown(list(service.EXAMPLES), value=None, label="example")
        self.request = gr.Number(0)
        self.overlay = gr.Image(label="overlay", type="filepath", format="png")
        self.mask = gr.File(label="mask")
        self.archive = gr.File(label="archive")
        self.video = gr.File(label="video")
        self.summary = gr.JSON(label="summary")
        self.table = gr.JSON(label="table")
        # Gradio would open pictures itself, without limits, and answer with a traceback where one
        # is damaged. They are wanted as they came.
        self.picture.preprocess = path_of  # type: ignore
        self.clip.preprocess = path_of  # type: ignore
        self.pictures.preprocess = uploads  # type: ignore


def connect(answers: service.Service, parts: dict[str, gr.HTML], slots: Slots) -> None:
    """The listeners: the endpoints for programs, and those of the page's parts."""
    picture, model, request = slots.picture, slots.model, slots.request
    endpoints: Sequence[tuple[Any, ...]] = (
        (
            answers.segment,
            [picture, model, slots.opacity],
            [slots.overlay, slots.summary, slots.mask],
            SINGLE,
        ),
        (answers.segment_batch, [slots.pictures, model], [slots.archive, slots.table], LONG),
        (answers.segment_video, [slots.clip, model], [slots.video, slots.summary], LONG),
    )
    for endpoint, inputs, outputs, queue in endpoints:
        gr.Button().click(endpoint, inputs, outputs, api_name=endpoint.__name__, **queue)
    listeners: Sequence[tuple[Any, ...]] = (
        ("stage", answers.segment_for_page, [picture, model, slots.example, request], SINGLE),
        ("inside", answers.look_inside, [picture, model, slots.example, request], SINGLE),
        ("live", answers.segment_live, [slots.frame, model, request], SINGLE),
        ("batch", answers.segment_batch_for_page, [slots.pictures, model, request], LONG),
        (
            "video",
            answers.segment_video_for_page,
            [slots.clip, model, slots.example, request],
            LONG,
        ),
    )
    for name, listener, inputs, queue in listeners:
        # The page's script puts what it asks for into a variable of the window, last the number
        # of the request, which comes back with the answer.
        component, asked = parts[name], f"window.fcnHub.{name}"
        failed = f"() => ({{request: {asked}.at(-1), error: 'server'}})"
        done = component.submit(
            listener, inputs, component, js=f"() => {asked}", **queue, **PRIVATE
        )
        done.failure(None, None, component, js=failed, **PRIVATE)


def part(name: str, **props: Any) -> gr.HTML:
    """A part of the page, from NAME.html and NAME.js; the script finds `props` and the texts.

    Where NAME.html says `<!-- legend -->`, legend.html stands.
    """
    return gr.HTML(
        html_template=text(f"{name}.html").replace("<!-- legend -->", text("legend.html")),
        js_on_load=text("common.js") + text(f"{name}.js"),
        apply_default_css=False,
        label=LOCALE,
        elem_id=name,
        texts=TEXTS,
        **props,
    )


def path_of(payload: Any) -> str | None:
    """Where a file lies that came as it is."""
    return payload and payload.path


def uploads(payload: Any) -> list[Upload]:
    """The files of a gr.File as they came."""
    files = payload.root if payload else []
    return [Upload(file.path, file.orig_name or Path(file.path).name) for file in files]


@functools.cache
def text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def launch_options() -> dict[str, Any]:
    """How the page is to be served, for `gr.Blocks.launch`."""
    mono = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
    sans = ["system-ui", "-apple-system", "Segoe UI", "Noto Sans", "sans-serif"]
    return {
        "theme": gr.themes.Base(font=sans, font_mono=mono).set(
            body_background_fill="#f6f7f9", body_background_fill_dark="#0f1115"
        ),
        # Not as `css`, which Gradio takes apart at every comma, those inside :is() as well.
        "head": f"<style>{text('page.css')}</style>",
        "i18n": I18N,
        "max_file_size": service.MAX_CLIP_BYTES,
        # Each thread that works on pictures keeps some memory; one at a time runs the network.
        "max_threads": 8,
        "app_kwargs": {"middleware": [Middleware(LimitBodies)]},
        "run_history": False,
        "enable_monitoring": False,
        "footer_links": ["api", "gradio", "settings"],
        "mcp_server": HAS_MCP,
    }


def main() -> None:
    if not (sources := offered()):
        sys.exit("fcn-hub: name a model: fcn-hub demo --model ID_OR_FOLDER")
    limits = {"max_pixels": service.MAX_PIXELS, "max_bytes": service.MAX_FILE_BYTES}
    catalog = Catalog(sources, capacity=MODELS_IN_MEMORY, max_side=service.MAX_SIDE, **limits)
    port = int(os.environ.get("PORT", "7860"))
    build(catalog).queue(max_size=QUEUE_LENGTH).launch(server_port=port, **launch_options())


if __name__ == "__main__":
    main()
