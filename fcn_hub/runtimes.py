"""Running exported networks: the files beside a model, and the libraries that execute them.

`fcn_hub.export` writes the files, `Segmenter(backend=…)` runs them. Each comes with a record in
JSON that names the weights it was made from and the SHA-256 of every file, so a file that is
damaged, half replaced, or older than the model it lies beside is told apart before it runs.
"""

import hashlib
import json
import logging
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor, nn

from fcn_hub.checkpoint import CheckpointError, ConfigError, read_config
from fcn_hub.files import atomic_write
from fcn_hub.hub import fetch_file

logger = logging.getLogger(__name__)

BACKENDS = ("torch", "onnx", "openvino")

# Where exported networks lie in a model's folder or repository.
EXPORT_FOLDERS = ("onnx", "openvino", "torch-export")


class BackendError(ValueError):
    """A backend that cannot run here or not in this way; the message says what to do."""


def export_name(backend: str, dtype: torch.dtype | None = None) -> str:
    """The path in a model's folder of the network exported for a backend.

    Args:
        backend: ``"onnx"`` or ``"openvino"``.
        dtype: torch.int8 for the quantised network.
    """
    suffix = "_int8" if dtype == torch.int8 else ""
    return {"onnx": f"onnx/model{suffix}.onnx", "openvino": f"openvino/model{suffix}.xml"}[backend]


def export_files(backend: str, dtype: torch.dtype) -> list[str]:
    """The paths of all files of an exported network: the record, the network, its weights."""
    path = PurePosixPath(export_name(backend, dtype))
    suffixes = [".json", path.suffix] + ([".bin"] if backend == "openvino" else [])
    return [str(path.with_suffix(suffix)) for suffix in suffixes]


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a network's tensors as float32: the same whatever type they are stored in."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {list(tensor.shape)}".encode())
        if tensor.is_floating_point():
            digest.update(tensor.detach().cpu().float().contiguous().numpy().data)
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def read_record(path: Path) -> dict[str, Any]:
    """The record of an exported network.

    Raises:
        CheckpointError: It is not one.
    """
    try:
        record = read_config(path)
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    files: Any = record.get("files")
    is_record = isinstance(files, dict) and isinstance(record.get("weights"), str)
    if not is_record or any(Path(name).name != name for name in files):
        raise CheckpointError(f"{path} is not the record of an exported network.")
    return record


def write_record(path: Path, model: nn.Module, files: list[Path], facts: dict[str, Any]) -> None:
    """Write the record of exported files that lie in the same folder as `path`."""
    from fcn_hub import __version__

    record = {
        "weights": fingerprint(model),
        "files": {file.name: file_digest(file) for file in files},
        "fcn_hub": __version__,
        **facts,
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def load_network(model: nn.Module, backend: str, dtype: torch.dtype, folder: Path) -> nn.Module:
    """An exported network, ready to run: normalised pictures [N, 3, H, W] to logits, float32.

    Args:
        model: The network that it must have been exported from.
        backend: ``"onnx"`` or ``"openvino"``.
        dtype: What it computes in; torch.int8 is the quantised one.
        folder: The model's folder, where the export lies.

    Raises:
        BackendError: The library that runs it is not installed.
        CheckpointError: A file is missing, damaged, or made from other weights.
    """
    require(backend)
    record_path, *files = (folder / name for name in export_files(backend, dtype))
    record = read_record(fetch_file(folder, record_path.relative_to(folder).as_posix()))
    if record["weights"] != fingerprint(model):
        raise CheckpointError(f"{files[0]} was exported from other weights; export it again.")
    for file in files:
        if not file.is_file() or record["files"].get(file.name) != file_digest(file):
            raise CheckpointError(f"{file} is missing or damaged; export it again.")
    return {"onnx": OnnxNetwork, "openvino": OpenVinoNetwork}[backend](files[0], dtype)


def copy_exports(model: nn.Module, source: Path, target: Path) -> None:
    """Copy every exported network with a model's weights from one folder of it to another."""
    weights = fingerprint(model)
    for path in sorted(path for name in EXPORT_FOLDERS for path in (source / name).glob("*.json")):
        record = read_record(path)
        files = [path.with_name(name) for name in record["files"]]
        if record["weights"] != weights or not all(file.is_file() for file in files):
            logger.warning("%s describes an export of other weights; left out.", path)
            continue
        place = target / path.parent.name
        place.mkdir(parents=True, exist_ok=True)
        for file in (path, *files):
            shutil.copyfile(file, place / file.name)


def require(backend: str) -> None:
    """Raise a BackendError unless the library that runs a backend is installed."""
    package, extra = {"onnx": ("onnxruntime", "export"), "openvino": ("openvino", "openvino")}[
        backend
    ]
    try:
        __import__(package)
    except ImportError:
        raise BackendError(
            f'The backend {backend!r} needs {package}: pip install "fcn-hub[{extra}]"'
        ) from None


class OnnxNetwork(nn.Module):
    """A network in an ONNX file, run by ONNX Runtime on the CPU.

    Args:
        path: The file.
        dtype: What it computes in: torch.float32.
    """

    def __init__(self, path: Path, dtype: torch.dtype) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the library has no public base class for its errors
            raise CheckpointError(_unreadable(path, error)) from None

    def forward(self, x: Tensor) -> Tensor:
        (logits,) = self.session.run(None, {"pictures": x.contiguous().numpy()})
        return torch.from_numpy(logits)


class OpenVinoNetwork(nn.Module):
    """A network in OpenVINO's format, run on the CPU.

    Args:
        path: The .xml file; the .bin file with the weights lies beside it.
        dtype: What it computes in: torch.float32 or torch.bfloat16; torch.int8 for a quantised
            network, which does what is not quantised in whatever the hardware is best at.
    """

    def __init__(self, path: Path, dtype: torch.dtype) -> None:
        super().__init__()
        import openvino

        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        if dtype != torch.int8:
            options["INFERENCE_PRECISION_HINT"] = {torch.float32: "f32", torch.bfloat16: "bf16"}[
                dtype
            ]
        try:
            self.compiled = openvino.Core().compile_model(path, "CPU", options)
        except RuntimeError as error:
            raise CheckpointError(_unreadable(path, error)) from None

    def forward(self, x: Tensor) -> Tensor:
        (logits,) = self.compiled(x.contiguous().numpy(), share_inputs=True).to_tuple()
        return torch.from_numpy(logits)


def _unreadable(path: Path, error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{path} cannot be run: {' '.join(lines)[:300] or type(error).__name__}"
