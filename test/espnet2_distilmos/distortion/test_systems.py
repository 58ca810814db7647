# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet2_distilmos.distortion import systems
from espnet2_distilmos.distortion.signals import rms

CLIP = (
    Path(__file__).resolve().parents[3]
    / "egs2/mini_mos/mos1/corpus/clean/dev/af_sarah_s049.opus"
)


@pytest.fixture(scope="module")
def clean():
    """Real speech, 2.2 s."""
    return soundfile.read(CLIP)[0]


@pytest.mark.parametrize("system", systems.SYSTEMS)
def test_system_keeps_length_and_time_and_repeats(system, clean):
    first = systems.render(clean, system, "utt")
    assert first.dtype == np.int16 and first.shape == clean.shape
    assert np.abs(first.astype(int)).max() <= 0.99 * 32767 + 1
    np.testing.assert_array_equal(first, systems.render(clean, system, "utt"))
    degraded = first / rms(first.astype(float))
    change = rms(degraded - clean / rms(clean))
    assert (change < 2e-3) == (system == "clean")  # rounding to 16 bits
    if system != "clean":
        other = systems.render(clean, system, "other utt").astype(float)
        # Another utterance draws other parameters, not only another level.
        assert rms(other / rms(other) - degraded) > 1e-4
    # An echo moves the envelope although the direct sound stays; see the next test.
    if system != "reverb_far":
        # The delay that fits the envelopes best: resynthesis keeps no waveform.
        one, two = (
            np.convolve(np.abs(audio), np.hanning(800), mode="same")
            for audio in (clean, degraded)
        )
        likeness = np.correlate(
            one - one.mean(), (two - two.mean())[400:-400], mode="valid"
        )
        assert abs(400 - int(likeness.argmax())) <= 80  # 5 ms


def test_a_chain_is_its_systems_one_after_the_other(clean):
    steps = [("lowpass", {"low_hz": None, "high_hz": 2000.0})]
    steps.append(("clip_weak", {"threshold_db": 3.0}))
    rng = np.random.default_rng(0)
    found = systems.process(clean, steps, -26.0, rng)
    once = systems.d.limit_band(clean, rng, None, 2000.0)
    expected = systems.d.clip_hard(once, rng, 3.0)
    expected *= 10 ** (-26 / 20) / np.sqrt(np.mean(expected**2))
    np.testing.assert_allclose(found / 32767, expected, atol=1e-4)
    copy = systems.make_copy(clean, ["lowpass", "clip_weak"], "u")
    assert copy.system == "lowpass+clip_weak"
    rng = systems.generator("u")
    drawn = [systems.draw(name, rng) for name in ("lowpass", "clip_weak")]
    assert copy.steps == drawn and 5 <= drawn[1][1]["threshold_db"] <= 12


def test_ratio_after_alignment_and_gain(clean):
    rng = np.random.default_rng(0)
    for snr in (-5.0, 20.0):
        noisy = systems.d.add_noise(clean, rng, "white", snr)
        late = np.concatenate([np.zeros(160), 0.3 * noisy])
        # The best gain takes what noise and speech have in common by chance for speech.
        assert systems.snr(clean, late) == pytest.approx(snr, abs=0.2)
    assert systems.snr(clean, 0.5 * clean) == 120.0


def test_choice_of_systems_keeps_shares_and_does_not_hang_on_the_number_of_copies():
    chosen = [
        [systems.choose_systems(f"u{n}", number, 0.1, 0.5) for number in range(8)]
        for n in range(250)
    ]
    sizes = Counter(len(names) for copies in chosen for names in copies)
    clean = [copies.count(["clean"]) for copies in chosen]
    assert set(clean) == {0, 1} and sum(clean) / 2000 == pytest.approx(0.1, abs=0.015)
    assert sizes[2] / (2000 - sum(clean)) == pytest.approx(0.5, abs=0.05)
    for copies in chosen:
        assert len({names[0] for names in copies}) == 8
        assert all(len(set(names)) == len(names) for names in copies)
    used = Counter(name for copies in chosen for names in copies for name in names)
    assert set(used) == set(systems.SYSTEMS)
    everything = [systems.choose_systems("u", n, 1.0, 0.5) for n in range(3)]
    assert everything == [["clean"]] * 3
    assert ["clean"] not in [systems.choose_systems("u", n, 0, 0) for n in range(50)]


@pytest.mark.parametrize("audio", [np.zeros(16000), np.ones(100)])
def test_what_is_no_speech_is_refused(audio):
    with pytest.raises(ValueError, match="expected at least 0.2 s of speech"):
        systems.make_copy(audio, ["hum"], "u")
