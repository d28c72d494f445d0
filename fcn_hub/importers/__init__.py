"""Weights from elsewhere: files that other code has written, read without running any of it.

A file is read into named tensors, its format is told by their names, and one function per format
turns them into a network that takes the package's ordinary input, normalised RGB. Where the
original takes BGR, the first convolution's weights change places instead.
"""

import hashlib
import pickle
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from fcn_hub.backbone import (
    CAFFE_MEAN_ACTIVATIONS,
    CAFFE_NORMALIZATION,
    TORCHVISION_NORMALIZATION,
    as_convolutions,
    from_torchvision,
)
from fcn_hub.checkpoint import CheckpointError, check_shapes
from fcn_hub.files import write_json
from fcn_hub.importers.caffemodel import read_caffemodel
from fcn_hub.importers.keras import read_vgg16
from fcn_hub.importers.releases import RELEASES, release_of
from fcn_hub.model import FCN

__all__ = ["FORMATS", "RELEASES", "convert_checkpoint", "import_checkpoint", "release_of"]

# Where training scripts keep the state dict among other things that they save.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")

# NumPy's numbers, which scripts save beside the weights. Making one runs no code of the file.
_SCALAR = np.float64(0).__reduce__()[0]
_HARMLESS: list[Any] = [
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]

_State = dict[str, Tensor]
_Found = tuple[_State, dict[str, Any]]


def import_checkpoint(
    path: str | Path, format: str = "auto", *, release: str | None = None, **config: Any
) -> FCN:
    """Build an FCN from a file of other code.

    | format | what it reads |
    |---|---|
    | ``tutorial`` | the well-known tutorial's VGG-FCN (.pth) |
    | ``fcn-pytorch`` | FCN32s, FCN16s, FCN8s and FCNs of pochih/FCN-pytorch (.pth) |
    | ``pytorch-fcn`` | FCN32s, FCN16s, FCN8s and FCN8sAtOnce of wkentaro/pytorch-fcn (.pth) |
    | ``caffe`` | the paper's networks and VGG-16 as their authors published them (.caffemodel) |
    | ``torchvision-vgg16`` | torchvision's VGG-16 (.pth) |
    | ``keras-vgg16`` | VGG-16 of Keras (.h5) |

    VGG-16 is a classifier: the FCN that is made of it has to be trained. The paper's decoders
    take over fc6 and fc7 where the file has them. For the deconvolution decoder, activations are
    evened out as `FCN.from_imagenet` does.

    ``.pth`` files are pickles: they are read with torch's weights-only reader, which knows
    tensors and plain containers and runs nothing; a file that needs more is refused.

    Args:
        path: The file. Tensors of the ``.pth`` formats may also be in a ``.safetensors`` file.
        format: One of the table, or ``"auto"``, which tells it by the names of the tensors.
        release: Which of `RELEASES` the file is: that gives classes and mean. Where None, the one
            that is published under the file's name, if there is one.
        **config: Arguments of `FCN` that the file cannot know, or that are to be others. For
            fcn-pytorch, `skips`: its networks have the same tensors, and 4, its FCNs, is taken
            where not given. For FCN8sAtOnce, `at_once`, unless it was saved by pytorch-fcn's
            trainer. For VGG-16, `decoder` and all else.

    Returns:
        The network, in eval mode, in float32.

    Raises:
        CheckpointError: Not found, not readable without running code, or tensors that fit no
            known format.
        ConfigError: An argument in `config` is wrong.

    Example:
        >>> model = import_checkpoint("fcn8s-heavy-pascal.caffemodel")  # doctest: +SKIP
        >>> model.save_pretrained("fcn8s")  # doctest: +SKIP
    """
    return _import(path, format, release, config)[0]


def convert_checkpoint(
    path: str | Path,
    folder: str | Path,
    format: str = "auto",
    *,
    release: str | None = None,
    **config: Any,
) -> FCN:
    """Import a file and write the network to a folder, with a card that says where it is from.

    Args:
        path, format, release, **config: As for `import_checkpoint`.
        folder: Where to; config.json, model.safetensors, training.json and README.md.

    Returns:
        The network.

    Raises:
        CheckpointError, ConfigError: As for `import_checkpoint`.
    """
    path, folder = Path(path).expanduser(), Path(folder).expanduser()
    model, found, release = _import(path, format, release, config)
    known = RELEASES[release] if release else None
    record = {
        "imported": {
            "file": path.name,
            "sha256": _sha256(path),
            "format": found,
            "title": known.title if known else None,
            "link": known.link if known else None,
            "published": known.published if known else None,
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        },
        "dataset": {"name": known.dataset if known else None},
        **(known.license if known else {}),
    }
    write_json(folder / "training.json", record)
    model.save_pretrained(folder)
    return model


def _import(
    path: str | Path, format: str, release: str | None, config: dict[str, Any]
) -> tuple[FCN, str, str | None]:
    """The network, its format and the release it is of."""
    if format not in ("auto", *FORMATS):
        raise CheckpointError(f"format must be one of auto, {', '.join(FORMATS)}, not {format!r}.")
    if release is not None and release not in RELEASES:
        raise CheckpointError(f"release must be one of {', '.join(RELEASES)}, not {release!r}.")
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}.")
    state, saved = _read(path)
    if format == "auto":
        format = _format_of(path, state)
    release = release or release_of(path.name)
    tensors, defaults = FORMATS[format](path, state, config)
    if release:
        defaults |= RELEASES[release].config
    if saved.get("arch") == "FCN8sAtOnce" or release == "voc-fcn8s-atonce":
        defaults["at_once"] = True
    return _build(path, tensors, {**defaults, **config}), format, release


def _format_of(path: Path, state: _State) -> str:
    if path.suffix == ".caffemodel":
        return "caffe"
    if path.suffix in (".h5", ".hdf5"):
        return "keras-vgg16"
    for name, format in (
        ("features.conv1_1.weight", "tutorial"),
        ("pretrained_net.features.0.weight", "fcn-pytorch"),
        ("score_fr.weight", "pytorch-fcn"),
        ("features.0.weight", "torchvision-vgg16"),
    ):
        if name in state:
            return format
    raise CheckpointError(
        f"{path} is not a checkpoint of a known format: {', '.join(FORMATS)}. Its tensors are "
        f"{', '.join(list(state)[:4])}, …"
    )


# --- formats: the tensors by their names in an FCN, and what they say of its configuration ------


def _tutorial(path: Path, state: _State, config: dict[str, Any]) -> _Found:
    first, last = state.get("features.conv1_1.weight"), state.get("classifier.weight")
    if first is None or last is None or first.ndim != 4 or last.ndim != 4:
        raise CheckpointError(
            f"{path} is not a checkpoint of the tutorial's network: it needs "
            "features.conv1_1.weight and classifier.weight of four dimensions each."
        )
    renamed = {
        f"backbone.{name.removeprefix('features.')}"
        if name.startswith("features.conv")
        else f"decoder.{name}": tensor
        for name, tensor in state.items()
    }
    return renamed, {"num_classes": len(last), "base_channels": len(first)}


def _fcn_pytorch(path: Path, state: _State, config: dict[str, Any]) -> _Found:
    prefix = "pretrained_net."
    vgg = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
    convolutions = _of_torchvision(path, vgg)
    decoder = {f"decoder.{n}": t for n, t in state.items() if not n.startswith(prefix)}
    skips = config.get("skips", 4)
    return _backbone(convolutions, bgr=True) | decoder, {
        "num_classes": _count(path, state, "classifier.bias"),
        "base_channels": _count(path, convolutions, "conv1_1.bias"),
        "skips": skips,
        "bn_first": skips == 4,  # its FCNs normalises first, its FCN16s and FCN8s add first
        "image_mean": CAFFE_NORMALIZATION[0],
        "image_std": (1.0, 1.0, 1.0),
    }


def _pytorch_fcn(path: Path, state: _State, config: dict[str, Any]) -> _Found:
    # The last interpolation tells the network.
    last = {"upscore8": "fcn8s", "upscore16": "fcn16s", "upscore": "fcn32s"}
    decoder = next((last[name] for name in last if f"{name}.weight" in state), None)
    if decoder is None:
        raise CheckpointError(
            f"{path} is none of the paper's networks: it has none of the layers {', '.join(last)}."
        )
    scores = {f"decoder.{n}": t for n, t in state.items() if not n.startswith("conv")}
    return _backbone(state, bgr=True) | scores, {
        "decoder": decoder,
        "num_classes": _count(path, state, "score_fr.bias"),
        "base_channels": _count(path, state, "conv1_1.bias"),
        "fc_channels": _count(path, state, "fc6.bias"),
        "image_mean": RELEASES["voc-fcn8s"].image_mean,
        "image_std": CAFFE_NORMALIZATION[1],
    }


def _caffe(path: Path, state: _State, config: dict[str, Any]) -> _Found:
    # SIFT Flow's networks have two heads on one trunk; the geometric one is left out.
    state = {n.replace("_sem.", "."): t for n, t in state.items() if "_geo." not in n}
    if not any(name.startswith("score") for name in state):
        return _vgg16(path, {n: t for n, t in state.items() if n[:3] != "fc8"}, config)
    scales = {"scale_pool4.weight": 0.01, "scale_pool3.weight": 0.0001}
    found = {name: state.pop(name) for name in scales if name in state}
    for name, tensor in found.items():
        if not torch.allclose(tensor, torch.full_like(tensor, scales[name])):
            raise CheckpointError(f"{path} has other values than {scales[name]} in {name}.")
    tensors, defaults = _pytorch_fcn(path, state, config)
    return tensors, defaults | ({"at_once": True} if found else {})


def _torchvision_vgg16(path: Path, state: _State, config: dict[str, Any]) -> _Found:
    # torchvision has the original weights, too, already for RGB and with NaN for the classifier.
    original = not state.get("classifier.0.bias", torch.zeros(1)).isfinite().all()
    mean, std = CAFFE_NORMALIZATION if original else TORCHVISION_NORMALIZATION
    tensors, defaults = _vgg16(path, _of_torchvision(path, state), config, bgr=False)
    return tensors, defaults | {"image_mean": mean, "image_std": std}


def _vgg16(path: Path, state: _State, config: dict[str, Any], *, bgr: bool = True) -> _Found:
    """VGG-16 by this package's names; the decoder but for fc6 and fc7 is still to come."""
    defaults: dict[str, Any] = {
        "base_channels": _count(path, state, "conv1_1.bias"),
        "image_mean": CAFFE_NORMALIZATION[0],
        "image_std": CAFFE_NORMALIZATION[1],
    }
    if config.get("class_names") is not None:
        defaults["num_classes"] = len(config["class_names"])
    fully_connected = {n: t for n, t in state.items() if n.startswith("fc")}
    if not fully_connected or config.get("decoder", "deconv") == "deconv":
        return _backbone(state, bgr), defaults
    defaults["fc_channels"] = _count(path, state, "fc6.bias")
    decoder = {f"decoder.{name}": tensor for name, tensor in fully_connected.items()}
    return _backbone(state, bgr) | decoder, defaults


FORMATS = {
    "tutorial": _tutorial,
    "fcn-pytorch": _fcn_pytorch,
    "pytorch-fcn": _pytorch_fcn,
    "caffe": _caffe,
    "torchvision-vgg16": _torchvision_vgg16,
    "keras-vgg16": _vgg16,
}


def _backbone(state: _State, bgr: bool) -> _State:
    """The convolutions, the first one turned to RGB where it takes BGR."""
    found = {f"backbone.{name}": t for name, t in state.items() if name.startswith("conv")}
    first = found.get("backbone.conv1_1.weight")
    if bgr and first is not None and first.ndim == 4:
        found["backbone.conv1_1.weight"] = first.flip(1)
    return found


def _of_torchvision(path: Path, state: _State) -> _State:
    try:
        return from_torchvision(state)
    except (ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not hold torchvision's VGG-16: {error}") from None


def _count(path: Path, state: _State, name: str) -> int:
    """How many values a tensor has that must be there."""
    if name not in state:
        raise CheckpointError(f"{path} has no {name}.")
    return state[name].numel()


# --- from tensors to a network -----------------------------------------------------------------


def _build(path: Path, tensors: _State, config: dict[str, Any]) -> FCN:
    scored = ("decoder.classifier.", "decoder.score")
    untrained = not any(name.startswith(scored) for name in tensors)
    with torch.device("cpu" if untrained else "meta"):
        model = FCN(**config)
    expected = model.state_dict()
    # Files of torch before 0.4.1 lack the counters, which only training reads.
    for name in expected:
        if name.endswith("num_batches_tracked"):
            tensors.setdefault(name, torch.tensor(0))
    if untrained:  # what the decoder draws at random stays, all else must be there
        drawn = {n: t for n, t in expected.items() if n.startswith("decoder.")}
        tensors = {**drawn, **tensors}
    check_shapes(
        path,
        {name: list(tensor.shape) for name, tensor in tensors.items()},
        {name: list(tensor.shape) for name, tensor in expected.items()},
    )
    state = {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}
    model.load_state_dict(state, strict=True, assign=True)
    original = (model.image_mean, model.image_std) == CAFFE_NORMALIZATION
    if untrained and original and model.decoder_name == "deconv":
        model.backbone.divide_activations(CAFFE_MEAN_ACTIVATIONS)
    return model.eval()


# --- from a file to tensors --------------------------------------------------------------------


def _read(path: Path) -> tuple[_State, Mapping[str, Any]]:
    """The named tensors of a file, and what else it holds."""
    if path.suffix == ".caffemodel":
        return _of_blobs(path, read_caffemodel(path)), {}
    if path.suffix in (".h5", ".hdf5"):
        return read_vgg16(path), {}
    content = _load(path)
    return _state_dict(content, path), content if isinstance(content, Mapping) else {}


def _of_blobs(path: Path, layers: Mapping[str, list[np.ndarray]]) -> _State:
    """Caffe's blobs by PyTorch's names: the first is the weight, the second the bias."""
    state = {
        f"{name}.{kind}": torch.from_numpy(blob)
        for name, blobs in layers.items()
        for kind, blob in zip(("weight", "bias"), blobs, strict=False)
    }
    # Old files have four dimensions for everything.
    state = {n: t.reshape(-1) if n.endswith(".bias") else t for n, t in state.items()}
    for name in ("fc6", "fc7"):
        _count(path, state, f"{name}.bias")
    try:
        return as_convolutions(state)
    except RuntimeError:
        raise CheckpointError(f"{path} has an fc6 or fc7 of another size than VGG-16's.") from None


def _load(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} is damaged, or holds more than tensors and opening it would run code of its "
            "author; save its state dict alone with torch.save(model.state_dict(), …)."
        ) from None
    # A damaged file fails in whatever way its bytes happen to: SafetensorError, RuntimeError from
    # the zip reader, EOFError, KeyError, ValueError, … from the pickle.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(
            f"{path} is not a checkpoint, or is damaged: {reason[:200]}"
        ) from None


def _state_dict(content: Any, path: Path) -> _State:
    """The named tensors in what a training script saved, wrappers and prefixes removed."""
    for name in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds no state dict.")
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        raise CheckpointError(f"{path} holds more than named tensors.")
    # DistributedDataParallel and DataParallel put "module." before every name.
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
