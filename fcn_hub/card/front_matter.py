"""The front matter of a card: what the Hub reads."""

import re
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCardData

from fcn_hub.card.records import FIGURES, as_share, line_at, repository, value_at
from fcn_hub.card.sources import SOURCES, Source
from fcn_hub.card.text import Markdown, escape, one_line, slug

if TYPE_CHECKING:
    from fcn_hub.model import FCN

LICENSE_KEYS = ("license", "license_name", "license_link")


def front_matter(
    model: "FCN",
    repo_id: str | None,
    training: dict[str, Any],
    evaluation: dict[str, Any],
    licence: dict[str, str | None],
    base_model: str | None,
) -> ModelCardData:
    data_set = line_at(training, "dataset.name") or ""
    values = model._hub_mixin_info.model_card_data.to_dict()
    tags = [*(values.get("tags") or []), slug(data_set)]
    values |= {"tags": [tag for tag in tags if tag], **licence, "base_model": base_model}
    if hub_id := _hub_id(data_set):
        values["datasets"] = [hub_id]
    if results := _eval_results(evaluation):
        values["metrics"] = [result.metric_type for result in results]
        values["model_name"] = repository(repo_id)["name"] or f"fcn-vgg16-{data_set}".strip("-")
        values["eval_results"] = results
    return ModelCardData(**values)


def _eval_results(evaluation: dict[str, Any]) -> list[EvalResult]:
    name = line_at(evaluation, "options.dataset") or "unknown"
    protocol = {
        "protocol": line_at(evaluation, "protocol") or "not recorded",
        "pictures": value_at(evaluation, "pictures", int),
    }
    return [
        EvalResult(
            task_type="image-segmentation",
            task_name="Semantic segmentation",
            dataset_type=_hub_id(name) or slug(name) or "unknown",
            dataset_name=SOURCES[name].title if name in SOURCES else name,
            dataset_split=line_at(evaluation, "options.split"),
            dataset_args={key: value for key, value in protocol.items() if value is not None},
            metric_type=metric,
            metric_name=title,
            metric_value=value,
        )
        for key, title, metric in FIGURES
        if (value := as_share(evaluation.get(key))) is not None
    ]


def _hub_id(data_set: str) -> str | None:
    if data_set in SOURCES:
        return SOURCES[data_set].hub_id
    return data_set if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", data_set) else None


def licence_of(
    training: dict[str, Any], source: Source | None, *given: str | None
) -> dict[str, str | None]:
    """The three keys of the front matter: as given, as recorded, or of the training pictures."""
    recorded = tuple(line_at(training, key) for key in LICENSE_KEYS)
    derived = ("other", source.license_name, source.license_link) if source else ("unknown",)
    chosen = next(values for values in (given, recorded, derived) if any(values))
    values = [value and one_line(value) for value in (*chosen, None, None)]
    return dict(zip(LICENSE_KEYS, [values[0] or "other", *values[1:3]], strict=True))


def licence_text(licence: dict[str, str | None], source: Source | None) -> str | None:
    """The terms of the weights, for people."""
    name, link = licence["license_name"] or licence["license"], licence["license_link"]
    if name == "unknown":
        return None
    if source and name == source.license_name:
        return "No licence of their own: they stand under the terms of what they learned from."
    if link and re.fullmatch(r"https?://[\w./%?=+-]+", link):
        return Markdown(f"[{escape(name)}]({link})")
    return f"{name}, see {link}" if link else name
