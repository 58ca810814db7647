# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Levels, noise and rooms: what degradations and the views of a training share."""

import numpy as np
import scipy.fft


def rms(audio: np.ndarray) -> float:
    """Root mean square of (samples,), never zero."""
    return float(np.sqrt(np.mean(audio**2))) + 1e-12


def from_db(decibels):
    """Amplitude factor of a level in dB."""
    return 10 ** (decibels / 20)


def coloured_noise(
    length: int, rng: np.random.Generator, pink: bool, lowest_bin: int = 1
) -> np.ndarray:
    """White noise, or pink noise: of power 1 / f.

    Args:
        length: samples.
        rng: draws them.
        pink: which of the two.
        lowest_bin: of the Fourier transform; pink noise is flat below.

    Returns:
        (length,), float64; white noise has a power of 1.
    """
    white = rng.standard_normal(length)
    if not pink:
        return white
    spectrum = scipy.fft.rfft(white)
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), lowest_bin))
    return scipy.fft.irfft(spectrum, length)


def reverberant_tail(
    t60: float, rng: np.random.Generator, sample_rate: int, silence: float
) -> np.ndarray:
    """Decaying noise, as a room answers an impulse (Polack's model).

    Args:
        t60: seconds in which the energy falls by 60 dB.
        rng: draws the noise.
        sample_rate: in Hz.
        silence: seconds after the direct sound before the first wall answers.

    Returns:
        (t60 * sample_rate,), float64, without the direct sound.
    """
    length = int(t60 * sample_rate)
    seconds = np.arange(length) / sample_rate
    tail = rng.standard_normal(length) * 10 ** (-3 * seconds / t60)
    tail[: int(silence * sample_rate)] = 0.0
    return tail
