"""The models that the app offers: which ones, what is known of them, and a few of them in memory.

What visitors choose from is fixed when the app starts. They choose by name, and a name that is not
in the catalog loads nothing.
"""

import json
import os
import re
import textwrap
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, metadata_load

from fcn_hub import FCN, CheckpointError, Segmenter
from fcn_hub.checkpoint import CARD_NAME, CONFIG_NAME, read_config
from fcn_hub.hub import fetch_file

HERE = Path(__file__).resolve().parent

DEFAULT = "fcn-vgg16-voc7"  # of the shipped models


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Args:
        name: What visitors choose it by.
        location: A folder or a Hub id.
        revision: Commit or tag on the Hub.
    """

    name: str
    location: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Source":
        """From a folder, ``owner/name`` or ``owner/name@revision``."""
        if Path(text).is_dir():
            return cls(Path(text).resolve().name, text)
        location, _, revision = text.partition("@")
        return cls(location, location, revision or None)


def offered(environment: Mapping[str, str] = os.environ) -> list[Source]:
    """The models to offer: those of FCN_HUB_MODELS, else FCN_HUB_MODEL, else those that the Space's
    README.md pins, else the shipped ones.

    FCN_HUB_MODELS lists folders and Hub ids, separated by commas or spaces. An id there needs a
    revision, ``owner/name@revision``, so that nobody can exchange the model behind the app's back.

    Raises:
        ValueError: An id without a revision, or a name twice.
    """
    if listed := environment.get("FCN_HUB_MODELS", "").replace(",", " ").split():
        sources = [Source.parse(text) for text in listed]
        for source in sources:
            if source.revision is None and not Path(source.location).is_dir():
                raise ValueError(
                    f"FCN_HUB_MODELS: {source.location} is no folder here; a Hub id needs a "
                    f"revision: {source.location}@COMMIT."
                )
    elif single := environment.get("FCN_HUB_MODEL"):
        sources = [Source.parse(single)]
    elif pinned := (metadata_load(HERE / CARD_NAME) or {}).get("preload_from_hub"):
        # Each is "owner/name FILES COMMIT", written by scripts/deploy_space.py; the Hub has put
        # them into the cache when it built the Space.
        entries = [str(entry).split() for entry in pinned]
        sources = [Source(repo_id, repo_id, commit) for repo_id, _, commit in entries]
    else:
        folders = [HERE / "checkpoints", HERE.parent / "checkpoints"]
        found = [path.parent for root in folders for path in root.glob(f"*/{CONFIG_NAME}")]
        found.sort(key=lambda folder: (folder.name != DEFAULT, folder.name))
        sources = [Source.parse(str(folder)) for folder in found]
    if len({source.name for source in sources}) < len(sources):
        raise ValueError("Two of the models have the same name.")
    return sources


class Catalog:
    """The models on offer, by name; at most `capacity` of them are in memory.

    Args:
        sources: The models; the first is the default.
        capacity: How many to keep; the one that was not used for longest goes.
        max_side: The longest side at which any network sees a picture; one that has learned to
            see smaller ones sees those.
        **options: For `Segmenter`: limits, device.

    Raises:
        CheckpointError, ConfigError: A model is not there or cannot be used.
    """

    def __init__(
        self, sources: Sequence[Source], *, capacity: int = 2, max_side: int, **options: Any
    ) -> None:
        self._sources = {source.name: source for source in sources}
        self._facts = {source.name: describe(source) for source in sources}
        self._capacity = capacity
        self._max_side = max_side
        self._options = options
        self._loaded: OrderedDict[str, Segmenter] = OrderedDict()
        self._lock = threading.Lock()
        self.segmenter(self.names[0])

    @property
    def names(self) -> list[str]:
        """What visitors choose from."""
        return list(self._sources)

    @property
    def loaded(self) -> list[str]:
        """The models in memory, the most recently used last."""
        return list(self._loaded)

    def facts(self, name: str) -> dict[str, Any]:
        """What is known of a model, JSON-ready; see `describe`."""
        return self._facts[name]

    def segmenter(self, name: str) -> Segmenter:
        """The model of that name, loaded if need be.

        Raises:
            KeyError: There is none in the catalog.
        """
        source = self._sources[name]
        with self._lock:
            if name not in self._loaded:
                while len(self._loaded) >= self._capacity:
                    self._loaded.popitem(last=False)
                model = FCN.from_pretrained(source.location, revision=source.revision)
                max_side = min(model.max_side or self._max_side, self._max_side)
                self._loaded[name] = Segmenter(model, max_side=max_side, **self._options)
            self._loaded.move_to_end(name)
            return self._loaded[name]


def describe(source: Source) -> dict[str, Any]:
    """What a model's small files say about it; what they do not say is None.

    Returns:
        ``name``, ``revision``, ``link``, ``parameters``, ``classes`` (index, name, colour each),
        ``summary`` (how the card begins, as plain text), ``licence``, ``licence_link`` and
        ``evaluation`` (mean_iu, pixel_accuracy, pictures, protocol).
    """
    config = read_config(fetch_file(source.location, CONFIG_NAME, revision=source.revision))
    with torch.device("meta"):
        model = FCN.from_config(config)
    labels = model.label_map
    is_folder = Path(source.location).is_dir()
    return {
        "name": source.name,
        "revision": source.revision,
        "link": None if is_folder else f"https://huggingface.co/{source.location}",
        "parameters": model.num_parameters,
        "classes": [
            {"index": index, "name": name, "color": labels.color_hex(index)}
            for index, name in enumerate(labels.names)
        ],
        **_card(source),
        "evaluation": _evaluation(source),
    }


def _card(source: Source) -> dict[str, str | None]:
    """The licence that the model's card names, and how the card begins."""
    if (text := _read(source, CARD_NAME)) is None:
        return {"licence": None, "licence_link": None, "summary": None}
    card = ModelCard(text, ignore_metadata_errors=True)
    licence = card.data.get("license_name") or card.data.get("license")
    link = card.data.get("license_link")
    return {
        "licence": str(licence) if licence and licence != "unknown" else None,
        "licence_link": link if str(link).startswith(("https://", "http://")) else None,
        "summary": first_sentence(card.text),
    }


def first_sentence(markdown: str, longest: int = 300) -> str | None:
    """The first sentence below the headings of a text, without its marks."""
    for block in re.split(r"\n\s*\n", markdown):
        lines = [line for line in block.splitlines() if not re.match(r"\s*(#|!\[|<|>|```)", line)]
        if text := " ".join(" ".join(lines).split()):
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
            plain = re.split(r"(?<=[.!?。])\s", re.sub(r"[*_`]", "", plain))[0]
            return textwrap.shorten(plain, longest, placeholder=" …")
    return None


def _evaluation(source: Source) -> dict[str, Any] | None:
    """The figures of the model's evaluation record."""
    if (text := _read(source, "evaluation.json")) is None:
        return None
    try:
        record = json.loads(text)
        keys = ("mean_iu", "pixel_accuracy", "pictures", "protocol")
        return {key: record[key] for key in keys}
    except (ValueError, TypeError, KeyError):  # no JSON, or not a record of this kind
        return None


def _read(source: Source, filename: str) -> str | None:
    try:
        path = fetch_file(source.location, filename, revision=source.revision)
        return path.read_text(encoding="utf-8")
    except (CheckpointError, UnicodeError):
        return None
