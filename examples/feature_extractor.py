"""A picture classifier that stands on the features of a trained FCN.

The FCN is an ordinary `torch.nn.Module`: its `backbone` turns normalised pictures into five feature
maps, and another module takes them from there. The backbone stays as it is; only a linear layer is
learned, in seconds, from a few pictures of each class:

    pip install fcn-hub
    python examples/feature_extractor.py pictures --model owner/name

where pictures/cats/*.jpg, pictures/dogs/*.jpg … are the classes. Every fourth picture is held out.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fcn_hub import FCN, open_image

SIDE = 224


class Classifier(nn.Module):
    """Logits of classes, float [N, classes], for RGB pictures in 0..1, float [N, 3, H, W]."""

    def __init__(self, fcn: FCN, classes: int) -> None:
        super().__init__()
        self.backbone = fcn.backbone.requires_grad_(False)
        # A model knows the normalisation that it was trained with.
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(fcn.image_mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(fcn.image_std).view(3, 1, 1))
        width = sum(fcn.backbone.channels[-3:])
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def features(self, pictures: Tensor) -> Tensor:
        """Means over the three deepest feature maps, float [N, channels]."""
        pools = self.backbone((pictures - self.mean) / self.std)
        return torch.cat([pool.mean((2, 3)) for pool in pools[-3:]], dim=1)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.features(pictures))


def read(path: Path) -> Tensor:
    picture = open_image(path).resize((SIDE, SIDE))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--model", required=True, help="a folder or a Hub id")
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()

    folders = sorted(path for path in args.pictures.iterdir() if path.is_dir())
    paths = [(path, label) for label, folder in enumerate(folders) for path in folder.iterdir()]
    paths.sort(key=lambda pair: pair[0].name)
    labels = torch.tensor([label for _, label in paths])
    held_out = torch.arange(len(paths)) % 4 == 3

    torch.manual_seed(0)
    model = Classifier(FCN.from_pretrained(args.model), len(folders))
    with torch.inference_mode():  # the backbone does not change: see each picture once
        found = [model.features(read(path)[None]) for path, _ in paths]
    features = torch.cat(found).clone()

    optimizer = torch.optim.AdamW(model.head.parameters(), lr=1e-2)
    for _ in range(args.steps):
        loss = nn.functional.cross_entropy(model.head(features[~held_out]), labels[~held_out])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    model.eval()
    right = model.head(features[held_out]).argmax(1) == labels[held_out]
    print(f"{right.sum()} of {len(right)} held-out pictures are classified right")


if __name__ == "__main__":
    main()
