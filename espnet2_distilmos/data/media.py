# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What a browser can play and show of an audio file: an MP3 and a spectrogram.

MP3, because every browser plays it (Ogg Opus is missing in Safari before 18.4), at
LAME's best variable rate: about 65 kbit/s for speech at 16 kHz, half of FLAC, with
noise some 25 to 35 dB below the speech, so that one hears the clip's own faults.
"""

import io
from typing import Tuple

import numpy as np
import soundfile

from espnet2_distilmos.data.audio import read_blocks, read_header

# Sampling rates of MPEG-1 and MPEG-2, layer III, and of MPEG-2.5.
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
# Of the spectrogram: seconds of a window and between two, dB from black to white.
_WINDOW, _HOP, _RANGE = 0.025, 0.01, 60.0
# Power of a frame that is black at least, so that silence is white.
_LEAST_PEAK = 1e-4


def read_start(path: str, seconds: float) -> Tuple[np.ndarray, int, float]:
    """Read the beginning of an audio file, at a rate that MP3 has.

    Args:
        path: Audio file.
        seconds: Length beyond which the file is not read.

    Returns:
        Samples (n,), float32 in [-1, 1]; their rate in Hz, the file's own or the next
        above that MP3 has; seconds of the whole file.

    Raises:
        AudioError: The file cannot be read.
    """
    frames, own_rate, _ = read_header(path)
    rate = next((r for r in _MP3_RATES if r >= own_rate), _MP3_RATES[-1])
    most = int(seconds * rate)
    blocks, length = [], 0
    for block in read_blocks(path, rate):
        blocks.append(block)
        length += len(block)
        if length >= most:
            break
    return np.concatenate(blocks)[:most], rate, frames / own_rate


def encode_mp3(samples: np.ndarray, rate: int) -> bytes:
    """Compress samples (n,) in [-1, 1] at a rate of ``read_start``."""
    file = io.BytesIO()
    soundfile.write(
        *(file, samples, rate),
        format="MP3",
        subtype="MPEG_LAYER_III",
        bitrate_mode="VARIABLE",
        compression_level=0.0,
    )
    return file.getvalue()


def spectrogram_jpeg(
    samples: np.ndarray, rate: int, width: int = 600, height: int = 120
) -> bytes:
    """Draw the spectrogram of samples (n,), n >= 1: the louder the darker.

    From 0 Hz below to half of the rate above, linear; 60 dB from black to white. Needs
    Pillow.
    """
    from PIL import Image

    size = max(2, round(_WINDOW * rate))
    hop = max(1, round(_HOP * rate))
    padded = np.pad(samples, (size // 2, size))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[
        : len(samples) : hop
    ]
    power = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)).T[::-1] ** 2
    peak = max(_LEAST_PEAK, float(power.max()))
    decibels = 10 * np.log10(np.maximum(power / peak, 1e-12))
    grey = np.clip(-255 / _RANGE * decibels, 0, 255).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(grey))
    file = io.BytesIO()
    image.resize((width, height), Image.Resampling.BOX).save(file, "JPEG", quality=60)
    return file.getvalue()
