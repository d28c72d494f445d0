"""Fixtures of the tests over HTTP: a Hub, and processes in which the real client meets it."""

import itertools
import multiprocessing
import os
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.server import Hub

# Starting a Python that imports torch takes seconds. Here each program runs in a process of its
# own that was forked from one which holds torch, but has not yet seen huggingface_hub: the client
# reads its environment when it is imported.
_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_PROCESSES = multiprocessing.get_context(_METHOD)
if _METHOD == "forkserver":
    _PROCESSES.set_forkserver_preload(["torch", "safetensors.torch", "yaml", "jinja2", "PIL.Image"])

_PRELUDE = """
import os, sys
os.environ.clear()
os.environ.update({environment!r})
for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
    stream.flush()
    file = os.open({output!r} + str(descriptor), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, descriptor)

def refusal(call, *args, **kwargs):
    '''The type and message of the error that a call raises, which must be a single line.'''
    try:
        call(*args, **kwargs)
    except (OSError, ValueError) as error:
        assert "\\n" not in str(error), error
        return type(error).__name__ + ": " + str(error)
    raise AssertionError("nothing was raised")

def shown(call, *args, **kwargs):
    '''What a call shows on a terminal.'''
    import contextlib, io
    class Terminal(io.StringIO):
        def isatty(self):
            return True
    with contextlib.redirect_stderr(Terminal()) as terminal:
        call(*args, **kwargs)
    return terminal.getvalue()

exec({program!r}, {{"refusal": refusal, "shown": shown}})
sys.stdout.flush()
"""


class Client:
    """Runs programs in processes that take `hub` for the Hub, with a cache of their own."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        self.home = folder / "home"
        self._outputs = (folder / f"output-{number}-" for number in itertools.count())
        self._environment = {
            **{key: value for key, value in os.environ.items() if not _steers_the_client(key)},
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_TOKEN": "hf_write",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    @property
    def cache(self) -> Path:
        return self.home / "hub"

    def run(self, program: str, **environment: str) -> str:
        """What a program prints; `refusal(call, …)` in it is the error that a call ends in, and
        `shown(call, …)` what the call shows on a terminal.
        """
        output = str(next(self._outputs))
        code = _PRELUDE.format(
            environment={**self._environment, **environment},
            output=output,
            program=textwrap.dedent(program),
        )
        process = _PROCESSES.Process(target=exec, args=(code,))
        process.start()
        process.join(120)
        if process.exitcode is None:
            process.kill()
        stdout, stderr = (Path(output + n).read_text(encoding="utf-8") for n in "12")
        assert process.exitcode == 0, stderr
        return stdout.rstrip("\n")

    def run_script(self, path: Path, *arguments: object, **environment: str) -> str:
        """What one of the project's programs prints, and after that what it exits with."""
        return self.run(
            f"""
            import runpy, sys
            sys.argv = {[path.name, *map(str, arguments)]!r}
            try:
                runpy.run_path({str(path)!r}, run_name="__main__")
            except SystemExit as end:
                print(end)
            """,
            **environment,
        )


def _steers_the_client(key: str) -> bool:
    return key.startswith("HF_") or key.lower().endswith("_proxy")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with Hub(tmp_path / "hub-server") as server:
        yield server
    assert not server.defects, server.defects


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    return Client(hub, tmp_path)


@pytest.fixture
def online(hub: Hub, checkpoint: Path) -> str:
    """`checkpoint` on the Hub as alice/net; the id of its commit."""
    return hub.commit("alice/net", contents(checkpoint))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
