# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest
import scipy.signal

from espnet2_distilmos.distortion.signals import (
    coloured_noise,
    from_db,
    reverberant_tail,
    rms,
)


def test_levels():
    assert rms(np.array([3.0, -3.0])) == pytest.approx(3.0)
    assert from_db(-20.0) == pytest.approx(0.1)


def test_pink_noise_falls_by_three_decibels_an_octave():
    rng = np.random.default_rng(0)
    frequencies, power = scipy.signal.welch(coloured_noise(2**17, rng, True))
    low = power[(frequencies > 0.02) & (frequencies < 0.04)].mean()
    high = power[(frequencies > 0.16) & (frequencies < 0.32)].mean()
    assert 10 * np.log10(low / high) == pytest.approx(9.0, abs=1.0)
    _, power = scipy.signal.welch(coloured_noise(2**17, rng, False))
    assert 10 * np.log10(power[5:30].mean() / power[-30:-5].mean()) < 0.5


def test_pink_noise_is_flat_below_its_lowest_bin():
    rng = np.random.default_rng(0)
    power = np.abs(np.fft.rfft(coloured_noise(2**15, rng, True, 4000))) ** 2
    assert power[:2000].mean() == pytest.approx(power[2000:4000].mean(), rel=0.1)


def test_a_tail_is_silent_and_then_decays():
    tail = reverberant_tail(0.5, np.random.default_rng(0), 16000, silence=0.01)
    assert len(tail) == 8000 and not tail[:160].any() and tail[160] != 0
    # 60 dB in 0.5 s are 30 dB between places 0.25 s apart.
    early, late = (tail[i : i + 1000] ** 2 for i in (500, 4500))
    assert 10 * np.log10(early.sum() / late.sum()) == pytest.approx(30, abs=1.5)
