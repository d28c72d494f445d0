"""A clip, segmented: pacing, the shared legend and the figures; no server, no network."""

import numpy as np
import pytest
from conftest import make_picture
from PIL import Image
from serving import clips

from fcn_hub import LabelMap, Segmentation
from fcn_hub.video import Frame, open_clip, write_video

LABELS = LabelMap.VOC7


class Clock:
    """Time that passes only while something is segmented."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now, self.batches = seconds, 0.0, []

    def __call__(self) -> float:
        return self.now

    def segment(self, images):
        self.now += self.seconds * len(images)
        self.batches.append(len(images))
        return [halves(image, len(self.batches)) for image in images]


def halves(image: Image.Image, call: int) -> Segmentation:
    """A cat on the left and, from the second call on, a dog on the right."""
    label_map = np.zeros((image.height, image.width), np.uint8)
    label_map[:, : image.width // 2] = 1
    label_map[:, image.width // 2 :] = 3 if call > 1 else 0
    return Segmentation(image, label_map, np.full(label_map.shape, 0.5, np.float32), LABELS)


@pytest.fixture
def clip(tmp_path):
    """Twelve seconds of 25 frames each."""
    image = Image.fromarray(make_picture(48, 64))
    write_video(tmp_path / "clip.mp4", (Frame(i / 25, image) for i in range(300)))
    return open_clip(tmp_path / "clip.mp4")


def run(clip, seconds: float):
    clock = Clock(seconds)
    reel = clips.Reel(clip, LABELS, clock.segment, clock)
    return reel, clock, list(reel.steps())


def test_fast_hardware_does_every_frame_many_at_once(clip):
    reel, clock, steps = run(clip, 0.01)
    assert reel.summary()["frames"] == 250  # ten seconds of 25
    assert max(clock.batches) == 16
    assert steps[-1].seconds == pytest.approx(9.96) and steps[-1].total == 10


def test_slow_hardware_does_fewer_frames_evenly_and_ends_in_time(clip):
    reel, clock, steps = run(clip, 2.5)
    assert 20 <= reel.summary()["frames"] <= 26
    assert clock.now <= clips.WORK_SECONDS + 2.5
    assert steps[-1].seconds > 9  # to the end of the clip
    gaps = np.diff([step.seconds for step in steps])
    assert gaps[2:].max() < 2 * gaps[2:].min()


def test_hardware_that_is_too_slow_gives_up_in_time(clip):
    reel, _, steps = run(clip, 200)
    assert len(steps) == 1 and reel.summary()["frames"] == 1


def test_one_legend_serves_all_frames_and_its_colours_are_the_classes(clip, tmp_path):
    reel, _, _ = run(clip, 2.5)
    assert [entry.name for entry in reel.legend()] == ["cat", "dog", "background"]
    reel.write(tmp_path / "film.mp4")
    film = open_clip(tmp_path / "film.mp4")
    assert film.height > 48 and film.width >= 64
    frames = list(film.frames(max_seconds=20, rate=100, max_side=1000))
    assert len(frames) == reel.summary()["frames"]
    for name in ("cat", "dog", "background"):
        color = LABELS.colors[LABELS.names.index(name)]
        for frame in (frames[0], frames[-1]):
            below = np.asarray(frame.image)[48:].astype(int)
            assert (np.abs(below - color).max(axis=-1) <= 12).sum() > 50, name


def test_the_summary_adds_up_over_all_frames(clip):
    reel, _, _ = run(clip, 2.5)
    summary = reel.summary()
    assert (summary["width"], summary["height"]) == (64, 48)
    assert summary["clip_seconds"] == pytest.approx(12, abs=0.1)
    assert 9 < summary["seconds"] <= 10
    cat, dog, background = summary["classes"]
    frames = summary["frames"]
    assert cat == {
        "index": 1,
        "name": "cat",
        "color": LABELS.color_hex(1),
        "confidence": 0.5,
        "pixels": frames * 32 * 48,
        "fraction": 0.5,
    }
    assert dog["pixels"] == (frames - 1) * 32 * 48 and background["pixels"] == 32 * 48
    assert sum(each["fraction"] for each in summary["classes"]) == pytest.approx(1)
