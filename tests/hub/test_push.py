"""push_to_hub and push_folder over HTTP: one commit, nothing sent twice, errors that help."""

import inspect
import json
import re

import pytest
from conftest import make_tiny_model
from huggingface_hub import PyTorchModelHubMixin

from fcn_hub import FCN
from fcn_hub.export import export
from fcn_hub.hub import HubError, push_folder

RECORDS = {
    "training.json": b'{"dataset": {"name": "camvid"}}',
    "evaluation.json": b'{"dataset": {"name": "camvid"}, "mean_iu": 0.6}',
    "sample.png": b"\x89PNG\r\n\x1a\n\0 a picture",
}
EDITED = "---\nlicense: mit\n---\n# Our model\n\nWritten by hand.\n"


@pytest.fixture
def push(checkpoint, client):
    """Pushes `checkpoint`, as one statement of a program, and returns what that prints."""

    def push(*calls: str, before: str = "", **environment: str) -> str:
        program = [
            "from fcn_hub import FCN",
            "from fcn_hub.hub import push_folder",
            f"folder = {str(checkpoint)!r}",
            before,
            *(f"print({call})" for call in calls),
        ]
        return client.run("\n".join(program), **environment)

    return push


def uploads(hub) -> list[int]:
    """The sizes of the large files that were sent."""
    return [request.received for request in hub.log if request.method == "PUT"]


def is_committed(hub, url: str, revision: str = "main") -> bool:
    return url == f"{hub.url}/alice/net/commit/{hub.history('alice/net', revision)[0].id}"


# --- one commit ------------------------------------------------------------------------------


def test_a_push_creates_the_repository_and_makes_one_commit(hub, client, checkpoint):
    for name, content in RECORDS.items():
        (checkpoint / name).write_bytes(content)
    url = client.run(f"""
        from fcn_hub import FCN
        model = FCN.from_pretrained({str(checkpoint)!r})
        print(model.push_to_hub("alice/net", private=True, folder={str(checkpoint)!r}))
    """)
    files = hub.files("alice/net")
    assert {"config.json", "model.safetensors", "README.md", *RECORDS} <= set(files)
    for name in ("config.json", "model.safetensors", *RECORDS):
        assert files[name] == (checkpoint / name).read_bytes()
    assert '"alice/net"' in files["README.md"].decode()  # the card's examples name the id
    pushed, initial = hub.history("alice/net")
    assert (pushed.parents, pushed.author) == ([initial.id], "alice")
    assert is_committed(hub, url)
    assert hub.repositories["models", "alice/net"].private


def test_a_pushed_model_loads_as_it_was(hub, client, checkpoint):
    client.run(f"""
        import torch
        from fcn_hub import FCN
        model = FCN.from_pretrained({str(checkpoint)!r})
        model.push_to_hub("alice/net")
        loaded = FCN.from_pretrained("alice/net")
        assert loaded.config == model.config
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, loaded.state_dict()[name])
    """)
    assert not hub.repositories["models", "alice/net"].private


def test_a_folder_is_pushed_as_it_stands_without_hidden_files(hub, push, checkpoint):
    (checkpoint / "extra").mkdir()
    (checkpoint / "extra" / "notes.txt").write_text("notes")
    (checkpoint / ".cache").mkdir()
    (checkpoint / ".cache" / "secret").write_text("secret")
    (checkpoint / ".model.safetensors.tmp").write_text("half a file")
    assert is_committed(hub, push("push_folder(folder, 'alice/net')"))
    expected = {
        path.relative_to(checkpoint).as_posix(): path.read_bytes()
        for path in checkpoint.rglob("[!.]*")
        if path.is_file() and path.name != "secret"
    }
    assert hub.files("alice/net") == expected


def test_patterns_choose_what_is_pushed_and_what_is_deleted(hub, push, checkpoint):
    hub.commit("alice/net", {"pytorch_model.bin": b"\0pickle", "keep.txt": b"keep"})
    (checkpoint / "notes.txt").write_text("notes")
    (checkpoint / "trace.log").write_text("trace")
    push(
        "push_folder(folder, 'alice/net', ignore_patterns=['*.log', 'README.md'],"
        " delete_patterns=['*.bin', 'config.json', '.git*'])"
    )
    names = {"config.json", "model.safetensors", "notes.txt", "keep.txt"}
    assert set(hub.files("alice/net")) == names
    commit = hub.history("alice/net")[0]
    assert ".gitattributes" in commit.files
    push("push_folder(folder, 'alice/other', allow_patterns='config.json')")
    assert set(hub.files("alice/other")) == {"config.json"}


def test_saving_can_push_as_the_mixin_does(hub, client, checkpoint):
    (checkpoint / "training.json").write_bytes(RECORDS["training.json"])
    url = client.run(f"""
        from fcn_hub import FCN
        model = FCN.from_pretrained({str(checkpoint)!r})
        print(model.save_pretrained(
            {str(checkpoint)!r}, push_to_hub=True, repo_id="alice/net", commit_message="Saved"
        ))
        print(refusal(model.save_pretrained, {str(checkpoint)!r}, push_to_hub=True))
    """)
    url, refusal = url.splitlines()
    assert is_committed(hub, url)
    assert hub.history("alice/net")[0].title == "Saved"
    assert hub.files("alice/net")["training.json"] == RECORDS["training.json"]
    assert "'checkpoint' is not a Hub id" in refusal


def test_the_keywords_of_the_mixin_are_all_there():
    ours, mixins = (
        inspect.signature(cls.push_to_hub).parameters for cls in (FCN, PyTorchModelHubMixin)
    )
    assert set(mixins) <= set(ours)


# --- what goes over the wire -----------------------------------------------------------------


def test_the_bytes_on_the_wire_are_those_of_the_files(hub, client, tmp_path):
    FCN(21).save_pretrained(tmp_path / "full")
    client.run(f"""
        from fcn_hub.hub import push_folder
        push_folder({str(tmp_path / "full")!r}, "alice/full")
    """)
    size = sum(path.stat().st_size for path in (tmp_path / "full").iterdir())
    assert sum(request.received for request in hub.log) == pytest.approx(size, rel=0.02)
    assert sum(request.sent for request in hub.log) < 0.02 * size


def test_what_has_not_changed_is_not_sent_again(hub, push, checkpoint):
    first = push("push_folder(folder, 'alice/net')")
    assert uploads(hub) == [(checkpoint / "model.safetensors").stat().st_size]
    hub.log.clear()
    again = push("push_folder(folder, 'alice/net')", "FCN.from_pretrained(folder).num_classes")
    assert again.splitlines() == [first, "3"]
    assert uploads(hub) == []
    assert not hub.requests("/commit/")

    config = json.loads((checkpoint / "config.json").read_text())
    config["class_names"] = ["a", "b", "c"]
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert is_committed(hub, push("push_folder(folder, 'alice/net')"))
    assert uploads(hub) == []
    assert sum(request.received for request in hub.log) < 30_000


def test_new_weights_are_sent(hub, push, checkpoint):
    push("push_folder(folder, 'alice/net')")
    make_tiny_model(seed=7).save_pretrained(checkpoint)
    push("push_folder(folder, 'alice/net')")
    assert len(uploads(hub)) == 2
    pushed = hub.files("alice/net")["model.safetensors"]
    assert pushed == (checkpoint / "model.safetensors").read_bytes()


def test_the_token_is_never_sent_to_the_host_of_the_large_files(hub, push):
    push("push_folder(folder, 'alice/net')")
    tokens = {request.host.split(":")[0]: request.token for request in hub.log}
    assert tokens == {"127.0.0.1": "hf_write", "localhost": None}


def test_an_upload_that_fails_once_is_repeated(hub, push, checkpoint):
    hub.fault("^PUT ", status=500)
    assert is_committed(hub, push("push_folder(folder, 'alice/net')"))
    pushed = hub.files("alice/net")["model.safetensors"]
    assert pushed == (checkpoint / "model.safetensors").read_bytes()


def test_an_upload_shows_its_progress_on_a_terminal(push):
    bar = push("shown(push_folder, folder, 'alice/net')")
    assert re.search(r"model\.safetensors: 100%.*B/s", bar)


# --- branches, pull requests, tags -----------------------------------------------------------


def test_a_missing_branch_is_created_and_main_stays(hub, push):
    main = hub.commit("alice/net", {"config.json": b"{}"})
    url = push(
        "push_folder(folder, 'alice/net', branch='trial/one')",
        "push_folder(folder, 'alice/net', branch='trial/one', ignore_patterns='config.json')",
    )
    first, second = url.splitlines()
    assert first == second  # the second one had nothing to change
    assert is_committed(hub, first, "trial/one")
    assert [commit.id for commit in hub.history("alice/net", "trial/one")][1:] == [
        commit.id for commit in hub.history("alice/net")
    ]
    assert hub.history("alice/net")[0].id == main


def test_anyone_can_propose_a_pull_request(hub, push):
    main = hub.commit("alice/net", {"config.json": b"{}"})
    printed = push(
        "pull.pr_url",
        "push_folder(folder, 'alice/net', branch='refs/pr/1', token='hf_write')",
        before="pull = push_folder(folder, 'alice/net', create_pr=True, token='hf_bob')",
    )
    pull, update = printed.splitlines()
    assert pull == f"{hub.url}/alice/net/discussions/1"
    assert hub.history("alice/net")[0].id == main
    proposed = hub.history("alice/net", "refs/pr/1")[0]
    assert proposed.author == "bob"
    assert "model.safetensors" in proposed.files
    assert update.endswith(proposed.id)


def test_a_tag_pins_what_was_pushed(hub, push, checkpoint):
    push("push_folder(folder, 'alice/net', tag='v1.0')")
    tagged = hub.history("alice/net")[0].id
    assert hub.repositories["models", "alice/net"].refs["refs/tags/v1.0"] == tagged
    make_tiny_model(seed=7).save_pretrained(checkpoint)
    push("push_folder(folder, 'alice/net', branch='trial', tag='v1.1')")
    refs = hub.repositories["models", "alice/net"].refs
    assert refs["refs/tags/v1.1"] == refs["refs/heads/trial"] != tagged
    hub.log.clear()
    refusals = push(
        "refusal(push_folder, folder, 'alice/net', tag='v1.0')",
        "refusal(push_folder, folder, 'alice/net', tag='v2.0', create_pr=True)",
    )
    taken, pull = refusals.splitlines()
    assert "has a tag 'v1.0' already" in taken
    assert "A pull request cannot be tagged" in pull
    assert uploads(hub) == []
    hub.fault("^POST .*/tag/", status=500)
    untagged = push("refusal(push_folder, folder, 'alice/net', tag='v2.0')")
    assert re.search(r"pushed as http://\S+ but not tagged 'v2.0'. The Hub answered 500", untagged)


# --- the card --------------------------------------------------------------------------------


def test_an_edited_card_keeps_its_text(hub, push):
    hub.commit("alice/net", {"README.md": EDITED.encode()})
    push("push_folder(folder, 'alice/net')")
    card = hub.files("alice/net")["README.md"].decode()
    assert "Written by hand." in card
    assert "license: mit" in card
    assert "library_name: fcn-hub" in card  # the front matter gets what it lacked
    assert "Not measured." not in card
    push("push_folder(folder, 'alice/net', overwrite_card=True)")
    card = hub.files("alice/net")["README.md"].decode()
    assert "Written by hand." not in card
    assert "Not measured." in card


def test_the_card_of_the_branch_counts(hub, push):
    hub.commit("alice/net", {"README.md": b"On main."})
    hub.commit("alice/net", {"README.md": b"On the branch."}, branch="trial")
    push("push_folder(folder, 'alice/net', branch='trial')")
    assert "On the branch." in hub.files("alice/net", "trial")["README.md"].decode()


def test_a_card_that_cannot_be_read_is_not_lost(hub, push):
    hub.commit("alice/net", {"README.md": b"---\nlicense: [\n---\nText.\n"})
    refusal = push("refusal(push_folder, folder, 'alice/net')")
    assert re.search("card of 'alice/net' .* cannot be .*overwrite_card", refusal)
    assert uploads(hub) == []


def test_a_card_that_the_hub_does_not_accept_is_told_before_the_upload(hub, push, checkpoint):
    (checkpoint / "README.md").write_text("---\nmodel-index: name\n---\n")
    refusal = push("refusal(push_folder, folder, 'alice/net')")
    assert re.search("HubError: .*'alice/net': Invalid metadata in README.md.*array", refusal)
    assert uploads(hub) == []


def test_an_edit_during_the_push_is_not_lost(hub, push):
    hub.commit("alice/net", {"README.md": EDITED.encode()})
    edit = {"README.md": EDITED.replace("by hand", "meanwhile").encode()}
    hub.fault("^POST .*/preupload/", before=lambda: hub.commit("alice/net", edit))
    refusal = push("refusal(push_folder, folder, 'alice/net')")
    assert re.search("HubError: 'alice/net' was changed while you pushed", refusal)
    assert "Written meanwhile." in hub.files("alice/net")["README.md"].decode()
    push("push_folder(folder, 'alice/net')")
    assert "Written meanwhile." in hub.files("alice/net")["README.md"].decode()
    assert len(uploads(hub)) == 1


# --- what is refused, and what to do then ----------------------------------------------------


def test_who_may_not_push_is_told_what_to_do(hub, push):
    hub.commit("alice/net", {"config.json": b"{}"})
    tokens = ("'hf_nonsense'", "'hf_read'", "'hf_bob'", "False")
    refusals = push(
        *(f"refusal(push_folder, folder, 'alice/net', token={token})" for token in tokens),
        "refusal(push_folder, folder, 'bob/new')",
    )
    unknown, reader, stranger, nobody, elsewhere = refusals.splitlines()
    assert re.search("does not accept the token .*`hf auth login`", unknown)
    for refusal in (reader, stranger, elsewhere):
        assert re.search("may not write to .*huggingface.co/settings/tokens", refusal)
    assert re.search("needs a token with write permission. Log in with `hf auth login`", nobody)
    assert ("models", "bob/new") not in hub.repositories
    without = push("refusal(push_folder, folder, 'alice/net')", HF_TOKEN="")
    assert without == nobody


@pytest.mark.parametrize("repo_id", ["net", "alice/net/two", "alice/", "a b/c", "./net", ""])
def test_an_id_is_an_owner_and_a_name(checkpoint, repo_id):
    with pytest.raises(HubError, match="is not a Hub id; it takes 'owner/name'"):
        push_folder(checkpoint, repo_id)


def test_only_the_folder_of_a_model_is_pushed(tmp_path, checkpoint):
    with pytest.raises(OSError, match="There is no folder"):
        push_folder(tmp_path / "nowhere", "alice/net")
    with pytest.raises(OSError, match=r"has no config\.json"):
        push_folder(tmp_path, "alice/net")
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"has no model\.safetensors"):
        push_folder(checkpoint, "alice/net")


def test_a_public_repository_is_never_taken_for_a_private_one(hub, push):
    hub.commit("alice/net", {"config.json": b"{}"})
    refusal = push("refusal(push_folder, folder, 'alice/net', private=True)")
    assert "is there already and is public" in refusal
    assert uploads(hub) == []


def test_a_hub_that_refuses_is_quoted_in_one_line(hub, push):
    storage = "Private repository storage limit reached"
    cases = {
        "limit": ("/repos/create", 429, "Slow down", "rate limit .*Slow down.*Wait"),
        "quota": ("^POST .*batch", 403, storage, f"no room .*{storage}.*Free some space"),
        "wrong": ("^POST .*verify", 422, "Wrong bytes", "refused .* 422 .*Wrong bytes"),
        "big": ("^POST .*/commit/", 413, "Payload too large", "no room .*Payload"),
        "down": ("^POST .*/commit/", 503, "", "answered 503.* Push again later"),
        "odd": ("^POST .*/commit/", 418, "I'm a teapot", "refused .* 418 .*teapot"),
        "lost": ("^POST .*/commit/", 404, "Not Found", "no model .* may write to"),
    }
    for pattern, status, message, _ in cases.values():
        hub.fault(pattern, status=status, message=message)
    printed = push(*(f"refusal(push_folder, folder, 'alice/{name}')" for name in cases))
    for refusal, (*_, message) in zip(printed.splitlines(), cases.values(), strict=True):
        assert re.search(f"^HubError: .*{message}", refusal), refusal


def test_without_a_network_nothing_is_pushed(hub, push):
    offline = push("refusal(push_folder, folder, 'alice/net')", HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set, so nothing can be pushed" in offline
    away = push("refusal(push_folder, folder, 'alice/net')", HF_ENDPOINT="http://127.0.0.1:9")
    assert re.search("Could not reach the Hub at http://127.0.0.1:9: .*Check the network", away)
    assert hub.log == []


# --- exported networks -----------------------------------------------------------------------


def test_an_exported_network_travels_with_its_model_and_runs_from_the_hub(hub, client, checkpoint):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    export(FCN.from_pretrained(checkpoint), checkpoint, "onnx")
    (checkpoint / "onnx" / "old.json").write_text('{"weights": "of another day", "files": {}}')
    client.run(f"""
        import numpy as np
        from fcn_hub import FCN, Segmenter
        model = FCN.from_pretrained({str(checkpoint)!r})
        model.push_to_hub("alice/net", folder={str(checkpoint)!r})
        segmenter = Segmenter.from_pretrained("alice/net", backend="onnx")
        assert segmenter(np.zeros((40, 50, 3), np.uint8)).label_map.shape == (40, 50)
    """)
    files = {name for name in hub.files("alice/net") if name.startswith("onnx/")}
    assert files == {"onnx/model.onnx", "onnx/model.json"}
    assert "no openvino/model.json. Export the network" in client.run("""
        from fcn_hub import Segmenter
        print(refusal(Segmenter.from_pretrained, "alice/net", backend="openvino"))
    """)
