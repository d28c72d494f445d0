"""Evaluation: a network against a data set's labels, at the labels' own resolution.

Pictures take the road that `Segmenter` gives every picture, so what is measured is what users
get. With several processes each takes its share of the pictures, none
twice, and the figures are those of one process.
"""

import json
import math
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from fcn_hub import __version__
from fcn_hub.datasets import SegmentationDataset, open_dataset
from fcn_hub.files import write_json
from fcn_hub.hub import identity
from fcn_hub.labels import LabelMap, LabelMapError
from fcn_hub.metrics import ConfusionMatrix, SegmentationMetrics
from fcn_hub.segmenter import Segmenter, blended_tiles

try:
    from accelerate import PartialState
    from accelerate.utils import gather_object, parse_flag_from_env
except ImportError as error:
    raise ImportError(
        f"Training and evaluation need {error.name}: pip install 'fcn-hub[train]'.",
        name=error.name,
    ) from None

# The same names as `fcn_hub.datasets.DATASETS`, in the form that a command line is made from.
DatasetName = Literal["voc", "voc7", "camvid", "cityscapes", "ade20k", "folder", "huggingface"]

# Pixels that pass through the network at once: all of them, or those of tiles.
WHOLE_PICTURE = 2**62
TILE_PIXELS = 2**20


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` found.

    Args:
        metrics: The figures.
        matrix: The confusion matrix they come from, int64 [classes, classes]: rows are truth.
        labels: The data set's classes.
        pictures: How many pictures were evaluated.
        protocol: How, in words: resolution, scales, precision, what is left out.
        options: The same for machines.
        seconds_per_picture: Median time from the decoded picture to its label map.
        scores: Per picture, its index in the data set and its own mean IU, worst first.
    """

    metrics: SegmentationMetrics
    matrix: np.ndarray
    labels: LabelMap
    pictures: int
    protocol: str
    options: dict[str, Any]
    seconds_per_picture: float
    scores: tuple[tuple[int, float], ...] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as JSON-ready values, figures in 0..1."""
        return {
            **self.metrics.to_dict(self.labels),
            "pictures": self.pictures,
            "protocol": self.protocol,
            "options": self.options,
            "ignore_index": self.labels.ignore_index,
            "seconds_per_picture": round(self.seconds_per_picture, 4),
            "class_names": list(self.labels.names),
            "confusion_matrix": self.matrix.tolist(),
        }

    def format_table(self) -> str:
        """The figures and the protocol as a text for people."""
        return (
            f"{self.metrics.format_table(self.labels)}\n\n{self.protocol}\n"
            f"{self.seconds_per_picture:.3f} seconds per picture."
        )


def evaluate(
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    limit: int | None = None,
) -> Evaluation:
    """Measure a network on a data set; called by every process where there are several.

    Args:
        segmenter: The network. Its `pixel_budget` decides what is processed in tiles.
        dataset: The pictures and their labels. Its class names must be the network's, in any
            order.
        scales: Sizes at which the network sees each picture; the class probabilities of all of
            them are averaged.
        flip: Average over the mirrored picture, too.
        limit: Evaluate this many pictures only, spread evenly over the data set.

    Raises:
        LabelMapError: The classes differ.
        DatasetError: A picture or mask cannot be read.
        ValueError: A scale or the limit is not positive.

    Example:
        >>> segmenter = Segmenter.from_pretrained("owner/name")  # doctest: +SKIP
        >>> evaluate(segmenter, dataset).metrics.mean_iu  # doctest: +SKIP
        0.71
    """
    if not scales or min(scales) <= 0 or (limit is not None and limit < 1):
        raise ValueError(f"scales and limit must be positive, not {list(scales)} and {limit}.")
    process = processes()
    device = process.device if process.num_processes > 1 else "cpu"
    to_dataset = class_table(segmenter.labels, dataset.labels)
    confusion = ConfusionMatrix(len(dataset.labels), dataset.labels.ignore_index, device)
    chosen = spread(len(dataset), limit)
    mine = chosen[process.process_index :: process.num_processes]
    scores, seconds = [], []
    hidden = None if process.is_main_process else True
    for index in tqdm(mine, f"Evaluating {dataset.split}", leave=False, disable=hidden):
        image, truth = dataset.read(index)
        start = perf_counter()
        prediction = to_dataset[predict(segmenter, image, scales=scales, flip=flip)]
        seconds.append(perf_counter() - start)
        confusion.update(prediction, truth)
        scores.append((index, _picture_iu(prediction, truth, dataset.labels)))
    matrix = confusion.matrix()
    scores, seconds = gather_object(scores), gather_object(seconds)
    protocol, options = _protocol(segmenter, dataset, len(chosen), tuple(scales), flip)
    return Evaluation(
        metrics=SegmentationMetrics.from_matrix(matrix),
        matrix=matrix,
        labels=dataset.labels,
        pictures=len(scores),
        protocol=protocol,
        options=options,
        seconds_per_picture=median(seconds),
        scores=tuple(sorted(scores, key=lambda score: (score[1], score[0]))),
    )


def processes() -> PartialState:
    """This process among those that share the work."""
    return PartialState(cpu=on_cpu())


def on_cpu() -> bool:
    """Whether to stay on the CPU: Accelerate has to be told so before it starts several processes
    on a machine that has nothing else.
    """
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def spread(count: int, limit: int | None) -> list[int]:
    """`limit` of the indices 0..count-1, evenly spread; all of them where None."""
    if limit is None or limit >= count:
        return list(range(count))
    return [index * count // limit for index in range(limit)]


def class_table(model: LabelMap, dataset: LabelMap) -> np.ndarray:
    """The data set's index of each of the network's classes, matched by name.

    Raises:
        LabelMapError: One has a class that the other has not.
    """
    if set(model.names) != set(dataset.names):
        only_model = [name for name in model.names if name not in dataset.names]
        only_dataset = [name for name in dataset.names if name not in model.names]
        raise LabelMapError(
            f"The network's classes are not the data set's: {', '.join(only_model) or 'none'} only "
            f"in the network, {', '.join(only_dataset) or 'none'} only in the data set. Choose the "
            "data set whose classes the network has learned."
        )
    return np.array([dataset.index(name) for name in model.names])


@torch.inference_mode()
def predict(
    segmenter: Segmenter,
    image: Image.Image,
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> np.ndarray:
    """The label map [H, W] of an RGB picture, its probabilities averaged over scales and flip."""
    if tuple(scales) == (1.0,) and not flip:
        return segmenter(image).label_map
    total: Tensor | float = 0.0
    base = segmenter._resized(image)
    for scale in scales:
        size = (max(1, round(base.width * scale)), max(1, round(base.height * scale)))
        pixels = np.asarray(base.resize(size, Image.Resampling.BILINEAR))
        total = total + _probabilities(segmenter, pixels, image.size)
        if flip:
            total = total + _probabilities(segmenter, pixels[:, ::-1], image.size).flip(-1)
    assert isinstance(total, Tensor)
    return total.argmax(dim=0).cpu().numpy()


def _probabilities(segmenter: Segmenter, pixels: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Class probabilities, float32 [C, size[1], size[0]], of uint8 pixels [h, w, 3]."""
    height, width = pixels.shape[:2]
    pixels = np.array(pixels)  # contiguous and writable, as torch wants it
    if height * width <= segmenter.pixel_budget:
        logits = segmenter._logits(pixels[None])[0].float()
    else:
        logits = torch.empty(len(segmenter.labels), height, width, device=segmenter.device)

        def logits_of(y0: int, y1: int, x0: int, x1: int) -> Tensor:
            return segmenter._logits(pixels[None, y0:y1, x0:x1])[0]

        for y, x, part in blended_tiles(height, width, segmenter.pixel_budget, logits_of):
            logits[:, y : y + part.shape[1], x : x + part.shape[2]] = part
    if (width, height) != size:
        logits = F.interpolate(logits[None], size=size[::-1], mode="bilinear")[0]
    return logits.softmax(dim=0)


def _picture_iu(prediction: np.ndarray, truth: np.ndarray, labels: LabelMap) -> float:
    """The mean IU of one picture; 1 where nothing in it is labelled."""
    labelled = truth != labels.ignore_index
    pairs = truth[labelled].astype(np.int64) * len(labels) + prediction[labelled]
    matrix = np.bincount(pairs, minlength=len(labels) ** 2).reshape(len(labels), len(labels))
    score = SegmentationMetrics.from_matrix(matrix).mean_iu
    return 1.0 if math.isnan(score) else score


def _protocol(
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    pictures: int,
    scales: tuple[float, ...],
    flip: bool,
) -> tuple[str, dict[str, Any]]:
    tiled = segmenter.pixel_budget < WHOLE_PICTURE
    precision = str(segmenter.dtype).removeprefix("torch.")
    options = {
        "dataset": dataset.name,
        "split": dataset.split,
        "pictures_in_split": len(dataset),
        "scales": list(scales),
        "flip": flip,
        "tile_pixels": segmenter.pixel_budget if tiled else None,
        "max_side": segmenter.max_side,
        "dtype": precision,
        "device": segmenter.device.type,
    }
    count = f"all {pictures}" if pictures == len(dataset) else f"only {pictures} of {len(dataset)}"
    steps = [
        f"{dataset.name} {dataset.split}, {count} pictures, labels at their original resolution",
        "single scale" if scales == (1.0,) else f"scales {', '.join(f'{s:g}' for s in scales)}",
        "averaged with the mirrored picture" if flip else "no flip",
        f"overlapping tiles of at most {segmenter.pixel_budget:,} pixels"
        if tiled
        else "whole pictures",
        f"longest side at most {segmenter.max_side}" if segmenter.max_side else "",
        f"{precision} on {segmenter.device.type}",
    ]
    return (
        f"{'; '.join(step for step in steps if step)}. One confusion matrix over all pictures; "
        f"pixels labelled {dataset.labels.ignore_index} are ignored; classes absent from both "
        "truth and prediction are left out of means."
    ), options


def evaluate_checkpoint(
    model: str,
    /,
    *,
    dataset: DatasetName,
    data_root: Path,
    split: str = "val",
    json: Path | None = None,
    report: Path | None = None,
    labels: Path | None = None,
    revision: str | None = None,
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32",
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    tile: bool = False,
    max_side: int | Literal["auto"] = "auto",
    limit: int | None = None,
    worst: int = 8,
) -> Evaluation:
    """Evaluate a checkpoint on a split of a data set, at the labels' original resolution.

    With `torchrun --nproc_per_node 4 scripts/evaluate.py …` four processes share the pictures
    and find the same figures.

    Args:
        model: A checkpoint's folder, or a Hub id such as owner/name.
        dataset: Which data set; it decides the layout on disk and the classes.
        data_root: The data set's folder (or the Hub id of a Hugging Face data set).
        split: The split's name.
        json: Write the figures, the protocol and the confusion matrix to this file.
        report: Write a plot of the confusion matrix and the worst pictures to this folder.
        labels: A labels file, for the data sets folder and huggingface.
        revision: Branch, tag or commit of a model on the Hub.
        device: auto, cpu, cuda, mps.
        dtype: Precision of the network; auto is bfloat16 where the hardware computes in it.
        scales: Average over these scales; labelled as such in the protocol.
        flip: Average over the mirrored picture, too; labelled as such in the protocol.
        tile: Process pictures above a megapixel in overlapping tiles; labelled as such in the
            protocol. Without it every picture passes through the network whole.
        max_side: Scale pictures down to this longest side for the network; auto is the model's
            own, the size at which it has learned to see.
        limit: Evaluate only this many pictures, spread evenly; labelled as such.
        worst: How many of the worst pictures the report shows.
    """
    options: dict[str, Any] = {"labels": labels} if labels is not None else {}
    data = open_dataset(dataset, data_root, split, **options)
    process = processes()
    segmenter = Segmenter.from_pretrained(
        model,
        revision=revision,
        device=process.device if device == "auto" and process.num_processes > 1 else device,
        dtype=dtype,
        max_side=max_side,
        pixel_budget=TILE_PIXELS if tile else WHOLE_PICTURE,
    )
    evaluation = evaluate(segmenter, data, scales=scales, flip=flip, limit=limit)
    if process.is_main_process and json is not None:
        record = {**identity(model, revision), **evaluation.to_dict(), **environment(segmenter)}
        write_json(json, record)
    if process.is_main_process and report is not None:
        report.mkdir(parents=True, exist_ok=True)
        draw_confusion_matrix(evaluation).savefig(report / "confusion.png", dpi=150)
        indices = [index for index, _ in evaluation.scores[:worst]]
        pictures = compare(segmenter, data, indices, scales=scales, flip=flip)
        for rank, (index, picture) in enumerate(zip(indices, pictures, strict=True), start=1):
            name = re.sub(r"[^\w.-]", "_", data.samples[index].id)
            picture.save(report / f"worst-{rank:02}-{name}.png")
    return evaluation


def environment(segmenter: Segmenter) -> dict[str, Any]:
    """When, on what hardware and with which versions a record was made."""
    return {
        "hardware": hardware(segmenter.device),
        "versions": versions(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def versions() -> dict[str, str]:
    """The versions that a figure may depend on."""
    found = {"python": platform.python_version(), "fcn-hub": __version__}
    for name in ("torch", "torchvision", "accelerate", "torchmetrics"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware(device: torch.device) -> str:
    """The name of the accelerator, or of the processor and how many threads torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file() and (
        found := re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
    ):
        name = found[1]
    return f"{name}, {torch.get_num_threads()} of {os.cpu_count()} threads"


def git_commit() -> str | None:
    """The commit of the code, marked where files were changed since; None outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return None
    return found.stdout.strip() or None


def compare(
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    indices: Iterable[int],
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> Iterable[Image.Image]:
    """For each index a strip: the picture, its truth (white where ignored), the prediction."""
    to_dataset = class_table(segmenter.labels, dataset.labels)
    palette = dataset.labels.palette()
    for index in indices:
        image, truth = dataset.read(index)
        prediction = to_dataset[predict(segmenter, image, scales=scales, flip=flip)]
        ignored = truth == dataset.labels.ignore_index
        truth_colors = np.where(ignored[..., None], 255, palette[np.where(ignored, 0, truth)])
        parts = (np.asarray(image), truth_colors, palette[prediction])
        yield Image.fromarray(np.concatenate(parts, axis=1).astype(np.uint8))


def stacked(strips: Iterable[Image.Image], width: int = 1200) -> Image.Image:
    """Pictures below one another, all brought to one width."""
    rows = [
        strip.resize((width, max(1, round(strip.height * width / strip.width)))) for strip in strips
    ]
    sheet = Image.new("RGB", (width, sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def draw_confusion_matrix(evaluation: Evaluation) -> Any:
    """A matplotlib figure: of each true class (row), the share taken for each class (column)."""
    from matplotlib.figure import Figure

    names = evaluation.labels.names
    totals = evaluation.matrix.sum(axis=1, keepdims=True)
    shares = evaluation.matrix / np.maximum(totals, 1)
    side = max(4.0, 0.5 * len(names) + 2)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("prediction")
    axes.set_ylabel("truth")
    if len(names) <= 30:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                color = "white" if share > 0.5 else "black"
                text = f"{100 * share:.0f}"
                axes.text(column, row, text, color=color, ha="center", va="center", fontsize=8)
    return figure


def draw_learning_curve(log: Path, evaluations: Sequence[dict[str, Any]]) -> Any:
    """A matplotlib figure: the loss of every step and its running mean; mean IU below."""
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    steps, losses = [line["step"] for line in lines], [line["loss"] for line in lines]
    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    above.plot(steps, losses, color="#bbccee", linewidth=0.6)
    above.plot(steps, running_mean(losses), color="#2255aa")
    above.set_ylabel("training loss")
    below.plot([e["step"] for e in evaluations], [e["mean_iu"] or 0 for e in evaluations], "o-")
    below.set(xlabel="step", ylabel="mean IU", ylim=(0, 1))
    below.grid(alpha=0.3)
    return figure


def running_mean(values: Sequence[float], over: int = 50) -> list[float]:
    """An exponential mean that weighs about the last `over` values, and all alike at first."""
    smooth, means = 0.0, list[float]()
    for value in values:
        smooth += (value - smooth) / min(len(means) + 1, over)
        means.append(smooth)
    return means
