# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest
import soundfile

from espnet2_distilmos.fileio.audio import AudioError, read_audio, read_header


def tone(rate, seconds=1.0, hertz=440.0):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_tone_keeps_its_frequency_phase_and_level(tmp_path, rate):
    path = str(tmp_path / "tone.wav")
    soundfile.write(path, tone(rate), rate, subtype="FLOAT")
    samples = read_audio(path, 16000)
    assert samples.dtype == np.float32
    assert abs(len(samples) - 16000) <= 1
    # the same tone sampled at 16 kHz directly; the ends ring
    middle = slice(800, 15200)
    np.testing.assert_allclose(samples[middle], tone(16000)[middle], atol=2e-3)
    spectrum = np.abs(np.fft.rfft(samples[:16000] * np.hanning(16000)[: len(samples)]))
    assert np.argmax(spectrum) == 440


def test_resampling_removes_what_16_khz_cannot_carry(tmp_path):
    path = str(tmp_path / "tone.wav")
    soundfile.write(path, tone(48000, hertz=10000.0), 48000, subtype="FLOAT")
    assert np.abs(read_audio(path)[800:-800]).max() < 1e-3


def test_stereo_is_averaged(tmp_path):
    path = str(tmp_path / "stereo.wav")
    left, right = tone(16000), 0.25 * tone(16000, hertz=1000)
    soundfile.write(path, np.stack([left, right], 1), 16000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(path), (left + right) / 2, atol=1e-6)
    assert read_header(path) == (16000, 16000, 2)


def test_pcm16_is_scaled_to_one(tmp_path):
    path = str(tmp_path / "pcm.flac")
    soundfile.write(path, np.array([0, 16384, -32768], dtype=np.int16), 16000)
    np.testing.assert_array_equal(read_audio(path), [0, 0.5, -1])


def test_overshoot_is_clipped(tmp_path):
    path = str(tmp_path / "loud.wav")
    soundfile.write(path, np.array([1.5, -1.5, 0.5]), 16000, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(path), [1, -1, 0.5])


def _missing(path):
    pass


def _directory(path):
    path.mkdir()


def _empty(path):
    path.touch()


def _text(path):
    path.write_text("This is not audio at all, only a renamed text file.\n")


def _no_samples(path):
    soundfile.write(str(path), np.zeros(0), 16000)


def _nan(path):
    samples = tone(16000)
    samples[7] = np.nan
    soundfile.write(str(path), samples, 16000, subtype="FLOAT")


def _inf(path):
    samples = tone(16000)
    samples[7] = np.inf
    soundfile.write(str(path), samples, 16000, subtype="FLOAT")


def _integers_as_float(path):
    soundfile.write(str(path), 30000 * tone(16000), 16000, subtype="FLOAT")


@pytest.mark.parametrize(
    "make, found",
    [
        (_missing, "does not exist"),
        (_directory, "is a directory"),
        (_empty, "is empty"),
        (_text, "cannot be read as audio"),
        (_no_samples, "0 samples"),
        (_nan, "1 samples that are NaN"),
        (_inf, "1 samples that are NaN or infinite"),
        (_integers_as_float, "float samples up to 15000"),
    ],
)
def test_bad_file_gives_one_sentence(tmp_path, make, found):
    path = tmp_path / "bad.wav"
    make(path)
    with pytest.raises(AudioError, match=found) as error:
        read_audio(str(path), utt_id="utt7")
    message = str(error.value)
    assert "utterance utt7" in message and str(path) in message
    assert "\n" not in message and message.endswith(".")


@pytest.mark.parametrize("make", [_missing, _directory, _empty, _text])
def test_bad_header_gives_one_sentence(tmp_path, make):
    path = tmp_path / "bad.wav"
    make(path)
    with pytest.raises(AudioError, match="utterance utt7"):
        read_header(str(path), "utt7")


def test_command_pipe_is_named_as_such():
    with pytest.raises(AudioError, match="is a command"):
        read_audio("flac -dc x.flac |")
