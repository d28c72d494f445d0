"""Bringing a card up to date without losing what people wrote in it."""

import hashlib
import re
from typing import Any

import yaml
from huggingface_hub import ModelCard

from fcn_hub.card.records import FIGURES, value_at

# The same expression as the Hub's own for the front matter.
_FRONT_MATTER = re.compile(r"^(\s*---(?:\r\n|\r|\n))([\S\s]*?)((?:\r\n|\r|\n)---[ \t]*(\r\n|\n|$))")
_SEAL = re.compile(r"<!-- Written by fcn-hub; edits are kept\. ([0-9a-f]{16}) ([0-9a-f]{16}) -->")
LICENSE_KEYS = ("license", "license_name", "license_link")


def merge_card(existing: str, rendered: str) -> str:
    """Bring a card up to date without losing what people wrote.

    A card ends with a comment that holds the hashes of its front matter and its text. Each of
    the two that is still as it was written is replaced. Otherwise

    - the text is kept as it is;
    - the front matter keeps its keys, gets those that it lacks, and its figures are renewed:
      `model-index`, `metrics` and `datasets`. Results of another origin stay in `model-index`.

    Args:
        existing: The README.md that is there.
        rendered: The one that `render_card` made.

    Returns:
        The README.md to write.

    Raises:
        ValueError: The front matter of `existing` is not valid; nothing would be lost by it.

    Example:
        >>> merge_card("---\\nlicense: mit\\n---\\nMy text.", "---\\nlicense: other\\n---\\nText.")
        '---\\nlicense: mit\\n---\\nMy text.'
    """
    front, text = _split(existing)
    new_front, new_text = _split(rendered)
    seal = _SEAL.search(text)
    if seal is None or seal[2] != _text_hash(text):
        new_text = text
    if seal is None or seal[1] != _front_hash(front):
        new_front = _merged(front, new_front)
    return f"---\n{_yaml(new_front)}---\n{new_text}"


def _split(card: str) -> tuple[dict[str, Any], str]:
    """The front matter, empty where there is none, and the text after it."""
    card = card.removeprefix("\ufeff")
    match = _FRONT_MATTER.match(card)
    if match is None:
        if card.lstrip().startswith("---\n"):
            raise ValueError("The card's front matter has no closing line '---'.")
        return {}, card
    try:
        front = yaml.safe_load(match[2])
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"The card's front matter is not valid YAML: {reason}") from None
    front = {} if front is None else front
    if not isinstance(front, dict) or not all(isinstance(key, str) for key in front):
        raise ValueError("The card's front matter must be a mapping of names to values.")
    _results(front)
    return front, card[match.end() :]


def _merged(front: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    added = {
        key: value
        for key, value in new.items()
        if key not in front and not (key in LICENSE_KEYS and "license" in front)
    }
    merged = {**front, **added}
    ours = {metric for _, _, metric in FIGURES}
    metrics = [metric for metric in _listed(front, "metrics") if metric not in ours]
    merged["metrics"] = [*_listed(new, "metrics"), *metrics]
    merged["datasets"] = _listed(new, "datasets") or _listed(front, "datasets")
    # Results with a protocol are this package's, of these weights or of earlier ones.
    others = [result for result in _results(front) if not _has_protocol(result)]
    entries = front.get("model-index") or new.get("model-index") or [{}]
    results = [*_results(new), *others]
    merged["model-index"] = results and [{"name": entries[0].get("name"), "results": results}]
    figures = ("metrics", "datasets", "model-index")
    return {key: value for key, value in merged.items() if value or key not in figures}


def _listed(front: dict[str, Any], key: str) -> list[Any]:
    value = front.get(key) or []
    return value if isinstance(value, list) else [value]


def _results(front: dict[str, Any]) -> list[dict[str, Any]]:
    """The results of all entries of the model-index."""
    try:
        results = [
            result for entry in front.get("model-index") or [] for result in entry["results"]
        ]
        valid = all(isinstance(result, dict) for result in results)
    except (KeyError, TypeError):
        valid = False
    if not valid:
        raise ValueError(
            "The card's front matter has a model-index that is no list of entries with results."
        )
    return results


def _has_protocol(result: dict[str, Any]) -> bool:
    return value_at(result, "dataset.args.protocol", str) is not None


def sealed(card: ModelCard) -> ModelCard:
    """The card with the hashes by which `merge_card` knows that nobody has edited it."""
    front, text = _split(str(card))
    seal = f"<!-- Written by fcn-hub; edits are kept. {_front_hash(front)} {_text_hash(text)} -->"
    card.text = f"{text.rstrip()}\n\n{seal}\n"
    return card


def _text_hash(text: str) -> str:
    plain = "\n".join(line.rstrip() for line in _SEAL.sub("", text).strip().splitlines())
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def _front_hash(front: dict[str, Any]) -> str:
    return hashlib.sha256(_yaml(front).encode()).hexdigest()[:16]


def _yaml(front: dict[str, Any]) -> str:
    return yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
