# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet2_distilmos.distortion import degradations
from espnet2_distilmos.distortion.signals import rms

CLIP = (
    Path(__file__).resolve().parents[3]
    / "egs2/mini_mos/mos1/corpus/clean/dev/af_sarah_s049.opus"
)


@pytest.fixture(scope="module")
def clean():
    """Real speech, 2.2 s."""
    return soundfile.read(CLIP)[0]


def test_reverberation_begins_with_the_direct_sound():
    impulse = np.zeros(16000)
    impulse[1000] = 1
    rng = np.random.default_rng(0)
    wet = degradations.reverberate(impulse, rng, t60=0.5, direct_db=3.0)
    np.testing.assert_allclose(wet[:1048], impulse[:1048], atol=1e-9)
    tail = wet[1048:]
    assert 10 * np.log10((tail**2).sum()) == pytest.approx(-3.0, abs=0.1)
    # The energy falls by 60 dB in t60: by 30 dB in half of it.
    decay = 10 * np.log10((tail[:800] ** 2).sum() / (tail[4000:4800] ** 2).sum())
    assert decay == pytest.approx(30, abs=3)


def test_noise_has_the_level_it_names(clean):
    rng = np.random.default_rng(0)
    for colour in ("white", "pink", "babble"):
        noise = degradations.add_noise(clean, rng, colour, snr_db=13.0) - clean
        snr = 20 * np.log10(rms(clean) / rms(noise))
        assert snr == pytest.approx(13.0, abs=1e-6)


def test_transforms_invert(clean):
    for again in (
        degradations.istft(degradations.stft(clean), len(clean)),
        degradations.keep_coefficients(clean, None, share=1.0),
    ):
        np.testing.assert_allclose(again, clean, atol=1e-9)


def test_packets_of_a_click_cannot_be_lost():
    click = np.zeros(16000)
    click[100] = 1.0
    with pytest.raises(ValueError, match="no sound after its first two packets"):
        rng = np.random.default_rng(0)
        degradations.lose_packets(click, rng, rate=0.2, conceal="zero")


def test_lost_packets_are_silent(clean):
    rng = np.random.default_rng(3)
    degraded = degradations.lose_packets(clean, rng, rate=0.2, conceal="zero")
    packets = degraded[: len(clean) // 320 * 320].reshape(-1, 320)
    original = clean[: len(clean) // 320 * 320].reshape(-1, 320)
    lost = np.abs(packets).max(axis=1) == 0
    assert 0.05 < lost.mean() < 0.5
    np.testing.assert_array_equal(packets[~lost], original[~lost])
