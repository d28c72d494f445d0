"""Fetching a model's files, from a folder or from the Hugging Face Hub."""

from pathlib import Path
from typing import Any

from fcn_hub.checkpoint import CONFIG_NAME, WEIGHTS_NAME, CheckpointError


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
        CheckpointError: No such folder, repository, revision or file; no permission; no network.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / filename).is_file():
            raise CheckpointError(f"{folder} has no {filename}.{_pickle_hint(filename)}")
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


def _download(repo_id: str, filename: str, *, revision: str | None, **options: Any) -> Path:
    from huggingface_hub import errors, hf_hub_download

    where = f"{repo_id!r} on the Hub" + (f" at revision {revision!r}" if revision else "")
    try:
        return Path(hf_hub_download(repo_id, filename, revision=revision, **options))
    except errors.HFValidationError:
        message = f"{repo_id!r} is neither a folder here nor a Hub id such as 'owner/name'."
    except errors.GatedRepoError:
        message = (
            f"{where} is gated: accept its terms on its page, then log in with `hf auth login` "
            "or pass token=."
        )
    except errors.RevisionNotFoundError:
        message = f"{repo_id!r} has no revision {revision!r}; check its branches, tags and commits."
    except errors.RepositoryNotFoundError:
        message = (
            f"There is no folder {repo_id!r} here and no model {where} that you may read. Check "
            "the name; for a private model log in with `hf auth login` or pass token=."
        )
    except errors.LocalEntryNotFoundError:
        message = (
            f"{filename} of {where} is not in the cache and could not be downloaded. Check the "
            "network, or run once online before using local_files_only or HF_HUB_OFFLINE."
        )
    except errors.EntryNotFoundError:
        message = f"{where} has no {filename}.{_pickle_hint(filename)}"
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "an error"
        message = f"The Hub answered {status} for {filename} of {where}; try again later."
    except (
        errors.HTTPError,
        OSError,
    ) as error:  # HTTPError: of httpx or httpx2, as the Hub's client
        message = f"Could not download {filename} of {where}: {error or type(error).__name__}"
    raise CheckpointError(message)


def _pickle_hint(filename: str) -> str:
    if filename != WEIGHTS_NAME:
        return ""
    return (
        " Weights are read from safetensors only: a pickle (.bin, .pth) can run code when it is "
        "opened. Convert a file that you trust with fcn_hub.importers.import_checkpoint."
    )
