"""The options of a run, from a command line and from a file."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from fcn_hub.datasets.transforms import JITTER
from fcn_hub.evaluation import DatasetName

FREE = {"free": True}  # metadata of the options that may change when a run is resumed


class TrainingError(ValueError):
    """A run that cannot start, resume or go on; the message says what to do next."""


@dataclass(frozen=True)
class TrainingConfig:
    """Train an FCN for semantic segmentation.

    Run it again with the same options to resume a run that was interrupted. `--config FILE`
    takes the options from a file, such as the options.json of an earlier run; options on the
    command line come before those of the file. `accelerate launch scripts/train.py …` and
    `torchrun scripts/train.py …` train on several GPUs or machines.
    """

    dataset: DatasetName
    """Which data set; it decides the layout on disk and the classes."""
    data_root: str = field(metadata=FREE)
    """The data set's folder (or the Hub id of a Hugging Face data set)."""
    run_dir: str | None = field(default=None, metadata=FREE)
    """The run's folder; runs/DATASET where None. Several machines must share it."""
    train_split: str = "train"
    """The split to train on."""
    val_split: str = "val"
    """The split to evaluate on."""
    labels: str | None = field(default=None, metadata=FREE)
    """A labels file, for the data sets folder and huggingface."""
    classes: tuple[str, ...] = ()
    """Train on these classes only; "vehicle=car+bus" merges some. All where empty."""
    rest: str = "ignore"
    """What becomes of the other classes: ignore, or one of `classes`."""
    check: bool = field(default=False, metadata=FREE)
    """Only read both splits, print their statistics and every fault; exit code 1 if any."""

    init: str = "caffe"
    """What to start from: caffe or torchvision (VGG-16 on ImageNet), a .safetensors file with
    VGG-16's convolutions, random, or the folder or Hub id of an FCN. An FCN with other classes
    keeps all but its classifier."""
    decoder: Literal["deconv", "fcn32s", "fcn16s", "fcn8s"] | None = None
    """The decoder; where None, that of the FCN to start from, or deconv. A finer one than that
    FCN's (fcn16s from fcn32s, fcn8s from fcn16s) begins with its scores."""
    skips: int = 4
    """For deconv: pool outputs that the decoder adds, deepest first, 0 to 4."""
    fc_channels: int = 4096
    """For the paper's networks: channels of fc6 and fc7."""
    at_once: bool = False
    """For fcn16s and fcn8s: scale pool4 and pool3 as the paper's at-once network does."""
    learn_interpolation: bool = False
    """For the paper's networks: train the interpolations, too."""
    base_channels: int = 64
    """Channels of the first stage; VGG-16 has 64. Only for --init random."""
    freeze_stages: int = 0
    """Leave the first n of VGG-16's five stages as they are."""
    freeze_bn: bool = False
    """Batch normalisation keeps its running statistics (scale and shift still learn)."""

    steps: int = 10_000
    """Steps of the optimiser."""
    batch_size: int = 8
    """Pictures per process and pass."""
    accumulate: int = 1
    """Passes per step: gradients are those of the joint batch."""
    crop: tuple[int, int] = (320, 320)
    """Height and width of what the network is trained on."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Least and largest factor by which pictures are resized before the crop."""
    max_side: int | None = None
    """Longest side, in pixels, at which the network sees pictures, here and ever after: part of
    its configuration. None for pictures at their own size, or what the FCN of --init has."""
    flip: float = 0.5
    """Probability of mirroring."""
    jitter: tuple[float, float, float, float] = JITTER
    """Change of brightness, contrast, saturation and hue."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with momentum."""
    momentum: float = 0.9
    """Of SGD."""
    lr: float = 1e-3
    """Learning rate of the decoder at its peak."""
    backbone_lr: float = 0.1
    """The backbone's learning rate, as a factor on `lr`."""
    fc_lr: float = 0.1
    """The learning rate of fc6 and fc7 of the paper's networks, as a factor on `lr`."""
    bias_lr: float = 1.0
    """The learning rate of biases and batch normalisation, as a further factor."""
    weight_decay: float = 1e-2
    """Of weights; biases and batch normalisation have none."""
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    """How the learning rate falls after the warm-up: (1 - t)^0.9, half a cosine, not at all."""
    warmup: int = 100
    """Steps over which the learning rate rises linearly."""
    clip: float = 5.0
    """Largest norm of the gradient; 0 for no limit."""
    loss: Literal["mean", "sum"] = "mean"
    """Mean or sum of the cross-entropy over the labelled pixels of a step. The sum takes learning
    rates some 100,000 times smaller."""
    class_weighting: float = 0.0
    """Weigh classes by (median frequency / frequency) to this power; 0 weighs all the same."""
    repeat_threshold: float = 0.0
    """Draw pictures more often that show a class which less than this share of all pictures do: by
    sqrt(threshold / share), repeat factor sampling; 0 draws all alike."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes."""
    ema: float = 0.999
    """Decay of the moving average of the weights, which is what is evaluated and saved; 0 for
    the weights themselves. The decay is at most (1 + step) / (10 + step)."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of the passes; weights stay float32."""
    seed: int = 0
    """Of the initial weights, the order of the samples and their augmentation."""

    eval_every: int = 500
    """Evaluate every n steps, and at the end; 0 for never."""
    eval_limit: int | None = None
    """Evaluate on this many pictures only, for a quick look; the record says so."""
    save_every: int = field(default=100, metadata=FREE)
    """Save the state every n steps, besides at each evaluation."""
    save_dtype: Literal["float32", "float16"] = "float32"
    """Precision of the checkpoint's tensors."""
    max_minutes: float | None = field(default=None, metadata=FREE)
    """Save the state and stop after this time, to be resumed."""
    resume: Literal["auto", "never"] = field(default="auto", metadata=FREE)
    """Resume the run in its folder if there is one, or begin afresh and discard it."""
    workers: int = field(default=min(4, os.cpu_count() or 1), metadata=FREE)
    """Processes that read and augment pictures."""
    log_with: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = field(
        default=(), metadata=FREE
    )
    """Trackers to log to, besides log.jsonl."""
    push_to_hub: str | None = field(default=None, metadata=FREE)
    """Push the best checkpoint to this Hub repository at the end, owner/name."""
    push_every: int = field(default=0, metadata=FREE)
    """Push it after every n evaluations, too; 0 for only at the end."""

    def __post_init__(self) -> None:
        positive = ("steps", "batch_size", "accumulate", "base_channels", "save_every")
        natural = ("warmup", "eval_every", "workers", "seed", "freeze_stages", "push_every")
        for name in (*positive, *natural):
            if (value := getattr(self, name)) < (least := int(name in positive)):
                raise TrainingError(f"{name} must be {least} or more, not {value}.")
        if self.freeze_stages > 5 or not 0 <= self.ema < 1 or not 0 <= self.label_smoothing < 1:
            raise TrainingError("freeze_stages is 0 to 5; ema and label_smoothing 0 to below 1.")
        if not 0 <= self.repeat_threshold <= 1:
            raise TrainingError(f"repeat_threshold is a share, 0..1, not {self.repeat_threshold}.")

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.run_dir or Path("runs") / self.dataset)


def parse_config(arguments: Sequence[str]) -> TrainingConfig:
    """The configuration of a command line, with `--config FILE` for what it does not say.

    Raises:
        TrainingError: The file is missing or no configuration, or a value is out of range.
    """
    import tyro

    arguments = list(arguments)
    if "--config" in arguments:
        position = arguments.index("--config")
        given = arguments[position + 1 : position + 2]
        arguments[position : position + 2] = []
        # The file's options come first, so those of the command line win.
        arguments = [*_file_arguments(given), *arguments]
    return tyro.cli(TrainingConfig, args=arguments)


def _file_arguments(given: Sequence[str]) -> list[str]:
    try:
        options = json.loads(Path(*given).read_text(encoding="utf-8"))
        unknown = set(options) - {each.name for each in fields(TrainingConfig)}
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(f"--config takes a JSON file of options: {error}") from None
    if unknown:
        raise TrainingError(f"{given[0]} has unknown options: {', '.join(sorted(unknown))}.")
    return _arguments_of(options)


def _arguments_of(options: dict[str, Any]) -> list[str]:
    """Options as the words of a command line."""
    arguments: list[str] = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            values = value if isinstance(value, list | tuple) else [value]
            arguments += [f"--{flag}", *map(str, values)]
    return arguments
