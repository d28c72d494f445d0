"""How fast is it? Ours, its plain form and its peers, side by side: `benchmark.py --help`.

Each contender lives in a process of its own. They take turns, one run each per round, so that
whatever else the machine does meets all of them alike; the figures are medians over the rounds.
Beside the wall clock stands the processor time, which other programs on the machine disturb less.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from fcn_hub.files import write_json

# Contender, what its row says, and whether it computes our network's labels.
CONTENDERS = {
    "plain": ("plain network: eager, float32, channels first", True),
    "ours": ("fcn-hub, automatic type", True),
    "ours-float32": ("fcn-hub, float32", True),
    "ours-bfloat16": ("fcn-hub, bfloat16", True),
    "ours-compiled": ("fcn-hub, automatic type, torch.compile", True),
    "onnx": ("fcn-hub on ONNX Runtime, float32", True),
    "openvino-float32": ("fcn-hub on OpenVINO, float32", True),
    "openvino-bfloat16": ("fcn-hub on OpenVINO, bfloat16", True),
    "openvino-int8": ("fcn-hub on OpenVINO, int8", True),
    "smp-unet": ("segmentation_models.pytorch Unet, vgg16", False),
    "smp-fpn": ("segmentation_models.pytorch FPN, vgg16", False),
    "torchvision": ("torchvision fcn_resnet50", False),
}
PROFILED = (1, 512, 512)  # batch, height and width


# --- a contender's process ---------------------------------------------------------------------


class Contender:
    """One network, in this process, ready to run on pictures of any size.

    Args:
        end_to_end: Measure it from uint8 pictures to label maps, both on the device, rather than
            from normalised pictures to logits.
    """

    def __init__(self, name: str, model: str, device: str, threads: int, end_to_end: bool) -> None:
        import torch

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.torch, self.device = torch, torch.device(device)
        self.precision = "float32"
        self.end_to_end = end_to_end
        self.network: Any = self._build(name, model)
        self.run = self._whole_road(name) if end_to_end else self.network

    def _build(self, name: str, folder: str) -> Callable[[Any], Any]:
        from fcn_hub import FCN
        from fcn_hub.segmenter import _computes_in_bfloat16

        if name in ("smp-unet", "smp-fpn"):
            import segmentation_models_pytorch as smp

            kind = smp.Unet if name == "smp-unet" else smp.FPN
            return kind("vgg16", encoder_weights=None, classes=7).eval().to(self.device)
        if name == "torchvision":
            from torchvision.models.segmentation import fcn_resnet50

            network = fcn_resnet50(weights=None, weights_backbone=None, num_classes=7)
            return network.eval().to(self.device)
        if name == "plain":
            return FCN.from_pretrained(folder, device=self.device)
        if name.endswith("-bfloat16") and not _computes_in_bfloat16(self.device):
            raise ValueError("This hardware does not compute in bfloat16.")
        self.segmenter = segmenter = segmenter_of(name, folder, str(self.device))
        self.precision = str(segmenter.dtype).removeprefix("torch.")
        if segmenter.backend != "torch":
            return segmenter.network
        form = self.torch.channels_last
        return lambda x: segmenter.network(x.to(segmenter.dtype).contiguous(memory_format=form))

    def _whole_road(self, name: str) -> Callable[[Any], Any]:
        from fcn_hub.export import EndToEnd

        if name == "plain":
            return EndToEnd(self.network).to(self.device)
        if name.startswith("ours"):
            return self.segmenter._classify_pixels  # confidences as well
        raise ValueError("It is not measured end to end.")

    def input(self, batch: int, height: int, width: int) -> Any:
        generator = self.torch.Generator().manual_seed(0)
        if self.end_to_end:
            size, dtype = (batch, height, width, 3), self.torch.uint8
            x = self.torch.randint(256, size, generator=generator, dtype=dtype)
        else:
            x = self.torch.randn(batch, 3, height, width, generator=generator)
        return x.to(self.device)

    def measure(self, batch: int, height: int, width: int) -> dict[str, float]:
        """One run: wall and processor seconds, and the most memory taken on top, in MiB."""
        x = self.input(batch, height, width)
        with added_memory(self.torch, self.device) as memory:
            wall, processor = time.perf_counter(), time.process_time()
            self.run(x)
            if self.device.type == "cuda":
                self.torch.cuda.synchronize()
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
        return {"seconds": wall, "processor_seconds": processor, "memory_mib": memory[0]}

    def profile(self, batch: int, height: int, width: int) -> dict[str, float]:
        """Milliseconds that torch's operations take themselves, those of a hundredth or more."""
        from torch.profiler import ProfilerActivity, profile

        on_gpu = self.device.type == "cuda"
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
        x = self.input(batch, height, width)
        self.run(x)
        with profile(activities=activities) as profiled:
            self.run(x)
            if on_gpu:
                self.torch.cuda.synchronize()
        key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
        times = {event.key: getattr(event, key) / 1000 for event in profiled.key_averages()}
        least = sum(times.values()) / 100
        return {k: round(t, 2) for k, t in sorted(times.items(), key=lambda i: -i[1]) if t >= least}

    def labels(self, path: str) -> None:
        """Write the labels of the array of normalised pictures in a file beside it."""
        import numpy as np

        x = self.torch.from_numpy(np.load(path)).to(self.device)
        np.save(path + ".labels.npy", self.network(x).argmax(dim=1).to("cpu").byte().numpy())

    def peak(self, precision: str) -> float:
        """FLOP per second of a large matrix product, by the faster of the libraries that torch
        has for it: BLAS, and what computes convolutions, 1×1 ones here.
        """
        dtype = "bfloat16" if self.device.type == "cuda" else precision
        side = 8192 if self.device.type == "cuda" else 2048  # what keeps the device busy
        a = self.torch.randn(side, side, device=self.device).to(getattr(self.torch, dtype))
        x = a.view(1, side, 32, -1).contiguous(memory_format=self.torch.channels_last)
        products = [
            lambda: a @ a,
            lambda: self.torch.nn.functional.conv2d(x, a[:, :, None, None]),
        ]
        seconds = []
        for product in products:
            product()
            for _ in range(3):
                start = time.perf_counter()
                product()
                if self.device.type == "cuda":
                    self.torch.cuda.synchronize()
                seconds.append(time.perf_counter() - start)
        return 2 * side**3 / min(seconds)


def segmenter_of(name: str, model: str, device: str) -> Any:
    """Ours in the form that a contender's name says."""
    from fcn_hub import Segmenter

    backend, _, form = name.partition("-")
    return Segmenter.from_pretrained(
        model,
        device=device,
        dtype="auto" if form in ("", "compiled") else form,
        backend="torch" if backend == "ours" else backend,
        compile=form == "compiled",
    )


@contextmanager
def added_memory(torch: Any, device: Any) -> Iterator[list[float]]:
    """Gives a list that afterwards holds the MiB that the block took at most on top."""
    found: list[float] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield found
        found.append((torch.cuda.max_memory_allocated() - before) / 2**20)
        return
    Path("/proc/self/clear_refs").write_text("5")  # starts a new VmHWM
    before = resident("VmRSS")
    yield found
    found.append(max(0, resident("VmHWM") - before) / 1024)


def resident(key: str) -> int:
    return int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0])


def serve(name: str, args: argparse.Namespace) -> None:
    """Answer requests from the standard input, a line of JSON each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        contender = Contender(name, args.model, args.device, args.threads, args.end_to_end)
    except (ImportError, OSError, ValueError) as error:
        answer({"error": str(error)})
        return
    answer({"precision": contender.precision})
    for line in sys.stdin:
        method, arguments = json.loads(line)
        try:
            answer({"value": getattr(contender, method)(*arguments)})
        except (RuntimeError, MemoryError) as error:
            answer({"error": str(error).splitlines()[0]})


class Process:
    """A contender in another process."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        command = [sys.executable, __file__, "--serve", name, "--model", str(args.model)]
        command += ["--device", args.device, "--threads", str(args.threads)]
        command += ["--end-to-end"] * args.end_to_end
        environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=environment
        )
        started = self._read()
        self.error = started.get("error", "")
        self.precision = started.get("precision", "")

    def __call__(self, method: str, *arguments: Any) -> Any:
        assert self.process.stdin is not None
        print(json.dumps([method, arguments]), file=self.process.stdin, flush=True)
        answer = self._read()
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": "the process ended"}


# --- the comparison ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    batch: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.batch}×{self.height}×{self.width}"


def compare(
    processes: dict[str, Process], case: Case, rounds: int, gflop: float
) -> list[dict[str, Any]]:
    """One row per contender: medians over interleaved rounds, after a run to warm up."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in processes}
    # No peak is measured for int8.
    peaks = {process.precision: 0.0 for process in processes.values()}
    peaks.pop("int8", None)
    for turn in range(rounds + 1):
        for name, process in processes.items():
            runs[name].append(process("measure", case.batch, case.height, case.width))
        for precision in peaks if turn else ():
            peaks[precision] = max(peaks[precision], processes["plain"]("peak", precision))
        print(f"{case}: round {turn} of {rounds}", file=sys.stderr)
    rows = []
    for name, all_runs in runs.items():
        first, warm = all_runs[0], all_runs[1:]
        seconds = median(run["seconds"] for run in warm) / case.batch
        row: dict[str, Any] = {
            "contender": name,
            "case": str(case),
            "precision": processes[name].precision,
            "seconds_per_picture": seconds,
            "pictures_per_second": 1 / seconds,
            "processor_seconds_per_picture": median(r["processor_seconds"] for r in warm)
            / case.batch,
            "memory_mib": max(run["memory_mib"] for run in all_runs),
            "first_seconds": first["seconds"],
            "all_seconds": [round(run["seconds"], 4) for run in warm],
        }
        peak = peaks.get(processes[name].precision)
        if CONTENDERS[name][1] and peak is not None:
            row["peak_gflops"] = peak / 1e9
            row["fraction_of_peak"] = gflop * 1e9 / seconds / peak
        rows.append(row)
    plain = rows[0]
    for row in rows:
        for key in ("seconds_per_picture", "processor_seconds_per_picture"):
            row[key.replace("seconds_per_picture", "ratio")] = plain[key] / row[key]
    return rows


def gflop_per_picture(model: str, case: Case) -> float:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from fcn_hub import FCN

    network = FCN.from_pretrained(model).to("meta")
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, case.height, case.width, device="meta"))
    return counter.get_total_flops() / 1e9


def agreement(processes: dict[str, Process], model: str, pictures: list[Path]) -> dict[str, float]:
    """The share of pixels that get the plain network's label."""
    import numpy as np
    import torch
    from PIL import Image

    from fcn_hub import Segmenter, open_image

    segmenter = Segmenter.from_pretrained(model, device="cpu", dtype="float32")
    arrays = [np.asarray(open_image(path).resize((512, 384))) for path in pictures]
    if not arrays:
        noise = np.random.default_rng(0).integers(0, 256, (4, 12, 16, 3), dtype=np.uint8)
        arrays = [np.asarray(Image.fromarray(each).resize((512, 384))) for each in noise]
    x = segmenter._normalized(torch.from_numpy(np.stack(arrays))).contiguous()
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        path = str(Path(scratch) / "pictures.npy")
        np.save(path, x.to(torch.float32).numpy())
        for name, process in processes.items():
            if CONTENDERS[name][1]:
                process("labels", path)
                found[name] = np.load(path + ".labels.npy")
    return {name: float((labels == found["plain"]).mean()) for name, labels in found.items()}


def scores(args: argparse.Namespace, names: list[str]) -> dict[str, float]:
    """Mean IU of ours, by contender, on part of a val split."""
    from fcn_hub.datasets import open_dataset
    from fcn_hub.evaluation import evaluate

    dataset = open_dataset(args.dataset, args.data_root, "val")
    found = {}
    for name in names:
        if not CONTENDERS[name][1] or name == "plain":
            continue
        segmenter = segmenter_of(name, args.model, args.device)
        found[name] = evaluate(segmenter, dataset, limit=args.pictures).metrics.mean_iu
        print(f"{name}: mean IU {found[name]:.4f}", file=sys.stderr)
    return found


# --- the whole road ----------------------------------------------------------------------------


def stages(model: str, device: str, repeats: int) -> dict[str, float]:
    """Median seconds of each step from a JPEG of 500×375 to its overlay."""
    import numpy as np
    import torch

    from fcn_hub import Segmenter
    from fcn_hub.segmentation import Segmentation

    segmenter = Segmenter.from_pretrained(model, device=device, max_side=None)
    taken: dict[str, list[float]] = {}

    def step(name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        value = call(*arguments)
        if segmenter.device.type == "cuda":
            torch.cuda.synchronize()
        taken.setdefault(name, []).append(time.perf_counter() - start)
        return value

    def preprocess(image: Any) -> Any:
        pixels = np.array(segmenter._resized(image))[None]
        return segmenter._normalized(segmenter._transfers.upload(pixels))

    def postprocess(logits: Any, image: Any) -> Any:
        (maps,) = segmenter._transfers.download([segmenter._classify(logits, image)])()
        return maps

    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        (path,) = write_jpegs(Path(scratch), 1)
        for _ in range(repeats + 1):
            image = step("decode", segmenter._open, path)
            x = step("preprocess", preprocess, image)
            logits = step("network", segmenter.network, x)[0]
            label_map, confidence = step("argmax, softmax", postprocess, logits, image)
            result = Segmentation(image, label_map, confidence, segmenter.labels)
            step("drawing", result.overlay)
    return {name: median(seconds[1:]) for name, seconds in taken.items()}


def throughput(model: str, device: str, count: int) -> dict[str, float]:
    """Pictures per second of a folder of JPEGs, and of the network alone, in turns of a tenth."""
    import numpy as np
    import torch

    from fcn_hub import Segmenter

    segmenter = Segmenter.from_pretrained(model, device=device, max_side=None)
    stream = network = 0.0
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        paths = write_jpegs(Path(scratch), count)
        pixels = np.stack([np.asarray(segmenter._open(path)) for path in paths[:8]])
        x = segmenter._normalized(segmenter._transfers.upload(pixels))
        segmenter.network(x)
        for start in range(0, count, 20):
            part = paths[start : start + 20]
            begin = time.perf_counter()
            for _ in segmenter.stream(part, batch_size=8):
                pass
            stream += time.perf_counter() - begin
            begin = time.perf_counter()
            for size in [8] * (len(part) // 8) + [len(part) % 8] * bool(len(part) % 8):
                segmenter.network(x[:size])
            if segmenter.device.type == "cuda":
                torch.cuda.synchronize()
            network += time.perf_counter() - begin
    return {
        "pictures": count,
        "stream_per_second": count / stream,
        "network_per_second": count / network,
        "fraction": network / stream,
    }


def write_jpegs(folder: Path, count: int) -> list[Path]:
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0)
    paths = []
    for index in range(count):
        small = noise.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        paths.append(folder / f"{index:04}.jpg")
        Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def start_up(model: str) -> dict[str, float]:
    """Median seconds, over three fresh processes each, to import and to load."""
    program = f"""
import os, time
start = time.perf_counter()
import fcn_hub
package = time.perf_counter() - start
from fcn_hub import FCN, Segmenter
imported = time.perf_counter() - start
def load(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
file = os.open({model!r} + "/model.safetensors", os.O_RDONLY)
os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
cold = load(lambda: FCN.from_pretrained({model!r}))
warm = load(lambda: FCN.from_pretrained({model!r}))
print(package, imported, cold, warm, load(lambda: Segmenter.from_pretrained({model!r})))
"""
    names = ("import_package", "import_network", "load_cold", "load_warm", "segmenter_warm")
    command = [sys.executable, "-c", program]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(3)]
    columns = zip(*(map(float, run.stdout.split()) for run in runs), strict=True)
    return {name: median(column) for name, column in zip(names, columns, strict=True)}


# --- reports -----------------------------------------------------------------------------------


def machine(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    packages = ("torch", "torchvision", "onnxruntime", "openvino", "segmentation_models_pytorch")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "device": args.device,
        "end_to_end": args.end_to_end,
        "threads": args.threads,
        "load_average_before": round(os.getloadavg()[0], 2),
        "versions": {"python": platform.python_version(), **installed(packages)},
    }


def installed(packages: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def plot(report: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    cases = list(dict.fromkeys(row["case"] for row in report["rows"]))
    # What a GPU does takes none of the processor's time.
    on_cpu = report["machine"]["device"] == "cpu"
    key, clock = ("processor_ratio", "processor time") if on_cpu else ("ratio", "wall clock")
    columns = min(len(cases), 3)
    lines = -(-len(cases) // columns)
    height = 1 + 0.35 * len(report["rows"]) / len(cases)
    size = (4 * columns + 3, height * lines)
    figure, axes = plt.subplots(lines, columns, figsize=size, sharey=True, squeeze=False)
    for axis in axes.flat[len(cases) :]:
        axis.set_axis_off()
    for axis, case in zip(axes.flat, cases, strict=False):
        rows = [row for row in report["rows"] if row["case"] == case][::-1]
        names = [CONTENDERS[row["contender"]][0] for row in rows]
        colors = [color_of(row["contender"]) for row in rows]
        bars = axis.barh(names, [row[key] for row in rows], color=colors)
        axis.bar_label(bars, fmt="%.2f", padding=3)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_title(f"batch × height × width: {case}", fontsize=10)
        axis.set_xlabel(f"times as fast as the plain network\n({clock})")
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.15)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def color_of(name: str) -> str:
    """Blue for ours, light blue for our network in other runtimes, grey for the rest."""
    if name.startswith("ours"):
        return "#0072b2"
    return "#56b4e9" if CONTENDERS[name][1] and name != "plain" else "#999999"


def table(report: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = [
        "| case | contender | s/picture | processor s | ratio | processor ratio | MiB | of peak |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        peak = f"{row['fraction_of_peak']:.0%}" if "fraction_of_peak" in row else ""
        lines.append(
            f"| {row['case']} | {CONTENDERS[row['contender']][0]} "
            f"| {row['seconds_per_picture']:.3g} | {row['processor_seconds_per_picture']:.3g} "
            f"| {row['ratio']:.2f} | {row['processor_ratio']:.2f} | {row['memory_mib']:.0f} "
            f"| {peak} |"
        )
    return "\n".join(lines)


def case_of(text: str) -> Case:
    batch, height, width = (int(number) for number in text.split("x"))
    return Case(batch, height, width)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model", default="checkpoints/fcn-vgg16-voc7", help="a model's folder, with its exports")
    add("--device", default="cpu")
    add("--threads", type=int, default=os.cpu_count())
    add("--rounds", type=int, default=5)
    add("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    cases = ["1x256x256", "1x512x512", "4x512x512", "1x480x640", "1x1024x2048"]
    add("--cases", nargs="+", type=case_of, default=[case_of(c) for c in cases], metavar="NxHxW")
    add("--end-to-end", action="store_true", help="time uint8 pictures to labels, not the network")
    add("--stream", type=int, default=200, help="JPEGs to stream; 0 for none")
    add("--dataset", default="voc7", help="of --data-root")
    add("--data-root", type=Path, help="a data set, for mean IU and agreement on real pictures")
    add("--pictures", type=int, default=100, help="pictures of the val split to measure on")
    add("--output", type=Path, default=Path("benchmark"), help="folder for the JSON and the plot")
    add("--serve", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.serve:
        serve(args.serve, args)
        return
    report: dict[str, Any] = {"machine": machine(args), "rows": [], "not_measured": {}}
    names = ["plain", *(name for name in args.contenders if name != "plain")]
    processes = {}
    for name in names:
        process = Process(name, args)
        if process.error:
            report["not_measured"][name] = process.error
            continue
        processes[name] = process
    for case in args.cases:
        gflop = gflop_per_picture(args.model, case)
        report["rows"] += compare(processes, case, args.rounds, gflop)
    pictures = []
    if args.data_root is not None:
        from fcn_hub.export import calibration_pictures

        pictures = calibration_pictures(args.data_root)[:4]
        report["mean_iu"] = scores(args, list(processes))
        report["mean_iu_pictures"] = args.pictures
    report["profile"] = {
        name: process("profile", *PROFILED)
        for name, process in processes.items()
        if name == "plain" or name.startswith("ours")
    }
    report["agreement"] = agreement(processes, args.model, pictures)
    for process in processes.values():
        process.close()
    report["stages"] = stages(args.model, args.device, args.rounds)
    report["start_up"] = start_up(str(args.model))
    if args.stream:
        report["stream"] = throughput(args.model, args.device, args.stream)
    args.output.mkdir(parents=True, exist_ok=True)
    write_json(args.output / "benchmark.json", report)
    plot(report, args.output / "benchmark.png")
    print(table(report))
    print(json.dumps({k: v for k, v in report.items() if k != "rows"}, indent=1))


if __name__ == "__main__":
    main()
