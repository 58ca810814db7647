# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import io

import numpy as np
import pytest
import soundfile

from espnet2_distilmos.data.audio import AudioError
from espnet2_distilmos.data.media import encode_mp3, read_start, spectrogram_jpeg


def speech(rate, seconds):
    """Noise below 3 kHz that comes and goes, as a codec expects of speech."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=int(rate * seconds))
    width = rate // 3000
    x = np.convolve(x, np.ones(width) / width, "same")
    envelope = 1 + np.sin(2 * np.pi * 3 * np.arange(len(x)) / rate)
    return (0.1 * envelope * x).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100])
def test_an_mp3_holds_the_clip(rate):
    x = speech(rate, 1.5)
    content = encode_mp3(x, rate)
    found, own_rate = soundfile.read(io.BytesIO(content))
    assert own_rate == rate
    assert abs(len(found) - len(x)) < 0.1 * rate
    # In its place, too: the padding of the encoder is taken off again.
    n = min(len(x), len(found))
    assert np.corrcoef(x[:n], found[:n])[0, 1] > 0.98
    assert encode_mp3(x, rate) == content


@pytest.mark.parametrize(
    "rate, expected", [(16000, 16000), (20000, 22050), (96000, 48000)]
)
def test_a_rate_that_mp3_has(tmp_path, rate, expected):
    path = tmp_path / "a.wav"
    soundfile.write(path, speech(rate, 2.0), rate)
    samples, found, seconds = read_start(path, 1.25)
    assert (found, len(samples)) == (expected, int(1.25 * expected))
    assert seconds == pytest.approx(2.0)
    assert len(read_start(path, 5)[0]) == pytest.approx(2.0 * expected, abs=2)


def test_what_cannot_be_read(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"no audio")
    with pytest.raises(AudioError, match="a.wav cannot be read as audio"):
        read_start(tmp_path / "a.wav", 1)


def test_a_tone_is_a_dark_line_at_its_frequency():
    image = pytest.importorskip("PIL.Image")
    rate = 16000
    time = np.arange(2 * rate) / rate
    # Silence, then 2 kHz: a quarter of the way up to 8 kHz.
    tone = np.where(time < 1, 0, 0.5 * np.sin(2 * np.pi * 2000 * time))
    content = spectrogram_jpeg(tone.astype(np.float32), rate, width=200, height=80)
    found = np.asarray(image.open(io.BytesIO(content)), dtype=float)
    assert found.shape == (80, 200)
    assert found[:, :90].min() > 240
    line = found[:, 120:190].mean(axis=1)
    assert line.argmin() == pytest.approx(60, abs=1) and line.min() < 120
    assert line[:50].min() > 200 and line[70:].min() > 200


@pytest.mark.parametrize("x", [np.zeros(1), np.zeros(16000), np.ones(3)])
def test_silence_and_single_samples(x):
    pytest.importorskip("PIL")
    assert spectrogram_jpeg(x.astype(np.float32), 16000).startswith(b"\xff\xd8")
