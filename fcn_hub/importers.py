"""Weights from elsewhere: files that other code has written, read without running any of it.

Only the tutorial's checkpoints so far; every further format is one function that turns a state
dict into a network.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from fcn_hub.checkpoint import CheckpointError, check_shapes
from fcn_hub.model import FCN

FORMATS = ("tutorial",)

# Where training scripts keep the state dict among other things that they save.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")


def import_checkpoint(path: str | Path, format: str = "auto", **config: Any) -> FCN:
    """Build an FCN from a checkpoint of other code.

    ``.pth`` files are pickles: they are read with torch's weights-only reader, which knows
    tensors and plain containers and runs nothing; a file that needs more is refused.

    Args:
        path: The checkpoint: a ``.pth`` or ``.pt`` file, or a ``.safetensors`` file with the
            same tensors.
        format: ``"auto"``, or ``"tutorial"``: the VGG-FCN of the well-known tutorial, whose
            tensors are ``features.convX_Y``, ``deconvN``, ``bnN`` and ``classifier``. The number
            of classes is read off the classifier.
        **config: Arguments of `FCN` that the file cannot know: `class_names`, `class_colors`,
            `ignore_index`, `image_mean`, `image_std`, `skips`. The normalisation must be the one
            of training; the tutorial's own, torchvision's ImageNet mean and deviation, is the
            default.

    Returns:
        The network, in eval mode, in float32.

    Raises:
        CheckpointError: Not found, not readable without running code, or tensors that fit no
            known format.
        ConfigError: An argument in `config` is wrong.

    Example:
        >>> model = import_checkpoint("fcn.pth", class_names=names)  # doctest: +SKIP
        >>> model.save_pretrained("fcn")  # doctest: +SKIP
    """
    if format not in ("auto", *FORMATS):
        raise CheckpointError(f"format must be one of auto, {', '.join(FORMATS)}, not {format!r}.")
    path = Path(path).expanduser()
    state = _state_dict(_read(path), path)
    return _from_tutorial(state, path, config)


def _from_tutorial(state: dict[str, Tensor], path: Path, config: dict[str, Any]) -> FCN:
    renamed = {
        f"backbone.{name.removeprefix('features.')}"
        if name.startswith("features.conv")
        else f"decoder.{name}": tensor
        for name, tensor in state.items()
    }
    first = renamed.get("backbone.conv1_1.weight")
    last = renamed.get("decoder.classifier.weight")
    if first is None or last is None or first.ndim != 4 or last.ndim != 4:
        raise CheckpointError(
            f"{path} is not a checkpoint of the tutorial's network: it needs "
            "features.conv1_1.weight and classifier.weight of four dimensions each."
        )
    shape = {"num_classes": last.shape[0], "base_channels": first.shape[0]}
    with torch.device("meta"):
        model = FCN(**{**shape, **config})
    expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    # Files of torch before 0.4.1 lack the counters, which only training reads.
    for name in expected:
        if name.endswith("num_batches_tracked"):
            renamed.setdefault(name, torch.tensor(0))
    check_shapes(path, {name: list(tensor.shape) for name, tensor in renamed.items()}, expected)
    state = {n: t.float() if t.is_floating_point() else t for n, t in renamed.items()}
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def _read(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
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


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
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
