"""Training: from pictures with labels to a checkpoint, on any number of processes.

`train` is the whole loop. It runs on Hugging Face Accelerate, so the same command serves one
CPU, one GPU and many nodes. What happens in step n depends on the configuration, the seed and n
alone, so a run that is killed and resumed goes on as if nothing had happened.
"""

import copy
import json
import logging
import math
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from fcn_hub.card import write_card
from fcn_hub.datasets import (
    DatasetError,
    DatasetReport,
    SegmentationDataset,
    check,
    class_mapping,
    open_dataset,
)
from fcn_hub.datasets.sampling import EpochSampler, sample_seed
from fcn_hub.datasets.transforms import JITTER, Augmented, training_transform
from fcn_hub.evaluation import (
    WHOLE_PICTURE,
    DatasetName,
    compare,
    draw_learning_curve,
    environment,
    evaluate,
    git_commit,
    hardware,
    identity,
    on_cpu,
    spread,
    stacked,
    versions,
)
from fcn_hub.files import atomic_write, write_json
from fcn_hub.labels import LabelMap
from fcn_hub.model import DECODERS, FCN
from fcn_hub.segmenter import Segmenter
from fcn_hub.surgery import adapt_classes, arguments_of, refine

# isort: split
# After fcn_hub.evaluation, which says what to install where Accelerate is missing.
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import ProjectConfiguration

logger = logging.getLogger(__name__)

_FREE = {"free": True}  # metadata of the options that may change when a run is resumed


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
    data_root: str = field(metadata=_FREE)
    """The data set's folder (or the Hub id of a Hugging Face data set)."""
    run_dir: str | None = field(default=None, metadata=_FREE)
    """The run's folder; runs/DATASET where None. Several machines must share it."""
    train_split: str = "train"
    """The split to train on."""
    val_split: str = "val"
    """The split to evaluate on."""
    labels: str | None = field(default=None, metadata=_FREE)
    """A labels file, for the data sets folder and huggingface."""
    classes: tuple[str, ...] = ()
    """Train on these classes only; "vehicle=car+bus" merges some. All where empty."""
    rest: str = "ignore"
    """What becomes of the other classes: ignore, or one of `classes`."""
    check: bool = field(default=False, metadata=_FREE)
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
    save_every: int = field(default=100, metadata=_FREE)
    """Save the state every n steps, besides at each evaluation."""
    save_dtype: Literal["float32", "float16"] = "float32"
    """Precision of the checkpoint's tensors."""
    max_minutes: float | None = field(default=None, metadata=_FREE)
    """Save the state and stop after this time, to be resumed."""
    resume: Literal["auto", "never"] = field(default="auto", metadata=_FREE)
    """Resume the run in its folder if there is one, or begin afresh and discard it."""
    workers: int = field(default=min(4, os.cpu_count() or 1), metadata=_FREE)
    """Processes that read and augment pictures."""
    log_with: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = field(
        default=(), metadata=_FREE
    )
    """Trackers to log to, besides log.jsonl."""
    push_to_hub: str | None = field(default=None, metadata=_FREE)
    """Push the best checkpoint to this Hub repository at the end, owner/name."""
    push_every: int = field(default=0, metadata=_FREE)
    """Push it after every n evaluations, too; 0 for only at the end."""

    def __post_init__(self) -> None:
        positive = ("steps", "batch_size", "accumulate", "base_channels", "save_every")
        natural = ("warmup", "eval_every", "workers", "seed", "freeze_stages", "push_every")
        for name in (*positive, *natural):
            if (value := getattr(self, name)) < (least := int(name in positive)):
                raise TrainingError(f"{name} must be {least} or more, not {value}.")
        if self.freeze_stages > 5 or not 0 <= self.ema < 1 or not 0 <= self.label_smoothing < 1:
            raise TrainingError("freeze_stages is 0 to 5; ema and label_smoothing 0 to below 1.")

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


def train(config: TrainingConfig, command: str | None = None) -> Path:
    """Train, or resume, until all steps are done, time is up or a signal asks to stop.

    Args:
        config: The options.
        command: The command line, for the record.

    Returns:
        The folder of the best checkpoint so far; it exists once there was an evaluation.

    Raises:
        TrainingError: The folder holds another run, or the loss is no longer finite.
        DatasetError, CheckpointError, ConfigError: Data or initial weights cannot be used.

    Example:
        >>> train(TrainingConfig(dataset="camvid", data_root="CamVid"))  # doctest: +SKIP
    """
    run = _start(config, command)
    accelerator, batches = run.accelerator, _batches(run)
    torch.backends.cudnn.benchmark = True  # all crops have one size
    with _signals() as signals, _progress(run) as progress:
        while run.step < config.steps:
            torch.manual_seed(sample_seed(config.seed, run.step, accelerator.process_index))
            rate = _set_learning_rate(run)
            loss = _backward(run, list(islice(batches, config.accumulate)))
            norm = accelerator.clip_grad_norm_(run.model.parameters(), config.clip or math.inf)
            stop = loss.new_tensor(float(bool(signals) or run.out_of_time))
            loss, stop = accelerator.reduce(torch.stack([loss, stop]), "sum").tolist()
            _require_finite(run, loss, norm)
            run.optimizer.step()
            run.optimizer.zero_grad()
            _update_average(run)
            run.step += 1

            _log(run, {"loss": loss, "lr": rate, "grad_norm": float(norm)})
            progress.update()
            progress.set_postfix(loss=f"{loss:.4f}", refresh=False)
            done = run.step == config.steps
            evaluating = config.eval_every and (done or run.step % config.eval_every == 0)
            if evaluating:
                _evaluate(run)
            elif done:
                _save_checkpoint(run)
            if evaluating or done or stop or run.step % config.save_every == 0:
                _save(run)
            if stop:
                break
    _finish(run)
    return config.folder / "best"


@dataclass
class _Run:
    """A run between two steps."""

    config: TrainingConfig
    command: str | None
    accelerator: Accelerator
    train_set: SegmentationDataset
    val_set: SegmentationDataset | None
    model: FCN
    average: FCN  # the model's moving average, which is what is evaluated and saved
    network: nn.Module  # the model as Accelerate wraps it
    optimizer: Any
    class_weights: Tensor
    step: int = 0
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    seconds_before: float = 0.0
    began: float = field(default_factory=monotonic)

    @property
    def seconds(self) -> float:
        """Wall time, earlier sessions included."""
        return self.seconds_before + monotonic() - self.began

    @property
    def out_of_time(self) -> bool:
        limit = self.config.max_minutes
        return limit is not None and monotonic() - self.began >= 60 * limit

    @property
    def samples_per_step(self) -> int:
        return self.config.batch_size * self.config.accumulate * self.accelerator.num_processes

    @property
    def best(self) -> dict[str, Any] | None:
        """The evaluation with the best mean IU, the first of several equal ones."""
        return max(self.evaluations, key=lambda each: each["mean_iu"] or 0, default=None)

    @property
    def identity(self) -> dict[str, Any]:
        """What must not change when the run is resumed."""
        fixed = [each.name for each in fields(self.config) if each.metadata != _FREE]
        found = {name: getattr(self.config, name) for name in fixed}
        found["processes"] = self.accelerator.num_processes
        found["samples"] = len(self.train_set)
        found["class names"] = self.train_set.labels.names
        return json.loads(json.dumps(found))


def check_data(config: TrainingConfig) -> list[DatasetReport]:
    """Read the splits of a configuration whole: their statistics and every fault."""
    splits = dict.fromkeys([config.train_split, config.val_split])
    return [check(_open_split(config, split, verify=False)) for split in splits]


def _start(config: TrainingConfig, command: str | None) -> _Run:
    """A new run, or the one in the folder as its state file left it."""
    folder = config.folder
    for tracker in config.log_with:  # Accelerate leaves out what is missing without a word
        if find_spec(tracker) is None:
            raise TrainingError(f"--log-with {tracker} needs it installed: pip install {tracker}.")
    accelerator = Accelerator(
        cpu=on_cpu(),
        mixed_precision=config.mixed_precision,
        log_with=list(config.log_with) or None,
        project_config=ProjectConfiguration(str(folder), str(folder / "trackers")),
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    torch.manual_seed(config.seed)
    train_set = _open_split(config, config.train_split)
    val_set = _open_split(config, config.val_split) if config.eval_every else None
    if accelerator.is_main_process:
        _tidy(folder, config.resume == "never")
    accelerator.wait_for_everyone()
    state_file = folder / "last" / "state.pt"
    state = torch.load(state_file, weights_only=True) if state_file.is_file() else None
    with accelerator.main_process_first():  # it downloads and scans for the others
        model = FCN(**state["model"]) if state else _initial_model(config, train_set.labels)
        class_weights = _class_weights(config, train_set).to(accelerator.device)
    average = copy.deepcopy(model).requires_grad_(False).eval().to(accelerator.device)
    _prepare_to_train(config, model, accelerator)
    network, optimizer = accelerator.prepare(model, _optimizer(config, model))
    run = _Run(
        *(config, command, accelerator, train_set, val_set),
        *(model, average, network, optimizer, class_weights),
    )
    if state:
        _restore(run, state)
    steps = accelerator.reduce(torch.tensor(run.step, device=accelerator.device), "sum")
    if steps != run.step * accelerator.num_processes:
        raise TrainingError(f"Not all processes find the state in {folder}; they must share it.")
    if accelerator.is_main_process:
        once = ("check", "resume")  # are for one session, not for whoever reuses the file
        options = {name: value for name, value in asdict(config).items() if name not in once}
        write_json(folder / "options.json", options)
        _truncate(folder / "log.jsonl", run.step)
    accelerator.init_trackers(folder.name, {k: str(v) for k, v in asdict(config).items()})
    accelerator.wait_for_everyone()
    return run


def _tidy(folder: Path, discard: bool) -> None:
    """Remove what a killed process left half-written and, to begin afresh, a whole run."""
    for temporary in folder.glob("**/.*.tmp"):
        temporary.unlink()
    if discard:
        for name in ("last", "best", "predictions", "trackers"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in ("log.jsonl", "training.json", "dataset.json", "curve.png"):
            (folder / name).unlink(missing_ok=True)
    (folder / "last").mkdir(parents=True, exist_ok=True)


def _open_split(config: TrainingConfig, split: str, *, verify: bool = True) -> SegmentationDataset:
    options = {"labels": config.labels} if config.labels else {}
    data = open_dataset(config.dataset, config.data_root, split, verify=verify, **options)
    if config.classes:
        data = data.mapped(class_mapping(data.labels, config.classes, config.rest))
    return data


def _initial_model(config: TrainingConfig, labels: LabelMap) -> FCN:
    decoder = config.decoder or "deconv"
    options = {name: getattr(config, name) for name in DECODERS[decoder] if hasattr(config, name)}
    shape = {
        "base_channels": config.base_channels,
        "max_side": config.max_side,
        **options,
        **labels.to_config(),
    }
    if config.init == "random":
        return FCN(len(labels), decoder, **shape)
    if config.init in ("caffe", "torchvision") or config.init.endswith(".safetensors"):
        return FCN.from_imagenet(len(labels), decoder, weights=config.init, **shape)
    model = FCN.from_pretrained(config.init)
    model.max_side = config.max_side or model.max_side
    wanted = {name: True for name in ("at_once", "learn_interpolation") if getattr(config, name)}
    if wanted or config.decoder not in (None, model.decoder_name):
        model = refine(model, config.decoder or model.decoder_name, **wanted)
    return adapt_classes(model, labels)


def _class_weights(config: TrainingConfig, train_set: SegmentationDataset) -> Tensor:
    """One weight per class; the scan of the masks that it takes is kept in dataset.json."""
    if not config.class_weighting:
        return torch.ones(len(train_set.labels))
    path = config.folder / "dataset.json"
    if not path.is_file():
        report = check(train_set)
        if report.faults:
            raise DatasetError(
                f"{report.faults[0].message} {len(report.faults)} faults in all; --check lists "
                "them."
            )
        write_json(path, report.to_dict())
    classes = json.loads(path.read_text(encoding="utf-8"))["classes"]
    frequencies = [each["frequency"] or math.nan for each in classes]
    middle = median(frequency for frequency in frequencies if frequency > 0)
    weights = torch.tensor([(middle / each) ** config.class_weighting for each in frequencies])
    return weights.nan_to_num(1.0)  # of classes that no picture shows


def _prepare_to_train(config: TrainingConfig, model: FCN, accelerator: Accelerator) -> None:
    """Freeze what is to be frozen, and let batch norm see the batches of all processes."""
    for stage in islice(model.backbone.stages(), config.freeze_stages):
        for conv in stage:
            conv.requires_grad_(False)
    model.train().to(memory_format=_memory_format(accelerator))
    if config.freeze_bn:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    elif accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)


def _memory_format(accelerator: Accelerator) -> torch.memory_format:
    """Channels last, but where gradients of float32 weights take about twice as long in it."""
    direct = accelerator.device.type == "cpu" and accelerator.mixed_precision == "no"
    if direct and torch.backends.cpu.get_cpu_capability() == "AVX2":
        return torch.contiguous_format
    return torch.channels_last


def _optimizer(config: TrainingConfig, model: FCN) -> torch.optim.Optimizer:
    decoder = dict(model.decoder.named_children())
    fully_connected = [decoder.pop(name) for name in ("fc6", "fc7") if name in decoder]
    parts = (
        ([model.backbone], config.backbone_lr),
        (decoder.values(), 1.0),
        (fully_connected, config.fc_lr),
    )
    groups = []
    for modules, factor in parts:
        learned = [p for module in modules for p in module.parameters() if p.requires_grad]
        weights = [parameter for parameter in learned if parameter.ndim > 1]
        others = [parameter for parameter in learned if parameter.ndim <= 1]
        peak = config.lr * factor
        groups.append({"params": weights, "weight_decay": config.weight_decay, "peak": peak})
        groups.append({"params": others, "weight_decay": 0.0, "peak": peak * config.bias_lr})
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, config.lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, config.lr)


def _batches(run: _Run) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's share of the batches, from the current step on."""
    config, accelerator, model = run.config, run.accelerator, run.model
    transform = training_transform(
        config.crop,
        scale=config.scale,
        max_side=model.max_side,
        flip=config.flip,
        jitter=config.jitter,
        ignore_index=model.label_map.ignore_index,
        fill=[round(255 * value) for value in model.image_mean],
    )
    sampler = EpochSampler(
        len(run.train_set),
        seed=config.seed,
        start=run.step * run.samples_per_step,
        stop=config.steps * run.samples_per_step,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )
    return iter(
        DataLoader(
            Augmented(run.train_set, transform, seed=config.seed),
            config.batch_size,
            sampler=sampler,
            num_workers=config.workers,
            worker_init_fn=_leave_signals_to_the_main_process,
            pin_memory=accelerator.device.type == "cuda",
        )
    )


def _leave_signals_to_the_main_process(worker: int) -> None:
    """Ctrl-C and schedulers signal the whole group; the run still needs its pictures to save."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def learning_rate_factor(config: TrainingConfig, step: int) -> float:
    """The share of the peak learning rate at a step, counted from 0."""
    if step < config.warmup:
        return (step + 1) / (config.warmup + 1)
    t = (step - config.warmup) / max(1, config.steps - config.warmup)
    return {"poly": (1 - t) ** 0.9, "cosine": (1 + math.cos(math.pi * t)) / 2, "constant": 1.0}[
        config.schedule
    ]


def _set_learning_rate(run: _Run) -> float:
    factor = learning_rate_factor(run.config, run.step)
    for group in run.optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    return run.config.lr * factor


def _backward(run: _Run, batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Gradients of the loss over the labelled pixels of all batches of all processes.

    Each pixel counts as much as its class's weight. The mean is that of all of them: means of
    means would be something else, since batches differ in how many labelled pixels they have.

    Returns:
        This process's part of that loss; the parts add up.
    """
    config, accelerator, labels_of = run.config, run.accelerator, run.model.label_map
    device = accelerator.device
    batches = [(x.to(device, non_blocking=True), y.to(device)) for x, y in batches]
    mean = torch.tensor(run.model.image_mean, device=device).view(3, 1, 1)
    std = torch.tensor(run.model.image_std, device=device).view(3, 1, 1)
    weights = [_weight(labels, run.class_weights, labels_of.ignore_index) for _, labels in batches]
    total = accelerator.reduce(torch.stack(weights).sum(), "sum").clamp(min=1e-9)
    if config.loss == "sum":
        total = torch.ones_like(total)
    loss = torch.zeros((), device=device)
    for position, (pictures, labels) in enumerate(batches, start=1):
        last = position == len(batches)
        with nullcontext() if last else accelerator.no_sync(run.network):
            x = ((pictures / 255 - mean) / std).contiguous(
                memory_format=_memory_format(accelerator)
            )
            part = F.cross_entropy(
                run.network(x).float(),
                labels.long(),
                run.class_weights,
                ignore_index=labels_of.ignore_index,
                reduction="sum",
                label_smoothing=config.label_smoothing,
            )
            # Data parallelism averages the gradients of the processes; their sum is wanted.
            accelerator.backward(part / total * accelerator.num_processes)
        loss += part.detach() / total
    return loss


def _weight(labels: Tensor, class_weights: Tensor, ignore_index: int) -> Tensor:
    """The sum of the weights of all labelled pixels."""
    weights = class_weights[labels.long().clamp(0, len(class_weights) - 1)]
    return weights.masked_fill(labels == ignore_index, 0).sum()


def _require_finite(run: _Run, loss: float, norm: Tensor | float) -> None:
    # In fp16 gradients may overflow: the scaler then skips the step and scales less.
    if math.isfinite(loss) and (run.accelerator.scaler or math.isfinite(norm)):
        return
    raise TrainingError(
        f"The {'gradient' if math.isfinite(loss) else 'loss'} of step {run.step + 1} is not "
        f"finite. Try a lower --lr, a longer --warmup, --clip 1, or --mixed-precision no. What "
        f"was saved before is in {run.config.folder}."
    )


@torch.no_grad()
def _update_average(run: _Run) -> None:
    """Move the average towards the model, batch norm's statistics included."""
    if run.accelerator.num_processes > 1:
        for buffer in run.model.buffers():
            if buffer.is_floating_point():
                buffer.copy_(run.accelerator.reduce(buffer, "mean"))
    decay = min(run.config.ema, (1 + run.step) / (10 + run.step))
    pairs = zip(run.average.state_dict().values(), run.model.state_dict().values(), strict=True)
    for kept, new in pairs:
        if kept.is_floating_point():
            kept.lerp_(new, 1 - decay)
        else:
            kept.copy_(new)


def _log(run: _Run, values: dict[str, float]) -> None:
    """Append a line to log.jsonl, and tell the trackers."""
    epoch = run.step * run.samples_per_step / len(run.train_set)
    line = {"step": run.step, "epoch": round(epoch, 4), **values, "seconds": round(run.seconds, 2)}
    if run.accelerator.is_main_process:
        with (run.config.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    run.accelerator.log(values, run.step)


def _truncate(log: Path, step: int) -> None:
    """Drop the lines after a step, which are about to be written anew."""
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.is_file() else []
    whole = [line for line in lines if line.endswith("\n")]
    with atomic_write(log) as temporary:
        text = "".join(line for line in whole if json.loads(line)["step"] <= step)
        temporary.write_text(text, encoding="utf-8")


def _evaluate(run: _Run) -> None:
    """Measure the average; where it is the best so far, save it as a checkpoint."""
    assert run.val_set is not None
    config, accelerator = run.config, run.accelerator
    dtype = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}[config.mixed_precision]
    segmenter = Segmenter(run.average, accelerator.device, dtype, pixel_budget=WHOLE_PICTURE)
    torch.backends.cudnn.benchmark = False  # pictures have many sizes
    found = evaluate(segmenter, run.val_set, limit=config.eval_limit)
    torch.backends.cudnn.benchmark = True
    figures = ("mean_iu", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iu", "class_iu")
    record = found.to_dict()
    run.evaluations.append(
        {"step": run.step, **{name: record[name] for name in figures}, "pictures": found.pictures}
    )
    accelerator.log({"mean_iu": found.metrics.mean_iu}, run.step)
    if not accelerator.is_main_process:
        return
    logger.info(
        "Step %d: mean IU %.4f, pixel accuracy %.4f on %d pictures of %s",
        *(run.step, found.metrics.mean_iu, found.metrics.pixel_accuracy),
        *(found.pictures, config.val_split),
    )
    if run.best is run.evaluations[-1]:
        _save_checkpoint(run)
        best = config.folder / "best"
        where = {**identity(best, None), "model": config.folder.name, "step": run.step}
        write_json(best / "evaluation.json", {**where, **record, **environment(segmenter)})
    sheet = stacked(compare(segmenter, run.val_set, spread(len(run.val_set), 6)))
    (config.folder / "predictions").mkdir(exist_ok=True)
    sheet.save(config.folder / "predictions" / f"step-{run.step:07}.png")
    draw_learning_curve(config.folder / "log.jsonl", run.evaluations).savefig(
        config.folder / "curve.png", dpi=120
    )
    if config.push_to_hub and config.push_every and len(run.evaluations) % config.push_every == 0:
        try:
            _push(run)
        except OSError as error:  # the Hub's errors and the network's
            logger.warning("Could not push to %s: %s", config.push_to_hub, error)


def _save_checkpoint(run: _Run) -> None:
    if not run.accelerator.is_main_process:
        return
    model = copy.deepcopy(run.average).to(getattr(torch, run.config.save_dtype))
    if not all(tensor.isfinite().all() for tensor in model.state_dict().values()):
        raise TrainingError(
            f"The weights exceed {run.config.save_dtype}; use --save-dtype float32."
        )
    model.save_pretrained(run.config.folder / "best")


def _save(run: _Run) -> None:
    """Write the state, all of it in one file that replaces the last one once it is whole."""
    if not run.accelerator.is_main_process:
        return
    state = {
        "identity": run.identity,
        "step": run.step,
        "seconds": run.seconds,
        "evaluations": run.evaluations,
        "model": arguments_of(run.model),
        "weights": run.model.state_dict(),
        "average": run.average.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.accelerator.scaler.state_dict() if run.accelerator.scaler else None,
    }
    with atomic_write(run.config.folder / "last" / "state.pt") as temporary:
        torch.save(state, temporary)
    record, best = training_record(run), run.config.folder / "best"
    write_json(run.config.folder / "training.json", record)
    if best.is_dir():
        write_json(best / "training.json", record)
        write_card(run.average, best, repo_id=run.config.push_to_hub)


def _restore(run: _Run, state: dict[str, Any]) -> None:
    # Options that are newer than the run stand at their defaults.
    options = {each.name: each.default for each in fields(TrainingConfig)}
    before, now = {**options, **state["identity"]}, run.identity
    if changed := [name for name in now if now[name] != before[name]]:
        raise TrainingError(
            f"{run.config.folder} holds a run with other options: "
            + ", ".join(f"{name} {before[name]!r}, not {now[name]!r}" for name in changed)
            + ". Choose another --run-dir, or discard it with --resume never."
        )
    run.step, run.evaluations = state["step"], state["evaluations"]
    run.seconds_before = state["seconds"]
    run.model.load_state_dict(state["weights"])
    run.average.load_state_dict(state["average"])
    run.optimizer.load_state_dict(state["optimizer"])
    if run.accelerator.scaler:
        run.accelerator.scaler.load_state_dict(state["scaler"])
    logger.info("Resuming %s at step %d", run.config.folder, run.step)


def training_record(run: _Run) -> dict[str, Any]:
    """How the weights came about: what a model card says about training."""
    return {
        "command": run.command,
        "config": json.loads(json.dumps(asdict(run.config))),
        "seed": run.config.seed,
        "dataset": {
            "name": run.train_set.name,
            "train": {"split": run.config.train_split, "pictures": len(run.train_set)},
            "val": {
                "split": run.config.val_split,
                "pictures": len(run.val_set),
                "evaluated": len(spread(len(run.val_set), run.config.eval_limit)),
            }
            if run.val_set
            else None,
        },
        "finished": run.step == run.config.steps,
        "steps": run.step,
        "samples": run.step * run.samples_per_step,
        "wall_seconds": round(run.seconds, 1),
        "hardware": hardware(run.accelerator.device),
        "processes": run.accelerator.num_processes,
        "versions": versions(),
        "git_commit": git_commit(),
        "best": run.best,
        "evaluations": run.evaluations,
    }


def _push(run: _Run) -> None:
    best = run.best or {"step": run.step, "mean_iu": None}
    message = f"Step {best['step']}, mean IU {best['mean_iu']}"
    folder = run.config.folder / "best"
    model = FCN.from_pretrained(folder, dtype="auto")  # as it is: its figures are of these bytes
    model.push_to_hub(str(run.config.push_to_hub), folder=folder, commit_message=message)


def _finish(run: _Run) -> None:
    config = run.config
    if run.accelerator.is_main_process and run.step == config.steps:
        if config.push_to_hub:
            _push(run)
    elif run.accelerator.is_main_process:
        logger.info("Stopped after step %d; the same command resumes.", run.step)
    run.accelerator.end_training()


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGTERM and Ctrl-C, which ask to save and stop; a second one ends the process."""
    caught: list[int] = []
    before: dict[signal.Signals, Any] = {}

    def note(number: int, frame: Any) -> None:
        caught.append(number)
        signal.signal(number, before[signal.Signals(number)])

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _progress(run: _Run) -> tqdm:
    hidden = None if run.accelerator.is_main_process else True
    return tqdm(desc="Training", total=run.config.steps, initial=run.step, disable=hidden)
