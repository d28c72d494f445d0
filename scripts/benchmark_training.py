"""A training step beside torchvision's fcn_resnet50: `python scripts/benchmark_training.py`.

Every contender does forward pass, cross-entropy, backward pass and an optimiser's step on the same
random pictures: this package's network with AdamW, and torchvision's with SGD and the auxiliary
loss, as its segmentation reference trains it. They take turns; figures are medians.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation import fcn_resnet50

from fcn_hub import FCN
from fcn_hub.evaluation import hardware, versions
from fcn_hub.files import write_json

CLASSES = 21


def main() -> None:
    args = parse_arguments()
    device = torch.device(args.device)
    torch.manual_seed(0)
    pictures = torch.randn(args.batch_size, 3, *args.crop, device=device)
    labels = torch.randint(0, CLASSES, (args.batch_size, *args.crop), device=device)
    contenders = {
        "fcn-hub": make_step(FCN(CLASSES), ours, torch.optim.AdamW, args, device),
        "fcn-hub, conv1 and conv2 frozen": make_step(
            frozen(FCN(CLASSES), stages=2), ours, torch.optim.AdamW, args, device
        ),
        "torchvision fcn_resnet50": make_step(
            fcn_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True),
            torchvisions,
            lambda parameters: torch.optim.SGD(parameters, 0.01, momentum=0.9, weight_decay=1e-4),
            args,
            device,
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(args.rounds + 1):
        for name, step in contenders.items():
            began = perf_counter()
            step(pictures, labels)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first is for warming up
                times[name].append(perf_counter() - began)
    reference = median(times["torchvision fcn_resnet50"])
    rows = {
        name: {"seconds": round(median(each), 3), "ratio": round(reference / median(each), 3)}
        for name, each in times.items()
    }
    record = {
        **{name: getattr(args, name) for name in ("batch_size", "crop", "precision", "rounds")},
        "memory_format": "channels last" if args.channels_last else "channels first",
        "hardware": hardware(device),
        "versions": versions(),
        "rows": rows,
    }
    print(json.dumps(rows, indent=2))
    if args.json:
        write_json(args.json, record)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time of a training step.")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--crop", type=int, nargs=2, default=[240, 320], metavar=("H", "W"))
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def frozen(model: FCN, stages: int) -> FCN:
    for convs in list(model.backbone.stages())[:stages]:
        for conv in convs:
            conv.requires_grad_(False)
    return model


def make_step(
    network: nn.Module,
    loss_of: Callable[[Any, Tensor], Tensor],
    make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    args: argparse.Namespace,
    device: torch.device,
) -> Callable[[Tensor, Tensor], None]:
    """One step of training as a function of pictures and labels."""
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    network.train().to(device, memory_format=layout)  # type: ignore[call-overload]
    optimizer = make_optimizer([p for p in network.parameters() if p.requires_grad])
    bfloat16 = args.precision == "bfloat16"

    def step(pictures: Tensor, labels: Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            output = network(pictures.contiguous(memory_format=layout))
        loss_of(output, labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def ours(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), labels)


def torchvisions(output: dict[str, Tensor], labels: Tensor) -> Tensor:
    loss, auxiliary = (F.cross_entropy(output[name].float(), labels) for name in ("out", "aux"))
    return loss + 0.5 * auxiliary


if __name__ == "__main__":
    main()
