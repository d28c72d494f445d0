"""FCN.from_pretrained over HTTP: what is asked for, what is kept, and what goes wrong."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import make_tiny_model
from safetensors.torch import load

from fcn_hub import FCN
from hub.conftest import contents

LOAD = "from fcn_hub import FCN; FCN.from_pretrained('alice/net')"
# Where version 2 of the client tries again by itself, version 1 gives up, with an error.
LOAD_OR_RELOAD = """
    from fcn_hub import FCN, CheckpointError
    try:
        FCN.from_pretrained("alice/net")
    except CheckpointError:
        FCN.from_pretrained("alice/net")
"""

BAD_CONFIGS = {
    "text": (b"text", "not valid JSON"),
    "list": (b"[]", "must hold a JSON object"),
    "other": (b'{"model_type": "bert"}', "unknown keys: model_type"),
    "types": (b'{"num_classes": "3"}', "num_classes must be an integer"),
    "huge": (b'{"num_classes": 1000000000000}', "num_classes must be an integer in 1..65536"),
    "newer": (b'{"config_version": 99, "num_classes": 3}', "Upgrade with"),
}


def model_files(folder: Path, model: FCN) -> dict[str, bytes]:
    """config.json and model.safetensors of a model."""
    model.save_pretrained(folder)
    return {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}


def named(folder: Path, name: str, seed: int = 0) -> dict[str, bytes]:
    """The files of a network with a class of this name, and weights of its own."""
    return model_files(folder / name, make_tiny_model(seed, class_names=[name, "b", "c"]))


def requested_files(hub) -> set[str]:
    return {request.path.split("/")[-1] for request in hub.log if "resolve" in request.path}


# --- what is asked for, and how often --------------------------------------------------------


def test_loading_asks_for_the_config_and_the_weights_and_nothing_else(hub, client, online):
    client.run("""
        from fcn_hub import Segmenter
        Segmenter.from_pretrained("alice/net", device="cpu")
    """)
    assert requested_files(hub) == {"config.json", "model.safetensors"}
    assert all(request.method in ("HEAD", "GET") for request in hub.log)
    assert len(hub.requests("^GET .*config.json 200")) == 1
    assert len(hub.requests("^GET /storage/")) == 1


def test_what_is_loaded_is_what_the_hub_holds_bit_by_bit(hub, client, online, tmp_path):
    client.run(f"""
        from fcn_hub import FCN
        FCN.from_pretrained("alice/net").save_pretrained({str(tmp_path / "copy")!r})
    """)
    loaded = (tmp_path / "copy" / "model.safetensors").read_bytes()
    assert loaded == hub.files("alice/net")["model.safetensors"]


def test_a_second_load_downloads_nothing(hub, client, online):
    client.run(LOAD)
    hub.log.clear()
    client.run(LOAD)
    assert {request.method for request in hub.log} == {"HEAD"}
    hub.log.clear()
    client.run(f"from fcn_hub import FCN; FCN.from_pretrained('alice/net', revision={online!r})")
    assert hub.log == []  # a commit cannot have changed


def test_a_commit_that_leaves_the_weights_alone_downloads_no_weights(hub, client, online):
    load_it = "from fcn_hub import FCN; print(FCN.from_pretrained('alice/net').label_map.names[0])"
    client.run(load_it)
    config = json.loads(hub.files("alice/net")["config.json"])
    config["class_names"][0] = "renamed"
    hub.commit("alice/net", {"config.json": json.dumps(config).encode()})
    assert client.run(load_it) == "renamed"
    assert len(hub.requests("^GET /storage/")) == 1


def test_the_bytes_on_the_wire_are_those_of_the_files(hub, client, tmp_path):
    files = model_files(tmp_path / "full", FCN(21))
    hub.commit("alice/full", files)
    client.run("from fcn_hub import FCN; FCN.from_pretrained('alice/full')")
    size = sum(map(len, files.values()))
    assert sum(request.sent for request in hub.log) == pytest.approx(size, rel=0.02)
    assert sum(request.received for request in hub.log) == 0


def test_the_config_and_the_weights_come_from_one_commit(hub, client, tmp_path):
    """Someone pushes another model between the two downloads."""
    before, after = named(tmp_path, "before"), named(tmp_path, "after", seed=1)
    hub.commit("alice/net", before)
    hub.fault("^HEAD .*model.safetensors", before=lambda: hub.commit("alice/net", after))
    printed = client.run("""
        from fcn_hub import FCN
        for _ in range(2):
            model = FCN.from_pretrained("alice/net")
            print(model.label_map.names[0], model.decoder.classifier.weight.flatten().tolist())
    """)
    expected = [
        f"{name} {load(files['model.safetensors'])['decoder.classifier.weight'].flatten().tolist()}"
        for name, files in (("before", before), ("after", after))
    ]
    assert printed.splitlines() == expected


def test_a_download_shows_its_progress_on_a_terminal(client, online):
    bar = client.run("""
        from fcn_hub import FCN
        print(shown(FCN.from_pretrained, "alice/net"))
    """)
    assert re.search(r"model\.safetensors: 100%.*B/s", bar)


# --- which revision, whose token, what place -------------------------------------------------


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub, client, tmp_path):
    first = hub.commit("alice/net", named(tmp_path, "first"))
    hub.repositories["models", "alice/net"].refs["refs/tags/v1.0"] = first
    hub.commit("alice/net", named(tmp_path, "second"))
    hub.commit("alice/net", named(tmp_path, "third"), branch="trial/one")
    printed = client.run(f"""
        from fcn_hub import FCN
        for revision in (None, "main", "v1.0", {first!r}, "trial/one"):
            print(FCN.from_pretrained("alice/net", revision=revision).label_map.names[0])
        print(refusal(FCN.from_pretrained, "alice/net", revision="v2.0"))
    """)
    *names, refusal = printed.splitlines()
    assert names == ["second", "second", "first", "first", "third"]
    assert refusal == (
        "CheckpointError: 'alice/net' has no revision 'v2.0'; check its branches, tags and commits."
    )


def test_a_private_model_needs_its_owners_token(hub, client, online):
    hub.repositories["models", "alice/net"].private = True
    printed = client.run(
        """
        import os
        from fcn_hub import FCN
        for token in (None, "hf_bob", "hf_nonsense"):
            print(refusal(FCN.from_pretrained, "alice/net", token=token))
        print(refusal(FCN.from_pretrained, "alice/net", token=True))
        FCN.from_pretrained("alice/net", token="hf_read")
        os.environ["HF_TOKEN"] = "hf_read"
        FCN.from_pretrained("alice/net", force_download=True)
        """,
        HF_TOKEN="",
    )
    nobody, stranger, nonsense, login = printed.splitlines()
    for refusal in (nobody, stranger):
        assert "no model 'alice/net' on the Hub that you may read" in refusal
        assert "`hf auth login`" in refusal
    assert re.search(r"answered 401 .*Invalid credentials.*`hf auth login`", nonsense)
    assert "token=True needs a login" in login


def test_the_token_is_never_sent_to_the_host_of_the_large_files(hub, client, online):
    client.run(LOAD)
    tokens = {request.host.split(":")[0]: request.token for request in hub.log}
    assert tokens == {"127.0.0.1": "hf_write", "localhost": None}


def test_a_gated_model_says_how_to_get_in(hub, client, online):
    hub.repositories["models", "alice/net"].gated = True
    hub.repositories["models", "alice/net"].readers.add("carol")
    load_it = """
        from fcn_hub import FCN
        for token in (False, "hf_bob"):
            print(refusal(FCN.from_pretrained, "alice/net", token=token))
    """
    for refusal in client.run(load_it).splitlines():
        assert re.search("is gated: accept its terms on its page, then log in", refusal)
    hub.repositories["models", "alice/net"].readers.add("bob")
    client.run("from fcn_hub import FCN; FCN.from_pretrained('alice/net', token='hf_bob')")


def test_the_cache_is_where_it_is_told_to_be(client, online, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    load_it = f"""
        from fcn_hub import FCN
        FCN.from_pretrained("alice/net", cache_dir={str(elsewhere)!r})
    """
    client.run(load_it)
    assert (elsewhere / "models--alice--net").is_dir()
    assert not client.cache.exists()
    client.run(load_it, HF_HUB_OFFLINE="1")


def test_offline_the_cache_serves_and_nothing_is_asked_for(hub, client, online):
    load_it = "from fcn_hub import FCN\nmodel = FCN.from_pretrained('alice/net'{})"
    refuse_it = "from fcn_hub import FCN\nprint(refusal(FCN.from_pretrained, 'alice/net'{}))"
    local = ", local_files_only=True"
    refusals = (
        client.run(refuse_it.format(local)),
        client.run(refuse_it.format(""), HF_HUB_OFFLINE="1"),
    )
    for refusal in refusals:
        assert "config.json of 'alice/net' on the Hub is not in the cache" in refusal
    assert hub.log == []
    client.run(load_it.format(""))
    hub.log.clear()
    client.run(load_it.format(local))
    client.run(load_it.format(""), HF_HUB_OFFLINE="1")
    assert hub.log == []


def test_a_hub_out_of_reach_serves_from_the_cache(client, online):
    client.run(LOAD)
    client.run(LOAD, HF_ENDPOINT="http://127.0.0.1:9")


# --- interruptions ---------------------------------------------------------------------------


def test_a_download_that_breaks_off_resumes_where_it_was(hub, client, tmp_path):
    files = model_files(tmp_path / "middling", FCN(3, base_channels=32))  # 19 MB
    hub.commit("alice/net", files)
    hub.fault("^GET /storage/", cut_after=12 * 2**20)
    client.run(LOAD_OR_RELOAD)
    broken, resumed = (request for request in hub.log if request.path.startswith("/storage"))
    assert (broken.range, resumed.range) == (None, f"bytes={10 * 2**20}-")  # the client's chunk
    assert resumed.status == 206
    assert resumed.sent == len(files["model.safetensors"]) - 10 * 2**20


def test_a_download_that_keeps_breaking_off_leaves_nothing_broken(hub, client, online):
    hub.fault("^GET /storage/", cut_after=100_000, times=-1)
    refusal = client.run("""
        from fcn_hub import FCN
        print(refusal(FCN.from_pretrained, "alice/net"))
    """)
    assert "Could not download model.safetensors of 'alice/net'" in refusal
    assert not list(client.cache.rglob("model.safetensors"))
    hub.recover()
    client.run(LOAD)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_wrong_bytes_of_the_right_size_are_noticed_and_not_kept(hub, client, online, name):
    hub.fault("^GET /storage/" if name == "model.safetensors" else f"^GET .*{name}", damage=True)
    refusal = client.run("""
        from fcn_hub import FCN
        print(refusal(FCN.from_pretrained, "alice/net"))
        FCN.from_pretrained("alice/net")
    """)
    assert f"{name} arrived damaged" in refusal
    assert "try again" in refusal


def test_a_stalled_download_is_taken_up_again(hub, client, online):
    hub.fault("^GET /storage/", delay=2)
    client.run(LOAD_OR_RELOAD, HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert len(hub.requests("^GET /storage/")) == 2


def test_a_hub_that_recovers_is_waited_for(hub, client, online):
    hub.fault("^HEAD .*config.json", status=503, times=2)
    hub.fault("^HEAD .*model.safetensors", status=500)
    client.run(LOAD)


def test_an_error_of_the_storage_is_told_and_the_next_load_works(hub, client, online):
    hub.fault("^GET /storage/", status=503)
    hub.fault("^HEAD .*model.safetensors", status=403, message="Blocked by your company")
    refusals = client.run("""
        from fcn_hub import FCN
        print(refusal(FCN.from_pretrained, "alice/net"))
        print(refusal(FCN.from_pretrained, "alice/net"))
        FCN.from_pretrained("alice/net")
    """)
    forbidden, unavailable = refusals.splitlines()
    assert re.search(r"answered 403 for model.safetensors .*\(Blocked by", forbidden)
    assert re.search("answered 503 for model.safetensors .*Try again later", unavailable)


@pytest.mark.slow  # the client tries for 23 seconds
def test_a_hub_that_stays_away_is_told_from_one_that_fails(hub, client, online):
    hub.fault("alice/net/resolve", status=503, headers={"Retry-After": "0"}, times=-1)
    hub.fault("alice/busy/resolve", status=429, message="Slow down", times=-1)
    program = "from fcn_hub import FCN; print(refusal(FCN.from_pretrained, 'alice/{}'))"
    with ThreadPoolExecutor() as threads:
        failing = threads.submit(client.run, program.format("net"))
        busy = threads.submit(client.run, program.format("busy"))
        away = threads.submit(client.run, program.format("net"), HF_ENDPOINT="http://127.0.0.1:9")
    assert re.search("answered 429 for config.json .*Slow down.* Try again later", busy.result())
    assert "The Hub answered 503 for config.json of 'alice/net'" in failing.result()
    assert re.search("ould not .*download.* from http://127.0.0.1:9.* Check the n", away.result())


# --- what the Hub holds is no model ----------------------------------------------------------


def test_files_that_are_no_model_are_refused_in_one_line(hub, client, checkpoint):
    good = contents(checkpoint)
    config, weights = good["config.json"], good["model.safetensors"]
    five = {**json.loads(config), "num_classes": 5, "class_names": None, "class_colors": None}
    no_safetensors = "corrupt or not a safetensors file"
    cases = {
        "missing-config": ({"config.json": None}, "has no config.json"),
        "missing-weights": ({"model.safetensors": None}, "has no model.safetensors"),
        "pickle": (
            {"model.safetensors": None, "pytorch_model.bin": b"\x80\x02."},
            "safetensors only: a pickle",
        ),
        "truncated": ({"model.safetensors": weights[:5000]}, no_safetensors),
        "empty": ({"model.safetensors": b""}, no_safetensors),
        "header": (
            {"model.safetensors": (2**62).to_bytes(8, "little") + weights[8:]},
            no_safetensors,
        ),
        "shape": (
            {"config.json": json.dumps(five).encode()},
            r"mismatched decoder.classifier.weight \[3, 2, 1, 1\] instead of \[5, 2, 1, 1\]",
        ),
    }
    for name, (text, message) in BAD_CONFIGS.items():
        cases[name] = ({"config.json": text}, message)
    for name, (changes, _) in cases.items():
        hub.commit(f"alice/{name}", {**good, **changes})
    printed = client.run(f"""
        from fcn_hub import FCN
        for name in {list(cases)!r}:
            print(refusal(FCN.from_pretrained, "alice/" + name))
    """)
    for refusal, (name, (_, message)) in zip(printed.splitlines(), cases.items(), strict=True):
        assert re.search(message, refusal), (name, refusal)
        assert refusal.startswith(("CheckpointError: ", "ConfigError: "))
    assert not hub.requests("pytorch_model")
    for name in BAD_CONFIGS:  # a useless config spares the download of the weights
        assert not hub.requests(f"alice/{name}/.*model.safetensors")


def test_a_repository_that_is_not_there_and_a_name_that_is_no_id(hub, client):
    printed = client.run("""
        from fcn_hub import FCN
        for name in ("alice/nothing", "a b", "too/many/parts"):
            print(refusal(FCN.from_pretrained, name))
    """)
    missing, *no_ids = printed.splitlines()
    assert "There is no folder 'alice/nothing' here and no model" in missing
    for refusal in no_ids:
        assert "is neither a folder here nor a Hub id such as 'owner/name'" in refusal


def test_half_precision_travels_as_it_is(hub, client, tmp_path):
    files = model_files(tmp_path / "half", make_tiny_model().half())
    hub.commit("alice/half", files)
    printed = client.run("""
        from fcn_hub import FCN
        for dtype in ({}, {"dtype": "auto"}):
            print(FCN.from_pretrained("alice/half", **dtype).decoder.classifier.weight.dtype)
    """)
    assert printed.splitlines() == [str(torch.float32), str(torch.float16)]
