"""scripts/push_to_hub.py: a checkpoint goes to the Hub with all that belongs to it."""

import hashlib
import io
import json
import re
from pathlib import Path

import pytest
from conftest import make_picture
from PIL import Image

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "push_to_hub.py"


@pytest.fixture
def trained(checkpoint) -> Path:
    """`checkpoint` with the records of a training, as training leaves them."""
    weights = (checkpoint / "model.safetensors").read_bytes()
    evaluation = {"mean_iu": 0.625, "weights_sha256": hashlib.sha256(weights).hexdigest()}
    (checkpoint / "evaluation.json").write_text(json.dumps(evaluation))
    (checkpoint / "training.json").write_text('{"seed": 7}')
    return checkpoint


@pytest.fixture
def push(client, trained):
    """Runs the script on `trained` and returns what it prints."""

    def push(*arguments: str, folder: Path = trained, **environment: str) -> str:
        return client.run_script(SCRIPT, folder, *arguments, **environment)

    return push


def test_the_folder_goes_in_one_commit_with_its_figures(hub, push, trained):
    url = push("alice/net", "--private", "--tag", "v1.0", "--commit-message", "First")
    pushed, _ = hub.history("alice/net")
    assert url == f"{hub.url}/alice/net/commit/{pushed.id}"
    assert pushed.title == "First"
    assert hub.repositories["models", "alice/net"].private
    assert hub.repositories["models", "alice/net"].refs["refs/tags/v1.0"] == pushed.id
    files = hub.files("alice/net")
    for name in ("config.json", "model.safetensors", "training.json", "evaluation.json"):
        assert files[name] == (trained / name).read_bytes()
    card = files["README.md"].decode()
    assert "value: 0.625" in card
    assert "| Seed | 7 |" in card
    assert 'Segmenter.from_pretrained("alice/net")' in card
    assert "legend.png" in files


def test_weights_of_half_precision_stay_as_they_are(hub, push, trained, tiny_model):
    tiny_model.half().save_pretrained(trained)
    push("alice/net")
    pushed = hub.files("alice/net")["model.safetensors"]
    assert pushed == (trained / "model.safetensors").read_bytes()


def test_a_sample_is_drawn_and_credited(hub, push, tmp_path):
    Image.fromarray(make_picture(40, 60)).save(tmp_path / "photo.jpg")
    push("alice/net", "--sample", str(tmp_path / "photo.jpg"), "--sample-credit", "Me, CC0")
    files = hub.files("alice/net")
    assert Image.open(io.BytesIO(files["sample.png"])).size[0] >= 2 * 60
    assert "Picture: Me, CC0" in files["README.md"].decode()


def test_a_licence_can_be_given(hub, push):
    push("alice/net", "--license", "cc-by-4.0")
    assert "license: cc-by-4.0" in hub.files("alice/net")["README.md"].decode()


def test_an_edited_card_is_kept_unless_it_is_to_be_overwritten(hub, push):
    hub.commit("alice/net", {"README.md": b"---\nlicense: mit\n---\nBy hand.\n"})
    push("alice/net")
    card = hub.files("alice/net")["README.md"].decode()
    assert "By hand." in card and "value: 0.625" in card and "license: mit" in card
    push("alice/net", "--overwrite-card")
    card = hub.files("alice/net")["README.md"].decode()
    assert "By hand." not in card and "value: 0.625" in card


def test_branches_and_pull_requests(hub, push):
    main = hub.commit("alice/net", {"config.json": b"{}"})
    push("alice/net", "--branch", "trial")
    assert "model.safetensors" in hub.files("alice/net", "trial")
    printed = push("alice/net", "--create-pr", HF_TOKEN="hf_bob")
    assert printed == f"{hub.url}/alice/net/discussions/1"
    assert "model.safetensors" in hub.files("alice/net", "refs/pr/1")
    assert hub.history("alice/net")[0].id == main


def test_errors_are_one_line(hub, push, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.jpg").write_text("no picture")
    assert "error: " in (empty := push("alice/net", folder=tmp_path / "empty"))
    assert empty.endswith("has no config.json.")
    assert push("net").startswith("error: 'net' is not a Hub id")
    sample = push("alice/net", "--sample", str(tmp_path / "text.jpg"))
    assert re.match(r"error: .*text\.jpg is not a picture", sample)
    assert "\n" not in sample
    assert "does not accept the token" in push("alice/net", HF_TOKEN="hf_nonsense")
    assert ("models", "alice/net") not in hub.repositories
