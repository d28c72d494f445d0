"""One shard of a bulk prediction: its pictures through the network, into one Parquet file.

The file appears under its name when all of it is written, and what it holds depends on the
pictures, the model and the options alone: whichever worker wrote it, and however often it was
begun, it is the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fcn_hub.bulk.sources import Entry, Opener
from fcn_hub.files import NAME_ERRORS, atomic_write
from fcn_hub.images import ImageError
from fcn_hub.segmentation import Segmentation
from fcn_hub.segmenter import Segmenter

MaskFormat = Literal["rle", "png", "files"]

_ROWS_IN_MEMORY = 64
_COUNT, _FAILED = b"pictures", b"failed"  # metadata of a shard's file


@dataclass(frozen=True)
class ShardWriter:
    """Segments shards and writes them.

    Args:
        folder: The output folder.
        segmenter: The network.
        opener: Opens the pictures.
        model: What to call the model in the output: ``model`` (id or folder) and ``revision``.
        masks: ``"rle"`` (COCO run-length code per class), ``"png"`` (palette PNG as bytes), or
            ``"files"`` (a tree of palette PNGs; the column holds their paths).
        batch_size: Pictures that pass through the network at once.
    """

    folder: Path
    segmenter: Segmenter
    opener: Opener
    model: dict[str, str | None]
    masks: MaskFormat
    batch_size: int

    def write(self, index: int, entries: Sequence[Entry]) -> None:
        """Write a shard's file; only its own pictures can fail, and each becomes a row.

        Raises:
            OSError: The output cannot be written: no space, no permission.
        """
        from pyarrow import RecordBatch, parquet

        encode = {"rle": _rle, "png": _png, "files": self._file}[self.masks]
        pictures = map(self.opener, entries)
        results = self.segmenter.stream(pictures, batch_size=self.batch_size, errors="yield")
        schema, failed, rows = _schema(self.masks), 0, []
        with (
            atomic_write(shard_path(self.folder, index)) as temporary,
            parquet.ParquetWriter(temporary, schema, compression="zstd") as writer,
        ):
            for entry, result in zip(entries, results, strict=True):
                rows.append(self._row(entry, result, encode))
                failed += "error" in rows[-1]
                if len(rows) == _ROWS_IN_MEMORY:
                    writer.write_batch(RecordBatch.from_pylist(rows, schema))
                    rows = []
            if rows:
                writer.write_batch(RecordBatch.from_pylist(rows, schema))
            writer.add_key_value_metadata({_COUNT: str(len(entries)), _FAILED: str(failed)})

    def _row(
        self,
        entry: Entry,
        result: Segmentation | ImageError,
        encode: Callable[[Entry, Segmentation], Any],
    ) -> dict[str, Any]:
        row = {"id": entry.id, **self.model}
        if isinstance(result, Exception):
            return {**row, "error": str(result)}
        try:
            mask = encode(entry, result)
        except OSError as error:
            if error.errno not in NAME_ERRORS:
                raise
            return {**row, "error": f"Its mask cannot be written: {error.strerror}."}
        return {
            **row,
            "width": result.image.width,
            "height": result.image.height,
            "shares": {each.name: each.fraction for each in result.legend},
            "confidence": float(result.confidence.mean(dtype="float64")),
            "mask": mask,
        }

    def _file(self, entry: Entry, result: Segmentation) -> str:
        place = mask_place(entry.id)
        target = self.folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        result.save(target)
        return place


def mask_place(id: str) -> str:
    """Where a picture's mask is below the output folder: masks/ID.png.

    An id is whatever somebody else wrote. What would lead out of the folder, or to the place of
    another id, is percent-encoded.
    """
    odd = {"": "%", ".": "%2E", "..": "%2E%2E"}
    parts = [part.replace("%", "%25").replace("\0", "%00") for part in id.split("/")]
    return "/".join(["masks", *(odd.get(part, part) for part in parts)]) + ".png"


def shard_path(folder: Path, index: int) -> Path:
    """Where a shard's file is once it is finished."""
    return folder / f"part-{index:06}.parquet"


def counts(folder: Path, index: int) -> tuple[int, int]:
    """How many pictures a finished shard holds, and how many of them failed."""
    from pyarrow import parquet

    metadata = parquet.read_metadata(shard_path(folder, index)).metadata
    return int(metadata[_COUNT]), int(metadata[_FAILED])


def _rle(entry: Entry, result: Segmentation) -> list[dict[str, Any]]:
    return [
        {
            "index": segment["category_id"],
            "name": segment["category_name"],
            "counts": segment["segmentation"]["counts"],
        }
        for segment in result.to_coco()
    ]


def _png(entry: Entry, result: Segmentation) -> bytes:
    return result.to_png()


def _schema(masks: MaskFormat) -> Any:
    import pyarrow as pa

    segment = pa.struct([("index", pa.int32()), ("name", pa.string()), ("counts", pa.string())])
    types = {"rle": pa.list_(segment), "png": pa.binary(), "files": pa.string()}
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("shares", pa.map_(pa.string(), pa.float64())),
            ("confidence", pa.float64()),
            ("mask", types[masks]),
            ("model", pa.string()),
            ("revision", pa.string()),
            ("error", pa.string()),
        ]
    )
