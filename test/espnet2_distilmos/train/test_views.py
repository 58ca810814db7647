# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest
import soundfile

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.train.views import NoisyView, mix, reverberate, synthetic_room

NONE = {"noise_prob": 0.0, "speech_prob": 0.0, "reverb_prob": 0.0}


def rng(seed=0):
    return np.random.default_rng(seed)


def tone(frequency, length=16000):
    return 0.3 * np.sin(2 * np.pi * frequency * np.arange(length) / 16000)


def decibels(signal, noise):
    return 10 * np.log10(np.mean(signal**2) / np.mean(noise**2))


@pytest.fixture
def speakers(tmp_path):
    """Two files, and one of another rate that nothing lists."""
    files = (("a", 200, 16000), ("b", 3000, 16000), ("c", 1, 8000))
    for name, frequency, rate in files:
        soundfile.write(tmp_path / f"{name}.wav", tone(frequency), rate)
    return {name: str(tmp_path / f"{name}.wav") for name in "ab"}


def test_the_ratio_is_the_one_asked_for():
    snr = -5.0
    speech, noise = tone(200), rng().standard_normal(4000)
    added = mix(speech, noise, snr, start=5000) - speech
    assert decibels(speech, added[5000:9000]) == pytest.approx(snr, abs=1e-9)
    assert not added[:5000].any() and not added[9000:].any()
    assert mix(speech, np.zeros(10), snr) is speech
    assert not mix(np.zeros(10), noise[:10], snr).any()


def test_a_room_decays_by_sixty_decibels_and_keeps_time_and_energy():
    room = synthetic_room(0.5, 16000, rng())
    assert np.argmax(np.abs(room)) == 0
    # Schroeder's integral between -5 and -25 dB, times three
    energy = 10 * np.log10(np.cumsum(room[1:][::-1] ** 2)[::-1] / (room[1:] ** 2).sum())
    times = [np.argmax(energy < level) / 16000 for level in (-5, -25)]
    assert 3 * (times[1] - times[0]) == pytest.approx(0.5, rel=0.15)

    speech = np.zeros(8000)
    speech[1000] = 1.0
    late = np.concatenate([np.zeros(300), room])  # a response with a delay
    reverberant = reverberate(speech, late)
    assert np.argmax(np.abs(reverberant)) == 1000
    assert (reverberant**2).sum() == pytest.approx(1.0)
    np.testing.assert_allclose(
        reverberant[1000:2000] / reverberant[1000], room[:1000], atol=1e-9
    )


def test_another_speaker_covers_at_most_the_share(speakers):
    options = dict(NONE, speech_prob=1.0, speech_snr=(3.0, 3.0), speech_share=0.25)
    view = NoisyView(**options, wav_paths=speakers)
    speech = tone(200)
    for seed in range(5):
        added = view("a", speech, rng(seed)) - speech
        covered = np.flatnonzero(np.abs(added) > 1e-6)
        assert covered[-1] - covered[0] < 4000
        if covered[-1] - covered[0] > 1000:
            # it is b, and never the utterance itself
            spectrum = np.abs(np.fft.rfft(added))
            assert np.argmax(spectrum) == pytest.approx(3000, abs=30)


def test_files_of_noise_and_rooms(tmp_path, speakers):
    (tmp_path / "wav.scp").write_text(f"n {speakers['b']}\n")
    scp = str(tmp_path / "wav.scp")
    speech = tone(200, 40000)  # longer than the noise
    view = NoisyView(**dict(NONE, noise_prob=1.0, noise_snr=(7, 7)), noise_scp=scp)
    noisy = view("u", speech, rng())
    added = noisy - speech
    assert noisy.dtype == np.float32 and len(noisy) == len(speech)
    assert decibels(speech, added) == pytest.approx(7.0, abs=1e-3)
    assert np.argmax(np.abs(np.fft.rfft(added))) == pytest.approx(7500, abs=50)
    impulse = np.zeros(100)
    impulse[[3, 50]] = 0.8, 0.4
    soundfile.write(tmp_path / "room.wav", impulse, 16000, subtype="FLOAT")
    (tmp_path / "wav.scp").write_text(f"r {tmp_path / 'room.wav'}\n")
    view = NoisyView(**dict(NONE, reverb_prob=1.0), rir_scp=scp)
    reverberant = view("u", speech, rng())
    expected = speech.copy()
    expected[47:] += 0.5 * speech[:-47]
    expected *= np.sqrt((speech**2).sum() / (expected**2).sum())
    np.testing.assert_allclose(reverberant, expected, atol=1e-5)
    (tmp_path / "wav.scp").write_text(f"c {tmp_path / 'c.wav'}\n")
    view = NoisyView(**dict(NONE, noise_prob=1.0), noise_scp=scp)
    with pytest.raises(DataError, match="c.wav: found audio at 8000 Hz"):
        view("u", speech, rng())


def test_shares_of_kinds(speakers):
    view = NoisyView(
        noise_prob=0.5, speech_prob=0.2, reverb_prob=0.0, wav_paths=speakers
    )
    speech = tone(200, 800)
    clean = sum(np.allclose(view("a", speech, rng(i)), speech) for i in range(300))
    assert clean / 300 == pytest.approx(0.3, abs=0.08)


@pytest.mark.parametrize(
    "options",
    [
        {"noise_prob": 0.7, "speech_prob": 0.7},
        {"noise_snr": (5.0, 1.0)},
        {"rt60": (0.0, 1.0)},
        {"speech_prob": 0.1},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match="found noisy_view"):
        NoisyView(**options)
