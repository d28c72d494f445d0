"""The loop: what happens in a step, and what is measured along the way."""

import logging
import math
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from fcn_hub.datasets.sampling import EpochSampler, sample_seed
from fcn_hub.datasets.transforms import Augmented, training_transform
from fcn_hub.evaluation import (
    WHOLE_PICTURE,
    compare,
    draw_learning_curve,
    environment,
    evaluate,
    identity,
    spread,
    stacked,
)
from fcn_hub.files import write_json
from fcn_hub.model import FCN
from fcn_hub.segmenter import Segmenter
from fcn_hub.training.options import TrainingConfig, TrainingError
from fcn_hub.training.start import memory_format, start
from fcn_hub.training.state import Run, log, save, save_checkpoint

logger = logging.getLogger(__name__)


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
    run = start(config, command)
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

            log(run, {"loss": loss, "lr": rate, "grad_norm": float(norm)})
            progress.update()
            progress.set_postfix(loss=f"{loss:.4f}", refresh=False)
            done = run.step == config.steps
            evaluating = config.eval_every and (done or run.step % config.eval_every == 0)
            if evaluating:
                _evaluate(run)
            elif done:
                save_checkpoint(run)
            if evaluating or done or stop or run.step % config.save_every == 0:
                save(run)
            if stop:
                break
    _finish(run)
    return config.folder / "best"


def _batches(run: Run) -> Iterator[tuple[Tensor, Tensor]]:
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
        factors=run.repeat_factors,
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


def _set_learning_rate(run: Run) -> float:
    factor = learning_rate_factor(run.config, run.step)
    for group in run.optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    return run.config.lr * factor


def _backward(run: Run, batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
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
            x = ((pictures / 255 - mean) / std).contiguous(memory_format=memory_format(accelerator))
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


def _require_finite(run: Run, loss: float, norm: Tensor | float) -> None:
    # In fp16 gradients may overflow: the scaler then skips the step and scales less.
    if math.isfinite(loss) and (run.accelerator.scaler or math.isfinite(norm)):
        return
    raise TrainingError(
        f"The {'gradient' if math.isfinite(loss) else 'loss'} of step {run.step + 1} is not "
        f"finite. Try a lower --lr, a longer --warmup, --clip 1, or --mixed-precision no. What "
        f"was saved before is in {run.config.folder}."
    )


@torch.no_grad()
def _update_average(run: Run) -> None:
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


def _evaluate(run: Run) -> None:
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
        save_checkpoint(run)
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


def _push(run: Run) -> None:
    best = run.best or {"step": run.step, "mean_iu": None}
    message = f"Step {best['step']}, mean IU {best['mean_iu']}"
    folder = run.config.folder / "best"
    model = FCN.from_pretrained(folder, dtype="auto")  # as it is: its figures are of these bytes
    model.push_to_hub(str(run.config.push_to_hub), folder=folder, commit_message=message)


def _finish(run: Run) -> None:
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


def _progress(run: Run) -> tqdm:
    hidden = None if run.accelerator.is_main_process else True
    return tqdm(desc="Training", total=run.config.steps, initial=run.step, disable=hidden)
