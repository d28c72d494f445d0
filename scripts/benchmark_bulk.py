"""Cost and memory of bulk prediction: `python scripts/benchmark_bulk.py --model FOLDER`.

Segments sets of small generated pictures with `scripts/predict.py`, every set by every engine,
and writes down wall time, rate, memory and processor time. Engines take turns, so that what else
the machine does meets all of them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from fcn_hub.evaluation import hardware, versions
from fcn_hub.files import write_json

ROOT = Path(__file__).resolve().parents[1]

# The same two threads of arithmetic each: one process, one Ray actor, and two of one thread.
ENGINES = {
    "local": ["--engine", "local", "--cpus", "2"],
    "ray-1x2": ["--engine", "ray", "--workers", "1", "1", "--cpus", "2"],
    "ray-2x1": ["--engine", "ray", "--workers", "2", "2", "--cpus", "1"],
}


def main() -> None:
    args = parse_arguments()
    rows = []
    with tempfile.TemporaryDirectory(prefix="bulk-") as folder:
        place = Path(folder)
        for count in args.counts:
            pictures = make_pictures(place / f"pictures-{count}", count, args.side)
            for engine in args.engines:
                output = place / f"{engine}-{count}"
                rows.append({"engine": engine, **measure(args, engine, pictures, output)})
                print(json.dumps(rows[-1]), flush=True)
    record = {
        "model": Path(args.model).name,
        "side": args.side,
        "shard_size": args.shard_size,
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
        "rows": rows,
    }
    write_json(args.json, record)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Cost and memory of bulk prediction.")
    parser.add_argument("--model", default="checkpoints/fcn-vgg16-voc7", help="a folder")
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1000, 5000])
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--side", type=int, default=48, help="of the pictures, in pixels")
    parser.add_argument("--shard-size", type=int, default=25)
    parser.add_argument("--json", type=Path, default=Path("benchmark-bulk.json"))
    return parser.parse_args()


def make_pictures(folder: Path, count: int, side: int) -> Path:
    """Pictures of smooth noise."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        noise = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        picture = noise.resize((side, side), Image.Resampling.BICUBIC)
        picture.save(folder / f"{index:06}.jpg")
    return folder


def measure(args: argparse.Namespace, engine: str, pictures: Path, output: Path) -> dict[str, Any]:
    """One call of predict.py, watched."""
    command = [
        *(sys.executable, str(ROOT / "scripts" / "predict.py"), str(pictures)),
        *("--model", args.model, "--output", str(output), "--shard-size", str(args.shard_size)),
        *("--device", "cpu", *ENGINES[engine]),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile("w+") as problems:
        process = psutil.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=problems)
        watcher = Watcher(process, output)
        watcher.start()
        code = process.wait()
        watcher.stop.set()
        watcher.join()
        if code:
            problems.seek(0)
            sys.exit(problems.read())
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    written = sorted(path.stat().st_mtime for path in output.glob("part-*.parquet"))
    between = (len(written) - 1) * args.shard_size
    return {
        "pictures": report["done"],
        "seconds": round(report["seconds"], 2),
        "pictures_per_second": round(report["pictures_per_second"], 2),
        # From the first shard to the last: without loading, and without Ray's beginning.
        "steady_pictures_per_second": round(between / (written[-1] - written[0]), 2),
        "memory_mib": memory(watcher.samples, len(written)),
        "processor_seconds": watcher.processor_seconds(),
    }


class Watcher(threading.Thread):
    """Looks at a process and its children once a second until `stop` is set."""

    def __init__(self, process: psutil.Process, output: Path) -> None:
        super().__init__()
        self.process = process
        self.output = output
        self.stop = threading.Event()
        # Shards written, and resident bytes of the driver and of the largest actor.
        self.samples: list[tuple[int, int, int]] = []
        self._taken: dict[tuple[str, int], float] = {}
        self._own = 0.0

    def run(self) -> None:
        while not self.stop.wait(1):
            try:
                self._look()
            except psutil.NoSuchProcess:
                continue
            self._own = time.thread_time()

    def _look(self) -> None:
        largest = 0
        for child in self.process.children(recursive=True):
            role = "actors" if "MapWorker" in child.name() else "others"
            self._note(role, child)
            if role == "actors":
                largest = max(largest, child.memory_info().rss)
        self._note("driver", self.process)
        shards = sum(1 for _ in self.output.glob("part-*.parquet"))
        self.samples.append((shards, self.process.memory_info().rss, largest))

    def _note(self, role: str, process: psutil.Process) -> None:
        times = process.cpu_times()
        self._taken[role, process.pid] = times.user + times.system

    def processor_seconds(self) -> dict[str, float]:
        """Of the driver, the actors, Ray's other processes and this watch, as last seen."""
        found = dict.fromkeys(("driver", "actors", "others"), 0.0)
        for (role, _), seconds in self._taken.items():
            found[role] += seconds
        return {role: round(seconds, 1) for role, seconds in {**found, "watch": self._own}.items()}


def memory(samples: list[tuple[int, int, int]], shards: int) -> dict[str, list[float]]:
    """The most in the second and in the last quarter of the shards, in MiB."""
    found = {}
    for name, column in (("driver", 1), ("actor", 2)):
        quarters = [
            [each[column] for each in samples if low * shards < 4 * each[0] <= high * shards]
            for low, high in ((1, 2), (3, 4))
        ]
        if all(quarters) and any(map(any, quarters)):
            found[name] = [round(max(quarter) / 2**20, 1) for quarter in quarters]
    return found


if __name__ == "__main__":
    main()
