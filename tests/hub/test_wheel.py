"""The wheel in an environment that holds its declared dependencies and nothing else.

Nothing is downloaded: the dependencies are links to those of the environment that runs the tests.
"""

import os
import subprocess
import sys
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

import numpy as np
import pytest
from conftest import make_picture
from packaging.requirements import Requirement
from PIL import Image

PROGRAM = """
import importlib.util, json, pathlib, sys
import fcn_hub
from fcn_hub import FCN, Segmenter
model = FCN.from_pretrained("alice/net")
model.save_pretrained("copy")
Segmenter(model)("photo.png").save("mask.png")
extras = ("gradio", "accelerate", "tyro", "matplotlib", "datasets", "transformers", "pytest")
print(json.dumps({
    "package": fcn_hub.__file__,
    "extras": [name for name in extras if importlib.util.find_spec(name)],
}))
"""


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """A virtual environment with the wheel."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    pip = [sys.executable, "-m", "pip", "--python", folder, "install", "--quiet", "--no-deps"]
    options = ["--no-index", "--disable-pip-version-check", wheel]
    done = subprocess.run([*pip, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (packages,) = folder.glob("lib/python3*/site-packages")
    (installed,) = distributions(path=[str(packages)])
    for path in {path for each in dependencies(installed) for path in places(each)}:
        (packages / path.name).symlink_to(path)
    return folder


def dependencies(package: Distribution) -> list[Distribution]:
    """What a package requires without any extra, and what that requires in turn."""
    waiting, seen, found = required(package, {""}), set(), []
    while waiting:
        wanted = waiting.pop()
        if str(wanted) not in seen:
            seen.add(str(wanted))
            found.append(distribution(wanted.name))
            waiting += required(found[-1], wanted.extras or {""})
    return found


def required(package: Distribution, extras: set[str]) -> list[Requirement]:
    return [
        wanted
        for wanted in map(Requirement, package.requires or [])
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": each}) for each in extras)
    ]


def places(package: Distribution) -> set[Path]:
    """The files and folders at the top of site-packages that a package consists of."""
    tops = {path.parts[0] for path in package.files or []} - {"..", "__pycache__"}
    return {Path(str(package.locate_file(top))) for top in tops}


def run(environment: Path, *command: str, cwd: Path, **variables: str) -> str:
    path, *arguments = command
    clean = {"PATH": os.environ["PATH"], "HOME": str(cwd), "NO_PROXY": "127.0.0.1,localhost"}
    done = subprocess.run(
        [environment / "bin" / path, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**clean, **variables},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def variables(hub, tmp_path) -> dict[str, str]:
    home = str(tmp_path / "home")
    return {"HF_ENDPOINT": hub.url, "HF_HOME": home, "HF_HUB_DISABLE_XET": "1"}


def test_the_installed_wheel_loads_from_the_hub_and_segments(
    environment, hub, online, variables, tmp_path
):
    Image.fromarray(make_picture(40, 60)).save(tmp_path / "photo.png")
    printed = run(environment, "python", "-I", "-c", PROGRAM, cwd=tmp_path, **variables)
    assert f'"package": "{environment}' in printed
    assert '"extras": []' in printed
    assert np.asarray(Image.open(tmp_path / "mask.png")).shape == (40, 60)
    copy = (tmp_path / "copy" / "model.safetensors").read_bytes()
    assert copy == hub.files("alice/net")["model.safetensors"]
    assert "Not measured" in (tmp_path / "copy" / "README.md").read_text()


def test_its_command_loads_from_the_hub(environment, online, variables, tmp_path):
    Image.fromarray(make_picture(40, 60)).save(tmp_path / "photo.png")
    arguments = ["segment", "photo.png", "--model", "alice/net", "--output", "out"]
    run(environment, "fcn-hub", *arguments, cwd=tmp_path, **variables)
    assert (tmp_path / "out" / "photo.png").is_file()
