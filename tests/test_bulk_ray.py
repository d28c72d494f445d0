"""Bulk prediction on a local Ray cluster of two actors: the same files, whatever dies meanwhile."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from test_bulk import files, make_config, make_place

from fcn_hub.bulk import PredictConfig, predict
from fcn_hub.bulk.engines import EngineError, RayPool

ray = pytest.importorskip("ray")
Cluster = pytest.importorskip("ray.cluster_utils").Cluster

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return make_place(tmp_path_factory.mktemp("bulk-ray"))


@pytest.fixture(scope="module")
def ray_folder():
    """Where Ray keeps its sockets: their paths have at most 107 bytes, which rules out pytest's."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield folder


@pytest.fixture(scope="module")
def module_patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def cluster(ray_folder, module_patch):
    """Two nodes with room for one actor each, whose workers find the package where we do."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    module_patch.setenv("RAY_TMPDIR", ray_folder)
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        nodes.add_node(num_cpus=1)
        runtime = {"env_vars": {"PYTHONPATH": path}}
        ray.init(address=nodes.address, log_to_driver=False, runtime_env=runtime)
        yield
    finally:
        ray.shutdown()
        nodes.shutdown()


@pytest.fixture
def config(place, tmp_path) -> PredictConfig:
    """Eleven shards of one picture, for two actors."""
    return replace(make_config(place, tmp_path), engine="ray", workers=(2, 2), shard_size=1)


@pytest.fixture
def expected(config, tmp_path) -> dict[str, bytes]:
    """What one process writes."""
    alone = replace(config, engine="local", output=str(tmp_path / "alone"))
    predict(alone)
    return files(alone.output)


def when_written(config: PredictConfig, count: int, action) -> threading.Thread:
    """Do something once that many shards are there."""

    def wait() -> None:
        deadline = time.monotonic() + 240
        while len(list(Path(config.output).glob("part-*"))) < count:
            if time.monotonic() > deadline:
                return
            time.sleep(0.01)
        action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_actors_write_what_one_process_writes(cluster, config, expected):
    report = predict(config)
    assert (report.done, report.failed, report.skipped) == (9, 2, 0)
    assert files(config.output) == expected
    again = predict(config)
    assert again.skipped == 11


def test_an_actor_that_is_killed_in_the_middle_is_replaced(cluster, config, expected):
    killed = []

    def kill_an_actor() -> None:
        for process in psutil.process_iter(["cmdline"]):
            if any("MapWorker" in word for word in process.info["cmdline"] or ()):
                process.kill()
                killed.append(process.pid)
                return

    thread = when_written(config, 2, kill_an_actor)
    report = predict(config)
    thread.join()
    assert killed
    assert report.done + report.failed == 11
    assert files(config.output) == expected


def test_an_actor_loads_the_model_in_the_thread_that_runs_it(cluster, tmp_path):
    def make_work():
        loaded_in = threading.get_ident()

        def work(index: int) -> None:
            same = threading.get_ident() == loaded_in
            (tmp_path / f"{index}.txt").write_text(f"{os.getpid()} {same}")

        return work

    assert sorted(RayPool(1, 1, 1, 0)(make_work, range(3))) == [0, 1, 2]
    told = [path.read_text().split() for path in tmp_path.iterdir()]
    assert [same for _, same in told] == ["True"] * 3
    assert len({process for process, _ in told}) == 1


def test_a_shard_that_cannot_be_written_is_told_in_one_sentence(cluster):
    def make_work():
        def work(index: int) -> None:
            raise OSError("No space left on the device")

        return work

    with pytest.raises(EngineError, match=r"^No space left on the device$"):
        list(RayPool(1, 1, 1, 0)(make_work, [0]))


def test_what_no_repetition_would_mend_ends_the_run_in_one_sentence(cluster, config):
    broken = replace(config, device="cuda:9")
    with pytest.raises(EngineError, match=r"^The device 'cuda:9' is not available here\.$"):
        predict(broken)


def test_the_driver_is_killed_and_a_rerun_completes_its_work(config, expected, ray_folder):
    options = {"model": config.model, "output": config.output, "shard-size": "1", "cpus": "1"}
    options |= {"device": "cpu", "dtype": "float32", "batch-size": "3", "engine": "ray"}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    program = str(ROOT / "scripts" / "predict.py")
    own = Path(ray_folder) / "d"  # where it does not find the cluster of the other tests
    own.mkdir()
    driver = subprocess.Popen(
        [sys.executable, program, *config.sources, *words, "--workers", "2", "2"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(own)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert driver.stderr is not None
    cluster: list[psutil.Process] = []
    try:
        while len(list(Path(config.output).glob("part-*"))) < 2 and driver.poll() is None:
            time.sleep(0.01)
        assert driver.poll() is None, driver.stderr.read()
        cluster = psutil.Process(driver.pid).children(recursive=True)
        actors = [process for process in cluster if "MapWorker" in process.name()]
        assert actors
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        _, alive = psutil.wait_procs(actors, timeout=60)
        assert alive == []  # so nobody writes any more
    finally:
        driver.kill()
        for process in cluster:  # Ray's own helpers take minutes to notice
            with suppress(psutil.NoSuchProcess):
                process.kill()
        driver.stderr.close()
    left = 11 - len(list(Path(config.output).glob("part-*.parquet")))
    assert left > 0
    report = predict(replace(config, engine="local"))
    assert report.done + report.failed == left
    assert files(config.output) == expected
