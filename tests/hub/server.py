"""A Hugging Face Hub on loopback, small enough to read, for tests with the real client.

`Hub` speaks the HTTP protocol of huggingface.co as `huggingface_hub` 1.9 to 2.4 uses it, checks
what the client sends (tokens, sizes, SHA-256), keeps a log of the requests, and misbehaves where
a test asks for it (`Hub.fault`).

Imitated: users with read and write tokens; public, private and gated repositories of models,
data sets and Spaces; commits with parents, content-addressed and written to a folder; branches,
tags, pull requests; creating, validating, pre-uploading, the LFS batch with upload and verify,
the NDJSON commit; info, refs, tree and paths-info; the secrets, variables, hardware and runtime of
Spaces; resolving with ETag, X-Repo-Commit,
X-Linked-Size and X-Linked-ETag, redirects to a cache on the same host for small files and to a
signed address on another host, which takes no token, for large ones; Range requests; the error
codes and headers that the client tells errors apart by.

Not imitated: Git over HTTP, short commit ids, renamed repositories, organisations, multipart
uploads, rate limits (other than as a fault) and Xet storage. Clients of version 1 ask whether Xet
is to be used and are told no; those of version 2 have to be told with HF_HUB_DISABLE_XET=1.
"""

import base64
import hashlib
import json
import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

USERS = {"hf_write": ("alice", "write"), "hf_read": ("alice", "read"), "hf_bob": ("bob", "write")}
GITATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
SDKS = ("gradio", "docker", "static")
LARGE = 10 * 2**20  # bytes from which a text is an LFS file; a binary file always is one


class Refused(Exception):
    """What the Hub refuses to do: an HTTP status, a message and the code the client looks for."""

    def __init__(
        self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None
    ) -> None:
        self.status = status
        self.message = message
        self.headers = {"X-Error-Message": message, **(headers or {})}
        if code:
            self.headers["X-Error-Code"] = code

    def response(self, *_: object) -> Response:
        return JSONResponse({"error": self.message}, self.status, self.headers)


@dataclass(frozen=True)
class File:
    """A file of a commit: its Git id, its size and, where it is an LFS file, its SHA-256."""

    oid: str
    size: int
    sha256: str | None = None

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid

    def to_json(self, path: str) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "oid": self.oid, "size": self.size}
        if self.sha256:
            entry["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 134}
        return entry


@dataclass(frozen=True)
class Commit:
    id: str
    parents: list[str]
    title: str
    author: str
    files: dict[str, File]


@dataclass
class Repository:
    """A repository; `refs` holds refs/heads/…, refs/tags/… and refs/pr/…, each with its commit."""

    kind: str  # "models", "datasets" or "spaces", as in addresses
    id: str
    private: bool = False
    gated: bool = False
    readers: set[str] = field(default_factory=set)  # who was let through the gate
    settings: dict[str, Any] = field(default_factory=dict)  # whatever else it was created with
    secrets: dict[str, str] = field(default_factory=dict)  # of a Space, as are the next two
    variables: dict[str, str] = field(default_factory=dict)
    hardware: str | None = None
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def resolve(self, revision: str) -> Commit:
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if ref in self.refs:
                return self.commits[self.refs[ref]]
        if revision in self.commits:
            return self.commits[revision]
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")


@dataclass
class Logged:
    """A request as the server saw it; `received` and `sent` count the bytes of the bodies."""

    method: str
    path: str
    host: str
    token: str | None
    range: str | None
    status: int = 0
    received: int = 0
    sent: int = 0

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.status}"


@dataclass
class Fault:
    pattern: str
    times: int
    error: Refused | None
    delay: float
    cut_after: int | None
    damage: bool
    before: Callable[[], Any] | None


class Hub:
    """The server. A test starts it by `with`, points a client at it and looks into it.

    Example:
        >>> with Hub(tmp_path) as hub:
        ...     commit = hub.commit("alice/net", {"config.json": b"{}"})
        ...     hub.fault("GET .*config.json", status=503, times=2)
        ...     ...  # the client's turn, with HF_ENDPOINT=hub.url
        ...     assert hub.requests("config.json") == [...]
    """

    def __init__(self, folder: Path) -> None:
        self.log: list[Logged] = []
        self.defects: list[Exception] = []  # errors of this very file; a test checks for none
        self.repositories: dict[tuple[str, str], Repository] = {}
        self._faults: list[Fault] = []
        self._signatures: set[str] = set()
        self._blobs, self._commits = folder / "blobs", folder / "commits"
        self._blobs.mkdir(parents=True)
        self._commits.mkdir()
        self._routes = Starlette(
            routes=self._make_routes(), exception_handlers={Refused: lambda _, e: e.response()}
        )

    def __enter__(self) -> "Hub":
        options: Any = {"interface": "asgi3", "lifespan": "off", "log_level": "critical"}
        self._server = uvicorn.Server(uvicorn.Config(self._serve, port=0, **options))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.002)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # --- for tests: what the Hub holds, what it was asked, how it fails --------------------------

    def create(self, repo_id: str, kind: str = "models", **options: Any) -> Repository:
        repository = self.repositories[kind, repo_id] = Repository(kind, repo_id, **options)
        files = {".gitattributes": self._store(".gitattributes", GITATTRIBUTES)}
        repository.refs["refs/heads/main"] = self._commit(repository, [], files, "initial commit")
        return repository

    def commit(self, repo_id: str, files: dict[str, bytes | None], branch: str = "main") -> str:
        """Commit as someone else would: files to add, replace or (None) remove. Returns the id."""
        repository = self.repositories.get(("models", repo_id)) or self.create(repo_id)
        ref = f"refs/heads/{branch}"
        head = repository.refs.get(ref) or repository.refs["refs/heads/main"]
        tree = dict(repository.commits[head].files)
        for path, content in files.items():
            tree.pop(path, None)
            if content is not None:
                tree[path] = self._store(path, content)
        repository.refs[ref] = self._commit(repository, [head], tree, "someone's commit")
        return repository.refs[ref]

    def files(self, repo_id: str, revision: str = "main", kind: str = "models") -> dict[str, bytes]:
        """The content of a revision's files, but for .gitattributes."""
        files = self.repositories[kind, repo_id].resolve(revision).files
        return {
            path: (self._blobs / file.etag).read_bytes()
            for path, file in files.items()
            if path != ".gitattributes"
        }

    def history(self, repo_id: str, revision: str = "main", kind: str = "models") -> list[Commit]:
        """The commits of a revision, newest first."""
        repository = self.repositories[kind, repo_id]
        commits = [repository.resolve(revision)]
        while commits[-1].parents:
            commits.append(repository.commits[commits[-1].parents[0]])
        return commits

    def requests(self, pattern: str = "") -> list[str]:
        """The log, or what a pattern finds in it, as ``METHOD /path STATUS``."""
        return [str(request) for request in self.log if re.search(pattern, str(request))]

    def fault(
        self,
        pattern: str,
        *,
        times: int = 1,
        status: int = 0,
        message: str = "Something went wrong",
        code: str = "",
        headers: dict[str, str] | None = None,
        delay: float = 0,
        cut_after: int | None = None,
        damage: bool = False,
        before: Callable[[], Any] | None = None,
    ) -> None:
        """Misbehave on the next requests that a pattern finds in ``METHOD /path``.

        Args:
            pattern: Regular expression.
            times: How many requests it meets; -1 for all.
            status, message, code, headers: Answer with this error, and do nothing else.
            delay: Seconds to wait before looking at the request.
            cut_after: Do as asked, but close the connection after so many bytes of the answer.
            damage: Do as asked, but flip the bits of the answer's body.
            before: What happens on the server before the request is looked at.
        """
        error = Refused(status, message, code, headers) if status else None
        self._faults.append(Fault(pattern, times, error, delay, cut_after, damage, before))

    def recover(self) -> None:
        """No more faults."""
        self._faults.clear()

    # --- storage ---------------------------------------------------------------------------------

    def _store(self, path: str, content: bytes) -> File:
        if is_large_file(path, content[:512], len(content)):
            file = lfs_file(hashlib.sha256(content).hexdigest(), len(content))
        else:
            file = File(git_id(content), len(content))
        (self._blobs / file.etag).write_bytes(content)
        return file

    def _commit(
        self,
        repository: Repository,
        parents: list[str],
        files: dict[str, File],
        title: str,
        author: str = "somebody",
    ) -> str:
        files = dict(sorted(files.items()))
        record = {
            "parents": parents,
            "title": title,
            "author": author,
            "files": [file.to_json(path) for path, file in files.items()],
            "nonce": secrets.token_hex(8),  # in place of the time
        }
        text = json.dumps(record, indent=1)
        commit_id = hashlib.sha1(text.encode()).hexdigest()
        (self._commits / f"{commit_id}.json").write_text(text)
        repository.commits[commit_id] = Commit(commit_id, parents, title, author, files)
        return commit_id

    # --- every request: the log and the faults ---------------------------------------------------

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        request = Logged(
            scope["method"],
            unquote(scope["path"]),
            headers["host"],
            headers.get("authorization", "").removeprefix("Bearer ") or None,
            headers.get("range"),
        )
        self.log.append(request)
        fault = self._next_fault(request)
        scope["path"] = scope["raw_path"].decode()  # quoted: a branch's name may hold a slash

        async def counted_receive() -> Any:
            message = await receive()
            request.received += len(message.get("body", b""))
            return message

        async def counted_send(message: Any) -> None:
            body = message.get("body", b"")
            request.status = message.get("status", request.status)
            if fault and fault.damage:
                body = bytes(255 - byte for byte in body)
            cut = fault is not None and fault.cut_after is not None
            if cut:
                body = body[: max(fault.cut_after - request.sent, 0)]
            request.sent += len(body)
            if "body" not in message:
                await send(message)
            else:
                more = message.get("more_body", False) or cut
                await send({**message, "body": body, "more_body": more})
                if cut and request.sent >= fault.cut_after:
                    raise _CutOff

        answer: Any = self._routes
        if fault:
            if fault.before:
                await run_in_threadpool(fault.before)
            await run_in_threadpool(time.sleep, fault.delay)
            if fault.error:
                while (await counted_receive()).get("more_body"):
                    pass
                answer = fault.error.response()
        try:
            await answer(scope, counted_receive, counted_send)
        except _CutOff:
            pass  # uvicorn closes the connection of an answer that was begun and never finished
        except Exception as error:
            self.defects.append(error)
            raise

    def _next_fault(self, request: Logged) -> Fault | None:
        for fault in self._faults:
            if fault.times and re.search(fault.pattern, f"{request.method} {request.path}"):
                fault.times -= 1
                return fault
        return None

    # --- who may do what -------------------------------------------------------------------------

    def _user(self, request: Request) -> tuple[str, str]:
        """The name and role of who asks; empty for nobody."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in USERS:
            raise Refused(401, "Invalid credentials in Authorization header")
        return USERS.get(token, ("", ""))

    def _repository(self, request: Request, *, content: bool = False) -> Repository:
        """The repository that is asked for, if whoever asks may see it (and its content)."""
        user, _ = self._user(request)
        kind = request.path_params.get("kind", "models")
        repo_id = f"{request.path_params['owner']}/{request.path_params['name']}"
        repository = self.repositories.get((kind, repo_id))
        owned = user == repo_id.split("/")[0]
        if repository is None or (repository.private and not owned):
            message = "Repository not found" if user else "Invalid username or password."
            raise Refused(404 if user else 401, message, "RepoNotFound")
        if content and repository.gated and not owned and user not in repository.readers:
            message = f"Access to model {repo_id} is restricted."
            raise Refused(403 if user else 401, message, "GatedRepo")
        return repository

    def _writable(self, request: Request, *, proposal: bool = False) -> Repository:
        """The same, if whoever asks may write to it, or propose a change to it."""
        repository = self._repository(request)
        user, role = self._user(request)
        if not user:
            raise Refused(401, "Invalid username or password.")
        if role != "write" or not (proposal or user == repository.id.split("/")[0]):
            raise Refused(403, "Forbidden: you don't have write access to this repository")
        return repository

    # --- the Hub's addresses ---------------------------------------------------------------------

    def _make_routes(self) -> list[Route]:
        def route(path: str, endpoint: Any, *methods: str) -> Route:
            return Route(path, endpoint, methods=list(methods) or ["GET"])

        repo = "/api/{kind}/{owner}/{name}"
        resolve = "/{owner}/{name}/resolve/{revision}/{path:path}"
        lfs = "/{owner}/{name}.git/info/lfs/objects"
        return [
            route("/api/whoami-v2", self._whoami),
            route("/api/repos/create", self._create, "POST"),
            route("/api/validate-yaml", self._validate_yaml, "POST"),
            route("/api/resolve-cache/{kind}/{owner}/{name}/{revision}/{path:path}", self._small),
            route(repo, self._info),
            route(repo + "/revision/{revision}", self._info),
            route(repo + "/refs", self._refs),
            route(repo + "/branch/{ref}", self._create_branch, "POST"),
            route(repo + "/tag/{revision}", self._create_tag, "POST"),
            route(repo + "/tree/{revision}", self._tree),
            route(repo + "/tree/{revision}/{path:path}", self._tree),
            route(repo + "/paths-info/{revision}", self._paths_info, "POST"),
            route(repo + "/preupload/{revision}", self._preupload, "POST"),
            route(repo + "/commit/{revision}", self._receive_commit, "POST"),
            route(lfs + "/batch", self._lfs_batch, "POST"),
            route("/{kind}" + lfs + "/batch", self._lfs_batch, "POST"),
            route(lfs + "/verify", self._lfs_verify, "POST"),
            route("/{kind}" + lfs + "/verify", self._lfs_verify, "POST"),
            route(resolve, self._resolve),
            route("/{kind}" + resolve, self._resolve),
            route("/storage/{sha256}", self._storage, "GET", "PUT"),
            route(repo + "/secrets", self._set_secret, "POST"),
            route(repo + "/variables", self._variables, "GET", "POST"),
            route(repo + "/hardware", self._request_hardware, "POST"),
            route(repo + "/runtime", self._runtime),
        ]

    def _whoami(self, request: Request) -> Response:
        user, role = self._user(request)
        if not user:
            raise Refused(401, "Invalid username or password.")
        access = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
        return JSONResponse({"type": "user", "name": user, "orgs": [], "auth": access})

    async def _create(self, request: Request) -> Response:
        user, role = self._user(request)
        wanted = await request.json()
        owner, kind = wanted.pop("organization", None) or user, wanted.pop("type", "model") + "s"
        repo_id = f"{owner}/{wanted.pop('name')}"
        if not user:
            raise Refused(401, "Invalid username or password.")
        if role != "write" or owner != user:
            message = f'You don\'t have the rights to create a {kind[:-1]} under "{owner}"'
            raise Refused(403, message)
        address = f"{self.url}/{repo_id}" if kind == "models" else f"{self.url}/{kind}/{repo_id}"
        if (kind, repo_id) in self.repositories:
            error = f"You already created this {kind[:-1]} repo"
            return JSONResponse({"error": error, "url": address, "name": repo_id}, 409)
        if kind == "spaces" and wanted.get("sdk") not in SDKS:
            raise Refused(400, '"sdk" is required for a Space')
        private = wanted.pop("visibility", "public") == "private"
        self.create(repo_id, kind, private=private, settings=wanted)
        return JSONResponse({"url": address, "name": repo_id})

    async def _validate_yaml(self, request: Request) -> Response:
        errors, warnings = [], []
        try:
            metadata = front_matter((await request.json())["content"])
        except yaml.YAMLError as error:
            errors.append(f"invalid YAML: {error}")
        else:
            if not metadata:
                warnings.append("empty or missing yaml metadata in repo card")
            elif not isinstance(metadata, dict):
                errors.append("metadata must be a mapping")
            elif not isinstance(metadata.get("model-index", []), list):
                errors.append('"model-index" must be an array')
        found = {
            "errors": [{"message": text} for text in errors],
            "warnings": [{"message": text} for text in warnings],
        }
        return JSONResponse(found, 400 if errors else 200)

    def _info(self, request: Request) -> Response:
        repository = self._repository(request)
        commit = repository.resolve(unquote(request.path_params.get("revision", "main")))
        card = commit.files.get("README.md")
        text = (self._blobs / card.etag).read_text(encoding="utf-8") if card else ""
        metadata = front_matter(text) or {}
        info = {
            "id": repository.id,
            "author": repository.id.split("/")[0],
            "sha": commit.id,
            "private": repository.private,
            "gated": "manual" if repository.gated else False,
            "disabled": False,
            "siblings": [{"rfilename": path} for path in commit.files],
            "tags": metadata.get("tags", []),
            "library_name": metadata.get("library_name"),
            "pipeline_tag": metadata.get("pipeline_tag"),
            "cardData": metadata,
        }
        return JSONResponse(info)

    def _refs(self, request: Request) -> Response:
        repository = self._repository(request)

        def listing(prefix: str) -> list[dict[str, str]]:
            return [
                {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": commit}
                for ref, commit in repository.refs.items()
                if ref.startswith(prefix)
            ]

        found = {"branches": listing("refs/heads/"), "tags": listing("refs/tags/")}
        if "include_prs" in request.query_params:
            found["pullRequests"] = listing("refs/pr/")
        return JSONResponse({**found, "converts": []})

    async def _create_branch(self, request: Request) -> Response:
        repository = self._writable(request)
        ref = f"refs/heads/{unquote(request.path_params['ref'])}"
        if ref in repository.refs:
            raise Refused(409, f"Reference already exists: {ref}")
        start = (await request.json()).get("startingPoint", "main")
        repository.refs[ref] = repository.resolve(start).id
        return JSONResponse({})

    async def _create_tag(self, request: Request) -> Response:
        repository = self._writable(request)
        ref = f"refs/tags/{(await request.json())['tag']}"
        if ref in repository.refs:
            raise Refused(409, f"Reference already exists: {ref}")
        repository.refs[ref] = repository.resolve(unquote(request.path_params["revision"])).id
        return JSONResponse({})

    def _tree(self, request: Request) -> Response:
        commit = self._repository(request).resolve(unquote(request.path_params["revision"]))
        below = unquote(request.path_params.get("path", ""))
        below = below and f"{below}/"
        entries: dict[str, Any] = {}
        for path, file in commit.files.items():
            if not path.startswith(below):
                continue
            parts = path.removeprefix(below).split("/")
            for depth in range(1, len(parts)):
                folder = below + "/".join(parts[:depth])
                entry = {"type": "directory", "path": folder, "oid": git_id(folder.encode())}
                entries[folder] = {**entry, "size": 0}
            entries[path] = file.to_json(path)
        if request.query_params.get("recursive", "").lower() not in ("true", "1"):
            entries = {
                path: entry for path, entry in entries.items() if "/" not in path[len(below) :]
            }
        return JSONResponse(list(entries.values()))

    async def _paths_info(self, request: Request) -> Response:
        commit = self._repository(request).resolve(unquote(request.path_params["revision"]))
        wanted = (await request.form()).getlist("paths")
        found = [file.to_json(path) for path, file in commit.files.items() if path in wanted]
        return JSONResponse(found)

    async def _preupload(self, request: Request) -> Response:
        """Tell which files to send through LFS, and which ids are there already."""
        repository = self._writable(request, proposal="create_pr" in request.query_params)
        commit = repository.resolve(unquote(request.path_params["revision"]))
        answers = []
        for file in (await request.json())["files"]:
            path, sample = file["path"], base64.b64decode(file["sample"])
            mode = "lfs" if is_large_file(path, sample, file["size"]) else "regular"
            answer = {"path": path, "uploadMode": mode, "shouldIgnore": False}
            if path in commit.files:
                answer["oid"] = commit.files[path].etag
            answers.append(answer)
        return JSONResponse({"files": answers})

    async def _lfs_batch(self, request: Request) -> Response:
        """Answer an LFS batch: an address to upload to, or nothing where the file is known."""
        self._writable(request, proposal=True)
        base = self.url + request.url.path.removesuffix("/batch")
        objects = []
        for wanted in (await request.json())["objects"]:
            sha256 = wanted["oid"]
            if not (self._blobs / sha256).exists():
                upload = {"href": self._sign(sha256)}
                wanted["actions"] = {"upload": upload, "verify": {"href": f"{base}/verify"}}
            objects.append(wanted)
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def _lfs_verify(self, request: Request) -> Response:
        """Take an upload over once its size and its SHA-256 are what was announced."""
        self._writable(request, proposal=True)
        announced = await request.json()
        upload = self._blobs / f"{announced['oid']}.upload"
        if not upload.exists():
            raise Refused(404, "Object does not exist")
        with upload.open("rb") as file:
            sha256 = await run_in_threadpool(file_sha256, file)
        if (sha256, upload.stat().st_size) != (announced["oid"], announced["size"]):
            upload.unlink()
            raise Refused(422, f"The upload is not {announced['oid']}")
        upload.rename(self._blobs / sha256)
        return JSONResponse({})

    async def _receive_commit(self, request: Request) -> Response:
        """Apply an NDJSON commit to a branch or pull request, or open a pull request with it."""
        proposal = "create_pr" in request.query_params
        repository = self._writable(request, proposal=proposal)
        revision = unquote(request.path_params["revision"])
        ref = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
        if ref not in repository.refs:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        head = repository.refs[ref]
        files = dict(repository.commits[head].files)
        header: dict[str, Any] = {}
        for line in (await request.body()).splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "header":
                header = value
            elif operation["key"] == "file":
                content = base64.b64decode(value["content"])
                files[value["path"]] = File(git_id(content), len(content))
                (self._blobs / git_id(content)).write_bytes(content)
            elif operation["key"] == "lfsFile":
                blob = self._blobs / value["oid"]
                if not blob.exists() or blob.stat().st_size != value["size"]:
                    raise Refused(400, f"LFS object {value['oid']} was not uploaded")
                files[value["path"]] = lfs_file(value["oid"], value["size"])
            elif operation["key"] == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
            elif operation["key"] == "deletedFolder":
                files = {p: f for p, f in files.items() if not p.startswith(value["path"])}
        if header.get("parentCommit", head) != head:
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        author, _ = self._user(request)
        commit = self._commit(repository, [head], files, header["summary"], author)
        answer = {"success": True, "commitOid": commit}
        address = f"{self.url}/" + ("" if repository.kind == "models" else f"{repository.kind}/")
        answer["commitUrl"] = f"{address}{repository.id}/commit/{commit}"
        if proposal:
            number = 1 + sum(ref.startswith("refs/pr/") for ref in repository.refs)
            ref = f"refs/pr/{number}"
            answer["pullRequestUrl"] = f"{address}{repository.id}/discussions/{number}"
        repository.refs[ref] = commit
        return JSONResponse(answer)

    # --- what a Space has besides its files -------------------------------------------------------

    async def _set_secret(self, request: Request) -> Response:
        repository, wanted = self._writable(request), await request.json()
        repository.secrets[wanted["key"]] = wanted["value"]
        return JSONResponse({})

    async def _variables(self, request: Request) -> Response:
        repository = self._writable(request)
        if request.method == "POST":
            wanted = await request.json()
            repository.variables[wanted["key"]] = wanted["value"]
        return JSONResponse({key: {"value": text} for key, text in repository.variables.items()})

    async def _request_hardware(self, request: Request) -> Response:
        repository = self._writable(request)
        repository.hardware = (await request.json())["flavor"]
        return self._runtime(request)

    def _runtime(self, request: Request) -> Response:
        hardware = {"current": "cpu-basic", "requested": self._repository(request).hardware}
        return JSONResponse({"stage": "BUILDING", "hardware": hardware})

    # --- downloads -------------------------------------------------------------------------------

    def _sought(self, request: Request) -> tuple[Repository, Commit, str, File]:
        repository = self._repository(request, content=True)
        commit = repository.resolve(unquote(request.path_params["revision"]))
        path = unquote(request.path_params["path"])
        if path not in commit.files:
            headers = {"X-Repo-Commit": commit.id}
            raise Refused(404, "Entry not found", "EntryNotFound", headers)
        return repository, commit, path, commit.files[path]

    def _resolve(self, request: Request) -> Response:
        """Redirect to where a file lies: large ones on another host, small ones on this one."""
        repository, commit, path, file = self._sought(request)
        headers = {"X-Repo-Commit": commit.id, "ETag": f'"{file.oid}"'}
        if file.sha256:
            headers["X-Linked-ETag"] = f'"{file.sha256}"'
            headers["X-Linked-Size"] = str(file.size)
            address = self._sign(file.sha256) + f"&filename={quote(path.split('/')[-1])}"
            return RedirectResponse(address, 302, headers)
        place = f"/api/resolve-cache/{repository.kind}/{repository.id}/{commit.id}/{quote(path)}"
        return RedirectResponse(place, 307, headers)

    def _small(self, request: Request) -> Response:
        _, commit, path, file = self._sought(request)
        headers = {"X-Repo-Commit": commit.id, "ETag": f'"{file.oid}"', **named(path)}
        return FileResponse(self._blobs / file.oid, headers=headers)

    def _sign(self, sha256: str) -> str:
        """An address in the storage that whoever holds it may use without a token."""
        signature = secrets.token_hex(16)
        self._signatures.add(f"{sha256} {signature}")
        return f"http://localhost:{self.port}/storage/{sha256}?signature={signature}"

    async def _storage(self, request: Request) -> Response:
        """The host of the large files: takes any upload, and sends whole files or parts."""
        sha256 = request.path_params["sha256"]
        if f"{sha256} {request.query_params.get('signature')}" not in self._signatures:
            raise Refused(403, "SignatureDoesNotMatch")
        if "authorization" in request.headers:
            raise Refused(400, "Only one auth mechanism allowed")
        if request.method != "PUT":
            headers = {"ETag": '"not-the-sha256"', **named(request.query_params["filename"])}
            response = FileResponse(self._blobs / sha256, headers=headers)
            response.chunk_size = 2**20
            return response
        with (self._blobs / f"{sha256}.upload").open("wb") as file:
            async for chunk in request.stream():
                file.write(chunk)
        return Response()


class _CutOff(Exception):
    """Raised where an answer is to break off."""


def is_large_file(path: str, sample: bytes, size: int) -> bool:
    """Whether the Hub wants a file through LFS."""
    return path.endswith(".safetensors") or b"\0" in sample or size >= LARGE


def named(path: str) -> dict[str, str]:
    """The header by which the client knows what to call a download."""
    return {"Content-Disposition": f'inline; filename="{quote(path.split("/")[-1])}";'}


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def lfs_file(sha256: str, size: int) -> File:
    """An LFS file: what Git sees of it is a pointer."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    return File(git_id(pointer.encode()), size, sha256)


def file_sha256(file: Any) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(2**20):
        digest.update(chunk)
    return digest.hexdigest()


def front_matter(text: str) -> Any:
    """The YAML at the beginning of a card; None where there is none."""
    found = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
    return yaml.safe_load(found[1]) if found else None
