"""The pages of docs/ can not rot: their programs run, their numbers and links hold.

On every page the ```python blocks are executed in order, in one namespace. Where a ```text block
follows directly, it is exactly what the program prints. A block that can not run here, because it
needs the network or a trained model, is opened with ```python no-run.
"""

import contextlib
import io
import json
import re
import runpy
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_picture
from PIL import Image

from fcn_hub import FCN
from fcn_hub.backbone import CAFFE_MEAN_ACTIVATIONS, STAGES

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
PAGES = sorted((ROOT / "docs").glob("*.md"))

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


@dataclass
class Block:
    """A fenced block: what its opening fence says, its text, and the line where that starts."""

    info: str
    text: str
    first_line: int
    follows_directly: bool  # nothing but empty lines since the block before


def blocks(markdown: str) -> list[Block]:
    found: list[Block] = []
    end_of_last = 0
    for match in re.finditer(r"^```([^\n`]*)\n(.*?)^```[ \t]*$", markdown, re.M | re.S):
        between = markdown[end_of_last : match.start()]
        first_line = markdown.count("\n", 0, match.start(2)) + 1
        directly = bool(found) and not between.strip()
        found.append(Block(match[1].strip(), match[2], first_line, directly))
        end_of_last = match.end()
    return found


def run(block: Block, page: Path, namespace: dict[str, object]) -> str:
    """Execute a block and return what it prints; a traceback names the page's own lines."""
    code = compile("\n" * (block.first_line - 1) + block.text, str(page), "exec")
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(code, namespace)
    return output.getvalue()


@every_page
def test_programs_run_and_print_what_the_page_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    printed: str | None = None
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.info == "python":
            printed = run(block, page, namespace)
        else:
            if block.info == "text" and block.follows_directly and printed is not None:
                assert printed == block.text, f"{page.name}, line {block.first_line}"
            printed = None


def test_blocks_are_told_apart() -> None:
    page = "```python\nprint(1)\n```\n\n```text\n1\n```\nprose\n```python no-run\nx\n```\n"

    assert blocks(page) == [
        Block("python", "print(1)\n", 2, False),
        Block("text", "1\n", 6, True),
        Block("python no-run", "x\n", 10, False),
    ]


@every_page
def test_links_to_files_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    files = [target.split("#")[0] for target in targets if "://" not in target]

    missing = [file for file in files if file and not (page.parent / file).exists()]

    assert not missing


def test_the_table_of_stages_is_the_real_network() -> None:
    with torch.device("meta"):  # shapes without values: nothing is computed
        model = FCN(num_classes=21)
    stages: list[tuple[str, ...]] = []

    def stage(name: str, output: torch.Tensor, parameters: int) -> None:
        _, channels, height, width = output.shape
        stride, size = 512 // height, f"{height}×{width}"
        stages.append((name, str(channels), str(stride), size, f"{parameters:,}"))

    def count(*modules: torch.nn.Module) -> int:
        return sum(p.numel() for module in modules for p in module.parameters())

    decoded: dict[str, torch.Tensor] = {}
    for name, module in model.decoder.named_children():
        module.register_forward_hook(
            lambda module, inputs, output, name=name: decoded.update({name: output})
        )
    pools = model.backbone(torch.empty(1, 3, 512, 512, device="meta"))
    model.decoder(pools)
    for number, (pool, convs) in enumerate(zip(pools, model.backbone.stages(), strict=True), 1):
        stage(f"pool{number}", pool, count(*convs))
    for number in range(1, 6):
        layers = [model.decoder.get_submodule(f"{kind}{number}") for kind in ("deconv", "bn")]
        stage(f"deconv{number}", decoded[f"bn{number}"], count(*layers))
    stage("classifier", decoded["classifier"], count(model.decoder.classifier))

    page = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    rows = [
        tuple(cell.strip().strip("`") for cell in line.strip("|").split("|"))
        for line in page.splitlines()
        if re.match(r"\| `(pool|deconv|classifier)", line)
    ]
    # Name, channels, stride, size, parameters: all columns but the operation, which is words.
    assert [(row[0], *row[2:]) for row in rows] == stages
    assert sum(int(row[-1].replace(",", "")) for row in rows) == model.num_parameters == 18_644_373


def test_the_table_of_decoders_is_computed_from_them() -> None:
    gallery = runpy.run_path(str(ROOT / "scripts" / "decoder_gallery.py"))
    record = json.loads((FIGURES / "decoders.json").read_text(encoding="utf-8"))

    for (name, options, _), row in zip(gallery["DECODERS"], record["decoders"], strict=True):
        found = gallery["computed"](options)
        assert {key: row[key] for key in found} == found, name
    page = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    assert gallery["BEGIN"] + gallery["table"](record) + gallery["END"] in page


def test_the_table_of_mean_activations_is_the_one_in_use() -> None:
    page = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| mean \|(.*)\|$", page, re.M)

    # The last convolution of each stage: what its pooling takes in.
    last = [count - 1 for count in accumulate(depth for depth, _ in STAGES)]
    expected = [CAFFE_MEAN_ACTIVATIONS[index] for index in last]
    assert [float(cell) for cell in row.split("|")] == expected


@pytest.mark.parametrize("figure", sorted(FIGURES.glob("*.svg")), ids=lambda figure: figure.stem)
def test_figures_are_well_formed(figure: Path) -> None:
    assert ET.parse(figure).getroot().tag.endswith("svg")


def test_figures_can_be_drawn_again(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw = runpy.run_path(str(ROOT / "scripts" / "draw_figures.py"))["draw"]

    for attempt in ("first", "second"):
        draw(tmp_path / attempt)

    drawn = {path.name: path.read_bytes() for path in (tmp_path / "first").iterdir()}
    again = {path.name: path.read_bytes() for path in (tmp_path / "second").iterdir()}
    assert drawn == again
    assert set(drawn) <= {path.name for path in FIGURES.iterdir()}


def test_the_readmes_python_runs_as_it_stands(tmp_path, monkeypatch):
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    Image.fromarray(make_picture(90, 120)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    page = ROOT / "README.md"
    namespace: dict[str, object] = {}
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.info == "python":
            run(block, page, namespace)
    assert {"overlay.png", "mask.png", "photo.jpg.png"} <= {p.name for p in tmp_path.iterdir()}
    assert tuple(namespace["logits"].shape) == (1, 7, 375, 500)


def test_the_performance_table_is_the_measured_one():
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    measured = [row for record in benchmarks() for row in record["rows"]]
    cells = re.findall(r"([0-9.]+) s \(([0-9.]+)×\)", text)
    found = [(f"{r['seconds_per_picture']:.3f}", f"{r['ratio']:.2f}") for r in measured]
    assert sorted(cells) == sorted(found)
    of_peak = [int(cell) for cell in re.findall(r"\| (\d+) % \| arithmetic", text)]
    cases = [row for row in measured if row["case"] == "1×512×512" and "fraction_of_peak" in row]
    assert of_peak == [round(100 * row["fraction_of_peak"]) for row in cases]


def benchmarks() -> list[dict[str, Any]]:
    """The records of the machines with AMX, with AVX-512 and with AVX2."""
    names = ("benchmark-amx.json", "benchmark.json", "benchmark-avx2.json")
    return [json.loads((FIGURES / name).read_text(encoding="utf-8")) for name in names]


def test_the_costs_of_many_pictures_follow_from_the_measured_rate():
    text = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    measured = [record["stream"]["stream_per_second"] for record in benchmarks()]
    row = re.compile(
        r"\| .* \| ([\d.]+) \| \$([\d.]+) \| 10\^(\d) "
        r"\| ([\d,]+) \| ([\d,]+) \| ([\d.]+) \| \$([\d,]+) \|"
    )
    rows = [[float(cell.replace(",", "")) for cell in found] for found in row.findall(text)]
    assert [each[2] for each in rows] == [6, 8, 9] * len(measured)
    assert [each[0] for each in rows] == [round(rate, 2) for rate in measured for _ in range(3)]
    for rate, price, exponent, alone, workers, hours, total in rows:
        expected = 10**exponent / rate / 3600
        assert alone == round(expected)
        assert hours == pytest.approx(expected / workers, rel=0.02)
        assert total == round(expected * price)


def test_the_training_log_has_the_published_runs_figures():
    text = (ROOT / "docs" / "training-log.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"cosine for 1,200 steps \(published before\) \|(.*)\|", text)
    for name, samples in (("fcn-vgg16-camvid", 4), ("fcn-vgg16-voc7", 8)):
        record = json.loads((ROOT / "checkpoints" / name / "training.json").read_text())
        runs = [record]  # the last first, each begun from the best of the next
        while before := runs[-1].get("before"):
            runs.append(before)
        first = runs.pop()
        if name == "fcn-vgg16-camvid":
            curve = [f"{each['mean_iu']:.3f}" for each in first["evaluations"]]
            assert [cell.strip() for cell in row.split("|")] == curve
        begun = samples * first["best"]["step"]
        for run in reversed(runs):
            for each in run["evaluations"]:
                line = rf"\|([^|]*)\| {begun + samples * each['step']:,} \| (.*) \|"
                ((name_of_row, figure),) = re.findall(line, text)
                assert figure == f"{each['mean_iu']:.3f}"
                published = run is record and each["step"] == record["best"]["step"]
                assert ("(**published**)" in name_of_row) == published
            begun += samples * run["best"]["step"]
        for label, found in record["best"]["class_iu"].items():
            assert f"{label} {100 * found:.0f}" in " ".join(text.split())
    steps = json.loads((ROOT / "docs" / "figures" / "training-step.json").read_text())["rows"]
    cells = re.findall(r"\| ([\d.]+) \| ([\d.]+)× \|", text)
    assert cells == [(f"{r['seconds']:.2f}", f"{r['ratio']:.2f}") for r in steps.values()]


def test_the_table_of_bulk_prediction_is_the_measured_one():
    text = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    cells = re.findall(
        r"^\| (?:one|Ray).* \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \| (?:\d+ →|–)", text, re.M
    )
    measured = json.loads((ROOT / "docs" / "figures" / "bulk.json").read_text())["rows"]
    assert sorted(cells) == sorted(
        (
            f"{row['pictures']:,}",
            f"{row['seconds']:.1f}",
            f"{row['steady_pictures_per_second']:.1f}",
        )
        for row in measured
    )


def test_the_decoders_curves_are_the_recorded_ones():
    text = (ROOT / "docs" / "training-log.md").read_text(encoding="utf-8")
    runs = json.loads((FIGURES / "decoder-runs.json").read_text(encoding="utf-8"))
    for name, run in runs.items():
        curve = " | ".join(f"{each['mean_iu']:.3f}" for each in run["evaluations"])
        samples = 4 * run["evaluations"][-1]["step"]
        assert f"| {name} | {curve} | {samples:,} |" in text
