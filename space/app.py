"""The web app: a picture goes in, the segmented picture and its legend come out.

Runs on a Hugging Face Space, with `make demo` in a checkout and with `fcn-hub demo` anywhere.
Environment: FCN_HUB_MODEL (a Hub id or folder; by default the checkpoint of the checkout) and
PORT (default 7860).
"""

import html
import os
import secrets
import sys
import time
from pathlib import Path

import gradio as gr

from fcn_hub import ImageError, Segmentation, Segmenter

DEFAULT_MODEL = Path(__file__).resolve().parents[1] / "checkpoints" / "fcn-vgg16-voc7"
MAX_FILE_BYTES = 20 * 2**20
MAX_PIXELS = 40_000_000
# The network sees no more than this: a phone's 12 megapixels would take 20 s on two CPU cores,
# and things would be larger than any it was trained on.
MAX_SIDE = 640
CACHE_SECONDS = 3600

CSS = """
.fcn-legend { width: 100%; border-collapse: collapse; }
.fcn-legend, .fcn-legend td { border: 0; }
.fcn-legend td { padding: 0.35rem 0.5rem; border-bottom: 1px solid var(--border-color-primary); }
.fcn-legend td:last-child { text-align: right; font-variant-numeric: tabular-nums; }
.fcn-swatch { display: inline-block; width: 1.1em; height: 1.1em; border-radius: 3px;
  vertical-align: -0.15em; margin-right: 0.6em; border: 1px solid rgb(128 128 128 / 60%); }
.fcn-note { color: var(--body-text-color-subdued); font-size: 0.85em; margin-top: 0.6rem; }
"""


def legend_html(result: Segmentation, seconds: float, device: str) -> str:
    """The legend as an HTML table: swatch, name, share of the picture."""
    rows = "".join(
        f'<tr><td><span class="fcn-swatch" style="background:{entry.color_hex}"></span>'
        f"{html.escape(entry.name)}</td><td>{entry.fraction:.1%}</td></tr>"
        for entry in result.legend
    )
    height, width = result.label_map.shape
    return (
        f'<table class="fcn-legend" aria-label="Classes in the picture"><tbody>{rows}</tbody>'
        f'</table><p class="fcn-note">{width}×{height} pixels in {seconds:.2f} s on {device}</p>'
    )


def build(segmenter: Segmenter) -> gr.Blocks:
    """The page around a segmenter."""

    def segment(picture: str | None) -> tuple[str, str, str]:
        """Segment a picture: find the class of every pixel.

        Args:
            picture: A photograph, at most 20 MiB and 40 megapixels.

        Returns:
            The picture with the classes drawn over it (PNG), the legend (HTML: colour, name and
            share of each class), and the label map (palette PNG: the index of a pixel is its
            class, the palette holds the legend's colours).
        """
        if not picture:
            raise gr.Error("Choose a picture first.", print_exception=False)
        start = time.perf_counter()
        try:
            result = segmenter(picture)
        except ImageError as error:
            # The file's path is the server's business; its name is enough.
            message = str(error).replace(picture, Path(picture).name)
            raise gr.Error(message, print_exception=False) from None
        legend = legend_html(result, time.perf_counter() - start, str(segmenter.device))
        # Under Gradio's own temporary folder, which delete_cache keeps clean.
        folder = Path(demo.GRADIO_CACHE) / secrets.token_hex(8)
        folder.mkdir(parents=True)
        result.overlay().save(folder / "overlay.png")
        result.save(folder / "mask.png")
        return str(folder / "overlay.png"), legend, str(folder / "mask.png")

    names = ", ".join(segmenter.labels.names)
    with gr.Blocks(
        title="FCN: segment a picture",
        analytics_enabled=False,
        delete_cache=(CACHE_SECONDS, CACHE_SECONDS),
    ) as demo:
        gr.Markdown(
            "# What is where in a picture?\n"
            "A fully convolutional network ([Long et al., 2015](https://arxiv.org/abs/1411.4038)) "
            f"gives every pixel one of {len(segmenter.labels)} classes: {names}."
        )
        with gr.Row():
            with gr.Column():
                picture = gr.Image(label="Picture", sources=["upload", "clipboard", "webcam"])
                # Gradio would open the file first, without limits, and answer with a traceback
                # where it is damaged. The segmenter wants it as it came.
                picture.preprocess = lambda payload: payload and payload.path  # type: ignore
                button = gr.Button("Segment", variant="primary")
            with gr.Column():
                overlay = gr.Image(label="Segmented", type="filepath", format="png")
                legend = gr.HTML(label="Legend")
                mask = gr.DownloadButton("Download the mask (palette PNG)")
        gr.on(
            [button.click, picture.upload],
            segment,
            picture,
            [overlay, legend, mask],
            api_name="segment",
            concurrency_limit=1,
            concurrency_id="network",
        )
    return demo


def main() -> None:
    model = os.environ.get("FCN_HUB_MODEL") or DEFAULT_MODEL
    if model == DEFAULT_MODEL and not DEFAULT_MODEL.is_dir():
        sys.exit("fcn-hub: name a model: fcn-hub demo --model ID_OR_FOLDER")
    segmenter = Segmenter.from_pretrained(
        model, max_side=MAX_SIDE, max_pixels=MAX_PIXELS, max_bytes=MAX_FILE_BYTES
    )
    build(segmenter).queue(max_size=32).launch(
        server_port=int(os.environ.get("PORT", "7860")),
        css=CSS,
        max_file_size=MAX_FILE_BYTES,
        run_history=False,
        footer_links=["api", "gradio", "settings"],
    )


if __name__ == "__main__":
    main()
