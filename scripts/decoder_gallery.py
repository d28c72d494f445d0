"""Compare the decoders: the table and the figure of docs/how-it-works.md.

    python scripts/decoder_gallery.py            # compute, draw, and measure again on this machine
    python scripts/decoder_gallery.py --no-measure   # keep the measurements on record

Parameters and arithmetic are computed from the networks. Seconds and memory are measured, each
network in a process of its own, on one thread and in that thread's CPU time, which other programs
on the machine hardly disturb; they stand in docs/figures/decoders.json with the machine they are
of. The figure shows what each checkpoint in checkpoints/ makes of a picture.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch.utils.flop_counter import FlopCounterMode

from fcn_hub import FCN, Segmenter
from fcn_hub.files import atomic_write, write_json
from fcn_hub.segmentation import Segmentation

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "how-it-works.md"
RECORD = ROOT / "docs" / "figures" / "decoders.json"
FIGURE = ROOT / "docs" / "figures" / "decoders.jpg"
BEGIN, END = "<!-- decoders -->\n", "<!-- /decoders -->\n"
# Of space/examples, one with something in it that the checkpoint knows.
PICTURES = {"fcn-vgg16-camvid": "pavilion.jpg", "fcn-vgg16-voc7": "astronaut.jpg"}
SIDE = 512
RUNS = 3

# Name in the table, the network, and what the decoder adds to what is deepest.
DECODERS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("FCN-32s", {"decoder": "fcn32s"}, "nothing"),
    ("FCN-16s", {"decoder": "fcn16s"}, "scores of `pool4`"),
    ("FCN-8s", {"decoder": "fcn8s"}, "scores of `pool4`, `pool3`"),
    ("deconv, `skips=0`", {"skips": 0}, "nothing"),
    ("deconv, `skips=1`", {"skips": 1}, "`pool4`"),
    ("deconv, `skips=2`", {"skips": 2}, "`pool4`, `pool3`"),
    ("deconv", {"skips": 4}, "`pool4`, `pool3`, `pool2`, `pool1`"),
)


def computed(options: dict[str, Any]) -> dict[str, int]:
    """Parameters, and multiplications and additions for one picture of SIDE × SIDE."""
    with torch.device("meta"):  # shapes without values: nothing is calculated
        model = FCN(num_classes=21, **options).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, 3, SIDE, SIDE))
    return {"parameters": model.num_parameters, "flop": counter.get_total_flops()}


def measured(options: dict[str, Any]) -> dict[str, float]:
    """CPU seconds of one forward pass, the least of RUNS, and the process's peak memory."""
    torch.set_num_threads(1)
    model = FCN(num_classes=21, **options).eval().to(memory_format=torch.channels_last)
    picture = torch.randn(1, 3, SIDE, SIDE).to(memory_format=torch.channels_last)
    seconds = []
    with torch.inference_mode():
        for _ in range(RUNS + 1):  # the first one also sets the kernels up
            start = time.process_time()
            model(picture)
            seconds.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": round(min(seconds[1:]), 2), "peak_mib": round(peak / 1024)}


def measured_apart(options: dict[str, Any]) -> dict[str, float]:
    """`measured` in a new process, whose memory is that network's alone."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", json.dumps(options)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def table(record: dict[str, Any]) -> str:
    """The record as the page has it."""
    lines = [
        f"| Decoder | Added | Parameters | GFLOP at {SIDE}×{SIDE} | Seconds | Memory, MiB |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for (name, _, added), row in zip(DECODERS, record["decoders"], strict=True):
        lines.append(
            f"| {name} | {added} | {row['parameters']:,} | {row['flop'] / 1e9:.0f} | "
            f"{row['seconds']:.1f} | {row['peak_mib']:,} |"
        )
    lines += ["", f"Seconds and memory: {record['protocol']}"]
    return "\n".join(lines) + "\n"


def protocol() -> str:
    info = Path("/proc/cpuinfo")
    names = info.read_text().splitlines() if info.is_file() else []
    cpu = next((line.split(":")[1].strip() for line in names if "model name" in line), "")
    return (
        f"one thread of {cpu or platform.machine()}, PyTorch {torch.__version__}, float32, "
        f"channels last, batch of one; CPU time, the least of {RUNS} passes; memory is the "
        "process's peak, Python and PyTorch included."
    )


def draw() -> None:
    """One picture as each checkpoint sees it, its decoder getting ever finer pool outputs."""
    sys.path.insert(0, str(ROOT / "space"))
    from read_outs import STRIDES, read_out

    font, strips = ImageFont.load_default(15), []
    for folder in sorted(path for path in (ROOT / "checkpoints").iterdir() if path.is_dir()):
        example = ROOT / "space" / "examples" / PICTURES[folder.name]
        picture = Image.open(example).convert("RGB")
        picture.thumbnail((300, 300))
        segmenter = Segmenter.from_pretrained(folder, device="cpu", dtype="float32")
        found = read_out(segmenter, picture)
        seen = found.picture
        confidence = torch.ones(seen.height, seen.width).numpy()
        panels = [(f"{folder.name} ({segmenter.model.decoder_name})", picture)]
        for stride, labels in zip(STRIDES, found.build_up, strict=True):
            result = Segmentation(seen, labels.astype("uint8"), confidence, segmenter.labels)
            overlay = result.overlay(0.65).resize(picture.size, Image.Resampling.NEAREST)
            panels.append((f"place up to stride {stride}", overlay))
        strips.append(grid(panels, font))
    size = max(each.width for each in strips), sum(each.height for each in strips)
    sheet = Image.new("RGB", size, "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    with atomic_write(FIGURE) as temporary:
        sheet.save(temporary, "JPEG", quality=88)


def grid(panels: list[tuple[str, Image.Image]], font: Any) -> Image.Image:
    """Panels of one size, three beside each other, each under its title."""
    width, height = panels[0][1].size
    step_x, step_y, head = width + 8, height + 34, 26
    sheet = Image.new("RGB", (3 * step_x - 8, -(-len(panels) // 3) * step_y), "white")
    pen = ImageDraw.Draw(sheet)
    for position, (title, panel) in enumerate(panels):
        row, column = divmod(position, 3)
        pen.text((column * step_x, row * step_y + 4), title, fill="#1f2933", font=font)
        sheet.paste(panel, (column * step_x, row * step_y + head))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the decoders.")
    parser.add_argument("--no-measure", action="store_true", help="keep the record's measurements")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(measured(args.one)))
        return
    again = not args.no_measure
    record = {} if again else json.loads(RECORD.read_text(encoding="utf-8"))
    before = record.get("decoders", [{}] * len(DECODERS))
    rows = []
    for (name, options, _), row in zip(DECODERS, before, strict=True):
        rows.append({**row, **computed(options), **(measured_apart(options) if again else {})})
        print(name, rows[-1], flush=True)
    record = {"protocol": protocol() if again else record["protocol"], "decoders": rows}
    write_json(RECORD, record)
    page = PAGE.read_text(encoding="utf-8")
    start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    with atomic_write(PAGE) as temporary:
        temporary.write_text(page[:start] + table(record) + page[end:], encoding="utf-8")
    draw()


if __name__ == "__main__":
    main()
