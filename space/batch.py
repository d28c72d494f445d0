"""Many pictures at once: their masks and a table of class shares in one ZIP."""

import csv
import io
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fcn_hub import ImageError, Segmentation


class Upload(NamedTuple):
    """A file on the server and the name that its sender gave it."""

    path: str
    name: str


def segment_many(
    uploads: Sequence[Upload],
    class_names: Sequence[str],
    segment: Callable[[str], Segmentation],
    archive: Path,
) -> Iterator[tuple[dict[str, Any], Segmentation | ImageError]]:
    """Segment pictures one after the other, each into the archive as soon as it is done.

    A picture that cannot be used is reported and does not stop the others. In the archive each
    mask is called by its number and what is harmless in its picture's name; ``classes.csv`` has
    a line per picture with the share of each class.

    Args:
        uploads: The pictures.
        class_names: The columns of the table.
        segment: Segments the picture of a path; raises ImageError.
        archive: Where to write the ZIP; complete once the iteration has ended, removed where it
            is broken off.

    Yields:
        Per picture a JSON-ready row (file, mask, error, width, height, classes), and its
        segmentation or what is wrong with it.
    """
    table = io.StringIO()
    lines = csv.writer(table)
    lines.writerow(["picture", "mask", "error", *class_names])
    scratch = archive.with_suffix(".png")
    try:
        with zipfile.ZipFile(archive, "w") as file:
            for number, upload in enumerate(uploads, start=1):
                name = harmless(upload.name) or str(number)
                row: dict[str, Any] = {"file": name, "mask": None, "error": None}
                outcome: Segmentation | ImageError
                try:
                    outcome = segment(upload.path)
                except ImageError as error:
                    outcome = error
                    row["error"] = str(error).replace(upload.path, name)
                    lines.writerow([name, "", row["error"]])
                else:
                    row |= outcome.to_dict() | {"mask": f"{number:03}-{Path(name).stem}.png"}
                    outcome.save(scratch)
                    file.write(scratch, row["mask"])
                    shares = {entry.name: entry.fraction for entry in outcome.legend}
                    columns = [f"{shares.get(each, 0):.6f}" for each in class_names]
                    lines.writerow([name, row["mask"], "", *columns])
                yield row, outcome
            file.writestr("classes.csv", "\ufeff" + table.getvalue())
    except BaseException:  # also where the visitor has gone and the iteration is closed
        archive.unlink(missing_ok=True)
        raise
    finally:
        scratch.unlink(missing_ok=True)


def harmless(name: str) -> str:
    """What is left of a name when it can neither leave a folder nor start a formula."""
    return re.sub(r"[^\w.-]+", "_", Path(name).name).lstrip("-._")[-80:]
