"""A run between two steps, and the files that hold it.

The state is one file that replaces the last one once it is whole. Whatever moment a run is killed
at, what lies in its folder is a run that can be resumed.
"""

import copy
import json
import logging
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from fcn_hub.card import write_card
from fcn_hub.datasets import SegmentationDataset
from fcn_hub.evaluation import git_commit, hardware, spread, versions
from fcn_hub.files import atomic_write, write_json
from fcn_hub.model import FCN
from fcn_hub.surgery import arguments_of
from fcn_hub.training.options import FREE, TrainingConfig, TrainingError

logger = logging.getLogger(__name__)


@dataclass
class Run:
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
    repeat_factors: list[float] | None
    before: dict[str, Any] | None  # the training record of the FCN that it begins from
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
        fixed = [each.name for each in fields(self.config) if each.metadata != FREE]
        found = {name: getattr(self.config, name) for name in fixed}
        found["processes"] = self.accelerator.num_processes
        found["samples"] = len(self.train_set)
        found["class names"] = self.train_set.labels.names
        return json.loads(json.dumps(found))


def log(run: Run, values: dict[str, float]) -> None:
    """Append a line to log.jsonl, and tell the trackers."""
    epoch = run.step * run.samples_per_step / len(run.train_set)
    line = {"step": run.step, "epoch": round(epoch, 4), **values, "seconds": round(run.seconds, 2)}
    if run.accelerator.is_main_process:
        with (run.config.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    run.accelerator.log(values, run.step)


def truncate(log: Path, step: int) -> None:
    """Drop the lines after a step, which are about to be written anew."""
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.is_file() else []
    whole = [line for line in lines if line.endswith("\n")]
    with atomic_write(log) as temporary:
        text = "".join(line for line in whole if json.loads(line)["step"] <= step)
        temporary.write_text(text, encoding="utf-8")


def save_checkpoint(run: Run) -> None:
    """Write the average as the best checkpoint, in the precision that was asked for."""
    if not run.accelerator.is_main_process:
        return
    model = copy.deepcopy(run.average).to(getattr(torch, run.config.save_dtype))
    if not all(tensor.isfinite().all() for tensor in model.state_dict().values()):
        raise TrainingError(
            f"The weights exceed {run.config.save_dtype}; use --save-dtype float32."
        )
    model.save_pretrained(run.config.folder / "best")


def save(run: Run) -> None:
    """Write the state, all of it in one file that replaces the last one once it is whole."""
    if not run.accelerator.is_main_process:
        return
    state = {
        "identity": run.identity,
        "step": run.step,
        "seconds": run.seconds,
        "evaluations": run.evaluations,
        "before": run.before,
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


def restore(run: Run, state: dict[str, Any]) -> None:
    """Bring a run to where `save` has left it; its options must be the same."""
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


def training_record(run: Run) -> dict[str, Any]:
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
        "before": run.before,
    }
