"""Copies between the host and the device, which on a GPU go on while it computes.

A GPU has engines of its own for copying, but they work beside the computation only from and to
pinned memory, and in another CUDA stream than it (CUDA C++ Best Practices Guide, "Asynchronous and
Overlapping Transfers with Computation"). So there is one stream for each direction: the next batch
arrives and the last one leaves while the network runs. On other devices copies are plain ones.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


class Transfers:
    """Copies to and from one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.overlap = device.type == "cuda"
        self._streams: tuple[torch.cuda.Stream, torch.cuda.Stream] | None = None

    def upload(self, array: np.ndarray) -> Tensor:
        """A writable array on the device, for use in the current stream."""
        host = torch.from_numpy(array)
        if not self.overlap:
            return host.to(self.device)
        compute = torch.cuda.current_stream(self.device)
        upward, _ = self._both_streams()
        with torch.cuda.stream(upward):
            tensor = host.pin_memory().to(self.device, non_blocking=True)
        compute.wait_stream(upward)
        # It was allocated in the other stream, where its memory must not be reused before this
        # one is through with it.
        tensor.record_stream(compute)
        return tensor

    def download(
        self, groups: Sequence[Sequence[Tensor]]
    ) -> Callable[[], list[tuple[np.ndarray, ...]]]:
        """Begin to fetch what the current stream computes; call the result to wait for it."""
        if not self.overlap:
            arrays = [tuple(tensor.cpu().numpy() for tensor in group) for group in groups]
            return lambda: arrays
        _, downward = self._both_streams()
        downward.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(downward):
            pinned = [tuple(_begin_fetching(tensor) for tensor in group) for group in groups]
            arrived = downward.record_event()

        def wait() -> list[tuple[np.ndarray, ...]]:
            arrived.synchronize()
            # Pinned memory is scarce and cannot be swapped out: it goes back for the next batch.
            return [tuple(host.numpy().copy() for host in group) for group in pinned]

        return wait

    def _both_streams(self) -> tuple[torch.cuda.Stream, torch.cuda.Stream]:
        # At first use: on ZeroGPU there is no GPU yet when a `Segmenter` is made.
        if self._streams is None:
            self._streams = torch.cuda.Stream(self.device), torch.cuda.Stream(self.device)
        return self._streams


def _begin_fetching(tensor: Tensor) -> Tensor:
    """A tensor in pinned memory to which the current stream copies a tensor of another one."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    tensor.record_stream(torch.cuda.current_stream(tensor.device))
    return host.copy_(tensor, non_blocking=True)
