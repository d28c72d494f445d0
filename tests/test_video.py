"""Clips: reading untrusted ones within limits, and writing those that are drawn."""

import struct
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

av = pytest.importorskip("av", reason='pip install "fcn-hub[video]"')

from fcn_hub import video  # noqa: E402
from fcn_hub.video import Frame, VideoError, open_clip, write_video  # noqa: E402

LEFT, RIGHT = (0, 114, 178), (230, 159, 0)
EVERY = {"max_seconds": 10, "rate": 120, "max_side": 1000}


def make_clip(path, codec="libx264", frames=25, rate=25, size=(64, 48), sound=False):
    """Two colours side by side, the border between them moving to the right."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        voice = container.add_stream("aac", rate=16_000) if sound else None
        for number in range(frames):
            image = Image.new("RGB", size, RIGHT)
            image.paste(LEFT, (0, 0, (number + 1) * size[0] // frames, size[1]))
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode(None))
        if voice:
            quiet = np.zeros((1, 16_000), np.float32)
            frame = av.AudioFrame.from_ndarray(quiet, format="fltp", layout="mono")
            frame.sample_rate = 16_000
            container.mux(voice.encode(frame))
            container.mux(voice.encode(None))
    return path


@pytest.fixture
def clip(tmp_path):
    return make_clip(tmp_path / "clip.mp4")


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mov", "mjpeg"),
        ("a.mkv", "libx265"),
        ("a.webm", "libvpx"),
        ("b.webm", "libvpx-vp9"),
        ("c.webm", "libsvtav1"),
        ("a.avi", "mpeg4"),
    ],
)
def test_the_usual_kinds_are_read(tmp_path, name, codec):
    found = open_clip(make_clip(tmp_path / name, codec))
    assert (found.width, found.height, found.rate) == (64, 48, 25)
    assert found.seconds == pytest.approx(1, abs=0.05)
    frames = list(found.frames(**EVERY))
    assert [round(frame.seconds, 2) for frame in frames] == [i / 25 for i in range(25)]
    assert frames[0].image.size == (64, 48) and frames[0].image.mode == "RGB"
    np.testing.assert_allclose(frames[12].image.getpixel((10, 24)), LEFT, atol=12)
    np.testing.assert_allclose(frames[12].image.getpixel((54, 24)), RIGHT, atol=12)


def test_sound_is_left_alone(tmp_path):
    found = open_clip(make_clip(tmp_path / "clip.mp4", sound=True))
    assert len(list(found.frames(**EVERY))) == 25


def test_a_title_in_another_encoding_is_no_reason_to_refuse_a_clip(clip):
    clip.write_bytes(clip.read_bytes().replace(b"VideoHandler", b"Vid\xe9oHandler"))
    assert len(list(open_clip(clip).frames(**EVERY))) == 25


def test_frames_are_left_out_evenly_and_those_after_the_end_are_not_decoded(clip):
    frames = list(open_clip(clip).frames(max_seconds=0.8, rate=10, max_side=1000))
    times = [frame.seconds for frame in frames]
    assert len(times) == 8 and times[0] == 0 and times[-1] < 0.8
    assert all(0.04 <= after - before <= 0.13 for before, after in pairwise(times))


def test_frames_are_scaled_down_to_the_side_that_is_asked_for(tmp_path):
    path = make_clip(tmp_path / "clip.mp4", size=(400, 90))
    frame = next(open_clip(path).frames(max_seconds=1, rate=1, max_side=101))
    assert frame.image.size == (100, 22)  # even, as video wants it


def test_a_clip_that_was_filmed_upright_comes_upright(clip):
    # The matrix in the track header says how to turn the stored picture: a quarter clockwise.
    data = bytearray(clip.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    one = 1 << 16
    data[matrix : matrix + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 48 * one, 0, 1 << 30)
    clip.write_bytes(data)
    frames = list(open_clip(clip).frames(**EVERY))
    assert frames[12].image.size == (48, 64)
    # What was left is now above.
    np.testing.assert_allclose(frames[12].image.getpixel((24, 10)), LEFT, atol=12)
    np.testing.assert_allclose(frames[12].image.getpixel((24, 54)), RIGHT, atol=12)


def test_too_large_a_file_and_too_large_frames_are_refused_unread(clip):
    with pytest.raises(VideoError, match="too many bytes; at most 100 are accepted"):
        open_clip(clip, max_bytes=100)
    with pytest.raises(VideoError, match="64 × 48 pixels; at most 3,071 are accepted"):
        open_clip(clip, max_pixels=64 * 48 - 1)


def test_frames_that_are_larger_than_the_header_says_are_not_decoded(tmp_path):
    # VP8 has its size in every key frame. A large one is put behind a small one and its header.
    small, large = (
        make_clip(tmp_path / f"{side}.webm", "libvpx", frames=1, size=(side, side))
        for side in (64, 1024)
    )
    with (
        av.open(str(small)) as first,
        av.open(str(large)) as second,
        av.open(str(tmp_path / "lie.webm"), "w") as lie,
    ):
        stream = lie.add_stream_from_template(first.streams.video[0])
        for number, packet in enumerate([next(first.demux()), next(second.demux())]):
            packet.stream = stream
            packet.pts = packet.dts = 40 * number
            lie.mux(packet)
    found = open_clip(tmp_path / "lie.webm", max_pixels=64 * 64)
    assert (found.width, found.height) == (64, 64)
    assert len(list(found.frames(**EVERY))) == 1
    assert len(list(open_clip(tmp_path / "lie.webm").frames(**EVERY))) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"This is no video.",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
    ],
    ids=["empty", "text", "play list", "list of files"],
)
def test_what_is_no_video_is_refused(tmp_path, content):
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(VideoError, match="is not a video, or its beginning is damaged; accepted"):
        open_clip(tmp_path / "clip.mp4")


def test_no_list_can_name_another_file(tmp_path):
    make_clip(tmp_path / "secret.ts", "libx264")
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:9", "#EXTINF:9,", "secret.ts", "#EXT-X-ENDLIST"]
    (tmp_path / "clip.m3u8").write_text("\n".join(lines))
    with av.open(str(tmp_path / "clip.m3u8")) as container:  # FFmpeg itself follows it
        assert container.streams.video
    with pytest.raises(VideoError, match="is not a video"):
        open_clip(tmp_path / "clip.m3u8")


def test_a_kind_of_video_that_is_not_listed_is_refused(tmp_path):
    path = make_clip(tmp_path / "clip.avi", "mpeg2video")
    with pytest.raises(VideoError, match="is not a video of a kind that is known here"):
        open_clip(path)


def test_a_file_without_a_picture_and_one_that_is_not_there(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        voice = container.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), "fltp", "mono")
        frame.sample_rate = 16_000
        container.mux(voice.encode(frame))
        container.mux(voice.encode(None))
    with pytest.raises(VideoError, match="holds no video"):
        open_clip(tmp_path / "sound.mp4")
    with pytest.raises(VideoError, match="cannot be read: No such file"):
        open_clip(tmp_path / "missing.mp4")


def test_damaged_clips_give_frames_or_a_friendly_error_and_nothing_else(tmp_path):
    rng = np.random.default_rng(0)
    for name, codec in (("a.mp4", "libx264"), ("a.webm", "libvpx"), ("a.avi", "mpeg4")):
        whole = make_clip(tmp_path / name, codec, sound=name == "a.mp4").read_bytes()
        for _ in range(60):
            data = bytearray(whole[: rng.integers(1, len(whole))] if rng.random() < 0.3 else whole)
            for at in rng.integers(0, len(data), rng.integers(1, 30)):
                data[at] = rng.integers(256)
            (tmp_path / "damaged").write_bytes(data)
            try:
                for frame in open_clip(tmp_path / "damaged").frames(**EVERY):
                    assert frame.image.mode == "RGB"
            except VideoError:
                pass


def test_a_file_that_lies_about_its_times_ends_nevertheless(tmp_path, monkeypatch):
    clip = make_clip(tmp_path / "clip.webm", "libvpx", frames=300)
    with av.open(str(clip)) as read, av.open(str(tmp_path / "lie.webm"), "w") as lie:
        stream = lie.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                packet.pts = packet.dts = 0
                lie.mux(packet)
    decoded = []

    def counting(container):
        for frame in original(container):
            decoded.append(frame)
            yield frame

    original = video._decoded
    monkeypatch.setattr(video, "_decoded", counting)
    assert len(list(open_clip(tmp_path / "lie.webm").frames(**{**EVERY, "max_seconds": 1}))) == 1
    assert len(decoded) == video.MAX_RATE + 1


def test_what_is_written_is_read_back(tmp_path):
    frames = [
        Frame(seconds, Image.new("RGB", (65, 49), color))
        for seconds, color in ((0, LEFT), (0.5, RIGHT), (0.52, LEFT))
    ]
    write_video(tmp_path / "film.mp4", frames)
    found = open_clip(tmp_path / "film.mp4")
    assert (found.width, found.height) == (64, 48)
    assert found.seconds == pytest.approx(0.54)  # the last frame is shown, too
    again = list(found.frames(**EVERY))
    assert [round(frame.seconds, 3) for frame in again] == [0, 0.5, 0.52]
    for before, after in zip(frames, again, strict=True):
        np.testing.assert_allclose(
            after.image.getpixel((30, 20)), before.image.getpixel((30, 20)), atol=4
        )
    with av.open(str(tmp_path / "film.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt, codec.colorspace, codec.color_range) == (
            "h264",
            "yuv420p",
            1,
            1,
        )
    data = (tmp_path / "film.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # it plays before it has arrived


def test_nothing_is_left_of_a_video_that_failed(tmp_path):
    def broken():
        yield Frame(0, Image.new("RGB", (64, 48)))
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        write_video(tmp_path / "film.mp4", broken())
    with pytest.raises(ValueError, match="at least one frame"):
        write_video(tmp_path / "film.mp4", [])
    assert list(tmp_path.iterdir()) == []
