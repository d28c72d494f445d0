"""Publishing a checkpoint's folder: all that belongs to a model, to the Hub, in one commit."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcn_hub.card import SAMPLE_NAME, make_sample
from fcn_hub.model import FCN
from fcn_hub.segmenter import Segmenter

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

    from fcn_hub.images import ImageSource


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    sample: "ImageSource | None" = None,
    sample_credit: str | None = None,
    license: str | None = None,
    **options: Any,
) -> "CommitInfo":
    """Push a checkpoint as it stands, with a card made of its records.

    The weights go as the folder holds them, so that figures measured on them stay theirs.

    Args:
        folder: A folder with config.json and model.safetensors, and what there is of
            training.json, evaluation.json, sample.png and README.md.
        repo_id: Where to, as ``owner/name``; created where there is none.
        sample: A picture that may be published. The folder's sample.png is drawn from it.
        sample_credit: Who made it and under which licence.
        license: Of the weights, as the Hub's front matter has it. Where None, that of the
            training record, or what follows from the data set.
        **options: As for `FCN.push_to_hub`: private, branch, create_pr, tag, …

    Returns:
        The commit: a string with its URL, whose `oid` and `pr_url` tell more.

    Raises:
        CheckpointError, ConfigError: The folder is not a model's.
        ImageError: The sample cannot be opened.
        HubError: The Hub refuses; the message says what to do.

    Example:
        >>> publish("runs/mine/best", "owner/name", tag="v1.0")  # doctest: +SKIP
    """
    model = FCN.from_pretrained(folder, dtype="auto")
    if sample is not None:
        segmenter = Segmenter.from_pretrained(folder)
        make_sample(segmenter, sample, Path(folder) / SAMPLE_NAME, credit=sample_credit)
    card = {"license": license} if license else None
    return model.push_to_hub(repo_id, folder=folder, model_card_kwargs=card, **options)
