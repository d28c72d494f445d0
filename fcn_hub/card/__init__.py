"""The model card: README.md of a model folder, rendered from the template `model_card.md`.

Figures come from the records training.json and evaluation.json alone, classes from the model's
configuration. What is not known is said to be so. Whatever the records and the class names hold
is text: it is escaped wherever it is put, so that it cannot become markup.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard
from jinja2 import Environment, StrictUndefined

from fcn_hub.card.front_matter import front_matter, licence_of, licence_text
from fcn_hub.card.merge import merge_card, sealed
from fcn_hub.card.pictures import (
    LEGEND_NAME,
    MOST_CLASSES,
    SAMPLE_NAME,
    make_legend,
    make_sample,
    sample_credit,
)
from fcn_hub.card.records import (
    EVALUATION_NAME,
    FIGURES,
    TRAINING_NAME,
    backbone_facts,
    binding_source,
    class_rows,
    curve_facts,
    earlier_terms,
    evaluation_facts,
    fits_weights,
    line_at,
    origin_facts,
    read_record,
    repository,
    source_of,
    training_facts,
)
from fcn_hub.card.text import Markdown, escape, one_line
from fcn_hub.checkpoint import CARD_NAME, PROCESSOR_NAME
from fcn_hub.files import atomic_write, resource

if TYPE_CHECKING:
    from fcn_hub.model import FCN

__all__ = [
    "EVALUATION_NAME",
    "FIGURES",
    "LEGEND_NAME",
    "SAMPLE_NAME",
    "TRAINING_NAME",
    "escape",
    "make_legend",
    "make_sample",
    "merge_card",
    "render_card",
    "write_card",
]


def render_card(
    model: "FCN",
    folder: str | Path | None = None,
    *,
    repo_id: str | None = None,
    training: dict[str, Any] | None = None,
    evaluation: dict[str, Any] | None = None,
    license: str | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    base_model: str | None = None,
) -> ModelCard:
    """The card of a model.

    Args:
        model: The model that the card describes.
        folder: Where its files lie: training.json, evaluation.json, sample.png and legend.png
            are used where they are there. An evaluation.json whose weights_sha256 is not that
            of the folder's model.safetensors is left out.
        repo_id: Its Hub id, for the examples and as its name.
        training, evaluation: The records, in place of those in the folder.
        license, license_name, license_link: Of the weights, as the Hub's front matter has them.
            Where None, those of the training record, or those that follow from the data set.
        base_model: Hub id of the model that it was fine-tuned from; the training record's where
            None.

    Returns:
        The card; `str` of it is the README.md, `data.eval_results` holds the figures.

    Raises:
        ConfigError: A record in the folder is no JSON object.

    Example:
        >>> from fcn_hub import FCN
        >>> "Not measured." in str(render_card(FCN(num_classes=2)))
        True
    """
    folder = Path(folder) if folder is not None else None
    stale = False
    if training is None:
        training = read_record(folder, TRAINING_NAME)
    if evaluation is None:
        evaluation = read_record(folder, EVALUATION_NAME)
        stale = folder is not None and not fits_weights(evaluation, folder)
        evaluation = {} if stale else evaluation
    source = source_of(training)
    binding = binding_source(training)
    licence = licence_of(training, binding, license, license_name, license_link)
    base_model = one_line(base_model) if base_model else line_at(training, "base_model")
    data = front_matter(model, repo_id, training, evaluation, licence, base_model)
    template = _environment().from_string(resource("model_card.md").read_text(encoding="utf-8"))
    content = template.render(
        card_data=Markdown(data.to_yaml()),
        model=model,
        most_classes=MOST_CLASSES,
        classes=class_rows(model.label_map, evaluation),
        repo=repository(repo_id),
        sample=sample_credit(folder),
        in_transformers=folder is not None and (folder / PROCESSOR_NAME).is_file(),
        has_legend=folder is not None and (folder / LEGEND_NAME).is_file(),
        evaluation=evaluation_facts(evaluation),
        stale=stale,
        training=training_facts(training) if training else None,
        curve=curve_facts(training),
        origin=origin_facts(training),
        source=source,
        licence=licence_text(licence, binding),
        backbone=backbone_facts(training),
        earlier_terms=earlier_terms(training),
        markdown=Markdown,
    )
    return sealed(ModelCard(content))


def write_card(model: "FCN", folder: str | Path, **values: Any) -> Path:
    """Write or bring up to date the README.md of a model's folder, and legend.png beside it.

    What was edited by hand is kept, see `merge_card`. Call it once the records and the sample
    are in the folder.

    Args:
        model: The folder's model.
        folder: Where it lies.
        **values: Further arguments of `render_card`.

    Returns:
        The path of README.md.

    Raises:
        ValueError: The front matter of the README.md that is there cannot be read.
    """
    folder = Path(folder)
    make_legend(model.label_map, folder / LEGEND_NAME)
    text = str(render_card(model, folder, **values))
    path = folder / CARD_NAME
    if path.is_file():
        text = merge_card(path.read_bytes().decode("utf-8-sig"), text)
    with atomic_write(path) as temporary:
        temporary.write_bytes(text.encode())
    return path


def _environment() -> Environment:
    return Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markdown) else escape(value),
    )
