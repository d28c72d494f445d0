"""The plan of a bulk prediction: which pictures, in which order, cut into shards.

It is made once and kept in the output folder, so that a rerun does the same work in the same
shards whatever has become of the sources. It is a file of lines with an index of where each
shard begins: a worker reads its own lines, and nobody holds all of them.
"""

import hashlib
import json
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fcn_hub.bulk.sources import Entry, SourceError
from fcn_hub.files import atomic_write

_ENTRIES = "plan.jsonl"
_INDEX = "plan.index.npy"


@dataclass(frozen=True)
class Plan:
    """The plan in a folder, as `make_plan` has left it.

    Args:
        folder: The output folder.
        starts: Where each shard's first line starts, in bytes, int64 [shards].
        pictures: How many pictures there are in all.
    """

    folder: Path
    starts: np.ndarray
    pictures: int

    @classmethod
    def read(cls, folder: Path) -> "Plan | None":
        """The plan in a folder; None where none was finished."""
        if not (folder / _INDEX).is_file():
            return None
        *starts, pictures = np.load(folder / _INDEX, allow_pickle=False).tolist()
        return cls(folder, np.array(starts, np.int64), pictures)

    def __len__(self) -> int:
        return len(self.starts)

    def shard(self, index: int, size: int) -> list[Entry]:
        """The pictures of a shard of at most `size`."""
        with (self.folder / _ENTRIES).open("rb") as lines:
            lines.seek(int(self.starts[index]))
            return [Entry(**json.loads(line)) for line in islice(lines, size)]


def make_plan(entries: Iterable[Entry], folder: Path, shard_size: int) -> Plan:
    """List the pictures and cut them into shards of `shard_size`, the last one maybe smaller.

    Takes 8 bytes of memory a picture.

    Raises:
        SourceError: There are none, or two have the same id.
    """
    starts, hashes = array("q"), array("Q")
    with atomic_write(folder / _ENTRIES) as temporary, temporary.open("wb") as lines:
        for entry in tqdm(entries, "Listing", unit=" pictures", disable=None):
            if len(hashes) % shard_size == 0:
                starts.append(lines.tell())
            hashes.append(_hash(entry.id))
            lines.write(f"{entry.to_json()}\n".encode())
    if not hashes:
        raise SourceError("There are no pictures in the sources.")
    _require_unique(folder, np.frombuffer(hashes, np.uint64))
    with atomic_write(folder / _INDEX) as temporary, temporary.open("wb") as file:
        np.save(file, np.array([*starts, len(hashes)], np.int64), allow_pickle=False)
    plan = Plan.read(folder)
    assert plan is not None
    return plan


def _hash(id: str) -> int:
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest(), "little")


def _require_unique(folder: Path, hashes: np.ndarray) -> None:
    values = np.sort(hashes)
    twice = values[1:][values[1:] == values[:-1]]
    if not len(twice):
        return
    with (folder / _ENTRIES).open("rb") as lines:
        ids = (json.loads(line)["id"] for line in lines)
        name = next(id for id in ids if _hash(id) == twice[0])
    raise SourceError(
        f"Two pictures are called {name!r}. Give each source its own output folder, or a manifest "
        "with ids."
    )
