"""Many requests to the web app in a row: `python scripts/soak_space.py --model FOLDER`.

Starts the app in a folder of its own, sends pictures from several clients at once, and reports
errors, times, the app's memory after a quarter of the requests and after all, and files that it
left anywhere but in Gradio's cache. Exits with 1 where there were errors or such files, or where
memory grew by more than 5 %. Needs Linux, for /proc.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
MOST_GROWTH = 0.05


def main() -> None:
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as folder, serve(Path(folder), args.model) as (process, url):
        report = soak(process, url, Path(folder), args)
    print(json.dumps(report, indent=2))
    sys.exit(bool(report["errors"] or report["files_outside"] or report["growth"] > MOST_GROWTH))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Many requests to the web app in a row.")
    parser.add_argument("--model", default="checkpoints/fcn-vgg16-voc7", help="a folder")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=4, help="at the same time")
    parser.add_argument("--width", type=int, default=640, help="of the pictures, in pixels")
    parser.add_argument("--height", type=int, default=480)
    return parser.parse_args()


@contextmanager
def serve(folder: Path, model: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """The app in a process of its own, with everything that it may write below `folder`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Gradio loads matplotlib where it is installed, and that makes a list of the fonts once.
    places = {"GRADIO_TEMP_DIR": "cache", "TMPDIR": "tmp", "HOME": "home", "MPLCONFIGDIR": "fonts"}
    for name in [*places.values(), "work"]:
        (folder / name).mkdir()
    environment = {name: str(folder / place) for name, place in places.items()}
    environment |= {"FCN_HUB_MODEL": str(Path(model).resolve()), "PORT": str(port)}
    environment |= {"PYTHONPATH": str(ROOT), "GRADIO_ANALYTICS_ENABLED": "False"}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "space" / "app.py")],
        cwd=folder / "work",
        env={**os.environ, **environment, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for(process, port)
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_for(process: subprocess.Popen, port: int) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit("error: the app did not start")
            time.sleep(0.2)


def soak(
    process: subprocess.Popen, url: str, folder: Path, args: argparse.Namespace
) -> dict[str, Any]:
    from gradio_client import Client, handle_file

    pictures = []
    for seed in range(8):
        path = folder / "work" / f"picture-{seed}.jpg"
        noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
        Image.fromarray(noise).resize((args.width, args.height)).save(path)
        pictures.append(path)
    own = threading.local()
    downloads, patient = str(folder / "answers"), {"timeout": 120}
    seconds: list[float] = []
    outside: list[float] = []
    errors: list[str] = []
    memory = {}
    done = threading.Lock()
    bar = tqdm(total=args.requests, unit="request", disable=None)

    def ask(number: int) -> None:
        start = time.perf_counter()
        try:
            if not hasattr(own, "client"):
                own.client = Client(
                    url, verbose=False, download_files=downloads, httpx_kwargs=patient
                )
            picture = handle_file(pictures[number % len(pictures)])
            _, summary, _ = own.client.predict(picture=picture, api_name="/segment")
            spent = summary["milliseconds"]
            outside.append(spent["decode"] + spent["other"])
        except Exception as error:  # whatever it is, it is what is looked for
            errors.append(str(error))
        with done:
            seconds.append(time.perf_counter() - start)
            if len(seconds) in (args.requests // 4, args.requests):
                memory[len(seconds)] = resident_megabytes(process.pid)
            bar.update()

    with ThreadPoolExecutor(args.clients) as pool:
        list(pool.map(ask, range(args.requests)))
    bar.close()
    allowed = {*pictures}.union(
        *((folder / name).rglob("*") for name in ("answers", "cache", "fonts"))
    )
    left = [path for path in folder.rglob("*") if path.is_file() and path not in allowed]
    early, late = memory[args.requests // 4], memory[args.requests]
    return {
        "requests": args.requests,
        "clients": args.clients,
        "picture": f"{args.width}×{args.height}",
        "errors": errors,
        "median_seconds": round(statistics.median(seconds), 2),
        "median_milliseconds_outside_the_network": round(statistics.median(outside or [0]), 1),
        "resident_megabytes": {str(count): round(value, 1) for count, value in memory.items()},
        "growth": round(late / early - 1, 4),
        "files_outside": [str(path.relative_to(folder)) for path in left],
    }


def resident_megabytes(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    kilobytes = next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1]
    return int(kilobytes) / 1024


if __name__ == "__main__":
    main()
