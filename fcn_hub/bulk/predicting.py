"""A bulk prediction from beginning to end: plan, resume, distribute, report."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import chain
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import torch
from tqdm import tqdm
from tyro.conf import Positional

from fcn_hub.bulk.engines import RayPool, Work, local
from fcn_hub.bulk.plan import Plan, make_plan
from fcn_hub.bulk.shards import MaskFormat, ShardWriter, counts, shard_path
from fcn_hub.bulk.sources import Opener, entries
from fcn_hub.files import write_json
from fcn_hub.hub import identity
from fcn_hub.segmenter import Segmenter

logger = logging.getLogger(__name__)

_RUN = "run.json"
_REPORT = "report.json"


class PredictError(ValueError):
    """A prediction that cannot start or go on as asked; the message says what to do."""


@dataclass(frozen=True)
class PredictConfig:
    """Segment any number of pictures into Parquet files or a tree of palette PNGs.

    Run it again with the same options to go on where it was interrupted: what is written is not
    done again. `--engine ray` does the same on a Ray cluster.
    """

    sources: Positional[tuple[str, ...]]
    """Folders, globs, pictures, text lists (.txt), manifests (.jsonl, .parquet), WebDataset
    shards (.tar), folders of `save_to_disk`, or hf://datasets/owner/name."""
    model: str
    """A checkpoint's folder, or a Hub id such as owner/name."""
    output: str
    """The folder to write to. All workers must see it, the sources and the model's folder under
    the same paths."""
    revision: str | None = None
    """Branch, tag or commit of a model on the Hub; all workers load the same commit."""
    masks: MaskFormat = "rle"
    """What becomes of masks: rle, COCO run-length code per class; png, the bytes of a palette
    PNG; files, a tree of palette PNGs under masks/."""
    shard_size: int = 256
    """Pictures per shard: what a worker does in one go and what one Parquet file holds."""
    split: str = "train"
    """The split of a Hugging Face data set."""
    image_column: str | None = None
    """Its column of pictures; where None, the only one."""
    engine: Literal["local", "ray"] = "local"
    """This process, or the actors of a Ray cluster (RAY_ADDRESS; else one on this machine)."""
    workers: tuple[int, int] = (1, 8)
    """The least and the largest number of Ray actors."""
    cpus: int = 1
    """CPU threads of each worker."""
    gpus: float = 0.0
    """GPUs of each Ray actor; 0.5 lets two of them share one."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the network; auto is bfloat16 where the hardware computes in it."""
    max_side: int | Literal["auto"] = "auto"
    """Scale larger pictures down to this for the network; auto is the model's own."""
    batch_size: int = 8
    """Pictures that pass through the network at once."""
    compile: bool = False
    """Run the network through torch.compile, for GPUs: each of the first eight sizes takes a while
    to begin with. Which those are depends on the order, and with it the last digits."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise PredictError("There is no source; give a folder, a list, a manifest …")
        for name in ("shard_size", "cpus", "batch_size"):
            if getattr(self, name) < 1:
                raise PredictError(f"{name} must be 1 or more, not {getattr(self, name)}.")
        if not 1 <= self.workers[0] <= self.workers[1]:
            raise PredictError(f"workers are the least and the most, not {self.workers}.")


# What does not change the output, and so may differ when a run is resumed.
_FREE = ("output", "engine", "workers", "gpus")


@dataclass(frozen=True)
class Report:
    """What a call of `predict` did.

    Args:
        done: Pictures segmented by this call.
        failed: Pictures that could not be opened, which have a row with their error instead.
        skipped: Pictures that were in the output before.
        seconds: Wall time of this call, planning and loading included.
    """

    done: int
    failed: int
    skipped: int
    seconds: float

    @property
    def pictures_per_second(self) -> float:
        """Of those that this call has dealt with."""
        return (self.done + self.failed) / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        return (
            f"{self.done:,} done, {self.failed:,} failed, {self.skipped:,} skipped (done before); "
            f"{self.pictures_per_second:.2f} pictures per second."
        )


def predict(config: PredictConfig) -> Report:
    """Segment all pictures that are not in the output yet.

    Writes ``part-NNNNNN.parquet`` per shard (``id``, ``width``, ``height``, ``shares`` of the
    classes, mean ``confidence``, ``mask``, ``model``, ``revision``, ``error``), ``plan.*`` and
    ``run.json``, which a later call resumes from, and ``report.json``.

    Raises:
        SourceError: A source cannot be listed.
        PredictError: The folder holds a prediction with other options.
        CheckpointError, ConfigError: The model cannot be used.
        EngineError: The Ray cluster cannot go on.
        OSError: The output cannot be written.

    Example:
        >>> predict(PredictConfig(("photos",), "owner/name", "masks"))  # doctest: +SKIP
    """
    began = monotonic()
    folder = Path(config.output).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    model = identity(config.model, config.revision)
    plan = _resumed(config, model, folder) or _planned(config, model, folder)
    missing = [i for i in range(len(plan)) if not shard_path(folder, i).is_file()]
    sizes = [min(config.shard_size, plan.pictures - i * config.shard_size) for i in missing]
    skipped, failed = plan.pictures - sum(sizes), 0
    bar = tqdm(total=plan.pictures, initial=skipped, unit=" pictures", disable=None)
    with bar:
        for index in _run(config, model, plan, missing):
            size, bad = counts(folder, index)
            failed += bad
            bar.update(size)
    report = Report(sum(sizes) - failed, failed, skipped, monotonic() - began)
    values = {**asdict(report), "pictures_per_second": report.pictures_per_second}
    write_json(folder / _REPORT, values)
    return report


def _resumed(config: PredictConfig, model: dict[str, Any], folder: Path) -> Plan | None:
    """The plan of an earlier call with the same options; None where there is none."""
    if (plan := Plan.read(folder)) is None:
        return None
    before = json.loads((folder / _RUN).read_text(encoding="utf-8"))
    now = _identity(config, model)
    if changed := [name for name in now if now[name] != before.get(name)]:
        raise PredictError(
            f"{folder} holds a prediction with other options: "
            + ", ".join(f"{name} {before.get(name)!r}, not {now[name]!r}" for name in changed)
            + ". Choose another folder, or remove it."
        )
    logger.info("Going on in %s: its plan has %d pictures.", folder, plan.pictures)
    return plan


def _planned(config: PredictConfig, model: dict[str, Any], folder: Path) -> Plan:
    if any(folder.glob("part-*.parquet")):
        raise PredictError(f"{folder} holds Parquet files of something else; choose another.")
    write_json(folder / _RUN, _identity(config, model))
    found = chain.from_iterable(
        entries(source, config.split, config.image_column) for source in config.sources
    )
    return make_plan(found, folder, config.shard_size)


def _identity(config: PredictConfig, model: dict[str, Any]) -> dict[str, Any]:
    """What the output depends on."""
    options = {each.name: getattr(config, each.name) for each in fields(config)}
    kept = {name: value for name, value in options.items() if name not in _FREE}
    return json.loads(json.dumps({**kept, **model}))


def _run(
    config: PredictConfig, model: dict[str, Any], plan: Plan, shards: Sequence[int]
) -> Iterator[int]:
    if not shards:
        return iter(())
    is_folder = Path(config.model).is_dir()
    place = str(Path(config.model).absolute()) if is_folder else config.model
    make_work = partial(_load, config, place, model["revision"], plan.folder)
    return _engine(config)(make_work, shards)


def _engine(
    config: PredictConfig,
) -> Callable[[Callable[[], Work], Sequence[int]], Iterator[int]]:
    if config.engine == "local":
        return local
    return RayPool(*config.workers, config.cpus, config.gpus)


def _load(config: PredictConfig, place: str, revision: str | None, folder: Path) -> Work:
    """A worker: its model, and what it does with a shard's number."""
    torch.set_num_threads(config.cpus)
    plan = Plan.read(folder)
    if plan is None:
        raise PredictError(f"This worker does not see {folder}, which all of them must share.")
    segmenter = Segmenter.from_pretrained(
        place,
        revision,
        config.device,
        config.dtype,
        compile=config.compile,
        max_side=config.max_side,
    )
    writer = ShardWriter(
        folder=folder,
        segmenter=segmenter,
        opener=Opener(config.split, config.image_column),
        model={"model": config.model, "revision": revision},
        masks=config.masks,
        batch_size=config.batch_size,
    )

    def work(index: int) -> None:
        if not shard_path(folder, index).is_file():
            writer.write(index, plan.shard(index, config.shard_size))

    return work


def _remove_leftovers(folder: Path) -> None:
    """Of processes that were killed while they wrote."""
    for path in chain(folder.glob(".*.tmp"), folder.glob("masks/**/.*.tmp")):
        path.unlink(missing_ok=True)
