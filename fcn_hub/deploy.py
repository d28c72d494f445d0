"""The web app as a Gradio Space on the Hub: what it consists of, and bringing one up to date.

A Space is built from its repository alone, and its requirements are installed before the rest of
the repository is there, so that requirements.txt cannot name a wheel that lies beside it. The
package's folder `fcn_hub` therefore goes along, next to app.py, where Python finds it: app and
package are of one commit, and a private Space needs no package index. Which models it offers, at
which commits, stands in the front matter of its README.md (`preload_from_hub`), where the Hub reads
it to fetch them when the Space is built, and the app to load them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcn_hub.checkpoint import CARD_NAME, CONFIG_NAME, WEIGHTS_NAME
from fcn_hub.files import resource
from fcn_hub.hub import HubError, client_for, explained

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

# What the app reads of a model; the first two must be there.
_MODEL_FILES = (CONFIG_NAME, WEIGHTS_NAME, CARD_NAME, "evaluation.json")


@dataclass(frozen=True)
class Pin:
    """A model of the Hub at one commit, and those of its files that the app reads."""

    repo_id: str
    commit: str
    files: tuple[str, ...]
    private: bool

    def __str__(self) -> str:
        return f"{self.repo_id} {','.join(self.files)} {self.commit}"


@dataclass(frozen=True)
class Deployment:
    """What bringing a Space up to date amounts to; `send` does it.

    Args:
        repo_id: The Space.
        exists: Whether it is there already.
        private: Whether a new one is to be private.
        files: What its repository is to hold, by path.
        add, change, delete: Paths that the commit touches.
        models: The models that it is to offer, the first by default.
        hardware: What to ask for, and what it has now; None where nothing is asked for.
        variables: Those to set.
        secrets: Those to set. Their values are never shown.
    """

    repo_id: str
    exists: bool
    private: bool
    files: Mapping[str, bytes] = field(repr=False)
    add: tuple[str, ...]
    change: tuple[str, ...]
    delete: tuple[str, ...]
    models: tuple[Pin, ...]
    hardware: tuple[str, str | None] | None
    variables: Mapping[str, str]
    secrets: Mapping[str, str] = field(repr=False)
    _api: "HfApi" = field(repr=False)
    _head: str | None = field(repr=False)

    def describe(self) -> str:
        """All that `send` would send, as a text for people; of secrets the names alone."""
        state = "private" if self.private else "public"
        lines = [
            f"Update the Space {self.repo_id}."
            if self.exists
            else f"Create the {state} Space {self.repo_id}."
        ]
        lines += [f"  model     {pin.repo_id} at {pin.commit}" for pin in self.models]
        if self.hardware:
            wanted, now = self.hardware
            lines.append(f"  hardware  {wanted} (now {now or 'none'})")
        lines += [f"  variable  {key}={value}" for key, value in self.variables.items()]
        lines += [f"  secret    {key} (its value is not shown)" for key in self.secrets]
        changes = (("add", self.add), ("change", self.change))
        lines += [
            f"  {verb:8}  {path}, {len(self.files[path]):,} bytes"
            for verb, paths in changes
            for path in paths
        ]
        lines += [f"  delete    {path}" for path in self.delete]
        sent = [path for _, paths in changes for path in paths]
        size = sum(len(self.files[path]) for path in sent)
        lines.append(
            f"{len(sent)} files to send, {size:,} bytes; {len(self.delete)} to delete; "
            f"{len(self.files) - len(sent)} are there already."
        )
        if CARD_NAME in sent:
            front = self.files[CARD_NAME].decode().split("\n---\n")[0]
            lines.append(f"The front matter of {CARD_NAME}:\n{front}\n---")
        return "\n".join(lines)

    def send(self, commit_message: str = "Deploy the web app with fcn-hub") -> "CommitInfo":
        """Do it: create the Space where there is none, set it up, and commit its files.

        Settings come first, so that the commit's build finds them.

        Returns:
            The commit: a string with its URL.

        Raises:
            HubError: No permission, no network, the Space was changed meanwhile, …
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        space: dict[str, Any] = {"repo_type": "space"}
        operations: list[Any] = [
            CommitOperationAdd(path, self.files[path]) for path in (*self.add, *self.change)
        ]
        operations += [CommitOperationDelete(path) for path in self.delete]
        with explained(self.repo_id, kind="Space"):
            if not self.exists:
                self._api.create_repo(
                    self.repo_id, private=self.private, space_sdk="gradio", **space
                )
            for key, value in self.secrets.items():
                self._api.add_space_secret(self.repo_id, key, value)
            for key, value in self.variables.items():
                self._api.add_space_variable(self.repo_id, key, value)
            if self.hardware:
                self._api.request_space_hardware(self.repo_id, self.hardware[0])  # type: ignore[arg-type]
            return self._api.create_commit(
                self.repo_id,
                operations,
                commit_message=commit_message,
                parent_commit=self._head,
                **space,
            )


def plan_deployment(
    repo_id: str,
    models: Sequence[str],
    *,
    hardware: str | None = None,
    variables: Mapping[str, str] | None = None,
    secrets: Mapping[str, str] | None = None,
    private: bool = False,
    token: str | bool | None = None,
) -> Deployment:
    """Find out what it takes to bring a Space up to date. Nothing is sent.

    The Space's repository becomes exactly what this package holds of the app: files that are
    there and do not belong to it are deleted. Variables, secrets and hardware that are not named
    stay as they are.

    Args:
        repo_id: The Space, as ``owner/name``.
        models: Hub ids of the models to offer, ``owner/name`` or ``owner/name@revision``. Each is
            pinned to the commit that the revision (else ``main``) is at now.
        hardware: Such as ``cpu-basic``, ``zero-a10g`` or ``t4-small``.
        variables: Environment variables, for everyone to see.
        secrets: Environment variables that nobody can read back, such as an ``HF_TOKEN`` with
            which the app reads private models.
        private: Whether a new Space is private.
        token: A token with write permission; that of the login where None.

    Raises:
        HubError: An id is none, a model is not there or not for this package, no permission …

    Example:
        >>> plan = plan_deployment("owner/demo", ["owner/name"])  # doctest: +SKIP
        >>> print(plan.describe())  # doctest: +SKIP
        >>> plan.send()  # doctest: +SKIP
    """
    api = client_for(repo_id, token)
    if not models:
        raise HubError("A Space needs at least one model to offer.")
    pins = tuple(_pin(api, model) for model in models)
    secrets = dict(secrets or {})
    if hidden := [pin.repo_id for pin in pins if pin.private and "HF_TOKEN" not in secrets]:
        raise HubError(f"{hidden[0]!r} is private: the Space needs a secret HF_TOKEN to read it.")
    with explained(repo_id, kind="Space"):
        there = _look_up(api, repo_id)
        exists = there is not None
        if there is not None and private and not there.private:
            raise HubError(
                f"The Space {repo_id!r} is there already and is public; private is for new ones. "
                "Make it private in its settings on the Hub, or leave private out."
            )
        variables = dict(variables or {})
        if exists and variables:
            known = {k: v.value for k, v in api.get_space_variables(repo_id).items()}
            variables = {k: v for k, v in variables.items() if known.get(k) != v}
        now = api.get_space_runtime(repo_id).requested_hardware if exists and hardware else None
        present = _present(api, repo_id) if exists else {}
    files = space_files(pins)
    return Deployment(
        repo_id=repo_id,
        exists=exists,
        private=private,
        files=files,
        add=tuple(path for path in files if path not in present),
        change=tuple(
            path for path in files if path in present and present[path] not in _ids(files[path])
        ),
        delete=tuple(path for path in present if path not in files),
        models=pins,
        hardware=(hardware, now) if hardware and hardware != now else None,
        variables=variables,
        secrets=secrets,
        _api=api,
        _head=there.sha if there else None,
    )


def space_files(models: Sequence[Pin]) -> dict[str, bytes]:
    """The files of a Space that offers these models, by their paths in its repository."""
    app, package = resource("space/app.py").parent, Path(__file__).parent
    files = {
        path.relative_to(app).as_posix(): path.read_bytes()
        for path in sorted(app.rglob("*"))
        if path.is_file() and not _is_scratch(path.relative_to(app))
    }
    files[CARD_NAME] = _card(files[CARD_NAME].decode(), models).encode()
    for path in sorted([*package.rglob("*.py"), package / "py.typed"]):
        place = path.relative_to(package)
        if place.parts[0] != "space":  # an installed package holds the app, too
            files[f"fcn_hub/{place.as_posix()}"] = path.read_bytes()
    files["fcn_hub/model_card.md"] = resource("model_card.md").read_bytes()
    return files


def _is_scratch(place: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in place.parts)


def _card(text: str, models: Sequence[Pin]) -> str:
    """The Space's README.md with the models in its front matter."""
    from huggingface_hub import RepoCard

    card = RepoCard(text)
    card.data["models"] = [pin.repo_id for pin in models]
    card.data["preload_from_hub"] = [str(pin) for pin in models]
    return str(card)


def _pin(api: "HfApi", model: str) -> Pin:
    repo_id, _, revision = model.partition("@")
    with explained(repo_id):
        info = api.model_info(repo_id, revision=revision or None)
    names = {sibling.rfilename for sibling in info.siblings or []}
    if missing := [name for name in _MODEL_FILES[:2] if name not in names]:
        raise HubError(f"{model!r} has no {missing[0]}, so it is not a model for fcn-hub.")
    files = tuple(name for name in _MODEL_FILES if name in names)
    return Pin(repo_id, str(info.sha), files, bool(info.private or info.gated))


def _look_up(api: "HfApi", repo_id: str) -> Any:
    """What the Hub says about the Space; None where there is none."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return api.space_info(repo_id)
    except RepositoryNotFoundError:
        return None


def _present(api: "HfApi", repo_id: str) -> dict[str, str]:
    """The ids of the files in the Space's repository: SHA-256 of large ones, else Git's."""
    from huggingface_hub.hf_api import RepoFile

    tree = api.list_repo_tree(repo_id, recursive=True, repo_type="space")
    return {
        entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id
        for entry in tree
        if isinstance(entry, RepoFile) and entry.path != ".gitattributes"
    }


def _ids(content: bytes) -> tuple[str, str]:
    """The ids under which the Hub may know a content."""
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return git, hashlib.sha256(content).hexdigest()
