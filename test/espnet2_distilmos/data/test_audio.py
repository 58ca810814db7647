# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import os
import struct

import numpy as np
import pytest
import soundfile
import soxr

from espnet2_distilmos.data.audio import (
    AudioError,
    check_channel,
    read_audio,
    read_blocks,
    read_header,
)


def tone(rate, seconds=1.0, hertz=440.0):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


@pytest.mark.parametrize("rate", [8000, 44100])
def test_tone_keeps_its_frequency_phase_and_level(tmp_path, rate):
    path = str(tmp_path / "tone.wav")
    soundfile.write(path, tone(rate), rate, subtype="FLOAT")
    samples = read_audio(path, 16000)
    assert samples.dtype == np.float32 and abs(len(samples) - 16000) <= 1
    # the same tone sampled at 16 kHz directly; the ends ring
    middle = slice(800, 15200)
    np.testing.assert_allclose(samples[middle], tone(16000)[middle], atol=2e-3)


def test_channels(tmp_path):
    path = str(tmp_path / "stereo.wav")
    left, right = tone(16000), 0.25 * tone(16000, hertz=1000)
    soundfile.write(path, np.stack([left, right], 1), 16000, subtype="FLOAT")
    assert read_header(path) == (16000, 16000, 2)
    for channel, expected in (("mean", (left + right) / 2), (0, left), (1, right)):
        np.testing.assert_allclose(read_audio(path, channel=channel), expected, 0, 1e-6)
    with pytest.raises(AudioError, match="has 2 channels, expected one with the numb"):
        read_audio(path, channel=2)
    assert check_channel("1") == 1 and check_channel("mean") == "mean"
    for bad in ("left", -1, True, 1.5, ""):
        with pytest.raises(ValueError, match="expected mean or the number"):
            check_channel(bad)


def test_levels(tmp_path):
    """PCM is scaled to one, overshoot is clipped."""
    path = str(tmp_path / "pcm.flac")
    soundfile.write(path, np.array([0, 16384, -32768], dtype=np.int16), 16000)
    np.testing.assert_array_equal(read_audio(path), [0, 0.5, -1])
    path = str(tmp_path / "loud.wav")
    soundfile.write(path, np.array([1.5, -1.5, 0.5]), 16000, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(path), [1, -1, 0.5])


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_blocks_are_the_file(tmp_path, monkeypatch, rate):
    """Also the resampler's state passes from block to block: one call of soxr."""
    path = str(tmp_path / "a.wav")
    wave = np.random.default_rng(0).normal(0, 0.3, 3 * rate).astype(np.float32)
    soundfile.write(path, wave, rate, subtype="FLOAT")
    expected = soxr.resample(wave, rate, 16000, quality="VHQ").clip(-1, 1)
    for size in (1 << 20, 5000, 97):
        monkeypatch.setattr("espnet2_distilmos.data.audio._BLOCK_SAMPLES", size)
        blocks = list(read_blocks(path))
        assert len(blocks) > 1 or size > len(wave)
        np.testing.assert_array_equal(np.concatenate(blocks), expected)
        np.testing.assert_array_equal(read_audio(path), expected)


def test_no_more_is_read_than_is_wanted(tmp_path, monkeypatch):
    monkeypatch.setattr("espnet2_distilmos.data.audio._BLOCK_SAMPLES", 1000)
    path = str(tmp_path / "a.wav")
    soundfile.write(path, tone(16000), 16000)
    assert len(read_audio(path, maximum_samples=16000)) == 16000
    sizes = []
    read = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile, "read", lambda *a, **k: sizes.append(1) or read(*a, **k)
    )
    assert read_audio(path, maximum_samples=2500) is None
    assert len(sizes) == 3


# What is refused


def wav(declared, held, channels=1, rate=16000, junk=b""):
    """A WAV of 16-bit samples with a length of the header's own."""
    width = 2 * channels
    chunks = b"fmt " + struct.pack(
        "<IHHIIHH", 16, 1, channels, rate, rate * width, width, 16
    )
    if junk:
        chunks += b"LIST" + struct.pack("<I", len(junk)) + junk + b"\0"
    chunks += b"data" + struct.pack("<I", declared) + b"\1\0" * (held // 2)
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WAVE" + chunks


def _floats(*values):
    return lambda path: soundfile.write(
        str(path), np.resize(np.array(values, float), 1600), 16000, subtype="FLOAT"
    )


def _half_of_a_flac(path):
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 160000), 16000)
    os.truncate(path, os.path.getsize(path) // 2)


BAD = {
    "does not exist": lambda path: None,
    "is a directory": lambda path: path.mkdir(),
    "is a broken link to nowhere": lambda path: path.symlink_to("nowhere"),
    "is a device or pipe": os.mkfifo,
    "is empty": lambda path: path.touch(),
    "cannot be read as audio": lambda path: path.write_text("This is no audio.\n" * 9),
    "0 samples": lambda path: soundfile.write(path, np.zeros(0), 16000),
    "400 samples that are NaN or inf": _floats(0, np.nan, 0, 0),
    "1600 samples that are NaN or inf": _floats(np.inf),
    "float samples up to 15000": _floats(0, 15000),
    "sampling rate of 1 Hz": lambda path: path.write_bytes(wav(3200, 3200, rate=1)),
    "declares 36000.00 s .* holds 0.03": lambda path: path.write_bytes(
        wav(36000 * 32000, 980)
    ),
    "declares 1.00 s .* holds 0.50": lambda path: path.write_bytes(
        wav(64000, 32000, channels=2, junk=b"odd")
    ),
}


@pytest.mark.parametrize("found", BAD)
def test_a_bad_file_gives_one_sentence(tmp_path, found):
    path = tmp_path / "bad.wav"
    BAD[found](path)
    with pytest.raises(AudioError, match=found) as error:
        read_audio(str(path), utt_id="utt7")
    message = str(error.value)
    assert message.startswith(f"utterance utt7: {path} ")
    assert "\n" not in message and message.endswith(".")
    assert "FILE.wav FILE.wav" not in message  # ffmpeg would read what it writes


@pytest.mark.parametrize(
    "name, make, found",
    [
        ("a.flac", _half_of_a_flac, "is cut off|cannot be read as audio"),
        ("a.m4a", lambda path: path.write_bytes(b"\0\0\0\x20ftypM4A " * 9), "of m4a"),
        ("a.raw", lambda path: path.write_bytes(bytes(100)), "has no header"),
        ("flac -dc x.flac |", lambda path: None, "is a command"),
    ],
)
def test_what_the_name_says(tmp_path, name, make, found):
    make(tmp_path / name)
    with pytest.raises(AudioError, match=found):
        read_audio(str(tmp_path / name))
    if name != "a.flac":
        with pytest.raises(AudioError, match="utterance u"):
            read_header(str(tmp_path / name), "u")


def test_wav_of_a_pipe_or_of_a_sloppy_writer_is_no_cut_off_file(tmp_path):
    path = tmp_path / "a.wav"
    for declared in (0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 32000 + 44, 32000):
        path.write_bytes(wav(declared, 32000))
        assert len(read_audio(path)) == 16000


# Names and formats


@pytest.mark.parametrize(
    "name", [b"new\nline.wav", b"\xff\xfe.wav", "é 日.wav".encode()]
)
def test_any_name(tmp_path, name):
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, "wb") as file:
        soundfile.write(file, tone(16000), 16000, format="WAV")
    assert len(read_audio(os.fsdecode(path))) == 16000


@pytest.mark.parametrize("suffix", ["flac", "ogg", "opus", "mp3", "aiff"])
def test_formats(tmp_path, suffix):
    path = str(tmp_path / f"a.{suffix}")
    options = dict(format="OGG", subtype="OPUS") if suffix == "opus" else {}
    soundfile.write(path, tone(48000), 48000, **options)
    found = read_audio(path)
    # an encoder may add silence at the ends
    assert 16000 <= len(found) < 18500
    spectrum = np.abs(np.fft.rfft(found[2000:14000] * np.hanning(12000)))
    assert np.argmax(spectrum) * 16000 / 12000 == pytest.approx(440, abs=1)
    assert np.sqrt(np.mean(found[4000:12000] ** 2)) == pytest.approx(0.354, rel=0.05)
