# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What an audio file's header declares, beside what the file holds.

libsndfile plays, without a word, what is left of a file that was cut off, the first of
several recordings in one file, and no more than it estimates of a stream without a
length. :func:`examine` reads the few bytes that tell, never the samples.
"""

import functools
import io
import operator
import os
import re
from typing import BinaryIO, Callable, Iterable, NamedTuple, Optional

_BLOCK = 1 << 16

# Where a length of 32 bits is not known, as in a pipe, programs write one of these,
# some of them less the header or rounded to whole samples: 0xFFFFFFFF and 0x7FFFFFFF
# (FFmpeg, GStreamer), 0x7FFFF000 (SoX, eSpeak), 0x7FFF0000, 0x80000000 (arecord),
# 2000000000, 0x7F000000 (SoX, of an AIFF). A recording that is really as long, of
# hours, and was cut off is not told from them; any other length is taken as meant. A
# length of 0 with samples behind it is unknown too.
_PLACEHOLDERS = (1 << 32, 1 << 31, 2_000_000_000, 0x7F000000)
_PLACEHOLDER_SLACK = 1 << 16


class Contents(NamedTuple):
    """What :func:`examine` finds.

    Attributes:
        declared, held: Amount of audio that the header declares (as held where it is
            unknown) and that the file has; 0 where not known.
        per_second: Of ``declared`` and ``held``; 0 if they are bytes.
        fault: Why the whole would not be read; "" if there is nothing of the kind.
        head, skip: Bytes to be read in place of the file's first ``skip``, with the
            length that a decoder wants to know; b"" if it can do without.
    """

    declared: int = 0
    held: int = 0
    per_second: int = 0
    fault: str = ""
    head: bytes = b""
    skip: int = 0


class Spliced(io.RawIOBase):
    """A file of which ``head`` replaces the first ``skip`` bytes; read-only."""

    def __init__(self, file: BinaryIO, head: bytes, skip: int):
        self._file, self._head, self._skip = file, head, skip
        self._size = len(head) + max(os.fstat(file.fileno()).st_size - skip, 0)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}
        self._at = max(base[whence] + offset, 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer) -> int:
        data = self._head[self._at : self._at + len(buffer)]
        if not data:
            self._file.seek(self._at - len(self._head) + self._skip)
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def examine(file: BinaryIO) -> Contents:
    """Compare what an audio file declares with what it holds.

    Args:
        file: Open for binary reading, seekable, with a ``name``.

    Returns:
        What was found; of a container that is not known, or too broken to be read,
        nothing: whether it is audio at all, the decoder says.
    """
    size = file.seek(0, os.SEEK_END)
    at = 0
    while len(tag := _read(file, at, 10)) == 10 and tag[:3] == b"ID3":
        length = functools.reduce(lambda sum, byte: sum << 7 | byte & 127, tag[6:], 0)
        at += 10 + length + (10 if tag[5] & 0x10 else 0)
    reader = _READERS.get(tag[:4], _mpeg)
    if reader is _mpeg and not _mpeg_frame(tag[:4]):
        # By its name libsndfile takes a file to be an MP3, whatever it begins with.
        if not str(file.name).lower().endswith(".mp3"):
            return Contents()
        at = _next_mpeg(file, at)
    return reader(file, at, size) or Contents()


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)


def _find(file: BinaryIO, search: Callable[[bytes], int], at: int) -> int:
    """Position from ``at`` on of what ``search`` finds, or -1; at most 8 bytes long."""
    while block := _read(file, at, _BLOCK):
        if (found := search(block)) >= 0:
            return at + found
        at += max(len(block) - 7, 1)
    return -1


def _rest(file: BinaryIO, at: int, size: int) -> int:
    """Bytes from ``at`` to the end, 0 if they are nothing but zeros."""
    file.seek(min(at, size))
    while block := file.read(_BLOCK):
        if block.strip(b"\0"):
            return size - at
    return 0


def _is_unknown(length: int, width: int) -> bool:
    """Whether a length, stored in ``width`` bytes, stands for an unknown one."""
    if width == 4:
        return any(abs(length - n) <= _PLACEHOLDER_SLACK for n in _PLACEHOLDERS)
    return width == 8 and length >= (1 << 63) - 1  # also -1


# Containers of chunks: an id, a length, and so many bytes


class _Layout(NamedTuple):
    first: int  # where the first chunk starts
    id_width: int
    length_width: int
    order: str
    alignment: int
    is_id: Callable[[bytes], object]
    data_ids: Iterable[bytes]
    inner: int = 0  # bytes of the data chunk before the samples
    counts_header: bool = False  # id and length count as part of the chunk's length


# Ids are text; another file that begins is no chunk.
_is_text_id = re.compile(rb"(?!RIF[FX]|RF64|FORM|caff)[ -~]{4}").fullmatch
# Ids of 16 bytes share their end but for that of a file.
_W64_END = b"\x00\xc0\x4f\x8e\xdb\x8a"
_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1" + _W64_END
_RIFF = _Layout(12, 4, 4, "little", 2, _is_text_id, (b"data",))

_LAYOUTS = {
    b"RIFF": _RIFF,
    b"RIFX": _RIFF._replace(order="big"),
    b"RF64": _RIFF,
    b"FORM": _RIFF._replace(order="big", data_ids=(b"SSND",), inner=8),
    b"caff": _Layout(8, 4, 8, "big", 1, _is_text_id, (b"data",), 4),
    b"riff": _Layout(
        40, 16, 8, "little", 8, re.compile(b".{10}" + _W64_END, re.S).fullmatch,
        (_W64_DATA,), counts_header=True,
    ),
    # VOC: sound, more sound, silence, sound with another header; 0 ends the file.
    b"Crea": _Layout(
        26, 1, 3, "little", 1, re.compile(b"[\1-\x09]").fullmatch,
        (b"\1", b"\2", b"\3", b"\x09"),
    ),
}  # fmt: skip


def _chunked(file: BinaryIO, base: int, size: int) -> Optional[Contents]:
    layout = _LAYOUTS[_read(file, base, 4)]
    at = base + layout.first
    header = layout.id_width + layout.length_width
    start = declared = field = long_field = coding = None
    while at < size:
        chunk_id = _read(file, at, layout.id_width)
        number = file.read(layout.length_width)
        if len(number) < layout.length_width or not layout.is_id(chunk_id):
            break
        is_data = chunk_id in layout.data_ids
        if is_data and start is not None:
            break  # a second one, which would not be played
        length = int.from_bytes(number, layout.order)
        if chunk_id[:4] == b"fmt ":
            coding = _read(file, at + header, 2)
        elif chunk_id == b"ds64":
            long_field = (at + header + 8, 8)
        if is_data:
            start = at + header + layout.inner
            field = (at + layout.id_width, layout.length_width)
            if long_field and length == 0xFFFFFFFF:
                field = long_field
                length = int.from_bytes(_read(file, *field), layout.order)
            if _is_unknown(length, field[1]):
                break
        length = max(length - (header if layout.counts_header else 0), 0)
        if is_data:
            declared = max(length - layout.inner, 0)
            length = max(length, layout.inner)
        at += header + length
        padding = -(at - base) % layout.alignment
        if (
            padding and at < size and _read(file, at, 1) == b"\0"
        ):  # some writers leave it out
            at += padding
    if start is None:
        return None
    held = max(size - start, 0)
    if declared is None or (declared == 0 and at < size):
        true = held + layout.inner + (header if layout.counts_header else 0)
        true = min(true, (1 << 8 * field[1]) - 1).to_bytes(field[1], layout.order)
        return Contents(held, held, 0, "", _read(file, 0, field[0]) + true, sum(field))
    if coding in (b"\x55\0", b"\x50\0") and declared <= held:  # MPEG layers
        if contents := _mpeg(file, start, start + declared):
            return contents
    return Contents(declared, min(declared, held) + _rest(file, at, size))


# Containers of one run of samples


def _au(file: BinaryIO, base: int, size: int) -> Optional[Contents]:
    header = _read(file, base, 12)
    order = "big" if header[:1] == b"." else "little"
    start = base + int.from_bytes(header[4:8], order)
    declared = int.from_bytes(header[8:12], order)
    held = max(size - start, 0)
    if declared == 0 or _is_unknown(declared, 4):
        head = _read(file, 0, base + 8) + b"\xff" * 4
        return Contents(held, held, 0, "", head, base + 12)
    more = _rest(file, start + declared, size) if held > declared else 0
    return Contents(declared, min(declared, held) + more)


def _nist(file: BinaryIO, base: int, size: int) -> Optional[Contents]:
    header = _read(file, base, 1024)
    counts = [
        re.search(rb"\n" + key + rb" -(?:i|s\d+) (\d+)", header)
        for key in (rb"sample_count", rb"channel_count", rb"sample_n_bytes")
    ]
    first = re.match(rb"NIST_1A\s+(\d+)", header)
    if first is None or None in counts:
        return None
    declared = functools.reduce(lambda total, found: total * int(found[1]), counts, 1)
    start = base + int(first[1])
    held = max(size - start, 0)
    more = _rest(file, start + declared, size) if held > declared else 0
    return Contents(declared, min(declared, held) + more)


# Streams of frames or pages

_flac_start = operator.methodcaller("find", b"fLaC\0\0\0\x22")
_FLAC_SYNC = re.compile(rb"(?=\xff[\xf8\xf9])")
_ogg_page = operator.methodcaller("find", b"OggS")
_MPEG_SYNC = re.compile(rb"\xff[\xe2-\xe7\xf2-\xff][\x10-\xef]")


def _flac(file: BinaryIO, base: int, size: int) -> Optional[Contents]:
    """A length that is not declared is that of the last frame's number."""
    if _find(file, _flac_start, base + 8) >= 0:
        return Contents(fault="holds several recordings, one behind the other")
    head = _read(file, base, 26)
    packed = int.from_bytes(head[18:26], "big")  # rate, channels, width, total
    if packed & ((1 << 36) - 1):
        return None  # libsndfile refuses what is less
    block = int.from_bytes(head[10:12], "big")
    channels, width = (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1
    # No frame is larger than its samples as they are.
    window = block * channels * (width // 8 + 1) + 256
    tail = _read(file, max(size - window, base + 42), window)
    ends = [_flac_end(tail[at.start() :], block) for at in _FLAC_SYNC.finditer(tail)]
    total = max(ends, default=0)
    if total == 0:
        return None
    head = head[:18] + (packed | total).to_bytes(8, "big")
    return Contents(head=head, skip=base + 26)


def _flac_end(frame: bytes, fixed_block: int) -> int:
    """Number of the sample behind a FLAC frame; 0 if its header is none."""
    if len(frame) < 16:
        frame += bytes(16)
    # The number of the frame or sample is coded as UTF-8 codes characters.
    ones = 8 - (frame[4] ^ 0xFF).bit_length()
    if ones in (1, 8):
        return 0
    number = frame[4] & (0x7F >> ones)
    at = 5
    for byte in frame[5 : 5 + max(ones - 1, 0)]:
        number = number << 6 | byte & 0x3F
        at += 1
    code = frame[2] >> 4
    if code in (6, 7):
        count = int.from_bytes(frame[at : at + code - 5], "big") + 1
        at += code - 5
    else:
        count = 192 if code == 1 else 144 << code if code < 6 else 1 << code
    at += {12: 1, 13: 2, 14: 2}.get(frame[2] & 15, 0)
    crc = 0
    for byte in frame[:at]:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ (0x07 if crc & 0x80 else 0)) & 0xFF
    if crc != frame[at] or code == 0:
        return 0
    return count + number * (1 if frame[1] & 1 else fixed_block)


def _ogg(file: BinaryIO, base: int, size: int) -> Optional[Contents]:
    at, unended, is_beginning = base, {}, True  # number of the page to come, by stream
    while at >= 0:
        header = _read(file, at, 27)
        if len(header) < 27 or header[:4] != b"OggS":
            at = _find(file, _ogg_page, at + 1)
            continue
        is_first, is_last, stream = header[5] & 2, header[5] & 4, header[14:18]
        if is_first and not is_beginning:
            return Contents(fault="holds several streams, one behind the other")
        is_beginning = bool(is_first)
        number = int.from_bytes(header[18:22], "little")
        if number > unended.get(stream, number):
            return Contents(fault="lacks pages on the way, so its audio has a gap")
        unended[stream] = number + 1
        at += 27 + header[26] + sum(file.read(header[26]))
        if is_last and at <= size:
            unended.pop(stream)
    if unended:
        return Contents(fault="lacks the last page of its stream, so it was cut off")
    return Contents()


class _MpegFrame(NamedTuple):
    rate: int  # Hz
    is_mono: bool
    layer: int
    kbps: int
    length: int  # bytes
    samples: int  # per channel


# kbit/s by version, whether MPEG-1, and by layer
_KBPS = {
    (True, 1): "32 64 96 128 160 192 224 256 288 320 352 384 416 448",
    (True, 2): "32 48 56 64 80 96 112 128 160 192 224 256 320 384",
    (True, 3): "32 40 48 56 64 80 96 112 128 160 192 224 256 320",
    (False, 1): "32 48 56 64 80 96 112 128 144 160 176 192 224 256",
    (False, 2): "8 16 24 32 40 48 56 64 80 96 112 128 144 160",
    (False, 3): "8 16 24 32 40 48 56 64 80 96 112 128 144 160",
}


@functools.lru_cache(maxsize=1024)
def _mpeg_frame(header: bytes) -> Optional[_MpegFrame]:
    """Parse the four bytes of an MPEG audio frame's header; None if they are none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] < 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bits, rate = header[2] >> 4, header[2] >> 2 & 3
    # Version 1 and layer 4 are not given; a rate of 0 kbps is of the frame's own.
    if version == 1 or layer == 4 or bits in (0, 15) or rate == 3:
        return None
    kbps = int(_KBPS[version == 3, layer].split()[bits - 1])
    rate = (44100, 48000, 32000)[rate] >> {3: 0, 2: 1, 0: 2}[version]
    samples = 384 if layer == 1 else 576 if layer == 3 and version != 3 else 1152
    slot = 4 if layer == 1 else 1
    length = (samples // 8 * kbps * 1000 // rate // slot + (header[2] >> 1 & 1)) * slot
    return _MpegFrame(rate, header[3] >> 6 == 3, layer, kbps, length, samples)


def _mpeg(file: BinaryIO, base: int, size: int) -> Optional[Contents]:
    """Without a count of frames, libsndfile multiplies the first one's length."""
    first = _mpeg_frame(_read(file, base, 4)) if base >= 0 else None
    if first is None:
        return None
    start, counted = base, None
    info = _read(file, base, first.length)
    if (mark := re.match(rb"(?s).{4,42}?(Xing|Info)...(.)(....)", info)) or (
        mark := re.match(rb"(?s).{36}(VBRI).{9}(.)(....)", info)
    ):
        start += first.length  # a frame of silence, made for the count
        if mark[1] == b"VBRI" or mark[2][0] & 1:
            counted = int.from_bytes(mark[3], "big")
    at, count, kinds, kbps = start, 0, set(), set()
    while len(header := _read(file, at, 4)) == 4:
        frame = _mpeg_frame(header)
        if frame is None:
            at = _next_mpeg(file, at + 1)
            if at < 0:
                break
            continue
        at += frame.length
        if at > size:
            if counted:
                break
            return Contents(fault="ends within a frame, so it was cut off")
        count += 1
        kinds.add((frame.rate, frame.is_mono))
        kbps.add(frame.kbps)
    if len(kinds) > 1:
        return Contents(fault="changes its sampling rate or channels on the way")
    held = count * first.samples
    contents = Contents(held, held, per_second=first.rate)
    # Some writers count the frame that has the count.
    if counted and abs(counted - count) > 1:
        contents = contents._replace(declared=counted * first.samples)
    if len(kbps) > 1 and not (counted and mark[1] != b"VBRI"):
        if first.layer != 3:
            return Contents(fault="varies its bit rate and has no count of frames")
        # A frame of silence of a middling bit rate that has the count.
        header = bytes([info[0], info[1] | 1, info[2] & 0x0C | 0x80, info[3]])
        side = (17, 9) if first.samples == 576 else (32, 17)
        head = header + bytes(side[first.is_mono])
        head += b"Xing\0\0\0\1" + count.to_bytes(4, "big")
        head = head.ljust(_mpeg_frame(header).length, b"\0")
        contents = contents._replace(head=head, skip=start)
    return contents


def _next_mpeg(file: BinaryIO, at: int) -> int:
    """Position of the next two frames alike, behind a tag or what is broken; or -1."""

    def search(block: bytes) -> int:
        found = _MPEG_SYNC.search(block)
        return found.start() if found else -1

    while (at := _find(file, search, at)) >= 0:
        frame = _mpeg_frame(_read(file, at, 4))
        following = frame and _mpeg_frame(_read(file, at + frame.length, 4))
        if following and following[:3] == frame[:3]:
            break
        at += 1
    return at


_READERS = {
    **dict.fromkeys(_LAYOUTS, _chunked),
    b".snd": _au,
    b"dns.": _au,
    b"NIST": _nist,
    b"fLaC": _flac,
    b"OggS": _ogg,
}
