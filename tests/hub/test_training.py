"""Training that pushes what it has learned."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import make_picture
from PIL import Image

TRAIN = """
import logging
from fcn_hub.training import TrainingConfig, train
logging.basicConfig(format="%(message)s", level=logging.WARNING)
config = TrainingConfig(
    dataset="folder", data_root={data!r}, run_dir={run!r}, init="random", base_channels=4, steps=4,
    batch_size=2, crop=(32, 48), workers=0, eval_every=2, push_to_hub="alice/net",
    push_every={push_every}, save_dtype="float16",
)
"""


@pytest.fixture
def data(tmp_path):
    """Four pictures whose left half is one class and whose right half another."""
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
        for number in range(2):
            mask = np.zeros((48, 64), np.uint8)
            mask[:, 32:] = 1
            picture = make_picture(48, 64, seed=number) // 2 + 100 * mask[..., None]
            Image.fromarray(picture).save(tmp_path / f"data/images/{split}/{number}.png")
            Image.fromarray(mask).save(tmp_path / f"data/masks/{split}/{number}.png")
    (tmp_path / "data" / "labels.txt").write_text("left\nright\n")
    return tmp_path / "data"


def test_the_best_checkpoint_is_pushed_with_its_records_and_figures(hub, client, data, tmp_path):
    run = tmp_path / "run"
    program = TRAIN.format(data=str(data), run=str(run), push_every=0) + "train(config)"
    client.run(program)
    files, best = hub.files("alice/net"), run / "best"
    for name in ("config.json", "model.safetensors", "training.json", "evaluation.json"):
        assert files[name] == (best / name).read_bytes(), name
    mean_iu = json.loads(files["evaluation.json"])["mean_iu"]
    assert f"value: {mean_iu}" in files["README.md"].decode()
    assert len(hub.history("alice/net")) == 2  # the repository's first, and the one push


def test_a_push_that_fails_on_the_way_does_not_end_the_run(client, data, tmp_path):
    run = tmp_path / "run"
    program = (
        TRAIN.format(data=str(data), run=str(run), push_every=1)
        + """
print(refusal(train, config))
"""
    )
    message = client.run(program, HF_TOKEN="hf_nonsense")
    assert message.startswith("HubError: ")  # at the end it must be heard
    assert json.loads((run / "training.json").read_text())["steps"] == 4


def test_the_example_fine_tunes_a_model_of_the_hub_and_publishes_it(
    hub, client, online, data, tmp_path
):
    example = Path(__file__).parents[2] / "examples" / "finetune_and_push.py"
    options = ["--init", "alice/net", "--push-to", "alice/mine", "--steps", "4"]
    printed = client.run_script(example, data, *options, "--run-dir", tmp_path / "run")
    figures, url = printed.splitlines()[-2:]
    mean_iu = json.loads(hub.files("alice/mine")["evaluation.json"])["mean_iu"]
    assert figures == f"mean IU {mean_iu:.3f} on 2 pictures"
    assert url.endswith(hub.history("alice/mine")[0].id)
    assert json.loads(hub.files("alice/mine")["config.json"])["class_names"] == ["left", "right"]
    card = hub.files("alice/mine")["README.md"].decode()
    assert "Begun from the FCN alice/net" in card
