"""A model's files to and from the Hugging Face Hub, and what to do when that fails."""

import hashlib
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcn_hub.checkpoint import CARD_NAME, CONFIG_NAME, WEIGHTS_NAME, CheckpointError

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

_LOG_IN = "Log in with `hf auth login`, set HF_TOKEN or pass token=."


class HubError(OSError):
    """Something that the Hub refused or could not do; the message says what to do next."""


# --- from the Hub ------------------------------------------------------------------------------


def fetch_file(
    model: str | Path,
    filename: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """The local path of one file of a model, downloaded into the cache if need be.

    Args:
        model: A folder, or a Hub id such as ``owner/name``.
        filename: Name of the file inside the folder or repository.
        revision, token, cache_dir, force_download, local_files_only: As for
            `huggingface_hub.hf_hub_download`; they have no meaning for a folder.

    Raises:
        CheckpointError: No such folder, repository, revision or file; no permission; no network;
            what arrived is not what the Hub holds.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / filename).is_file():
            raise CheckpointError(f"{folder} has no {filename}.{_hint(filename)}")
        return folder / filename
    if folder.is_file():
        raise CheckpointError(
            f"{model} is a file. A model is a folder with {CONFIG_NAME} and {WEIGHTS_NAME}; other "
            "weights are converted with fcn_hub.importers.import_checkpoint."
        )
    return _download(
        str(model),
        filename,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        force_download=force_download,
        local_files_only=local_files_only,
    )


def commit_of(path: Path) -> str | None:
    """The commit that a file in the Hub's cache belongs to; None for a file anywhere else.

    A branch can move between two downloads. Fetching the second file at the commit of the first
    one keeps them together.
    """
    folder = path.parent
    is_cached = folder.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", folder.name)
    return folder.name if is_cached else None


def identity(model: str | Path, revision: str | None) -> dict[str, Any]:
    """Which weights these are: the model's name, its commit on the Hub, and their SHA-256."""
    commit = commit_of(fetch_file(model, CONFIG_NAME, revision=revision))
    weights = fetch_file(model, WEIGHTS_NAME, revision=revision)
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else None
        digest = digest or hashlib.sha256(file.read())
    return {
        "model": str(model),
        "revision": commit or revision,
        "weights_sha256": digest.hexdigest(),
    }


def _download(
    repo_id: str,
    filename: str,
    *,
    revision: str | None,
    cache_dir: str | Path | None,
    force_download: bool,
    **options: Any,
) -> Path:
    from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache

    place: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir}
    try:
        known = try_to_load_from_cache(repo_id, filename, **place)
        path = hf_hub_download(repo_id, filename, force_download=force_download, **place, **options)
    # HTTPError is that of httpx or of httpx2, whichever the client is built on. Early ones end
    # their attempts to connect with a RuntimeError.
    except (
        errors.EntryNotFoundError,
        errors.HTTPError,
        OSError,
        RuntimeError,
        ValueError,
    ) as error:
        reason = error
    else:
        if force_download or known != path:
            _check_content(Path(path))
        return Path(path)
    raise CheckpointError(_why_not_downloaded(reason, repo_id, filename, revision))


def _check_content(path: Path) -> None:
    """Discard a file fresh from the Hub whose content is not what its name in the cache says.

    The client compares sizes. A file in the cache links to one that is named after its content,
    by SHA-256 if it is large, so a flipped bit in the weights can be told as well.
    """
    if not path.is_symlink():  # on file systems without links there is no such name
        return
    blob = path.parent / path.readlink()
    size = blob.stat().st_size
    if re.fullmatch("[0-9a-f]{64}", blob.name):
        digests = [hashlib.sha256()]
    elif re.fullmatch("[0-9a-f]{40}", blob.name):  # Git's id; mirrors of the Hub send plain SHA-1
        digests = [hashlib.sha1(f"blob {size}\0".encode()), hashlib.sha1()]
    else:
        return
    with blob.open("rb") as file:
        while chunk := file.read(2**20):
            for digest in digests:
                digest.update(chunk)
    if blob.name not in [digest.hexdigest() for digest in digests]:
        path.unlink()
        blob.unlink()
        raise CheckpointError(
            f"{path.name} arrived damaged: its checksum is not that of the file on the Hub. The "
            "copy has been removed; try again."
        )


def _why_not_downloaded(error: Exception, repo_id: str, filename: str, revision: str | None) -> str:
    from huggingface_hub import constants, errors

    where = f"{repo_id!r} on the Hub" + (f" at revision {revision!r}" if revision else "")
    # The client reports most failures as "not in the cache", caused by what really happened.
    # With force_download it is a plain ValueError.
    not_cached = isinstance(error, errors.LocalEntryNotFoundError)
    cause = (error.__cause__ or error) if not_cached or type(error) is ValueError else error
    if isinstance(cause, errors.HFValidationError):
        return f"{repo_id!r} is neither a folder here nor a Hub id such as 'owner/name'."
    if isinstance(cause, errors.GatedRepoError):
        return (
            f"{where} is gated: accept its terms on its page, then log in with `hf auth login` "
            "or pass token=."
        )
    if isinstance(cause, errors.RevisionNotFoundError):
        return f"{repo_id!r} has no revision {revision!r}; check its branches, tags and commits."
    if isinstance(cause, errors.RepositoryNotFoundError):
        return (
            f"There is no folder {repo_id!r} here and no model {where} that you may read. Check "
            "the name; for a private model log in with `hf auth login` or pass token=."
        )
    if isinstance(cause, errors.EntryNotFoundError) and not not_cached:
        return f"{where} has no {filename}.{_hint(filename)}"
    if isinstance(cause, errors.HfHubHTTPError):
        status = cause.response.status_code
        what_next = _LOG_IN if status in (401, 403) else "Try again later."
        return f"The Hub answered {status} for {filename} of {where}{_quoted(cause)}. {what_next}"
    if isinstance(cause, errors.LocalTokenNotFoundError):
        return f"token=True needs a login. {_LOG_IN}"
    if not_cached:
        return (
            f"{filename} of {where} is not in the cache and could not be downloaded from "
            f"{constants.ENDPOINT}. Check the network, or run once online before using "
            "local_files_only or HF_HUB_OFFLINE."
        )
    return (
        f"Could not download {filename} of {where} from {constants.ENDPOINT}: "
        f"{_one_line(cause).rstrip('.')}. Check the network and try again."
    )


def _hint(filename: str) -> str:
    if "/" in filename:
        return " Export the network with `fcn-hub export`."
    if filename != WEIGHTS_NAME:
        return ""
    return (
        " Weights are read from safetensors only: a pickle (.bin, .pth) can run code when it is "
        "opened. Convert a file that you trust with fcn_hub.importers.import_checkpoint."
    )


# --- to the Hub --------------------------------------------------------------------------------


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    commit_message: str = "Push model with fcn-hub",
    private: bool | None = None,
    token: str | bool | None = None,
    branch: str | None = None,
    create_pr: bool | None = None,
    tag: str | None = None,
    overwrite_card: bool = False,
    allow_patterns: list[str] | str | None = None,
    ignore_patterns: list[str] | str | None = None,
    delete_patterns: list[str] | str | None = None,
) -> "CommitInfo":
    """Push a model's folder to the Hub as it stands, in one commit.

    The repository and the branch are created where there are none. Files that are there already
    with the same content are not sent again, and nothing is committed where all of them are.

    Args:
        folder: A folder with config.json and model.safetensors. All its files are pushed but
            hidden ones (any part of the path begins with a dot).
        repo_id: Where to, as ``owner/name``.
        commit_message: The commit's title.
        private: Whether a new repository is private; the owner's default where None.
        token: A token with write permission; that of the login where None.
        branch: The branch to push to; ``main`` where None.
        create_pr: Open a pull request with the commit instead of putting it on the branch.
        tag: Name to tag the commit with, such as ``v1.0``.
        overwrite_card: Replace a README.md on the Hub. Otherwise what was edited there is kept,
            and the rest of it brought up to date (`fcn_hub.card.merge_card`).
        allow_patterns, ignore_patterns: Push only files that match, or none that do.
        delete_patterns: Delete files on the Hub that match and are not pushed.

    Returns:
        The commit: a string with its URL, whose `oid` and `pr_url` tell more.

    Raises:
        CheckpointError: The folder is not a model's.
        HubError: The id, the token, its permission, the branch, the tag, the room on the Hub, or
            the way there is at fault.

    Example:
        >>> push_folder("runs/camvid/best", "owner/name", tag="v1.0")  # doctest: +SKIP
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise CheckpointError(f"There is no folder {folder}.")
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        fetch_file(folder, name)
    if tag and create_pr:
        raise HubError("A pull request cannot be tagged; tag the commit once it is merged.")
    api = client_for(repo_id, token)
    with explained(repo_id):
        head = _prepare(api, repo_id, private=private, branch=branch, tag=tag)
        files = _files(folder, allow_patterns, ignore_patterns)
        if CARD_NAME in files and not overwrite_card:
            files[CARD_NAME] = _merge_card(api, repo_id, head or branch, files[CARD_NAME])
        commit = api.create_commit(
            repo_id,
            _operations(api, repo_id, branch, files, delete_patterns),
            commit_message=commit_message,
            revision=branch,
            create_pr=create_pr,
            parent_commit=head,
        )
    if tag:
        with explained(
            repo_id, prefix=f"It is pushed as {commit.commit_url} but not tagged {tag!r}. "
        ):
            api.create_tag(repo_id, tag=tag, revision=commit.oid)
    return commit


def client_for(repo_id: str, token: str | bool | None) -> "HfApi":
    """The client, once the id is known to be one and there is a token to show.

    Raises:
        HubError: It is not ``owner/name``, or nobody is logged in.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    from fcn_hub import __version__

    try:
        validate_repo_id(repo_id)
        is_id = repo_id.count("/") == 1
    except HFValidationError:
        is_id = False
    if not is_id:
        raise HubError(f"{repo_id!r} is not a Hub id; it takes 'owner/name', with your user name.")
    if token is None or token is True:
        token = get_token()
    if not token:
        raise HubError(f"Pushing to the Hub needs a token with write permission. {_LOG_IN}")
    return HfApi(token=token, library_name="fcn-hub", library_version=__version__)


def _prepare(
    api: "HfApi", repo_id: str, *, private: bool | None, branch: str | None, tag: str | None
) -> str | None:
    """Create the repository and the branch where missing; the commit that the branch is at."""
    api.create_repo(repo_id, private=private, exist_ok=True)
    if private and not api.model_info(repo_id).private:
        raise HubError(
            f"{repo_id!r} is there already and is public; private is for new repositories. Make "
            "it private in its settings on the Hub, or leave private out."
        )
    refs = api.list_repo_refs(repo_id)
    if tag in [ref.name for ref in refs.tags]:
        raise HubError(f"{repo_id!r} has a tag {tag!r} already; choose another one.")
    heads = {ref.name: ref.target_commit for ref in refs.branches}
    branch = branch or "main"
    if branch not in heads and not branch.startswith("refs/"):  # refs/pr/1 is a pull request
        api.create_branch(repo_id, branch=branch, exist_ok=True)
        return heads.get("main")
    return heads.get(branch)


def _files(
    folder: Path, allow: list[str] | str | None, ignore: list[str] | str | None
) -> dict[str, Path | bytes]:
    """The files to push by their paths in the repository."""
    from huggingface_hub.utils import filter_repo_objects

    found = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    names = [
        path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts)
    ]
    names = list(filter_repo_objects(names, allow_patterns=allow, ignore_patterns=ignore))
    return {name: folder / name for name in names}


def _merge_card(
    api: "HfApi", repo_id: str, revision: str | None, card: Path | bytes
) -> Path | bytes:
    """The card to push: the given one, or the Hub's brought up to date by it."""
    from huggingface_hub.errors import EntryNotFoundError

    from fcn_hub.card import merge_card

    with tempfile.TemporaryDirectory() as cache:
        try:
            path = api.hf_hub_download(repo_id, CARD_NAME, revision=revision, cache_dir=cache)
        except EntryNotFoundError:
            return card
        existing = Path(path).read_bytes()
    rendered = card if isinstance(card, bytes) else card.read_bytes()
    if existing == rendered:
        return card
    try:
        merged = merge_card(existing.decode("utf-8-sig"), rendered.decode("utf-8-sig"))
    except ValueError as error:
        raise HubError(
            f"The card of {repo_id!r} on the Hub cannot be brought up to date: {_one_line(error)} "
            "Mend it there, or replace it with overwrite_card."
        ) from None
    return merged.encode()


def _operations(
    api: "HfApi",
    repo_id: str,
    branch: str | None,
    files: dict[str, Path | bytes],
    delete_patterns: list[str] | str | None,
) -> list[Any]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.utils import filter_repo_objects

    operations: list[Any] = [CommitOperationAdd(name, content) for name, content in files.items()]
    if delete_patterns is not None:
        there = api.list_repo_files(repo_id, revision=branch)
        for name in filter_repo_objects(there, allow_patterns=delete_patterns):
            if name not in files and name != ".gitattributes":
                operations.append(CommitOperationDelete(name))
    return operations


@contextmanager
def explained(repo_id: str, *, kind: str = "model", prefix: str = "") -> Iterator[None]:
    """Turn whatever the client raises about a repository into a HubError of one line."""
    from huggingface_hub import errors

    try:
        yield
    except (CheckpointError, HubError):
        raise
    except (errors.HTTPError, OSError, RuntimeError, ValueError) as error:
        # An upload's failure comes as a RuntimeError that was caused by what really happened.
        cause = error.__cause__ if isinstance(error, RuntimeError) else None
        reason = _why_not_pushed(cause or error, repo_id, kind)
        raise HubError(prefix + reason) from error


def _why_not_pushed(error: BaseException, repo_id: str, kind: str) -> str:
    from huggingface_hub import constants, errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so nothing can be pushed. Unset it and push again."
    if isinstance(error, errors.GatedRepoError):
        return f"{repo_id!r} is gated: accept its terms on its page before you push to it."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo_id!r} has no such branch or pull request on the Hub{_quoted(error)}."
    if not isinstance(error, errors.HfHubHTTPError):
        if isinstance(error, ValueError | RuntimeError):
            return f"The Hub did not take the push to {repo_id!r}: {_one_line(error)}"
        return (
            f"Could not reach the Hub at {constants.ENDPOINT}: {_one_line(error).rstrip('.')}. "
            "Check the network and push again."
        )
    status, said = error.response.status_code, _quoted(error)
    if status == 401:
        return f"The Hub does not accept the token{said}. {_LOG_IN}"
    if status == 402 and kind == "Space":
        return (
            f"The Hub wants a subscription or a payment for {repo_id!r}{said}. See "
            "https://huggingface.co/pricing, or choose other hardware."
        )
    if status in (402, 413, 507) or (status == 403 and re.search("storage|quota", said.lower())):
        return (
            f"The Hub has no room for the push to {repo_id!r}{said}. Free some space, or see "
            "https://huggingface.co/docs/hub/storage-limits."
        )
    if status == 403:
        return (
            f"The token may not write to {repo_id!r}{said}. Make one that may on "
            "https://huggingface.co/settings/tokens, or propose the change with create_pr."
        )
    if status == 404:
        return f"There is no {kind} {repo_id!r} on the Hub that the token may write to{said}."
    if status in (409, 412):
        return f"{repo_id!r} was changed while you pushed{said}. Look at the change and push again."
    if status == 429:
        return f"The Hub's rate limit is reached{said}. Wait some minutes and push again."
    if status >= 500:
        return f"The Hub answered {status}{said}. Push again later; no upload is repeated."
    return f"The Hub refused the push to {repo_id!r} with {status}{said}."


def _quoted(error: Any) -> str:
    """What the Hub said, in brackets."""
    said = getattr(error, "server_message", None)
    return f" ({_one_line(said).rstrip('.')})" if said else ""


def _one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__
