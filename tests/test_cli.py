"""The fcn-hub command: what it writes, what it prints, and how it ends."""

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import make_picture, make_tiny_model
from PIL import Image

import fcn_hub
from fcn_hub import FCN, Segmentation, Segmenter, cli

NAMES = ["background", "cat", "dog"]
COLORS = [[0, 0, 0], [64, 0, 0], [64, 0, 128]]


class Ended(NamedTuple):
    """How a command ended, and the lines that it printed."""

    code: int
    out: list[str]
    err: list[str]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch) -> Path:
    """An empty current folder with a model of three classes in `model`."""
    monkeypatch.chdir(tmp_path)
    for name in ("FCN_HUB_MODEL", "PORT", "HF_HUB_VERBOSITY"):
        monkeypatch.setenv(name, "")  # so that what the command sets is undone after the test
        monkeypatch.delenv(name)
    make_tiny_model(class_names=NAMES, class_colors=COLORS).save_pretrained("model")
    return tmp_path


@pytest.fixture
def run(capsys) -> Callable[..., Ended]:
    def run(*args: str) -> Ended:
        code = cli.main(list(args))
        out, err = capsys.readouterr()
        return Ended(code, out.splitlines(), err.splitlines())

    return run


@pytest.fixture
def segment(run) -> Callable[..., Ended]:
    """`fcn-hub segment … --model model --output out`."""
    return lambda *args: run("segment", *args, "--model", "model", "--output", "out")


def save_picture(path: str | Path, height: int = 40, width: int = 56, seed: int = 0) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(make_picture(height, width, seed)).save(path)
    return str(path)


def files(folder: str | Path) -> list[str]:
    paths = (path for path in Path(folder).rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def expected(picture: str) -> Segmentation:
    return Segmenter.from_pretrained("model")(picture)


def program(*args: str, **options) -> subprocess.Popen:
    """`python -m fcn_hub …` as a process of its own."""
    root = str(Path(fcn_hub.__file__).parents[1])
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    python = {"PYTHONPATH": root, "PYTHONUNBUFFERED": "", "PYTHONWARNINGS": ""}
    environment = {**os.environ, **python, **options.pop("env", {})}
    return subprocess.Popen([sys.executable, "-m", "fcn_hub", *args], env=environment, **options)


# What `segment` writes and prints


def test_a_picture_becomes_a_mask_and_a_line(segment):
    picture = save_picture("photos/cat.jpg")
    ended = segment(picture)
    result = expected(picture)
    mask = Image.open("out/cat.png")
    assert files("out") == ["cat.png"]
    assert mask.mode == "P"
    np.testing.assert_array_equal(np.asarray(mask), result.label_map)
    shares = ", ".join(f"{entry.name} {entry.fraction * 100:.0f} %" for entry in result.legend)
    assert ended == (0, [f"photos/cat.jpg → out/cat.png: {shares}"], [])
    assert re.search(r": \w+ \d+ %, \w+ \d+ %", ended.out[0])


def test_each_format_holds_what_the_library_gives(segment):
    result = expected(save_picture("cat.png"))
    for name in ("png", "overlay", "json", "npy"):
        assert segment("cat.png", "--format", name).code == 0
    assert files("out") == ["cat.json", "cat.npy", "cat.overlay.png", "cat.png"]
    np.testing.assert_array_equal(Image.open("out/cat.png"), result.label_map)
    np.testing.assert_array_equal(np.load("out/cat.npy"), result.label_map)
    np.testing.assert_array_equal(Image.open("out/cat.overlay.png"), result.overlay(legend=True))
    assert json.loads(Path("out/cat.json").read_text()) == result.to_dict()


def test_json_is_one_line_per_picture_in_order_and_nothing_else(segment):
    save_picture("b.png")
    Path("broken.png").write_bytes(b"no picture")
    save_picture("a.png", 30, 70, seed=1)
    ended = segment("b.png", "broken.png", "a.png", "--json")
    first, broken, last = [json.loads(line) for line in ended.out]
    assert first == {"picture": "b.png", "output": "out/b.png", **expected("b.png").to_dict()}
    assert (last["picture"], last["width"], last["height"]) == ("a.png", 70, 30)
    assert broken.keys() == {"picture", "error"}
    assert broken["picture"] == "broken.png"
    assert "not a picture" in broken["error"]
    assert ended.err == [f"fcn-hub: {broken['error']}"]
    assert ended.code == 1


def test_the_line_names_five_classes_at_most_and_small_ones_as_such(capsys):
    legend = [SimpleNamespace(name=f"c{i}", fraction=f) for i, f in enumerate([0.9, 0.004] * 4)]
    job = cli._Job(Path("a.jpg"), Path("a.png"), "")
    cli._report(job, SimpleNamespace(legend=legend), as_json=False)
    shares = "c0 90 %, c1 <1 %, c2 90 %, c3 <1 %, c4 90 %, +3 more"
    assert capsys.readouterr().out == f"a.jpg → a.png: {shares}\n"


def test_options_reach_the_library(segment, monkeypatch):
    calls = {}
    load, stream = Segmenter.from_pretrained, Segmenter.stream

    def from_pretrained(model, **options):
        calls["load"] = (model, options)
        return load(model)

    def recording_stream(self, pictures, **options):
        calls["stream"] = options
        return stream(self, pictures, **options)

    monkeypatch.setattr(Segmenter, "from_pretrained", from_pretrained)
    monkeypatch.setattr(Segmenter, "stream", recording_stream)
    save_picture("a.png")
    segment("a.png")
    defaults = {"revision": None, "device": "auto", "dtype": "auto", "backend": "torch"}
    assert calls["load"] == ("model", defaults)
    options = (
        "--revision v1 --device cpu --dtype float16 --max-side 32 --max-pixels 999 --overwrite"
    )
    segment("a.png", *options.split(), "--batch-size", "3")
    given = {"revision": "v1", "device": "cpu", "dtype": "float16", "backend": "torch"}
    assert calls["load"] == ("model", {**given, "max_side": 32, "max_pixels": 999})
    assert calls["stream"] == {"batch_size": 3, "errors": "yield"}


# Which pictures


def test_a_folder_is_searched_and_its_structure_kept(segment):
    for name in ("z.png", "a/one.JPG", "a/b/two.webp", ".hidden.png", ".git/three.png"):
        save_picture(f"photos/{name}")
    Path("photos/notes.txt").write_text("not a picture")
    Path("photos/folder.png").mkdir()
    ended = segment("photos")
    assert files("out") == ["a/b/two.png", "a/one.png", "z.png"]
    assert [line.split(" ")[0] for line in ended.out] == [
        "photos/a/b/two.webp",
        "photos/a/one.JPG",
        "photos/z.png",
    ]
    assert (ended.code, ended.err) == (0, [])


@pytest.mark.parametrize(
    ("pattern", "outputs"),
    [
        ("photos/*.png", ["z.png"]),
        ("photos/*/*.png", ["a/one.png"]),
        ("photos/**/*.png", ["a/b/two.png", "a/one.png", "z.png"]),
        ("photos/**", ["a/b/two.png", "a/one.png", "z.png"]),
        ("photos/[a-c]/on?.png", ["a/one.png"]),
        ("*/z.png", ["photos/z.png"]),
        ("{here}/photos/a/**/*.png", ["b/two.png", "one.png"]),
    ],
)
def test_globs_are_expanded(segment, tmp_path, pattern, outputs):
    for name in ("z.png", "a/one.png", "a/b/two.png", ".hidden.png", "a/.cache/three.png"):
        save_picture(f"photos/{name}")
    assert segment(pattern.format(here=tmp_path)).code == 0
    assert files("out") == outputs


def test_a_file_whose_name_looks_like_a_glob_is_that_file(segment):
    save_picture("photo[1].png")
    save_picture("photo1.png")
    assert segment("photo[1].png").code == 0
    assert files("out") == ["photo[1].png"]


def test_results_of_an_earlier_run_are_not_segmented_again(run):
    save_picture("photos/a.png")
    command = ("segment", "photos", "photos/**/*.png", "--model", "model", "--json")
    for _ in range(2):
        lines = run(*command, "--output", "photos/masks", "--overwrite").out
        assert {json.loads(line)["picture"] for line in lines} == {"photos/a.png"}
    assert files("photos") == ["a.png", "masks/a.png"]


def test_a_folder_may_hold_its_own_results(run):
    save_picture("photos/a.jpg")
    assert run("segment", "photos", "--model", "model", "--output", "photos").code == 0
    assert files("photos") == ["a.jpg", "a.png"]


def test_a_folder_inside_the_output_folder_is_searched(run):
    save_picture("work/photos/a.jpg")
    assert run("segment", "work/photos", "--model", "model", "--output", "work").code == 0
    assert files("work") == ["a.png", "photos/a.jpg"]


# One bad picture


@pytest.mark.parametrize("batch_size", ["1", "8"])
def test_a_bad_picture_is_reported_and_skipped(segment, batch_size):
    save_picture("a.png")
    whole = Path(save_picture("truncated.png", 200, 200)).read_bytes()
    Path("truncated.png").write_bytes(whole[: len(whole) // 2])
    Path("empty.png").touch()
    save_picture("z.png")
    pictures = ("a.png", "truncated.png", "missing.png", "empty.png", "z.png")
    ended = segment(*pictures, "--batch-size", batch_size)
    assert ended.code == 1
    assert [line.split(" ")[0] for line in ended.out] == ["a.png", "z.png"]
    assert [line.split(" ")[:2] for line in ended.err] == [
        ["fcn-hub:", "truncated.png"],
        ["fcn-hub:", "missing.png"],
        ["fcn-hub:", "empty.png"],
    ]
    assert files("out") == ["a.png", "z.png"]


def test_a_picture_above_max_pixels_is_refused(segment):
    save_picture("large.png", 40, 60)
    save_picture("small.png", 20, 30)
    ended = segment("large.png", "small.png", "--max-pixels", "1000")
    assert ended.code == 1
    assert "large.png" in ended.err[0]
    assert files("out") == ["small.png"]


def test_max_pixels_holds_above_the_limit_of_pillow(segment, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    save_picture("large.png", 40, 60)
    assert segment("large.png").code == 1
    assert segment("large.png", "--max-pixels", "2400").code == 0


def test_pillows_warnings_are_not_printed(segment, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    monkeypatch.setattr(sys, "warnoptions", [])
    save_picture("large.png", 40, 60)
    with warnings.catch_warnings(record=True) as seen:
        assert segment("large.png").code == 0
    assert not seen


# Outputs that are there already


def test_nothing_is_overwritten_unless_asked_for(segment, monkeypatch):
    save_picture("a.png")
    save_picture("b.png")
    Path("out").mkdir()
    Path("out/a.png").write_text("precious")
    opened = []
    open_picture = Segmenter._open

    def recording_open(self, picture):
        opened.append(str(picture))
        return open_picture(self, picture)

    monkeypatch.setattr(Segmenter, "_open", recording_open)
    ended = segment("a.png", "b.png", "--json")
    assert ended.code == 1
    assert ended.err == ["fcn-hub: a.png: out/a.png exists; --overwrite replaces it."]
    assert "error" in json.loads(ended.out[0])
    assert json.loads(ended.out[1])["output"] == "out/b.png"
    assert Path("out/a.png").read_text() == "precious"
    assert opened == ["b.png"]
    assert segment("a.png", "b.png", "--overwrite").code == 0
    np.testing.assert_array_equal(Image.open("out/a.png"), expected("a.png").label_map)


def test_a_file_that_appears_meanwhile_is_not_overwritten_either(segment, monkeypatch):
    stream = Segmenter.stream

    def slow_stream(*args, **options):
        Path("out").mkdir()
        Path("out/a.png").write_text("precious")
        yield from stream(*args, **options)

    monkeypatch.setattr(Segmenter, "stream", slow_stream)
    ended = segment(save_picture("a.png"), save_picture("b.png"))
    assert ended.code == 1
    assert "--overwrite" in ended.err[0]
    assert Path("out/a.png").read_text() == "precious"
    assert files("out") == ["a.png", "b.png"]


@pytest.mark.parametrize("options", [(), ("--overwrite",)])
def test_two_pictures_never_share_an_output(segment, options):
    save_picture("x/a.png", seed=1)
    save_picture("y/a.jpg", seed=2)
    ended = segment("x/a.png", "y/a.jpg", *options)
    assert ended.code == 1
    assert ended.err == ["fcn-hub: y/a.jpg: out/a.png is already the output of x/a.png."]
    assert len(ended.out) == 1
    np.testing.assert_array_equal(Image.open("out/a.png"), expected("x/a.png").label_map)


def test_a_picture_is_never_replaced_by_its_own_mask(run):
    before = Path(save_picture("photos/a.png")).read_bytes()
    Path("link").symlink_to("photos")
    ended = run("segment", "photos", "--model", "model", "--output", "link", "--overwrite")
    assert ended.code == 1
    assert "itself a picture" in ended.err[0]
    assert Path("photos/a.png").read_bytes() == before


# Outputs that cannot be written


@pytest.mark.parametrize("format", ["png", "overlay"])
def test_a_full_disk_ends_the_run_with_one_line_and_leaves_no_part(segment, monkeypatch, format):
    def save(image, file, **options):
        target = file if isinstance(file, Path) else Path(file.name)
        assert target.parent == Path("out")
        target.write_bytes(b"a beginning")
        raise OSError(errno.ENOSPC, "No space left on device")

    pictures = [save_picture("a.png"), save_picture("b.png")]
    monkeypatch.setattr(Image.Image, "save", save)
    ended = segment(*pictures, "--format", format)
    name = {"png": "a.png", "overlay": "a.overlay.png"}[format]
    assert ended == (1, [], [f"fcn-hub: Cannot write out/{name}: No space left on device."])
    assert files("out") == []


def test_an_unwritable_folder_ends_the_run_with_one_line(segment, monkeypatch):
    def mkdir(*args, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    pictures = [save_picture("a.png"), save_picture("b.png")]
    monkeypatch.setattr(Path, "mkdir", mkdir)
    ended = segment(*pictures, "--json")
    assert (ended.code, len(ended.out)) == (1, 1)
    assert ended.err == ["fcn-hub: Cannot write out/a.png: Permission denied."]


def test_a_name_that_cannot_be_written_is_one_bad_picture(segment):
    too_long = save_picture("x" * 245 + ".png")
    Path("out/b.png").mkdir(parents=True)
    pictures = too_long, save_picture("b.png"), save_picture("c.png")
    ended = segment(*pictures, "--overwrite")
    assert ended.code == 1
    assert len(ended.err) == 2
    assert all("Cannot write out/" in line for line in ended.err)
    assert [path.name for path in Path("out").iterdir() if path.is_file()] == ["c.png"]


def test_running_out_of_memory_is_one_line(segment, monkeypatch):
    def stream(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate …\nSee …")
        yield

    monkeypatch.setattr(Segmenter, "stream", stream)
    ended = segment(save_picture("a.png"))
    assert (ended.code, ended.out, len(ended.err)) == (1, [], 1)
    assert "--batch-size" in ended.err[0]


# Wrong usage

SEGMENT = "segment photo.png --model model --output out "


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "COMMAND"),
        ("paint", "paint"),
        ("segment --model model --output out", "PICTURE"),
        ("segment photo.png --output out", "--model"),
        ("segment photo.png --model model", "--output"),
        (SEGMENT + "--format gif", "overlay"),
        (SEGMENT + "--batch-size 0", "at least 1"),
        (SEGMENT + "--max-side big", "'big'"),
        (SEGMENT + "--max-pixels -4", "--max-pixels"),
        (SEGMENT + "--device toaster", "toaster"),
        (SEGMENT + "--dtype int7", "int7"),
        (SEGMENT + "--colour", "--colour"),
        (SEGMENT + "--model nowhere", "nowhere"),
        (SEGMENT + "--model no/such/folder", "no/such/folder"),
        (SEGMENT + "--model photo.png", "photo.png"),
        (SEGMENT + "--model empty", "config.json"),
        (SEGMENT + "--model damaged", "not valid JSON"),
        (SEGMENT + "--output photo.png", "photo.png is not one"),
        (SEGMENT + "--output photo.png/out", "photo.png is not one"),
        ("segment empty --model model --output out", "no pictures in 'empty'"),
        ("segment photo.png *.tif --model model --output out", "no pictures in '*.tif'"),
        ("segment a**b --model model --output out", "fcn-hub"),
        ("info", "MODEL"),
        ("info nowhere", "nowhere"),
        ("info empty", "config.json"),
        ("demo --port 70000", "1 to 65535"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(run, command, message):
    save_picture("photo.png")
    Path("empty").mkdir()
    Path("damaged").mkdir()
    Path("damaged/config.json").write_text("{")
    ended = run(*command.split())
    assert (ended.code, ended.out, len(ended.err)) == (2, [], 1), ended
    assert ended.err[0].startswith("fcn-hub: ")
    assert message in ended.err[0]
    assert not Path("out").exists()


def test_the_hub_client_is_quiet_unless_told_otherwise(run, monkeypatch):
    run("info", "nowhere")
    assert os.environ["HF_HUB_VERBOSITY"] == "error"
    monkeypatch.setenv("HF_HUB_VERBOSITY", "debug")
    run("info", "nowhere")
    assert os.environ["HF_HUB_VERBOSITY"] == "debug"


def test_an_empty_name_is_no_picture(segment):
    save_picture("photo.png")
    ended = segment("")
    assert (ended.code, len(ended.err)) == (2, 1)


# What a terminal sees


def test_a_progress_bar_is_drawn_on_a_terminal_for_several_pictures(segment, monkeypatch):
    save_picture("a.png")
    save_picture("b.png")
    assert segment("a.png", "b.png").err == []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert segment("a.png", "--overwrite").err == []
    ended = segment("a.png", "b.png", "--overwrite", "--json")
    assert "2/2" in ended.err[-1]
    assert [json.loads(line)["picture"] for line in ended.out] == ["a.png", "b.png"]


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_names_cannot_control_the_terminal(segment, options):
    FCN(num_classes=1, base_channels=4, class_names=["\x1b]0;title\x07"]).save_pretrained("model")
    names = ["red\x1b[31m\r\n.png", "bad\x9b.png", "right\u202eleft.png", os.fsdecode(b"\xff.png")]
    for name in names[::2]:
        save_picture(name)
    ended = segment(*names, *options)
    printed = "".join(ended.out + ended.err)
    assert printed.isprintable()
    assert (len(ended.out), len(ended.err)) == (4 if options else 2, 2)
    if options:
        assert [json.loads(line)["picture"] for line in ended.out] == names
    else:
        assert ended.out[0].startswith(r"red\x1b[31m\r\n.png → out/red\x1b[31m\r\n.png: \x1b]0;ti")
        assert ended.err[1].startswith(r"fcn-hub: \udcff.png does not exist")


def test_a_terminal_without_unicode_is_served(monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    save_picture("ä.png")
    assert cli.main(["segment", "ä.png", "--model", "model", "--output", "out"]) == 0
    assert stdout.buffer.getvalue().startswith(rb"\xe4.png \u2192 out/\xe4.png: ")


# info


def test_info_describes_the_model(run):
    ended = run("info", "model")
    text = "\n".join(ended.out)
    assert (ended.code, ended.err, ended.out[0]) == (0, [], "model")
    facts = dict(line.split(maxsplit=1) for line in ended.out[1:] if len(line.split()) > 1)
    model = FCN.from_pretrained("model")
    assert facts["num_parameters"] == f"{model.num_parameters:,}"
    assert facts["weights_bytes"] == f"{Path('model/model.safetensors').stat().st_size:,}"
    assert facts["decoder"] == '"deconv"'
    assert json.loads(facts["image_mean"]) == list(model.image_mean)
    assert re.search(r"\b1 +#400000 +cat$", text, re.MULTILINE)
    assert text.count("#") == 3
    assert "\x1b" not in text


def test_info_as_json(run):
    ended = run("info", "model", "--json")
    model = FCN.from_pretrained("model")
    assert ended.code == 0
    assert json.loads("\n".join(ended.out)) == {
        "model": "model",
        "num_parameters": model.num_parameters,
        "weights_bytes": Path("model/model.safetensors").stat().st_size,
        "config": model.config,
        "classes": [
            {"index": 0, "name": "background", "color": "#000000"},
            {"index": 1, "name": "cat", "color": "#400000"},
            {"index": 2, "name": "dog", "color": "#400080"},
        ],
    }


def test_info_asks_for_the_revision(run, monkeypatch):
    asked = []

    def fetch(model, filename, *, revision, **options):
        asked.append((filename, revision))
        return Path(model) / filename

    monkeypatch.setattr("fcn_hub.model.fetch_file", fetch)
    monkeypatch.setattr("fcn_hub.hub.fetch_file", fetch)
    assert run("info", "model", "--revision", "v1").code == 0
    assert set(asked) == {("config.json", "v1"), ("model.safetensors", "v1")}


def test_info_shows_colours_unless_told_not_to(run, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "\x1b[48;2;64;0;128m" in "\n".join(run("info", "model").out)
    assert "\x1b" not in "\n".join(run("info", "model", "--json").out)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in "\n".join(run("info", "model").out)


def test_class_names_in_info_cannot_control_the_terminal(run):
    FCN(num_classes=1, base_channels=4, class_names=["\x1b[31mred"]).save_pretrained("model")
    assert run("info", "model").out[-1].endswith(r"\x1b[31mred")


# demo


@pytest.fixture
def app(monkeypatch, tmp_path) -> Path:
    """A stand-in for the web app that writes down how it was started."""
    path = tmp_path / "app.py"
    path.write_text(
        "import json, os, pathlib\n"
        "seen = [__name__, os.environ.get('FCN_HUB_MODEL'), os.environ.get('PORT')]\n"
        "pathlib.Path('seen.json').write_text(json.dumps(seen))\n"
    )
    monkeypatch.setattr(cli, "resource", lambda name: {"space/app.py": path}[name])
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: {"gradio": object()}[name])
    return path


@pytest.mark.parametrize(
    ("options", "port", "seen"),
    [
        ((), None, [None, "7860"]),
        (("--model", "owner/name", "--port", "8123"), None, ["owner/name", "8123"]),
        ((), "9000", [None, "9000"]),
        (("--port", "8123"), "9000", [None, "8123"]),
    ],
)
def test_demo_starts_the_web_app(run, app, monkeypatch, options, port, seen):
    if port:
        monkeypatch.setenv("PORT", port)
    assert run("demo", *options) == (0, [], [])
    assert json.loads(Path("seen.json").read_text()) == ["__main__", *seen]


def test_an_error_of_the_web_app_is_one_line(run, app):
    app.write_text("raise OSError('Port 7860 is taken.')")
    assert run("demo") == (2, [], ["fcn-hub: Port 7860 is taken."])


def test_demo_says_what_it_needs(run, app, monkeypatch):
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None)
    line = 'fcn-hub: The web app needs gradio: pip install "fcn-hub[space]"'
    assert run("demo") == (2, [], [line])
    assert not Path("seen.json").exists()


# The command as a program


def test_version(run, capsys):
    with pytest.raises(SystemExit) as ended:
        run("--version")
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"fcn-hub {fcn_hub.__version__}\n"


def test_help_and_usage_errors_are_immediate():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        help_ = program("segment", "--help")
        text, errors = help_.communicate()
        seconds.append(time.perf_counter() - start)
        assert (help_.returncode, errors) == (0, "")
    assert "NAME.overlay.png" in text
    assert min(seconds) < 0.3
    script = (
        "import sys; from fcn_hub.cli import main; assert main(['segment', '--format', 'x']) == 2;"
        "assert not {'torch', 'numpy', 'PIL', 'huggingface_hub', 'gradio', 'tqdm'} & {*sys.modules}"
    )
    root = Path(fcn_hub.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", script], cwd=root).returncode == 0


def test_exit_codes_of_the_process():
    wrong = program("segment", "photo.png", "--format", "gif")
    out, err = wrong.communicate()
    assert (wrong.returncode, out, err.count("\n")) == (2, "", 1)
    save_picture("a.png")
    mixed = program("segment", "a.png", "b.png", "--model", "model", "--output", "out")
    out, err = mixed.communicate()
    assert (mixed.returncode, out.count("\n"), err.count("\n")) == (1, 1, 1)
    assert "b.png does not exist" in err


posix = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX system")


@posix
def test_ctrl_c_ends_quietly_with_130_and_only_whole_files():
    save_picture("photos/000.png", 300, 400)
    for index in range(1, 100):
        Path(f"photos/{index:03}.png").symlink_to("000.png")
    running = program(
        *("segment", "photos", "--model", "model", "--output", "out", "--batch-size", "1"),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    running.stdout.readline()
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert (running.returncode, errors) == (130, "fcn-hub: Interrupted.\n")
    written = files("out")
    assert 1 <= len(written) < 100
    for name in written:
        Image.open(Path("out") / name).load()


@posix
def test_a_reader_that_goes_away_is_no_error():
    for command in (("--help",), ("segment", "a.png", "--model", "model", "--output", "out")):
        save_picture("a.png")
        reader, writer = os.pipe()
        os.close(reader)
        running = program(*command, stdout=writer)
        os.close(writer)
        assert running.communicate()[1] == ""
        assert running.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_printed_is_one_line():
    with open("/dev/full", "w") as full:  # noqa: PTH123
        running = program("--help", stdout=full)
        errors = running.communicate()[1]
    expected = "fcn-hub: Cannot write to the standard output: No space left on device.\n"
    assert (running.returncode, errors) == (1, expected)


@posix
def test_a_real_terminal_shows_swatches_and_keeps_lines_apart_from_the_progress_bar():
    import fcntl
    import pty
    import struct
    import termios

    def in_terminal(*args: str) -> str:
        terminal, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        running = program(*args, stdout=inside, stderr=inside, env={"NO_COLOR": ""})
        os.close(inside)
        shown = b""
        while True:
            try:
                chunk = os.read(terminal, 65_536)
            except OSError:  # how Linux says that nobody is inside any more
                chunk = b""
            if not chunk:
                break
            shown += chunk
        os.close(terminal)
        assert running.wait() == 0
        return shown.decode()

    assert "\x1b[48;2;64;0;0m    \x1b[0m #400000  cat" in in_terminal("info", "model")
    pictures = save_picture("a.png"), save_picture("b.png")
    shown = in_terminal("segment", *pictures, "--model", "model", "--output", "out")
    assert "2/2" in shown
    lines = [line.split("\r")[-1] for line in shown.replace("\r\n", "\n").split("\n")]
    assert [line.split(":")[0] for line in lines if "→" in line] == [
        "a.png → out/a.png",
        "b.png → out/b.png",
    ]
