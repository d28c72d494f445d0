"""Exporting a network: ONNX, OpenVINO (float or int8) and torch.export, each checked.

A file is written beside the model, `onnx/model.onnx` for example, with a record of what it was
made from. Before that, the exported network has to give what the network gives, at odd sizes
too. `Segmenter(backend=…)` runs the ONNX and OpenVINO files. It does not open torch.export's
archives, since these may hold pickles: they are for AOTInductor, ExecuTorch and the like.
"""

import contextlib
import copy
import io
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx.experimental import _config as fx_config

from fcn_hub.files import atomic_write
from fcn_hub.images import FORMATS, open_image
from fcn_hub.model import FCN
from fcn_hub.runtimes import (
    BackendError,
    OpenVinoNetwork,
    export_name,
    require,
    write_record,
)

TARGETS = ("onnx", "openvino", "torch-export")
END_TO_END_NAME = "onnx/end_to_end.onnx"
TORCH_EXPORT_NAME = "torch-export/model.pt2"

# Batch, height and width at which an exported network is compared with the network.
_CHECKED = ((1, 1, 1), (2, 33, 47), (1, 64, 64), (1, 75, 131))
# Of the largest logit; of the pixels where labels are compared: rounding decides between two
# classes that are all but equal.
_TOLERANCE, _LABEL_TOLERANCE = 1e-4, 1e-2

# Pictures to quantise with: more make little difference, and larger ones only take longer.
MOST_CALIBRATION_PICTURES = 128
_CALIBRATION_SIDE = 640


class ExportError(ValueError):
    """An export that cannot be made; the message says why."""


@dataclass(frozen=True)
class Exported:
    """An exported network.

    Args:
        path: Its file.
        difference: Largest difference from the network's logits over several sizes, relative to
            the largest logit. Of an end-to-end network, the largest share of pixels with another
            label; of a quantised one, the share over its calibration pictures.
    """

    path: Path
    difference: float


class EndToEnd(nn.Module):
    """The network with everything around it: uint8 RGB [N, H, W, 3] to labels [N, H, W].

    Labels are uint8, int32 where there are more than 256 classes.
    """

    def __init__(self, model: FCN) -> None:
        super().__init__()
        self.model = model
        self.label_dtype = torch.uint8 if model.num_classes <= 256 else torch.int32
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(model.image_mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(model.image_std).view(3, 1, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        x = (pictures.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        return self.model(x).argmax(dim=1).to(self.label_dtype)


def export(
    model: FCN,
    folder: str | Path,
    backend: str,
    *,
    end_to_end: bool = False,
    calibration: Sequence[Path] | None = None,
) -> Exported:
    """Export a network into a model's folder, once it has been checked against the network.

    Args:
        model: The network; exported in float32 and eval mode.
        folder: The model's folder; made if need be.
        backend: ``"onnx"`` (`onnx/model.onnx`), ``"openvino"`` (`openvino/model.xml` and `.bin`)
            or ``"torch-export"`` (`torch-export/model.pt2`). Batch, height and width are free.
        end_to_end: With ONNX: normalisation and argmax inside, uint8 pictures [N, H, W, 3] in,
            label maps [N, H, W] out, as `onnx/end_to_end.onnx`.
        calibration: With OpenVINO: quantise to int8, with the ranges of activations found on
            these pictures, as `openvino/model_int8.xml`.

    Raises:
        ExportError: The options do not go together, or the check failed.
        BackendError: A library is not installed.
        ImageError: A calibration picture cannot be opened.

    Example:
        >>> export(model, "my-model", "onnx").path  # doctest: +SKIP
        PosixPath('my-model/onnx/model.onnx')
    """
    if backend not in TARGETS:
        raise ExportError(f"Networks are exported for {', '.join(TARGETS)}, not for {backend!r}.")
    if end_to_end and backend != "onnx":
        raise ExportError(f"End to end goes with onnx, not with {backend}.")
    if calibration is not None and backend != "openvino":
        raise ExportError(f"int8 goes with openvino, not with {backend}.")
    if calibration is not None and not calibration:
        raise ExportError("Quantising needs at least one picture to calibrate with.")
    model = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    folder = Path(folder)
    with torch.no_grad(), _quiet():
        if backend == "openvino":
            return _export_openvino(model, folder, calibration)
        if backend == "torch-export":
            return _export_torch(model, folder)
        if end_to_end:
            return _export_onnx(EndToEnd(model), model, folder / END_TO_END_NAME)
        return _export_onnx(model, model, folder / export_name("onnx"))


def calibration_pictures(folder: str | Path) -> list[Path]:
    """Pictures in a folder and its subfolders, at most MOST_CALIBRATION_PICTURES, evenly spread.

    Raises:
        ExportError: There are none.
    """
    from PIL import Image

    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    found = [path for path in sorted(Path(folder).rglob("*")) if path.suffix.lower() in suffixes]
    if not found:
        raise ExportError(f"There are no pictures in {str(folder)!r} to calibrate with.")
    count = min(len(found), MOST_CALIBRATION_PICTURES)
    return [found[index * len(found) // count] for index in range(count)]


def _export_onnx(network: nn.Module, model: FCN, path: Path) -> Exported:
    require("onnx")
    _require("onnxscript", "export")
    import onnxruntime

    is_end_to_end = network is not model
    output = "labels" if is_end_to_end else "logits"
    program = torch.onnx.export(
        _exported_program(network, is_end_to_end),
        dynamo=True,
        input_names=["pictures"],
        output_names=[output],
        verbose=False,
    )
    assert program is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        _name_axes(program.model, is_end_to_end)
        program.save(temporary, external_data=False)
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        difference = _check(
            network, is_end_to_end, lambda x: session.run(None, {"pictures": x.numpy()})[0]
        )
    facts = {"format": "onnx", "opset": program.model.opset_imports[""]}
    write_record(path.with_suffix(".json"), model, [path], {**facts, "difference": difference})
    return Exported(path, difference)


def _name_axes(graph: Any, is_end_to_end: bool) -> None:
    """Call the free axes of the input what they are, for those who look at the file."""
    import onnx_ir

    (pictures,) = graph.graph.inputs
    names = ("batch", "height", "width", 3) if is_end_to_end else ("batch", 3, "height", "width")
    pictures.shape = onnx_ir.Shape(names)


def _exported_program(network: nn.Module, is_end_to_end: bool) -> torch.export.ExportedProgram:
    free = torch.export.Dim.DYNAMIC
    example = _example(2, 75, 101, is_end_to_end)
    axes = {0: free, 1: free, 2: free} if is_end_to_end else {0: free, 2: free, 3: free}
    # Without it, torch.export rules out sizes at which padding or a stage would be trivial: one
    # pixel, multiples of 32 and the like.
    with fx_config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        return torch.export.export(network, (example,), dynamic_shapes=(axes,))


def _export_torch(model: FCN, folder: Path) -> Exported:
    program = _exported_program(model, False)
    difference = _check(model, False, program.module())
    path = folder / TORCH_EXPORT_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:  # it insists on the suffix
        torch.export.save(program, Path(scratch) / path.name)
        with atomic_write(path) as temporary:
            shutil.copyfile(Path(scratch) / path.name, temporary)
    facts = {"format": "torch-export", "torch": torch.__version__, "difference": difference}
    write_record(path.with_suffix(".json"), model, [path], facts)
    return Exported(path, difference)


def _export_openvino(model: FCN, folder: Path, calibration: Sequence[Path] | None) -> Exported:
    require("openvino")
    import openvino

    graph = openvino.convert_model(model, example_input=_example(2, 75, 101), input=[-1, 3, -1, -1])
    graph.inputs[0].get_tensor().set_names({"pictures"})
    graph.outputs[0].get_tensor().set_names({"logits"})
    dtype = torch.float32 if calibration is None else torch.int8
    path = folder / export_name("openvino", dtype)
    facts: dict[str, Any] = {"format": "openvino", "openvino": openvino.__version__}
    if calibration is not None:
        graph = _quantized(graph, model, calibration)
        facts["calibration_pictures"] = len(calibration)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / path.name
        openvino.save_model(graph, whole, compress_to_fp16=False)
        run = OpenVinoNetwork(whole, dtype)
        if calibration is None:
            difference = _check(model, False, run)
        else:
            difference = _disagreement(model, run, calibration)
        # Between the two replacements there is no .xml rather than one with other weights.
        path.unlink(missing_ok=True)
        for file in (path.with_suffix(".bin"), path):
            with atomic_write(file) as temporary:
                shutil.copyfile(whole.with_name(file.name), temporary)
    facts["difference"] = difference
    write_record(path.with_suffix(".json"), model, [path, path.with_suffix(".bin")], facts)
    return Exported(path, difference)


def _quantized(graph: Any, model: FCN, pictures: Sequence[Path]) -> Any:
    _require("nncf", "int8")
    import nncf

    nncf.set_log_level(logging.ERROR)

    def read(path: Path) -> np.ndarray:
        return _normalised(model, path).numpy()

    # The full range of int8 weights would overflow the 16-bit sums of processors without VNNI,
    # and give other labels there than elsewhere.
    parameters = nncf.AdvancedQuantizationParameters(
        overflow_fix=nncf.quantization.advanced_parameters.OverflowFix.ENABLE
    )
    return nncf.quantize(
        graph,
        nncf.Dataset(list(pictures), read),
        preset=nncf.QuantizationPreset.MIXED,  # activations are not symmetric: most follow a ReLU
        subset_size=len(pictures),
        advanced_parameters=parameters,
    )


def _normalised(model: FCN, path: Path) -> Tensor:
    """A picture as the network takes it, float [1, 3, H, W], scaled down if it is large."""
    image = open_image(path)
    image.thumbnail((_CALIBRATION_SIDE, _CALIBRATION_SIDE))
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (model.image_mean, model.image_std)
    )
    return (x - mean) / std


def _disagreement(model: FCN, run: Callable[[Tensor], Tensor], pictures: Sequence[Path]) -> float:
    """The share of pixels that get another label, over up to sixteen of the pictures."""
    changed = pixels = 0
    for path in pictures[:: -(-len(pictures) // 16)]:
        x = _normalised(model, path)
        unequal = run(x).argmax(dim=1) != model(x).argmax(dim=1)
        changed, pixels = changed + int(unequal.sum()), pixels + unequal.numel()
    return changed / pixels


def _check(
    network: nn.Module, is_end_to_end: bool, run: Callable[[Tensor], Tensor | np.ndarray]
) -> float:
    """The largest relative difference between `run` and the network.

    Raises:
        ExportError: It is more than rounding explains.
    """
    worst = 0.0
    for size in _CHECKED:
        x = _example(*size, is_end_to_end)
        expected, found = network(x), torch.as_tensor(run(x))
        if found.shape != expected.shape or found.dtype != expected.dtype:
            difference = float("inf")
        elif is_end_to_end:
            difference = (found != expected).float().mean().item()
        else:
            largest = expected.abs().max().clamp(min=1e-6)  # untrained scores are all zero
            difference = ((found - expected).abs().max() / largest).item()
        worst = max(worst, difference)
        if not difference <= (_LABEL_TOLERANCE if is_end_to_end else _TOLERANCE):
            raise ExportError(
                f"The exported network differs from the network by {difference:.2g} at batch, "
                f"height and width {size}; nothing was written."
            )
    return worst


def _example(batch: int, height: int, width: int, as_pixels: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if as_pixels:
        size = (batch, height, width, 3)
        return torch.randint(256, size, generator=generator).to(torch.uint8)
    return torch.randn(batch, 3, height, width, generator=generator)


def _require(package: str, extra: str) -> None:
    try:
        __import__(package)
    except ImportError:
        raise BackendError(f'This export needs {package}: pip install "fcn-hub[{extra}]"') from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters: their warnings and progress are about their own insides."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
