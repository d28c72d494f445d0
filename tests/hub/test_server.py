"""The Hub of these tests: the client understands it, and it does not take everything."""

import hashlib
import json


def test_the_client_reads_it_as_it_reads_the_hub(hub, client):
    first = hub.commit("alice/net", {"config.json": b"{}", "a/b/deep.txt": b"deep"})
    second = hub.commit(
        "alice/net", {"README.md": b"---\nlicense: mit\n---\n", "big.bin": b"\0" * 9}
    )
    printed = client.run(
        f"""
        import json, os
        from huggingface_hub import HfApi, snapshot_download
        api = HfApi()
        print(json.dumps([
            api.whoami()["name"],
            api.model_info("alice/net").sha,
            api.model_info("alice/net", revision={first!r}).card_data is None,
            api.model_info("alice/net").card_data.license,
            sorted(api.list_repo_files("alice/net")),
            [entry.path for entry in api.list_repo_tree("alice/net", "a", recursive=True)],
            [file.lfs and file.lfs.size for file in api.get_paths_info("alice/net", ["big.bin"])],
            [branch.name for branch in api.list_repo_refs("alice/net").branches],
            [api.file_exists("alice/net", name) for name in ("config.json", "nothing")],
            [api.repo_exists(name) for name in ("alice/net", "alice/nothing")],
            sorted(os.listdir(snapshot_download("alice/net", ignore_patterns=".git*"))),
        ]))
        """
    )
    assert json.loads(printed) == [
        "alice",
        second,
        True,
        "mit",
        [".gitattributes", "README.md", "a/b/deep.txt", "big.bin", "config.json"],
        ["a/b", "a/b/deep.txt"],
        [9],
        ["main"],
        [True, False],
        [True, False],
        ["README.md", "a", "big.bin", "config.json"],
    ]


def test_commits_are_on_disk_named_after_their_content(hub, tmp_path):
    first = hub.commit("alice/net", {"config.json": b"{}"})
    second = hub.commit("alice/net", {"config.json": None, "other.txt": b"text"})
    text = (tmp_path / "hub-server" / "commits" / f"{second}.json").read_bytes()
    assert hashlib.sha1(text).hexdigest() == second
    record = json.loads(text)
    assert record["parents"] == [first]
    assert [file["path"] for file in record["files"]] == [".gitattributes", "other.txt"]
    assert hub.files("alice/net", first) == {"config.json": b"{}"}


def test_an_upload_that_is_not_what_was_announced_is_refused(hub, client):
    hub.create("alice/net")
    content = b"what is sent"
    sent, other = (hashlib.sha256(text).hexdigest() for text in (content, b"something else"))
    printed = client.run(f"""
        import json
        from huggingface_hub.utils import build_hf_headers, get_session
        def post(path, body):
            return get_session().post({hub.url!r} + path, json=body, headers=build_hf_headers())
        lfs = "/alice/net.git/info/lfs/objects"
        for oid, size in (({sent!r}, 12), ({sent!r}, 13), ({other!r}, 12)):
            announced = {{"oid": oid, "size": size}}
            objects = post(lfs + "/batch", {{"objects": [announced]}}).json()["objects"]
            if "actions" not in objects[0]:
                print("is there already")
                continue
            upload = objects[0]["actions"]["upload"]["href"]
            assert get_session().put(upload.replace("signature=", "signature=x")).status_code == 403
            get_session().put(upload, content={content!r}).raise_for_status()
            print(post(lfs + "/verify", announced).status_code)
        lines = [
            {{"key": "header", "value": {{"summary": "never uploaded"}}}},
            {{"key": "lfsFile", "value": {{"path": "x.bin", "oid": {other!r}, "size": 12}}}},
        ]
        body = "\\n".join(json.dumps(line) for line in lines)
        address = {hub.url!r} + "/api/models/alice/net/commit/main"
        print(get_session().post(address, content=body, headers=build_hf_headers()).status_code)
    """)
    assert printed.splitlines() == ["200", "is there already", "422", "400"]
    assert hub.files("alice/net") == {}


def test_a_fault_meets_as_many_requests_as_it_should(hub, client):
    hub.create("alice/net")
    hub.fault("^GET /api/models", status=418, times=2)
    printed = client.run("""
        import os
        from huggingface_hub.utils import get_session
        for _ in range(3):
            address = os.environ["HF_ENDPOINT"] + "/api/models/alice/net"
            print(get_session().get(address).status_code)
    """)
    assert printed.splitlines() == ["418", "418", "200"]
    assert hub.requests() == [f"GET /api/models/alice/net {status}" for status in (418, 418, 200)]
