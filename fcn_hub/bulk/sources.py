"""Where the pictures of a bulk prediction come from: folders, lists, manifests, tars, tables.

Each kind of source becomes the same thing, a sequence of `Entry`s, so that whatever comes after
knows one kind of input only. Nothing is opened but what has to be to list it.
"""

import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from fcn_hub.datasets.base import PICTURE_SUFFIXES, DatasetError
from fcn_hub.images import ImageSource

HUB_PREFIX = "hf://datasets/"


class SourceError(ValueError):
    """A source that cannot be listed; the message says what is accepted."""


@dataclass(frozen=True)
class Entry:
    """One picture, not opened yet.

    Args:
        id: What the picture is called in the output.
        path: The file that holds it; of a table, the table's folder or Hub id.
        offset, length: Where in the file, in bytes, and how much; the whole file where None.
        row: The row of a table.
    """

    id: str
    path: str
    offset: int | None = None
    length: int | None = None
    row: int | None = None

    def to_json(self) -> str:
        """The entry as one line of the plan."""
        values = {name: value for name, value in vars(self).items() if value is not None}
        return json.dumps(values, ensure_ascii=False)


def entries(source: str, split: str, image_column: str | None) -> Iterator[Entry]:
    """The pictures of a source, in an order that is the same every time.

    Args:
        source: A folder (with its subfolders), a glob, a picture, a text list of paths (.txt), a
            manifest (.jsonl or .parquet with ``path`` and, where wanted, ``id``), a WebDataset
            shard (.tar), a folder that `datasets.save_to_disk` wrote, or
            ``hf://datasets/owner/name``. Paths in lists and manifests are relative to them.
        split, image_column: Of a Hugging Face data set; its only column of pictures where None.

    Raises:
        SourceError: It is not there, holds no picture, or is malformed.
    """
    path = Path(source).absolute()  # workers, and who resumes, may stand in another folder
    if source.startswith(HUB_PREFIX) or _is_table(path):
        return _rows(source, split, image_column)
    if path.is_dir():
        return _walked(path)
    if not path.exists() and set(source) & set("*?["):
        anchor = Path(*_fixed_parts(path))
        pattern = str(path.relative_to(anchor))
        return _found(source, anchor, sorted(anchor.glob(pattern)), split, image_column)
    if not path.is_file():
        raise SourceError(f"{source} does not exist.")
    readers = {".txt": _listed, ".jsonl": _manifest, ".parquet": _parquet, ".tar": _members}
    reader = readers.get(path.suffix.lower())
    return reader(path) if reader else iter([Entry(path.name, str(path))])


def _walked(root: Path) -> Iterator[Entry]:
    """The pictures below a folder; of hidden files and folders, none."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith(".") and path.suffix.lower() in PICTURE_SUFFIXES:
                yield Entry(path.relative_to(root).as_posix(), str(path))


def _found(
    source: str, anchor: Path, paths: list[Path], split: str, image_column: str | None
) -> Iterator[Entry]:
    """What a glob has found: pictures keep their place below its fixed part, tars are listed."""
    for path in paths:
        place = path.relative_to(anchor)
        if path.suffix.lower() == ".tar":
            yield from entries(str(path), split, image_column)
        elif path.is_file() and not any(part.startswith(".") for part in place.parts):
            yield Entry(place.as_posix(), str(path))


def _fixed_parts(path: Path) -> list[str]:
    parts = list(path.parts)
    first_wild = next(i for i, part in enumerate(parts) if set(part) & set("*?["))
    return parts[:first_wild]


def _listed(path: Path) -> Iterator[Entry]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if name := line.strip():
                yield Entry(name, str(path.parent / name))


def _manifest(path: Path) -> Iterator[Entry]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield _described(path, json.loads(line))
                except (ValueError, KeyError, TypeError):
                    raise SourceError(
                        f'{path}, line {number}: expected {{"path": …}} with an optional "id".'
                    ) from None


def _parquet(path: Path) -> Iterator[Entry]:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as table:
            columns = [name for name in ("path", "id") if name in table.schema_arrow.names]
            for batch in table.iter_batches(columns=columns):
                for row in batch.to_pylist():
                    yield _described(path, row)
    except (ArrowException, KeyError, TypeError) as error:
        raise SourceError(
            f"{path} must be a Parquet file with a column path and an optional column id: {error}"
        ) from None


def _described(manifest: Path, row: dict[str, Any]) -> Entry:
    name = row["path"]
    if not isinstance(name, str):
        raise TypeError
    return Entry(str(row.get("id") or name), str(manifest.parent / name))


def _members(path: Path) -> Iterator[Entry]:
    """The pictures in a tar, by their place in it: workers read them without the rest."""
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isreg() and Path(member.name).suffix.lower() in PICTURE_SUFFIXES:
                    if member.issparse():
                        raise SourceError(f"{path}: {member.name} is sparse; repack the tar.")
                    place = (member.offset_data, member.size)
                    yield Entry(f"{path.stem}/{member.name}", str(path), *place)
    except (tarfile.TarError, OSError) as error:
        raise SourceError(f"{path} is no uncompressed tar, or damaged: {error}") from None


def _is_table(path: Path) -> bool:
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def _rows(source: str, split: str, image_column: str | None) -> Iterator[Entry]:
    is_hub = source.startswith(HUB_PREFIX)
    name = source.removeprefix(HUB_PREFIX) if is_hub else str(Path(source).absolute())
    for row in range(len(_open_table(name, split, image_column))):
        yield Entry(f"{split}/{row}", name, row=row)


def _open_table(name: str, split: str, image_column: str | None) -> Any:
    from fcn_hub.datasets.huggingface import open_pictures

    try:
        return open_pictures(name, split, image_column=image_column)
    except DatasetError as error:
        raise SourceError(str(error)) from None


@dataclass
class Opener:
    """Turns entries into what `open_image` reads; keeps tables open between them."""

    split: str
    image_column: str | None
    _tables: dict[str, Any] = field(default_factory=dict)

    def __call__(self, entry: Entry) -> ImageSource:
        if entry.row is not None:
            return self._cell(entry)
        if entry.offset is not None:
            return cast(IO[bytes], _Slice(entry))
        return entry.path

    def _cell(self, entry: Entry) -> ImageSource:
        if entry.path not in self._tables:
            self._tables[entry.path] = _open_table(entry.path, self.split, self.image_column)
        content = self._tables[entry.path][entry.row]
        return str(content) if isinstance(content, Path) else content


class _Slice:
    """Some bytes of a file as a binary file of their own, opened when it is read."""

    def __init__(self, entry: Entry) -> None:
        assert entry.offset is not None and entry.length is not None
        self.name = entry.id
        self._path = entry.path
        self._position = entry.offset
        self._end = entry.offset + entry.length

    def read(self, size: int = -1) -> bytes:
        left = self._end - self._position
        with Path(self._path).open("rb") as file:
            file.seek(self._position)
            data = file.read(left if size < 0 else min(size, left))
        if left and not data:
            raise OSError(f"{self._path} has become shorter")
        self._position += len(data)
        return data
