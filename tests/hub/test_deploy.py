"""Deploying the web app as a Space: what would be sent, what is sent, and that it runs."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from conftest import make_picture
from PIL import Image

from fcn_hub.deploy import plan_deployment
from fcn_hub.hub import HubError
from hub.server import git_id

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "deploy_space.py"


@pytest.fixture
def deploy(client):
    """Runs the script with some arguments and returns what it prints."""

    def deploy(*arguments: str, **environment: str) -> str:
        return client.run_script(SCRIPT, *arguments, **environment)

    return deploy


def space(hub):
    return hub.repositories["spaces", "alice/demo"]


def files(hub) -> dict[str, bytes]:
    return hub.files("alice/demo", kind="spaces")


def front_matter(hub) -> dict:
    return yaml.safe_load(files(hub)["README.md"].decode().split("---\n")[1])


def writes(hub) -> list[str]:
    """The requests that changed something, or would have."""
    return [
        request
        for request in hub.requests("^(POST|PUT|DELETE)")
        if not re.search("paths-info|validate-yaml|preupload", request)
    ]


# --- the dry run -----------------------------------------------------------------------------


def test_without_send_everything_is_shown_and_nothing_is_sent(hub, deploy, online):
    printed = deploy("alice/demo", "alice/net", "--hardware", "zero-a10g", "--variable", "A=b=c")
    assert printed.startswith("Create the public Space alice/demo.\n")
    assert f"model     alice/net at {online}\n" in printed
    assert "hardware  zero-a10g (now none)\n" in printed
    assert "variable  A=b=c\n" in printed
    assert printed.endswith("Nothing was sent. To send it, add --send.")
    assert writes(hub) == []


def test_what_is_shown_is_what_is_sent(hub, deploy, online):
    printed = deploy("alice/demo", "alice/net", "--send")
    shown = {
        path: int(size.replace(",", ""))
        for path, size in re.findall(r"^  add +(\S+), ([\d,]+) bytes$", printed, re.M)
    }
    assert shown == {path: len(content) for path, content in files(hub).items()}
    (front,) = re.findall(r"^---\n(.*)^---$", printed, re.S | re.M)
    assert yaml.safe_load(front) == front_matter(hub)
    assert printed.endswith(f"/spaces/alice/demo/commit/{space(hub).refs['refs/heads/main']}")


# --- what a Space consists of ----------------------------------------------------------------


def test_a_space_holds_the_app_the_package_and_its_models_pinned_by_commit(hub, deploy, online):
    deploy("alice/demo", "alice/net", "--send", "--private")
    assert space(hub).private
    assert space(hub).settings["sdk"] == "gradio"
    pushed, _ = hub.history("alice/demo", kind="spaces")  # one commit on the empty repository
    assert {"app.py", "requirements.txt", "fcn_hub/model.py", "fcn_hub/model_card.md"} <= set(
        pushed.files
    )
    assert not [path for path in pushed.files if "__pycache__" in path or path.startswith("space/")]
    data = front_matter(hub)
    assert data["sdk"] == "gradio"
    assert data["models"] == ["alice/net"]
    assert data["preload_from_hub"] == [
        f"alice/net config.json,model.safetensors,README.md {online}"
    ]
    shipped = (ROOT / "space" / "README.md").read_text()
    assert files(hub)["README.md"].decode().split("---\n", 2)[2] == shipped.split("---\n", 2)[2]


def test_models_are_pinned_at_their_revision(hub, deploy, online):
    hub.repositories["models", "alice/net"].refs["refs/tags/v1.0"] = online
    later = hub.commit("alice/net", {"notes.txt": b"later"})
    deploy("alice/demo", "alice/net@v1.0", "--send")
    assert front_matter(hub)["preload_from_hub"][0].endswith(f" {online}")
    deploy("alice/demo", "alice/net", "--send")
    assert front_matter(hub)["preload_from_hub"][0].endswith(f" {later}")


def test_the_space_starts_from_a_clean_folder_and_segments(hub, client, deploy, online, tmp_path):
    deploy("alice/demo", "alice/net", "--send")
    for path, content in files(hub).items():
        (tmp_path / "space" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "space" / path).write_bytes(content)
    hub.commit("alice/net", {"config.json": b"{}"})  # the branch moves on; the pin does not
    hub.log.clear()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "space-home"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "GRADIO_TEMP_DIR": str(tmp_path / "gradio"),
        "PORT": str(port),
    }
    command = [sys.executable, "-c", PROGRAM]
    app = subprocess.Popen(command, env=environment, cwd=tmp_path / "space", stderr=subprocess.PIPE)
    try:
        wait_for(app, f"http://127.0.0.1:{port}/")
        Image.fromarray(make_picture(40, 60)).save(tmp_path / "picture.png")
        summary = predict(port, tmp_path)
    finally:
        app.terminate()
        app.communicate(timeout=20)
    assert (summary["width"], summary["height"], summary["model"]) == (60, 40, "alice/net")
    commits = {request.path.split("/")[4] for request in hub.log if "/resolve/" in request.path}
    assert commits == {online}


# Runs app.py as a Space does, once it is sure that the package is the one beside it.
PROGRAM = """
import pathlib, runpy, sys
sys.path[0] = str(pathlib.Path.cwd())
import fcn_hub
assert pathlib.Path(fcn_hub.__file__).is_relative_to(pathlib.Path.cwd()), fcn_hub.__file__
runpy.run_path("app.py", run_name="__main__")
"""


def wait_for(app: subprocess.Popen, url: str) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).read()
            return
        except OSError:
            assert app.poll() is None, app.communicate()[1].decode()
            assert time.monotonic() < deadline, "the app did not answer"
            time.sleep(0.3)


def predict(port: int, folder: Path) -> dict:
    gradio_client = pytest.importorskip("gradio_client")
    client = gradio_client.Client(
        f"http://127.0.0.1:{port}/", verbose=False, download_files=str(folder / "downloads")
    )
    picture = gradio_client.handle_file(folder / "picture.png")
    _, summary, _ = client.predict(picture, api_name="/segment")
    return summary


# --- bringing one up to date -----------------------------------------------------------------


def test_deploying_again_changes_nothing(hub, deploy, online):
    deploy("alice/demo", "alice/net", "--send", "--hardware", "t4-small", "--variable", "A=1")
    before = space(hub).refs["refs/heads/main"]
    hub.log.clear()
    printed = deploy(
        "alice/demo", "alice/net", "--send", "--hardware", "t4-small", "--variable", "A=1"
    )
    assert printed.startswith("Update the Space alice/demo.\n")
    assert "0 files to send, 0 bytes; 0 to delete" in printed
    assert "hardware" not in printed and "variable" not in printed
    assert writes(hub) == []
    assert space(hub).refs["refs/heads/main"] == before


def test_only_what_differs_is_sent_and_what_no_longer_belongs_is_deleted(hub, deploy, online):
    deploy("alice/demo", "alice/net", "--send")
    tree = space(hub).commits[space(hub).refs["refs/heads/main"]].files
    tree["app.py"], tree["old.py"] = tree["texts.py"], tree["texts.py"]
    del tree["batch.py"]
    printed = deploy("alice/demo", "alice/net", "--send")
    lines = re.findall(r"^  (add|change|delete) +([^\s,]+)", printed, re.M)
    assert lines == [("add", "batch.py"), ("change", "app.py"), ("delete", "old.py")]
    commit = hub.history("alice/demo", kind="spaces")[0]
    assert "old.py" not in commit.files
    assert ".gitattributes" in commit.files
    assert commit.files["app.py"].oid == git_id((ROOT / "space" / "app.py").read_bytes())


def test_settings_that_are_not_named_stay(hub, deploy, online):
    deploy("alice/demo", "alice/net", "--send", "--hardware", "t4-small", "--variable", "A=1")
    deploy("alice/demo", "alice/net", "--send", "--variable", "B=2")
    assert space(hub).hardware == "t4-small"
    assert space(hub).variables == {"A": "1", "B": "2"}
    printed = deploy("alice/demo", "alice/net", "--hardware", "cpu-basic", "--variable", "A=3")
    assert "hardware  cpu-basic (now t4-small)" in printed
    assert "variable  A=3" in printed


def test_a_secret_comes_from_the_environment_and_is_never_shown(hub, deploy, online):
    command = ("alice/demo", "alice/net", "--secret", "KEY")
    assert "set KEY" in deploy(*command)
    assert "secret    KEY (its value is not shown)" in deploy(*command, KEY="hush")
    printed = deploy(*command, "--send", KEY="hush")
    assert "hush" not in printed
    assert space(hub).secrets == {"KEY": "hush"}
    assert not any(b"hush" in content for content in files(hub).values())


def test_a_private_model_needs_a_token_in_the_space(hub, deploy, online):
    hub.repositories["models", "alice/net"].private = True
    assert "'alice/net' is private: the Space needs a secret HF_TOKEN" in deploy(
        "alice/demo", "alice/net"
    )
    deploy("alice/demo", "alice/net", "--secret", "HF_TOKEN", "--send")
    assert space(hub).secrets == {"HF_TOKEN": "hf_write"}


# --- what is refused -------------------------------------------------------------------------


def test_refusals_are_one_line_that_says_what_to_do(hub, deploy, online):
    hub.commit("alice/other", {"config.json": b"{}"})
    hub.create("alice/public", "spaces")
    cases = {
        ("demo", "alice/net"): "'demo' is not a Hub id; it takes 'owner/name'",
        ("alice/demo", "alice/nothing"): "There is no model 'alice/nothing'",
        ("alice/demo", "alice/net@v9"): "'alice/net' has no such branch",
        ("alice/demo", "alice/other"): "has no model.safetensors, so it is not a model for",
        ("alice/public", "alice/net", "--private"): "is there already and is public",
        ("bob/demo", "alice/net", "--send"): "may not write to 'bob/demo'",
    }
    for arguments, message in cases.items():
        printed = deploy(*arguments).splitlines()[-1]
        assert printed.startswith("error: ") and message in printed, printed
    assert "needs a token" in deploy("alice/demo", "alice/net", HF_TOKEN="")
    assert ("spaces", "bob/demo") not in hub.repositories


def test_a_hub_that_wants_money_says_so(hub, deploy, online):
    hub.fault("/repos/create", status=402, message="Subscribe to PRO")
    printed = deploy("alice/demo", "alice/net", "--send").splitlines()[-1]
    assert re.search(r"error: The Hub wants a subscription .*\(Subscribe to PRO\)", printed)


def test_a_space_that_changed_meanwhile_is_left_alone(hub, deploy, online):
    deploy("alice/demo", "alice/net", "--send")
    later = hub.commit("alice/net", {"notes.txt": b"later"})

    def edit():
        repository = space(hub)
        head = repository.refs["refs/heads/main"]
        tree = dict(repository.commits[head].files)
        repository.refs["refs/heads/main"] = hub._commit(repository, [head], tree, "by hand")

    hub.fault("^POST .*/preupload/", before=edit)
    printed = deploy("alice/demo", "alice/net", "--send").splitlines()[-1]
    assert "'alice/demo' was changed while you pushed" in printed
    assert later not in front_matter(hub)["preload_from_hub"][0]


def test_arguments_that_cannot_be_used_are_refused_before_anything_is_asked(hub, deploy):
    assert (
        deploy("alice/demo", "alice/net", "--variable", "nothing") == "2"
    )  # argparse has said why
    assert deploy("alice/demo") == "2"
    with pytest.raises(HubError, match="at least one model"):
        plan_deployment("alice/demo", [], token="hf_write")
    assert hub.log == []
