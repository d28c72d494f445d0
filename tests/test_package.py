"""The package as others get it: cheap to import, whole as a wheel, complete without extras."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import fcn_hub

ROOT = Path(__file__).parents[1]


def run_python(program: str, *options: str) -> str:
    run = subprocess.run([sys.executable, *options, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_importing_the_package_is_quick_and_touches_nothing_heavy():
    program = """
import sys, time
start = time.perf_counter()
import fcn_hub
fcn_hub.__version__
seconds = time.perf_counter() - start
heavy = {"torch", "torchvision", "numpy", "PIL", "gradio", "huggingface_hub"} & set(sys.modules)
assert not heavy, heavy
assert seconds < 0.3, seconds
"""
    run_python(program)


def test_using_the_network_needs_no_torchvision_and_no_gradio():
    program = """
import sys
from fcn_hub import FCN, Segmenter, LabelMap
assert not {"torchvision", "gradio", "accelerate", "matplotlib"} & set(sys.modules)
"""
    run_python(program)


@pytest.mark.parametrize("name", ["fcn_hub.labels", "fcn_hub.images", "fcn_hub.segmentation"])
def test_the_lower_floors_know_nothing_of_torch(name):
    run_python(f"import sys, {name}; assert 'torch' not in sys.modules")


def test_every_public_name_is_there_and_listed():
    for name in fcn_hub.__all__:
        assert getattr(fcn_hub, name) is not None
        assert name in dir(fcn_hub)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        fcn_hub.nonsense  # noqa: B018


def test_the_wheel_holds_the_package_its_card_template_and_the_web_app(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for file in (ROOT / "fcn_hub").rglob("*.py"):
        assert f"fcn_hub/{file.relative_to(ROOT / 'fcn_hub')}" in names
    assert {"fcn_hub/py.typed", "fcn_hub/model_card.md", "fcn_hub/space/app.py"} <= set(names)
    for file in (path for path in (ROOT / "space").rglob("*") if "__pycache__" not in path.parts):
        assert file.is_dir() or f"fcn_hub/space/{file.relative_to(ROOT / 'space')}" in names
    assert not [name for name in names if name.startswith(("tests/", "checkpoints/", "scripts/"))]
    metadata = next(name for name in names if name.endswith("METADATA"))
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    assert f"Version: {fcn_hub.__version__}" in text
    assert "License-Expression: Apache-2.0" in text
