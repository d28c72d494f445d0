"""Fixtures that the whole suite shares: tiny networks and generated pictures."""

import os

# No test may reach the internet, whatever the machine allows. Set before huggingface_hub loads.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fcn_hub import FCN


@pytest.fixture
def tiny_model() -> FCN:
    """A three-class network of 4 to 32 channels in eval mode, its batch norm not the identity."""
    return make_tiny_model()


def make_tiny_model(seed: int = 0, **config) -> FCN:
    torch.manual_seed(seed)
    config = {"num_classes": 3, "base_channels": 4, **config}
    model = FCN(**config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval()


def make_score_model(decoder: str, seed: int = 0, **config) -> FCN:
    """A tiny network whose scores are not zero, in eval mode."""
    model = make_tiny_model(seed, **{"decoder": decoder, "fc_channels": 6, **config})
    for name, module in model.decoder.named_children():
        if name.startswith("score"):
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)
    return model


def balance(model: FCN, picture: np.ndarray) -> None:
    """Shift the classes' scores so that each wins somewhere in a picture."""
    x = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.image_mean, model.image_std))
    with torch.no_grad():
        model.decoder.score_fr.bias -= model((x - mean) / std).mean(dim=(0, 2, 3))


@pytest.fixture
def checkpoint(tiny_model: FCN, tmp_path: Path) -> Path:
    """A folder that holds `tiny_model`."""
    tiny_model.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def make_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture with large smooth shapes and some noise, uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    phases = rng.uniform(0, 6, 3)
    waves = [np.sin(x / 23 + p) + np.cos(y / 31 - p) for p in phases]
    noise = rng.normal(0, 8, (height, width, 3))
    return (127 + 50 * np.stack(waves, -1) + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """The package as a wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder]
    run = subprocess.run([*build, Path(__file__).parents[1]], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    (path,) = folder.iterdir()
    return path
