"""What a card says of the records training.json and evaluation.json.

Records may come from anywhere: a value that is missing, of another type or absurd counts as not
recorded.
"""

import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

from fcn_hub.card.pictures import MOST_CLASSES
from fcn_hub.card.sources import SOURCES, Source
from fcn_hub.card.text import Markdown, escape, fenced, folded, one_line, percent
from fcn_hub.checkpoint import WEIGHTS_NAME, read_config
from fcn_hub.labels import LabelMap

TRAINING_NAME = "training.json"
EVALUATION_NAME = "evaluation.json"

MOST_STAGES = 10  # trainings one after the other that a card tells of

# The figures of Long, Shelhamer and Darrell (2015): key of the record, name, metric on the Hub.
FIGURES = (
    ("pixel_accuracy", "Pixel accuracy", "pixel_accuracy"),
    ("mean_accuracy", "Mean accuracy", "mean_accuracy"),
    ("mean_iu", "Mean IU", "mean_iou"),
    ("frequency_weighted_iu", "Frequency-weighted IU", "frequency_weighted_iou"),
)


def repository(repo_id: str | None) -> dict[str, Any]:
    """The model's name and its id as Python and the shell write it."""
    plain = one_line(repo_id or "owner/name")
    return {
        "known": bool(repo_id),
        "name": plain.rsplit("/", 1)[-1] if repo_id else "",
        "python": Markdown(json.dumps(plain, ensure_ascii=False)),
        "shell": Markdown(shlex.quote(plain)),
    }


def read_record(folder: Path | None, name: str) -> dict[str, Any]:
    if folder is None or not (folder / name).is_file():
        return {}
    return read_config(folder / name)


def fits_weights(evaluation: dict[str, Any], folder: Path) -> bool:
    """Whether the record is about the weights in the folder, as far as it can be known."""
    recorded = value_at(evaluation, "weights_sha256", str)
    if recorded is None or not (folder / WEIGHTS_NAME).is_file():
        return True
    digest = hashlib.sha256()
    with (folder / WEIGHTS_NAME).open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest() == recorded


def value_at(record: Any, keys: str, kind: type) -> Any:
    """What lies under the keys, joined by dots; None where it is missing or of another type."""
    for key in keys.split("."):
        record = record.get(key) if isinstance(record, dict) else None
    if isinstance(record, int) and _number(record) is None:
        return None
    return record if isinstance(record, kind) else None


def line_at(record: Any, keys: str) -> str | None:
    text = value_at(record, keys, str)
    return one_line(text) or None if text else None


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and abs(value) < 1e15 else None  # NaN is not below anything


def as_share(value: Any) -> float | None:
    """The value where it is a figure in 0..1."""
    return value if _number(value) is not None and 0 <= value <= 1 else None


def class_rows(labels: LabelMap, evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    ius, accuracies, pixels = (
        value_at(evaluation, key, dict) or {}
        for key in ("class_iu", "class_accuracy", "class_pixels")
    )
    counts = [count for count in pixels.values() if _number(count) is not None]

    def figure(values: dict[str, Any], name: str) -> str:
        value = as_share(values.get(name))
        return "–" if value is None else percent(value)

    rows = []
    for index, name in enumerate(labels.names[:MOST_CLASSES]):
        count = _number(pixels.get(name))
        frequency = None if count is None or sum(counts) <= 0 else count / sum(counts)
        rows.append(
            {
                "index": index,
                "name": name,
                "color": labels.color_hex(index),
                "iu": figure(ius, name) if ius else None,
                "accuracy": figure(accuracies, name) if ius else None,
                "frequency": figure({name: frequency}, name) if ius else None,
            }
        )
    return rows


def evaluation_facts(evaluation: dict[str, Any]) -> dict[str, Any]:
    figures = {
        title: percent(value)
        for key, title, _ in FIGURES
        if (value := as_share(evaluation.get(key))) is not None
    }
    data_set = line_at(evaluation, "options.dataset") or "a data set that is not recorded"
    seconds = _number(evaluation.get("seconds_per_picture"))
    return {
        "figures": figures,
        "data_set": SOURCES[data_set].title if data_set in SOURCES else data_set,
        "split": line_at(evaluation, "options.split"),
        "pictures": value_at(evaluation, "pictures", int),
        "protocol": line_at(evaluation, "protocol"),
        "classes_counted": value_at(evaluation, "classes_counted", int),
        "seconds": None if seconds is None else f"{seconds:.3g}",
        "hardware": line_at(evaluation, "hardware"),
        "date": (line_at(evaluation, "date") or "")[:10] or None,
        "versions": _versions(evaluation),
    }


def stages(training: dict[str, Any]) -> list[dict[str, Any]]:
    """The records of one training after the other that led to a network, the first one first."""
    found = [training]
    while (before := value_at(found[0], "before", dict)) and len(found) < MOST_STAGES:
        found.insert(0, before)
    return found


def training_facts(training: dict[str, Any]) -> dict[str, Any]:
    *earlier, _ = stages(training)
    return {
        "command": _command(training),
        "before": [{"rows": _rows_before(each), "command": _command(each)} for each in earlier],
        "finished": training.get("finished"),
        "rows": _setting_rows(training),
    }


def source_of(training: dict[str, Any]) -> Source | None:
    """What is known of the data set that the network was trained on."""
    return SOURCES.get(line_at(training, "dataset.name") or "")


def _command(training: dict[str, Any]) -> Markdown | None:
    command = value_at(training, "command", str)
    return fenced(folded(command), "bash") if command and command.strip() else None


def _setting_rows(training: dict[str, Any]) -> list[tuple[str, Any]]:
    return [
        ("Data", _training_data(training)),
        ("Initial weights", _initial_weights(training)),
        ("Steps", _steps(training)),
        ("Recipe", _recipe(training)),
        ("Hardware", _hardware(training)),
        ("Wall time", _duration(_number(training.get("wall_seconds")))),
        ("Seed", value_at(training, "seed", int)),
        ("Versions", _versions(training)),
        ("Code", line_at(training, "git_commit")),
    ]


def _rows_before(training: dict[str, Any]) -> list[tuple[str, Any]]:
    """Of an earlier stage: how it was trained and what was gone on with, or where it is from."""
    if origin := origin_facts(training):
        terms = line_at(training, "license_name") or line_at(training, "license")
        return [*origin["rows"], ("Its terms", terms)]
    step = value_at(training, "best.step", int)
    mean_iu = as_share(value_at(training, "best.mean_iu", float))
    taken = None
    if step is not None and mean_iu is not None:
        taken = f"the weights after {step:,} steps, mean IU {percent(mean_iu)} %"
    return [*_setting_rows(training), ("Went on with", taken)]


def binding_source(training: dict[str, Any]) -> Source | None:
    """The data set whose terms the weights are under: of all trainings, one that is not for
    commercial use before one that says nothing of it; the last training's where all are alike.
    """
    sources = [source_of(each) for each in reversed(stages(training))]
    strict = (each for each in sources if each and "non-commercial" in each.license_name)
    return next(strict, sources[0])


def earlier_terms(training: dict[str, Any]) -> list[tuple[str, str]]:
    """Title and terms (Markdown) of data sets that only trainings before the last one used."""
    *earlier, last = map(source_of, stages(training))
    others = dict.fromkeys(each for each in earlier if each and each != last)
    return [(source.title, source.terms) for source in others]


def origin_facts(training: dict[str, Any]) -> dict[str, Any] | None:
    """Where weights are from that were taken over from other code (`fcn_hub.importers`)."""
    record = value_at(training, "imported", dict)
    if record is None:
        return None
    rows = {
        "Weights": "title",
        "From": "link",
        "File": "file",
        "Its SHA-256": "sha256",
        "Read as": "format",
        "Taken over on": "date",
    }
    return {
        "published": line_at(record, "published"),
        "rows": [(name, line_at(record, key) or "Not known.") for name, key in rows.items()],
    }


def _training_data(training: dict[str, Any]) -> str | None:
    source = source_of(training)
    name = source.title if source else line_at(training, "dataset.name")
    split = line_at(training, "dataset.train.split")
    pictures = value_at(training, "dataset.train.pictures", int)
    parts = [name, split and f"split {split}", pictures is not None and f"{pictures:,} pictures"]
    return ", ".join(part for part in parts if part) or None


def _initial_weights(training: dict[str, Any]) -> str | None:
    init = line_at(training, "config.init")
    known = {
        "caffe": "VGG-16 that has learned ImageNet (the original weights)",
        "torchvision": "VGG-16 that has learned ImageNet (torchvision's weights)",
        "random": "random",
    }
    if init and init.endswith(".safetensors"):
        return f"VGG-16, {_file_name(init)}"
    return known.get(init, init) if init else None


def _steps(training: dict[str, Any]) -> str | None:
    steps, samples = value_at(training, "steps", int), value_at(training, "samples", int)
    pictures = value_at(training, "dataset.train.pictures", int)
    if steps is None:
        return None
    text = f"{steps:,}"
    if samples is not None:
        text += f", {samples:,} samples"
        text += f" ({samples / pictures:.1f} epochs)" if pictures else ""
    return text


def _recipe(training: dict[str, Any]) -> str | None:
    config = value_at(training, "config", dict) or {}
    optimizer = {"adamw": "AdamW", "sgd": "SGD"}.get(line_at(config, "optimizer") or "")
    crop = value_at(config, "crop", list)
    processes = value_at(training, "processes", int) or 1
    off_at_zero = ("ema", "class_weighting", "repeat_threshold")
    numbers = {
        "batch_size": "batch size {:g}" + (" per process" if processes > 1 else ""),
        "lr": "learning rate {:g}",
        "backbone_lr": "backbone × {:g}",
        "ema": "average of the weights with decay {:g}",
        "class_weighting": "class weights to the power {:g}",
        "repeat_threshold": "rare classes repeated below a share of {:g}",
    }
    parts = [
        optimizer,
        *(
            form.format(value)
            for key, form in numbers.items()
            if (value := _number(config.get(key))) is not None and (value or key not in off_at_zero)
        ),
        f"{schedule} schedule" if (schedule := line_at(config, "schedule")) else None,
        f"crops {crop[0]} × {crop[1]}" if crop and len(crop) == 2 else None,
        {"bf16": "bfloat16", "fp16": "float16", "no": "float32"}.get(
            line_at(config, "mixed_precision") or ""
        ),
    ]
    return ", ".join(part for part in parts if part) or None


def _hardware(training: dict[str, Any]) -> str | None:
    hardware, processes = line_at(training, "hardware"), value_at(training, "processes", int)
    if hardware and processes and processes > 1:
        return f"{processes} × {hardware}"
    return hardware


def _versions(record: dict[str, Any]) -> str | None:
    versions = value_at(record, "versions", dict) or {}
    return ", ".join(one_line(f"{name} {version}") for name, version in versions.items()) or None


def _duration(seconds: float | None) -> str | None:
    if seconds is None or seconds < 0:
        return None
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min"


def curve_facts(training: dict[str, Any]) -> dict[str, Any] | None:
    """The evaluations during training: a line of bars, and a table of at most ten of them."""
    points = [
        (step, mean_iu, as_share(each.get("pixel_accuracy")))
        for each in value_at(training, "evaluations", list) or []
        if (step := value_at(each, "step", int)) is not None
        and (mean_iu := as_share(each.get("mean_iu"))) is not None
    ]
    if not points:
        return None
    values = [mean_iu for _, mean_iu, _ in points]
    best, last = values.index(max(values)), len(points) - 1
    shown = {*(round(place * last / 7) for place in range(8)), best}
    bars, low, spread = "▁▂▃▄▅▆▇█", min(values), max(values) - min(values)
    drawn = [values[round(place * last / 39)] for place in range(40)] if last > 39 else values
    return {
        "bars": "".join(
            bars[round(7 * (value - low) / spread) if spread else 0] for value in drawn
        ),
        "count": len(points),
        "first": percent(values[0]),
        "last": percent(values[-1]),
        "split": line_at(training, "dataset.val.split"),
        "pictures": value_at(training, "dataset.val.evaluated", int),
        "rows": [
            {
                "step": f"{points[index][0]:,}",
                "mean_iu": percent(points[index][1]),
                "pixel_accuracy": "–" if (right := points[index][2]) is None else percent(right),
                "best": index == best,
            }
            for index in sorted(shown)
        ],
    }


def backbone_facts(training: dict[str, Any]) -> Markdown | None:
    """Where the backbone comes from, in the first training that is on record, and its terms."""
    inits = (line_at(each, "config.init") for each in stages(training))
    init = next(filter(None, inits), None)
    original = (
        "the original weights of Simonyan and Zisserman, "
        "[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/)"
    )
    if init is None:
        return None
    if init == "random":
        return Markdown("None: the backbone began with random weights.")
    if init == "caffe":
        return Markdown(f"VGG-16 that has learned ImageNet, {original}.")
    if init == "torchvision":
        return Markdown(
            "VGG-16 that has learned ImageNet, torchvision's weights "
            "[IMAGENET1K_V1](https://docs.pytorch.org/vision/stable/models/vgg.html); torchvision "
            "is under BSD-3-Clause."
        )
    if init.endswith(".safetensors"):
        file = escape(_file_name(init))
        return Markdown(f"VGG-16 from the file {file}. VGG-16 as published: {original}.")
    return Markdown(f"Begun from the FCN {escape(init)}, whose own terms apply as well.")


def _file_name(path: str) -> str:
    return re.split(r"[/\\]", path)[-1]
