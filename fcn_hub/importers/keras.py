"""Reading VGG-16 out of the .h5 files of Keras."""

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fcn_hub.checkpoint import CheckpointError

_MAX_BYTES = 2 * 2**30


def read_vgg16(path: Path) -> dict[str, Tensor]:
    """The weights by this package's names, in PyTorch's layout, for BGR pictures still.

    Keras calls conv1_1 ``block1_conv1``. Its kernels are [height, width, in, out], and it
    flattens pool5 with the channels last, so the inputs of fc1 are brought into VGG's own order.

    Args:
        path: An .h5 file that Keras has written, with the fully connected layers or without.

    Returns:
        ``conv1_1.weight …`` and, where they are there, ``fc6.*`` and ``fc7.*`` as convolutions.

    Raises:
        CheckpointError: h5py is not installed, or the file is not such a one.
    """
    try:
        import h5py
    except ImportError:
        raise CheckpointError("Reading .h5 files needs: pip install 'fcn-hub[import]'") from None
    if path.stat().st_size > _MAX_BYTES:
        raise CheckpointError(f"{path} is larger than {_MAX_BYTES // 2**30} GiB.")
    state: dict[str, Tensor] = {}

    def visit(name: str, item: object) -> None:
        layer = re.search(r"block([1-5])_conv([1-3])/|(?:^|/)fc([12])/", name)
        if layer is None or not isinstance(item, h5py.Dataset) or item.ndim not in (1, 2, 4):
            return
        if item.external is not None or item.is_virtual:
            raise CheckpointError(f"{path} keeps {name} in another file.")
        stage, position, fully = layer.groups()
        ours = f"conv{stage}_{position}" if stage else f"fc{int(fully) + 5}"
        values = torch.from_numpy(np.asarray(item, np.float32))
        if values.ndim == 4:
            values = values.permute(3, 2, 0, 1)
        elif values.ndim == 2:
            side = 7 if fully == "1" else 1
            values = values.reshape(side, side, -1, values.shape[1]).permute(3, 2, 0, 1)
        state[f"{ours}.{'bias' if values.ndim == 1 else 'weight'}"] = values.contiguous()

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except CheckpointError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} is not an HDF5 file, or is damaged: {reason}") from None
    return state
