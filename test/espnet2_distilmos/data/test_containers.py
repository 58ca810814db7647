# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What a header declares and what a file holds: all of it, or one sentence."""

import io
import struct

import numpy as np
import pytest
import soundfile

from espnet2_distilmos.data.audio import AudioError, read_audio, read_header

RATE = 16000
# Container, and how libsndfile codes the samples in it.
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "wavex": ("WAVEX", "PCM_24"),
    "adpcm": ("WAV", "IMA_ADPCM"),
    "rifx": ("WAV", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "aifc": ("AIFF", "FLOAT"),
    "au": ("AU", "PCM_16"),
    "nist": ("NIST", "PCM_16"),
    "nist8": ("NIST", "ULAW"),
    "voc": ("VOC", "PCM_16"),
    "voc8": ("VOC", "PCM_U8"),
    "caf": ("CAF", "PCM_16"),
    "alac": ("CAF", "ALAC_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


def speech(seconds=3.0):
    """A tone between noise: of a bit rate that varies."""
    time = np.arange(int(seconds * RATE)) / RATE
    noise = np.random.default_rng(0).normal(0, 0.1, len(time))
    return 0.3 * np.sin(2 * np.pi * 300 * time) + noise * (time % 1 > 0.5)


def encode(kind, samples=None, **options):
    container, subtype = FORMATS[kind]
    file = io.BytesIO()
    endian = "BIG" if kind == "rifx" else "FILE"
    with soundfile.SoundFile(
        file, "w", RATE, 1, subtype, endian, container, **options
    ) as audio:
        audio.write(speech() if samples is None else samples)
    return file.getvalue()


def read(tmp_path, data):
    path = tmp_path / "a.audio"
    path.write_bytes(data)
    samples = read_audio(str(path), RATE, "utt7")
    # The header is a promise of the length.
    length, rate, _ = read_header(str(path))
    assert abs(length * RATE / rate - len(samples)) <= 0.05 * RATE
    return samples


def refused(tmp_path, data, words):
    with pytest.raises(AudioError, match=words) as error:
        read(tmp_path, data)
    message = str(error.value)
    assert message.startswith(f"utterance utt7: {tmp_path}/a.audio ")
    assert "\n" not in message and message.endswith(".") and "expected" in message


def frames(mp3):
    """Where the frames of an MP3 of 16 kHz begin, MPEG-2 layer III."""
    kbps = [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160]
    at, starts = 0, []
    while at < len(mp3):
        assert mp3[at : at + 2] == b"\xff\xf3"
        starts.append(at)
        padding = mp3[at + 2] >> 1 & 1
        at += 72000 * kbps[mp3[at + 2] >> 4] // RATE + padding
    return starts


@pytest.mark.parametrize("kind", FORMATS)
def test_a_whole_file_is_read_and_a_part_refused(tmp_path, kind):
    data = encode(kind)
    whole = read(tmp_path, data)
    assert len(whole) == pytest.approx(3 * RATE, rel=0.02)
    for share in (0.5, 0.95):
        words = "(is|was) cut off" if kind != "flac" else "cut off|decoder lost sync"
        refused(tmp_path, data[: int(share * len(data))], words)


@pytest.mark.parametrize("kind", FORMATS)
def test_two_recordings_in_one_file_are_refused(tmp_path, kind):
    words = "read in part|one behind the other|cannot be read as audio"
    refused(tmp_path, encode(kind) + encode(kind), words)


@pytest.mark.parametrize("kind", ["wav", "rf64", "w64", "aiff", "au", "nist", "caf"])
def test_samples_behind_the_declared_length(tmp_path, kind):
    data = encode(kind)
    noise = np.random.default_rng(1).bytes(RATE)
    refused(tmp_path, data + noise, "declares 3.00 s and the file holds 3.50 s")
    # padding and tags are none
    assert len(read(tmp_path, data + bytes(8192))) == 3 * RATE
    if kind in ("wav", "rf64", "aiff", "caf"):
        order, width = (">", "Q" if kind == "caf" else "I")
        order = "<" if kind in ("wav", "rf64") else order
        tag = b"id3 " + struct.pack(order + width, len(noise)) + noise
        assert len(read(tmp_path, data + tag)) == 3 * RATE


def with_length(kind, length):
    """A file whose header has another length of its samples."""
    data = encode(kind)
    if kind == "au":
        return data[:8] + struct.pack(">I", length & 0xFFFFFFFF) + data[12:]
    if kind == "rf64":
        at = data.index(b"ds64") + 16
        return data[:at] + struct.pack("<q", length) + data[at + 8 :]
    mark, code = {
        "wav": (b"data", "<I"),
        "rifx": (b"data", ">I"),
        "w64": (b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a", "<q"),
        "aiff": (b"SSND", ">I"),
        "caf": (b"data", ">q"),
    }[kind]
    at = data.index(mark) + len(mark)
    packed = struct.pack(code, length & 0xFFFFFFFF if code[1] == "I" else length)
    return data[:at] + packed + data[at + len(packed) :]


UNKNOWN_32 = (0, 0xFFFFFFFF, 0x7FFFF000, 0x80000000, 0x7FFF0000, 2000000000)
UNKNOWN_32 += (0x7FFFFFFF - 44, 0xFFFFFF00, 1999999998)


@pytest.mark.parametrize(
    "kind, length",
    [(kind, n) for kind in ("wav", "rifx", "aiff", "au") for n in UNKNOWN_32]
    + [(kind, n) for kind in ("rf64", "w64", "caf") for n in (0, -1, (1 << 63) - 1)],
)
def test_an_unknown_length_is_read_to_the_end(tmp_path, kind, length):
    expected = read(tmp_path, encode(kind))
    np.testing.assert_array_equal(read(tmp_path, with_length(kind, length)), expected)


@pytest.mark.parametrize(
    "kind, length",
    [("wav", 3 << 30), ("aiff", 3 << 30), ("au", 1 << 30)]
    + [(kind, 1 << 62) for kind in ("rf64", "w64", "caf")]
    + [(kind, (1 << 63) - 99) for kind in ("rf64", "w64", "caf")],
)
def test_a_length_that_no_program_writes_for_unknown_is_meant(tmp_path, kind, length):
    refused(tmp_path, with_length(kind, length), "is cut off")


def test_an_empty_wav_with_a_tag_is_empty(tmp_path):
    tag = b"LIST" + struct.pack("<I", 4) + b"INFO"
    refused(tmp_path, encode("wav", np.zeros(0)) + tag, "has 0 samples")


@pytest.mark.parametrize("count", [0, RATE, 0x7F000000, 0xFFFFFFFF])
def test_an_aiff_that_counts_otherwise_than_it_has(tmp_path, count):
    data = encode("aiff")
    at = data.index(b"COMM") + 10
    data = data[:at] + struct.pack(">I", count) + data[at + 4 :]
    assert len(read(tmp_path, data)) == 3 * RATE


def test_a_voc_of_several_blocks(tmp_path):
    """FFmpeg writes such; libsndfile plays the headers of the blocks too."""
    data = encode("voc")
    at = data.index(b"\x09", 26)
    short = (16000 + 12).to_bytes(3, "little")
    more = b"\2" + (len(data) - at - 17 - 16000).to_bytes(3, "little")
    begin, samples = (
        data[:at] + b"\x09" + short + data[at + 4 : at + 16],
        data[at + 16 :],
    )
    refused(tmp_path, begin + samples[:16000] + more + samples[16000:], "holds 3.00 s")


def flac_of_a_pipe(**options):
    data = bytearray(encode("flac", **options))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    return bytes(data)


@pytest.mark.parametrize("seconds", [0.05, 3, 40])
def test_a_flac_without_a_length(tmp_path, seconds):
    data = flac_of_a_pipe(samples=speech(seconds))
    assert len(read(tmp_path, data)) == int(seconds * RATE)
    assert len(read(tmp_path, data + b"TAG" + bytes(125))) == int(seconds * RATE)


def test_a_part_of_a_flac_without_a_length_is_refused(tmp_path):
    data = flac_of_a_pipe()
    refused(tmp_path, data[: len(data) // 2], "decoder lost sync")
    refused(tmp_path, data + data, "several recordings")


@pytest.mark.parametrize("kind", ["ogg", "opus"])
def test_an_ogg_with_a_gap_is_refused(tmp_path, kind):
    data = encode(kind, speech(10))
    pages = [n for n in range(len(data)) if data[n : n + 4] == b"OggS"]
    start, end = pages[5], pages[6]
    refused(tmp_path, data[:start] + data[end:], "lacks pages on the way")
    broken = bytearray(data)
    broken[end - 20] ^= 0xFF  # which the page's checksum tells
    path = tmp_path / "a.audio"
    path.write_bytes(broken)
    with pytest.raises(AudioError, match="damaged .* without a gap"):
        read_audio(str(path))


@pytest.mark.parametrize("container", ["MAT5", "PVF", "AVR", "IRCAM", "SVX"])
def test_containers_of_which_a_part_is_not_told(tmp_path, container):
    file = io.BytesIO()
    soundfile.write(file, speech(), RATE, "PCM_16", format=container)
    refused(tmp_path, file.getvalue(), f"is {container}, of which a part cannot be")


def vbr(seconds=3.0):
    return encode("mp3", speech(seconds), bitrate_mode="VARIABLE")


TAGS = {
    "none": (b"", b""),
    "ID3v2 in front": (b"ID3\4\0\0\0\0\x4e\x10" + b"\xff\xfb\x90\x00" * 2500, b""),
    "ID3v1 behind": (b"", b"TAG" + b"x" * 125),
    "APE behind": (b"", b"APETAGEX" + b"\xff\xd8\xff\xe0" * 5000),
}


@pytest.mark.parametrize("tags", TAGS)
@pytest.mark.parametrize("count", [None, "Xing", "VBRI"])
def test_an_mp3_of_variable_bit_rate(tmp_path, tags, count):
    """With the encoder's count of frames, without, and with another's."""
    mp3 = vbr(10)
    expected = read(tmp_path, mp3)
    assert len(expected) == 10 * RATE
    starts = frames(mp3)
    if count is None:
        mp3 = mp3[starts[1] :]
    elif count == "VBRI":
        info = mp3[:4] + bytes(32) + b"VBRI" + bytes(10)
        info += struct.pack(">I", len(starts) - 1)
        mp3 = info.ljust(starts[1], b"\0") + mp3[starts[1] :]
    front, behind = TAGS[tags]
    found = read(tmp_path, front + mp3 + behind)
    if count != "Xing":
        # Only that frame says how much silence the encoder added at the start.
        delay = 576
        assert len(expected) <= len(found) <= len(expected) + 3 * 576
        found = found[delay : delay + len(expected)]
        middle = slice(2000, len(expected) - 2000)
        found, expected = found[middle], expected[middle]
    np.testing.assert_allclose(found, expected, atol=0.01)
    if count:
        cut = front + mp3[: len(mp3) // 2]
        refused(tmp_path, cut, "declares 10.* holds 5")
        refused(tmp_path, front + mp3 + mp3, "declares 10.* holds 20")


def test_an_mp3_behind_what_is_none(tmp_path):
    """A name makes it one."""
    mp3 = vbr()
    mp3 = mp3[frames(mp3)[1] :]
    expected = read(tmp_path, mp3)
    path = tmp_path / "a.mp3"
    path.write_bytes(bytes(300) + mp3)
    np.testing.assert_array_equal(read_audio(str(path)), expected)


def test_an_mp3_of_variable_bit_rate_in_a_wav(tmp_path):
    mp3 = vbr()
    mp3 = mp3[frames(mp3)[1] :]
    expected = read(tmp_path, mp3)
    head = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE, 4000, 1, 0, 12, 1, 2, 144, 1, 0)
    chunks = b"WAVEfmt " + struct.pack("<I", len(head)) + head
    chunks += b"data" + struct.pack("<I", len(mp3)) + mp3
    data = b"RIFF" + struct.pack("<I", len(chunks)) + chunks
    np.testing.assert_array_equal(read(tmp_path, data), expected)
    refused(tmp_path, data[: len(data) // 2], "is cut off")


@pytest.mark.parametrize("mode", ["CONSTANT", "AVERAGE"])
def test_an_mp3_of_another_bit_rate_without_a_count(tmp_path, mode):
    mp3 = encode("mp3", bitrate_mode=mode)
    mp3 = mp3[frames(mp3)[1] :]
    assert 0 <= len(read(tmp_path, mp3 + b"TAG" + bytes(125))) - 3 * RATE <= 3 * 576
    refused(tmp_path, mp3[:-40], "ends within a frame")


def test_an_mp3_that_changes_on_the_way(tmp_path):
    mono = vbr()
    stereo = io.BytesIO()
    soundfile.write(stereo, np.stack([speech()] * 2, 1), RATE, format="MP3")
    mp3 = mono[frames(mono)[1] :] + stereo.getvalue()
    refused(tmp_path, mp3, "changes its sampling rate or channels")


def test_memory_is_bounded_by_the_file(tmp_path, monkeypatch):
    """A header that declares much has little read."""
    counts = []
    monkeypatch.setattr(
        "espnet2_distilmos.data.containers._read",
        lambda file, at, n: (counts.append(n), file.seek(at), file.read(n))[2],
    )
    for kind in FORMATS:
        read(tmp_path, encode(kind))
    read(tmp_path, with_length("wav", 0))
    assert max(counts) <= 1 << 17
