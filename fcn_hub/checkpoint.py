"""Reading the files of a model, config.json and model.safetensors, without trusting them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "README.md"
PROCESSOR_NAME = "preprocessor_config.json"  # where the model is made for transformers, too

_MAX_CONFIG_BYTES = 16 * 2**20


class CheckpointError(OSError, ValueError):
    """A checkpoint that cannot be found, read or used; the message says what to do next."""


class ConfigError(ValueError):
    """A model configuration that cannot be used; the message names the key and what it takes."""


def read_config(path: Path) -> dict[str, Any]:
    """The JSON object in config.json; raises ConfigError where it is none."""
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise ConfigError(f"{path} is larger than {_MAX_CONFIG_BYTES // 2**20} MiB.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise ConfigError(f"{path} is not valid JSON.") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{path} must hold a JSON object.")
    return config


def read_state_dict(
    path: Path, module: nn.Module, dtype: torch.dtype | None, device: str | torch.device | None
) -> dict[str, Tensor]:
    """The tensors of a file that must hold exactly the state dict of `module`.

    The header is checked before any tensor is read. Floating-point tensors come as `dtype`.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}.")
    expected = module.state_dict()
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            check_shapes(path, shapes, {name: list(t.shape) for name, t in expected.items()})
            state = {}
            for name in shapes:
                tensor = file.get_tensor(name)
                if tensor.is_floating_point() != expected[name].is_floating_point():
                    raise CheckpointError(f"{path} holds {name} as {tensor.dtype}.")
                to = dtype if tensor.is_floating_point() else None
                state[name] = tensor.to(device=device, dtype=to)
            return state
    except SafetensorError as error:
        raise CheckpointError(f"{path} is corrupt or not a safetensors file: {error}.") from None


def check_shapes(path: Path, found: dict[str, list[int]], expected: dict[str, list[int]]) -> None:
    """Raise a CheckpointError that names every tensor missing, unexpected or mismatched."""
    faults = []
    if missing := [name for name in expected if name not in found]:
        faults.append(f"missing {listing(missing)}")
    if unexpected := [name for name in found if name not in expected]:
        faults.append(f"unexpected {listing(unexpected)}")
    if mismatched := [
        f"{name} {found[name]} instead of {expected[name]}"
        for name in expected
        if name in found and found[name] != expected[name]
    ]:
        faults.append(f"mismatched {listing(mismatched)}")
    if faults:
        raise CheckpointError(f"The tensors of {path} do not fit the network: {'; '.join(faults)}.")


def listing(items: Sequence[str], most: int = 8) -> str:
    """Items separated by commas, cut off after `most`."""
    shown = ", ".join(items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"
