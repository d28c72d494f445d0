"""Who segments the shards: this process, or the actors of a Ray cluster.

Both do the same, `ShardWriter.write` for every shard that has no file yet, and neither hands
results around: what a shard holds goes straight from the worker to its file.
"""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Work = Callable[[int], None]
"""Writes the shard of an index, unless its file is there."""


class EngineError(RuntimeError):
    """Workers that cannot go on; the message says why."""


def local(make_work: Callable[[], Work], shards: Sequence[int]) -> Iterator[int]:
    """The shards one after the other, in this process; yields each when it is written."""
    work = make_work()
    for index in shards:
        work(index)
        yield index


@dataclass(frozen=True)
class RayPool:
    """An autoscaling pool of Ray actors, each with a model of its own.

    Args:
        least, most: How many actors.
        cpus, gpus: What each reserves; a GPU may be shared (0.5).
    """

    least: int
    most: int
    cpus: float
    gpus: float

    def __call__(self, make_work: Callable[[], Work], shards: Sequence[int]) -> Iterator[int]:
        """The shards in whatever order they come to be written; yields each when it is.

        An actor that dies is replaced, and the shard it was at is begun again. More shards are
        handed out only as fast as they are finished.

        Raises:
            EngineError: A worker failed with something that a repetition would not mend.
        """
        import ray
        import ray.data

        began_here = not ray.is_initialized()
        if began_here:
            ray.init(log_to_driver=False, logging_level=logging.WARNING)
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        ray.data.DataContext.get_current().enable_progress_bars = False
        try:
            pool = ray.data.ActorPoolStrategy(min_size=self.least, max_size=self.most)
            results = ray.data.from_items(
                [{"shard": index} for index in shards], override_num_blocks=len(shards)
            ).map(
                _Actor,  # type: ignore[arg-type]
                fn_constructor_args=(make_work,),
                compute=pool,
                num_cpus=self.cpus,
                num_gpus=self.gpus,
            )
            for row in results.iter_rows():
                yield int(row["shard"])
        except ray.exceptions.RayError as error:
            raise EngineError(_cause(error)) from error
        finally:
            if began_here:
                ray.shutdown()


class _Actor:
    """What a Ray actor runs: the model is loaded once, for its first shard.

    Not in `__init__`, which Ray Data calls in another thread than `__call__`: OpenMP keeps threads
    for every thread that computes, and with more of them than processors they no longer wait for
    work actively. docs/scale.md has what that costs.
    """

    def __init__(self, make_work: Callable[[], Work]) -> None:
        self.make_work = make_work
        self.work: Work | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if self.work is None:
            self.work = self.make_work()
        self.work(int(row["shard"]))
        return row


def _cause(error: BaseException) -> str:
    """What went wrong in the worker, without the exception's name.

    Ray's account begins with the worker's own traceback; its errors about that error follow.
    """
    account = str(error).split("\nThe above exception was the direct cause")[0]
    lines = [line.strip() for line in account.splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    return re.sub(r"^[\w.]+: ", "", last)
