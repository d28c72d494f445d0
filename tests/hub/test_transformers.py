"""A pushed model in `transformers`, loaded from the Hub by its own pipeline."""

import json
import re

import numpy as np
import pytest
from conftest import make_picture, make_tiny_model
from PIL import Image

from fcn_hub import FCN, Segmenter
from hub.conftest import contents

pytest.importorskip("transformers", reason="needs the extra: pip install 'fcn-hub[transformers]'")

SEGMENT = """
from transformers import pipeline
arguments = {{"model": "alice/net", "device": "cpu", "dtype": "float32"}}
try:
    pipeline("image-segmentation", **arguments)
except ValueError as error:
    print(error)
segment = pipeline("image-segmentation", trust_remote_code=True, **arguments)
for number, found in enumerate(segment({pictures!r})):
    for each in found:
        each["mask"].save(f"{out}/{{number}}-{{each['label']}}.png")
"""


@pytest.fixture
def model() -> FCN:
    normalisation = {"image_mean": [0.2, 0.5, 0.7], "image_std": [0.1, 0.2, 0.3]}  # no default
    names = ["background", "cat", "dog"]
    return make_tiny_model(class_names=names, max_side=64, **normalisation)


@pytest.fixture
def pushed(hub, client, model, tmp_path) -> FCN:
    model.save_pretrained(tmp_path / "model")
    client.run(f"""
        from fcn_hub import FCN
        model = FCN.from_pretrained({str(tmp_path / "model")!r})
        model.push_to_hub("alice/net", transformers=True)
    """)
    hub.log.clear()
    return model


def test_the_pipeline_finds_what_the_segmenter_finds(client, pushed, tmp_path):
    paths = []
    for number, (height, width) in enumerate([(40, 60), (64, 33), (100, 150)]):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(make_picture(height, width, number)).save(paths[-1])
    out = tmp_path / "out"
    out.mkdir()
    printed = client.run(SEGMENT.format(pictures=paths, out=out))
    assert "trust_remote_code=True" in printed  # before, nothing of the repository has run
    segmenter = Segmenter(pushed, device="cpu", dtype="float32")
    for number, path in enumerate(paths):
        expected = segmenter(path)
        names = {entry.name for entry in expected.legend}
        for name in names:
            mask = np.asarray(Image.open(out / f"{number}-{name}.png")) > 0
            same = mask == (expected.label_map == pushed.label_map.names.index(name))
            # The last one is scaled down, by torchvision there and by Pillow here.
            assert same.all() if number < 2 else same.mean() > 0.99
        assert {path.name.split("-")[1] for path in out.glob(f"{number}-*")} == {
            f"{name}.png" for name in names
        }


def test_the_repository_stays_one_of_this_package(hub, client, pushed):
    names = set(hub.files("alice/net"))
    assert {"modeling_fcn.py", "preprocessor_config.json"} <= names
    client.run("""
        from fcn_hub import FCN
        FCN.from_pretrained("alice/net")
    """)
    assert not hub.requests("modeling_fcn|preprocessor_config")


def test_a_push_adds_nothing_for_transformers_unless_it_is_asked_to(hub, client, checkpoint):
    client.run(f"""
        from fcn_hub import FCN
        FCN.from_pretrained({str(checkpoint)!r}).push_to_hub("alice/net")
    """)
    assert "modeling_fcn.py" not in hub.files("alice/net")
    assert "auto_map" not in json.loads(hub.files("alice/net")["config.json"])
    assert "transformers" not in hub.files("alice/net")["README.md"].decode()


def test_every_python_block_of_its_card_runs_as_it_stands(hub, client, pushed, tmp_path):
    card = hub.files("alice/net")["README.md"].decode()
    blocks = re.findall(r"```python\n(.*?)```", card, re.S)
    assert len(blocks) == 3
    (tmp_path / "work").mkdir()
    Image.fromarray(make_picture(48, 64)).save(tmp_path / "work" / "photo.jpg")
    client.run(f"""
        import os
        os.chdir({str(tmp_path / "work")!r})
        for block in {blocks!r}:
            exec(block, {{}})
    """)
    names = {path.stem for path in (tmp_path / "work").glob("*.png")}
    assert {"overlay", "mask"} < names <= {"overlay", "mask", "background", "cat", "dog"}


def test_the_module_serves_folders_without_any_code_in_them(client, checkpoint, tmp_path):
    """Who imports fcn_hub.transformers needs no trust_remote_code."""
    client.run(f"""
        import torch
        from fcn_hub import FCN
        from fcn_hub.transformers import FCNForSemanticSegmentation
        loaded = FCNForSemanticSegmentation.from_pretrained({str(checkpoint)!r}).eval()
        picture = torch.rand(1, 3, 33, 50)
        expected = FCN.from_pretrained({str(checkpoint)!r})(picture)
        assert torch.equal(loaded(picture).logits, expected)
        assert not loaded.training
    """)
    assert "modeling_fcn.py" not in contents(checkpoint)
