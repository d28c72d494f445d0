"""How a run begins: its data, its network and its optimiser, new or as the state file left them."""

import copy
import json
import math
import shutil
from dataclasses import asdict
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import ProjectConfiguration
from torch import Tensor, nn

from fcn_hub.card import TRAINING_NAME
from fcn_hub.card.records import read_record
from fcn_hub.checkpoint import CheckpointError
from fcn_hub.datasets import (
    DatasetError,
    DatasetReport,
    SegmentationDataset,
    check,
    class_mapping,
    open_dataset,
)
from fcn_hub.datasets.sampling import repeat_factors
from fcn_hub.evaluation import on_cpu
from fcn_hub.files import write_json
from fcn_hub.hub import fetch_file
from fcn_hub.labels import LabelMap
from fcn_hub.model import DECODERS, FCN
from fcn_hub.surgery import adapt_classes, refine
from fcn_hub.training.options import TrainingConfig, TrainingError
from fcn_hub.training.state import Run, restore, truncate


def check_data(config: TrainingConfig) -> list[DatasetReport]:
    """Read the splits of a configuration whole: their statistics and every fault."""
    splits = dict.fromkeys([config.train_split, config.val_split])
    return [check(_open_split(config, split, verify=False)) for split in splits]


def start(config: TrainingConfig, command: str | None) -> Run:
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
        factors = _repeat_factors(config, train_set)
    average = copy.deepcopy(model).requires_grad_(False).eval().to(accelerator.device)
    _prepare_to_train(config, model, accelerator)
    network, optimizer = accelerator.prepare(model, _optimizer(config, model))
    run = Run(
        config=config,
        command=command,
        accelerator=accelerator,
        train_set=train_set,
        val_set=val_set,
        model=model,
        average=average,
        network=network,
        optimizer=optimizer,
        class_weights=class_weights,
        repeat_factors=factors,
        before=state.get("before") if state else _record_before(config),
    )
    if state:
        restore(run, state)
    steps = accelerator.reduce(torch.tensor(run.step, device=accelerator.device), "sum")
    if steps != run.step * accelerator.num_processes:
        raise TrainingError(f"Not all processes find the state in {folder}; they must share it.")
    if accelerator.is_main_process:
        once = ("check", "resume")  # are for one session, not for whoever reuses the file
        options = {name: value for name, value in asdict(config).items() if name not in once}
        write_json(folder / "options.json", options)
        truncate(folder / "log.jsonl", run.step)
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
    if not _begins_from_an_fcn(config):
        return FCN.from_imagenet(len(labels), decoder, weights=config.init, **shape)
    model = FCN.from_pretrained(config.init)
    model.max_side = config.max_side or model.max_side
    wanted = {name: True for name in ("at_once", "learn_interpolation") if getattr(config, name)}
    if wanted or config.decoder not in (None, model.decoder_name):
        model = refine(model, config.decoder or model.decoder_name, **wanted)
    return adapt_classes(model, labels)


def _begins_from_an_fcn(config: TrainingConfig) -> bool:
    elsewhere = ("random", "caffe", "torchvision")
    return config.init not in elsewhere and not config.init.endswith(".safetensors")


def _record_before(config: TrainingConfig) -> dict[str, Any] | None:
    """How the FCN that the run begins from was trained itself, where that is recorded."""
    if not _begins_from_an_fcn(config):
        return None
    try:
        path = fetch_file(config.init, TRAINING_NAME)
    except CheckpointError:
        return None
    return read_record(path.parent, TRAINING_NAME)


def _statistics(config: TrainingConfig, train_set: SegmentationDataset) -> dict[str, Any]:
    """What `check` finds in the train split; kept in dataset.json, as it takes a scan of it."""
    path = config.folder / "dataset.json"
    if not path.is_file():
        report = check(train_set)
        if report.faults:
            raise DatasetError(
                f"{report.faults[0].message} {len(report.faults)} faults in all; --check lists "
                "them."
            )
        write_json(path, report.to_dict())
    return json.loads(path.read_text(encoding="utf-8"))


def _class_weights(config: TrainingConfig, train_set: SegmentationDataset) -> Tensor:
    """One weight per class."""
    if not config.class_weighting:
        return torch.ones(len(train_set.labels))
    classes = _statistics(config, train_set)["classes"]
    frequencies = [each["frequency"] or math.nan for each in classes]
    middle = median(frequency for frequency in frequencies if frequency > 0)
    weights = torch.tensor([(middle / each) ** config.class_weighting for each in frequencies])
    return weights.nan_to_num(1.0)  # of classes that no picture shows


def _repeat_factors(config: TrainingConfig, train_set: SegmentationDataset) -> list[float] | None:
    if not config.repeat_threshold:
        return None
    return repeat_factors(_statistics(config, train_set)["shown"], config.repeat_threshold)


def _prepare_to_train(config: TrainingConfig, model: FCN, accelerator: Accelerator) -> None:
    """Freeze what is to be frozen, and let batch norm see the batches of all processes."""
    for stage in islice(model.backbone.stages(), config.freeze_stages):
        for conv in stage:
            conv.requires_grad_(False)
    model.train().to(memory_format=memory_format(accelerator))
    if config.freeze_bn:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    elif accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)


def memory_format(accelerator: Accelerator) -> torch.memory_format:
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
