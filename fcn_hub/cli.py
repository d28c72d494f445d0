"""The `fcn-hub` command: segment pictures, look at a model, start the web app.

Arguments become calls of the library; results become files, lines and exit codes. Whatever
imports torch is imported inside a command, so that help and usage errors are immediate.
"""

import argparse
import errno
import importlib.util
import io
import json
import os
import runpy
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from fcn_hub import __version__
from fcn_hub.files import NAME_ERRORS, atomic_write, resource

if TYPE_CHECKING:
    from fcn_hub.images import ImageError
    from fcn_hub.segmentation import Segmentation

_SUFFIXES = {"png": ".png", "overlay": ".overlay.png", "json": ".json", "npy": ".npy"}

# The same names as fcn_hub.runtimes.BACKENDS and fcn_hub.export.TARGETS, without their imports.
_BACKENDS = ("torch", "onnx", "openvino")
_EXPORTS = ("onnx", "openvino", "torch-export")

_SEGMENT_HELP = """\
Segment pictures, each into a file of its own.

A picture is a file, a folder (searched with its subfolders for files with a picture's suffix)
or a glob such as 'photos/**/*.jpg' (quoted: fcn-hub expands it; hidden files are left out).
NAME.jpg becomes DIR/NAME.png; what lies beneath a folder, or beneath the part of a glob before
its first wildcard, keeps its place beneath DIR. The formats:

  png      NAME.png, the class of every pixel as a palette picture
  overlay  NAME.overlay.png, the classes' colours over the picture, with a legend
  json     NAME.json, the classes with their pixels, fractions and confidences
  npy      NAME.npy, the class of every pixel for numpy.load
"""
_EXPORT_HELP = """\
Export a model into its folder, for `segment --backend` and for other programs.

  onnx          onnx/model.onnx; with --end-to-end onnx/end_to_end.onnx
  openvino      openvino/model.xml and .bin; with --int8 openvino/model_int8.xml and .bin
  torch-export  torch-export/model.pt2

Batch, height and width stay free. Nothing is written unless the exported network gives what the
model gives, at odd sizes, too. Each file comes with a record of what it was made from.
"""
_EXIT_CODES = """\
exit code: 0 all went well, 1 a picture failed (the others are segmented) or nothing can be
written, 2 wrong usage (nothing is segmented), 130 stopped by Ctrl-C, 141 nobody reads the output
"""


class _UsageError(ValueError):
    """Something that the user has to change before anything can be done."""


class _Skipped(Exception):
    """A picture that comes to no output; `stop` where no later one would either."""

    def __init__(self, message: str, stop: bool = False) -> None:
        super().__init__(message)
        self.stop = stop


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{message} (see {self.prog} --help)")


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments without the program's name; those of the process where None.

    Returns:
        The exit code: 0 success, 1 failure, 2 wrong usage, 130 Ctrl-C, 141 broken pipe.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for terminals without Unicode
    # Pillow's remarks on odd pictures and the Hub client's on its retries are no errors of ours.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    try:
        try:
            args = _parser().parse_args(argv)
            return args.run(args)
        finally:
            sys.stdout.flush()
    except _UsageError as error:
        _complain(error)
        return 2
    except KeyboardInterrupt:
        _complain("Interrupted.")
        return 130
    except MemoryError:
        _complain("Out of memory; a smaller --batch-size or --max-side needs less.")
        return 1
    except OSError as error:
        # Without this, Python would write what is buffered once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 141
        _complain(f"Cannot write to the standard output: {error.strerror or error}.")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fcn-hub", description="Semantic segmentation with VGG fully convolutional networks."
    )
    parser.add_argument("--version", action="version", version=f"fcn-hub {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    segment = commands.add_parser(
        "segment",
        help="segment pictures",
        description=_SEGMENT_HELP,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    segment.set_defaults(run=_segment)
    add = segment.add_argument
    add("pictures", nargs="+", metavar="PICTURE", help="file, folder or glob")
    add("--model", required=True, metavar="ID_OR_FOLDER", help="Hub id (owner/name) or folder")
    add("--output", required=True, type=Path, metavar="DIR", help="folder to write to")
    add("--format", choices=_SUFFIXES, default="png", help="what to write (default: png)")
    add("--revision", metavar="REV", help="branch, tag or commit of a model on the Hub")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps … (default: auto)")
    add("--dtype", default="auto", help="float32, bfloat16, float16, int8 (default: auto)")
    size_help = "scale larger pictures down to this (default: the model's own)"
    add("--max-side", type=_integer(1), metavar="PX", help=size_help)
    add("--max-pixels", type=_integer(1), metavar="N", help="refuse pictures with more pixels")
    add("--batch-size", type=_integer(1), default=8, metavar="N", help="(default: 8)")
    add("--overwrite", action="store_true", help="replace outputs that exist already")
    add("--json", action="store_true", help="print one line of JSON per picture")

    add("--backend", choices=_BACKENDS, default="torch", help="what runs it (default: torch)")

    export = commands.add_parser(
        "export",
        help="export a model for other runtimes",
        description=_EXPORT_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    export.set_defaults(run=_export)
    add = export.add_argument
    add("model", metavar="ID_OR_FOLDER", help="Hub id (owner/name) or folder")
    add("--revision", metavar="REV", help="branch, tag or commit of a model on the Hub")
    add("--output", type=Path, metavar="DIR", help="folder to write to (default: the model's)")
    add("--backend", choices=_EXPORTS, default="onnx", help="for which (default: onnx)")
    add("--end-to-end", action="store_true", help="onnx: uint8 pictures in, label maps out")
    add("--int8", action="store_true", help="openvino: quantise; needs --calibration")
    add("--calibration", type=Path, metavar="DIR", help="pictures like those to be segmented")
    add("--json", action="store_true", help="print JSON")

    info = commands.add_parser("info", help="describe a model", description="Describe a model.")
    info.set_defaults(run=_info)
    info.add_argument("model", metavar="MODEL", help="Hub id (owner/name) or folder")
    info.add_argument("--revision", metavar="REV", help="branch, tag or commit on the Hub")
    info.add_argument("--json", action="store_true", help="print JSON")

    demo = commands.add_parser("demo", help="start the web app", description="Start the web app.")
    demo.set_defaults(run=_demo)
    demo.add_argument("--model", metavar="ID_OR_FOLDER", help="Hub id (owner/name) or folder")
    demo.add_argument("--port", type=_integer(1, 65_535), help="(default: $PORT, else 7860)")
    return parser


def _integer(least: int, most: int = sys.maxsize) -> Callable[[str], int]:
    """An argument type: an integer in least..most."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            accepted = f"at least {least}" if most == sys.maxsize else f"{least} to {most}"
            raise argparse.ArgumentTypeError(f"must be an integer, {accepted}, not {text!r}")
        return int(text)

    return parse


def _segment(args: argparse.Namespace) -> int:
    with _usage_errors():
        jobs = _plan(args)
        import torch
        from PIL import Image
        from tqdm import tqdm

        from fcn_hub import Segmenter

        limits = {"max_side": args.max_side, "max_pixels": args.max_pixels}
        segmenter = Segmenter.from_pretrained(
            args.model,
            revision=args.revision,
            device=args.device,
            dtype=args.dtype,
            backend=args.backend,
            **{name: value for name, value in limits.items() if value is not None},
        )
    if args.max_pixels and Image.MAX_IMAGE_PIXELS:  # Pillow's own limit, which is lower
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, args.max_pixels)
    pictures = [job.picture for job in jobs if not job.refusal]
    results = segmenter.stream(pictures, batch_size=args.batch_size, errors="yield")
    silent = len(jobs) == 1 or not sys.stderr.isatty()
    failed = False
    with tqdm(jobs, unit="picture", disable=silent) as bar:
        for job in bar:
            try:
                result = _finish(job, results, args)
            except torch.OutOfMemoryError as error:
                raise MemoryError from error
            except _Skipped as skipped:
                failed = True
                with bar.external_write_mode():
                    _complain(skipped)
                    if args.json:
                        _print_json({"picture": str(job.picture), "error": str(skipped)})
                if skipped.stop:
                    break
            else:
                with bar.external_write_mode():
                    _report(job, result, args.json)
    return int(failed)


class _Job(NamedTuple):
    """A picture, the file that it becomes, and why it must not, if so."""

    picture: Path
    output: Path
    refusal: str


def _plan(args: argparse.Namespace) -> list[_Job]:
    """What is to be done, in order, with every refusal that needs no look into the pictures."""
    for folder in (args.output, *args.output.parents):
        if os.path.lexists(folder) and not folder.is_dir():
            raise _UsageError(f"--output must be a folder, and {folder} is not one.")
    found = [pair for argument in args.pictures for pair in _find(argument, args.output)]
    inputs = {os.path.realpath(picture) for picture, _ in found} if args.overwrite else ()
    plan = []
    first: dict[Path, Path] = {}
    for picture, place in found:
        output = args.output / place.with_name(place.stem + _SUFFIXES[args.format])
        refusal = ""
        if output in first:
            refusal = f"{picture}: {output} is already the output of {first[output]}."
        elif os.path.lexists(output) and not args.overwrite:
            refusal = f"{picture}: {output} exists; --overwrite replaces it."
        elif os.path.realpath(output) in inputs:
            refusal = f"{picture}: {output} is itself a picture to segment."
        first.setdefault(output, picture)
        plan.append(_Job(picture, output, refusal))
    return plan


def _find(argument: str, output: Path) -> list[tuple[Path, Path]]:
    """The pictures that an argument stands for, each with its place beneath the output folder."""
    path = Path(argument)
    fixed = list(takewhile(lambda part: not set(part) & set("*?["), path.parts))
    wild = list(path.parts[len(fixed) :])
    if argument and path.is_dir():
        suffixes = _picture_suffixes()
        found = [
            pair for pair in _search(path, "**/*", output) if pair[0].suffix.lower() in suffixes
        ]
    elif wild and not os.path.lexists(path):
        pattern = "/".join([*wild, "*"] if wild[-1] == "**" else wild)
        found = _search(Path(*fixed), pattern, output)
    else:
        found = [(path, Path(path.name))] if argument else []
    if not found:
        raise _UsageError(f"There are no pictures in {argument!r}.")
    return found


def _search(folder: Path, pattern: str, output: Path) -> list[tuple[Path, Path]]:
    """The files in a folder that match, but for hidden ones and those of an earlier run."""
    root, results = Path(os.path.realpath(folder)), Path(os.path.realpath(output))
    places = [path.relative_to(folder) for path in sorted(folder.glob(pattern)) if path.is_file()]
    return [
        (folder / place, place)
        for place in places
        if not any(part.startswith(".") for part in place.parts)
        and not (root in results.parents and (root / place).is_relative_to(results))
    ]


def _picture_suffixes() -> set[str]:
    from PIL import Image

    from fcn_hub.images import FORMATS

    return {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}


def _finish(
    job: _Job, results: "Iterator[Segmentation | ImageError]", args: argparse.Namespace
) -> "Segmentation":
    """Take the job's result from the stream and write it."""
    if job.refusal:
        raise _Skipped(job.refusal)
    result = next(results)
    if isinstance(result, Exception):
        raise _Skipped(str(result))
    try:
        if os.path.lexists(job.output) and not args.overwrite:  # since the plan was made
            raise FileExistsError(errno.EEXIST, "it exists; --overwrite replaces it")
        job.output.parent.mkdir(parents=True, exist_ok=True)
        if args.format == "overlay":
            with atomic_write(job.output) as temporary:
                result.overlay(legend=True).save(temporary, format="PNG")
        else:
            result.save(job.output)
    except OSError as error:
        message = f"Cannot write {job.output}: {error.strerror or error}."
        raise _Skipped(message, stop=error.errno not in NAME_ERRORS) from error
    return result


def _report(job: _Job, result: "Segmentation", as_json: bool) -> None:
    if as_json:
        names = {"picture": str(job.picture), "output": str(job.output)}
        _print_json({**names, **result.to_dict()})
        return
    shares = [f"{entry.name} {_percent(entry.fraction)}" for entry in result.legend[:5]]
    if more := len(result.legend) - len(shares):
        shares.append(f"+{more} more")
    print(_printable(f"{job.picture} → {job.output}: {', '.join(shares)}"), flush=True)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %" if fraction >= 0.005 else "<1 %"


def _info(args: argparse.Namespace) -> int:
    with _usage_errors():
        from fcn_hub import FCN
        from fcn_hub.hub import WEIGHTS_NAME, fetch_file

        model = FCN.from_pretrained(args.model, revision=args.revision, dtype="auto")
        weights = fetch_file(args.model, WEIGHTS_NAME, revision=args.revision)
        weights_bytes = weights.stat().st_size
    classes = [
        {"index": index, "name": name, "color": model.label_map.color_hex(index)}
        for index, name in enumerate(model.label_map.names)
    ]
    facts = {"num_parameters": model.num_parameters, "weights_bytes": weights_bytes}
    if args.json:
        _print_json({"model": args.model, **facts, "config": model.config, "classes": classes})
        return 0
    print(_printable(args.model))
    for key, value in {**facts, **model.config}.items():
        if key not in ("class_names", "class_colors"):
            print(f"  {key:20}{f'{value:,}' if key in facts else json.dumps(value)}")
    print("  classes")
    in_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for entry, (red, green, blue) in zip(classes, model.label_map.colors, strict=True):
        swatch = f"\x1b[48;2;{red};{green};{blue}m    \x1b[0m " if in_colour else ""
        print(f"  {entry['index']:6}  {swatch}{entry['color']}  {_printable(str(entry['name']))}")
    return 0


def _export(args: argparse.Namespace) -> int:
    if args.int8 != (args.calibration is not None):
        raise _UsageError("--int8 and --calibration DIR belong together.")
    if args.output is None and not Path(args.model).is_dir():
        raise _UsageError("A model that is not a folder here needs --output DIR.")
    with _usage_errors():
        from fcn_hub import FCN
        from fcn_hub.export import calibration_pictures, export

        exported = export(
            FCN.from_pretrained(args.model, revision=args.revision),
            args.output or args.model,
            args.backend,
            end_to_end=args.end_to_end,
            calibration=calibration_pictures(args.calibration) if args.int8 else None,
        )
    facts = {"path": str(exported.path), "difference": exported.difference}
    if args.json:
        _print_json(facts)
    elif args.int8 or args.end_to_end:
        print(f"{exported.path}: {exported.difference:.2%} of the pixels get another label.")
    else:
        print(f"{exported.path}: logits within {exported.difference:.1e} of the largest.")
    return 0


def _demo(args: argparse.Namespace) -> int:
    if importlib.util.find_spec("gradio") is None:
        raise _UsageError('The web app needs gradio: pip install "fcn-hub[space]"')
    if args.model is not None:
        os.environ["FCN_HUB_MODEL"] = args.model
    if args.port is not None:
        os.environ["PORT"] = str(args.port)
    os.environ.setdefault("PORT", "7860")
    with _usage_errors():
        runpy.run_path(str(resource("space/app.py")), run_name="__main__")
    return 0


@contextmanager
def _usage_errors() -> Iterator[None]:
    """Errors before anything is done: a model that is not there, a device that is not, …"""
    try:
        yield
    except (ValueError, OSError) as error:
        raise _UsageError(str(error)) from error


def _print_json(value: dict) -> None:
    print(json.dumps(value, allow_nan=False), flush=True)


def _complain(message: object) -> None:
    print(f"fcn-hub: {_printable(str(message))}", file=sys.stderr, flush=True)


def _printable(text: str) -> str:
    """The text in one line that cannot control a terminal, whatever a file or class is called."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
