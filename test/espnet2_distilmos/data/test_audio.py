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


# Channels, blocks, limits


def test_one_channel(tmp_path):
    path = str(tmp_path / "stereo.flac")
    left, right = tone(16000), 0.25 * tone(16000, hertz=1000)
    soundfile.write(path, np.stack([left, right], 1), 16000, subtype="PCM_24")
    np.testing.assert_allclose(read_audio(path, channel=0), left, atol=1e-6)
    np.testing.assert_allclose(read_audio(path, channel=1), right, atol=1e-6)
    with pytest.raises(AudioError, match="has 2 channels, expected one with the numb"):
        read_audio(path, channel=2)
    assert check_channel("1") == 1 and check_channel("mean") == "mean"
    for bad in ("left", -1, True, 1.5, ""):
        with pytest.raises(ValueError, match="expected mean or the number"):
            check_channel(bad)


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
    assert read_audio(path, maximum_samples=15999) is None
    count = 0
    read = soundfile.SoundFile.read

    def counting(*args, **kwargs):
        nonlocal count
        count += 1
        return read(*args, **kwargs)

    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    assert read_audio(path, maximum_samples=2500) is None
    assert count == 3


# Headers that lie


def wav(declared, held, channels=1, junk=b""):
    """A WAV of 16-bit samples with a length of the header's own."""
    width = 2 * channels
    chunks = b"fmt " + struct.pack(
        "<IHHIIHH", 16, 1, channels, 16000, 16000 * width, width, 16
    )
    if junk:
        chunks += (
            b"LIST" + struct.pack("<I", len(junk)) + junk + b"\0" * (len(junk) % 2)
        )
    chunks += b"data" + struct.pack("<I", declared) + b"\1\0" * (held // 2)
    return (
        b"RIFF" + struct.pack("<I", (len(chunks) + 4) & 0xFFFFFFFF) + b"WAVE" + chunks
    )


@pytest.mark.parametrize("junk", [b"", b"odd"])
def test_wav_cut_off(tmp_path, junk):
    path = tmp_path / "a.wav"
    path.write_bytes(wav(10 * 3600 * 32000, 980, junk=junk))
    with pytest.raises(AudioError, match="declares 36000.00 s and the file holds 0.03"):
        read_audio(path)
    path.write_bytes(wav(64000, 32000, channels=2, junk=junk))
    with pytest.raises(AudioError, match="is cut off: .* 1.00 s .* holds 0.50 s"):
        read_audio(path)
    path.write_bytes(wav(32000, 32000, junk=junk))
    assert len(read_audio(path)) == 16000


def test_wav_of_a_pipe_or_of_a_sloppy_writer_is_no_cut_off_file(tmp_path):
    path = tmp_path / "a.wav"
    for declared in (0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 32000 + 44):
        path.write_bytes(wav(declared, 32000))
        assert len(read_audio(path)) == 16000


def test_flac_cut_off_or_with_a_wrong_length(tmp_path):
    path = str(tmp_path / "a.flac")
    wave = np.random.default_rng(0).normal(0, 0.1, 160000)
    soundfile.write(path, wave, 16000)
    with open(path, "rb") as file:
        content = file.read()
    with open(path, "wb") as file:
        file.write(content[: len(content) // 2])
    with pytest.raises(AudioError, match="is cut off|cannot be read as audio"):
        read_audio(path)
    # STREAMINFO: the last 36 bits before the checksum are the number of samples
    changed = bytearray(content)
    changed[8 + 13] |= 0x0F  # tens of hours
    with open(path, "wb") as file:
        file.write(changed)
    with pytest.raises(AudioError, match="is cut off|cannot be read as audio"):
        read_audio(path)


def test_impossible_rates(tmp_path):
    path = tmp_path / "a.wav"
    content = bytearray(wav(3200, 3200))
    content[24:28] = struct.pack("<I", 1)
    path.write_bytes(content)
    with pytest.raises(AudioError, match="declares a sampling rate of 1 Hz"):
        read_audio(path)


# Names


@pytest.mark.parametrize(
    "name", [b"sp ace.wav", b"new\nline.wav", b"\xff\xfe.wav", "日本 é.wav".encode()]
)
def test_any_name(tmp_path, name):
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, "wb") as file:
        soundfile.write(file, tone(16000), 16000, format="WAV")
    assert read_header(os.fsdecode(path)) == (16000, 16000, 1)
    assert len(read_audio(os.fsdecode(path))) == 16000


def test_broken_links_and_pipes(tmp_path):
    (tmp_path / "link.wav").symlink_to("nowhere.wav")
    with pytest.raises(AudioError, match="is a broken link to nowhere.wav"):
        read_audio(str(tmp_path / "link.wav"))
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(AudioError, match="is a device or pipe"):
        read_audio(str(tmp_path / "pipe.wav"))


def test_other_decoders_are_named(tmp_path):
    path = tmp_path / "a.m4a"
    path.write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    with pytest.raises(AudioError, match="is m4a, which libsndfile cannot.*ffmpeg -i"):
        read_audio(str(path))


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "opus", "mp3", "aiff", "au"])
def test_formats(tmp_path, suffix):
    path = str(tmp_path / f"a.{suffix}")
    wave = tone(48000, seconds=1.0)
    options = dict(format="OGG", subtype="OPUS") if suffix == "opus" else {}
    soundfile.write(path, wave, 48000, **options)
    found = read_audio(path)
    # an encoder may add silence at the ends
    assert 16000 <= len(found) < 18500
    spectrum = np.abs(np.fft.rfft(found[2000:14000] * np.hanning(12000)))
    assert np.argmax(spectrum) * 16000 / 12000 == pytest.approx(440, abs=1)
    assert np.sqrt(np.mean(found[4000:12000] ** 2)) == pytest.approx(0.354, rel=0.05)
