# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest
import soundfile

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.train.views import (
    NoisyView,
    mix,
    reject_band,
    reverberate,
    shift_pitch,
    synthetic_room,
)

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
        added = view("a", speech, rng(seed)).audio - speech
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
    noisy, kinds, snr = view("u", speech, rng())
    assert (kinds, snr) == (("noise",), 7.0)
    added = noisy - speech
    assert noisy.dtype == np.float32 and len(noisy) == len(speech)
    assert decibels(speech, added) == pytest.approx(7.0, abs=1e-3)
    assert np.argmax(np.abs(np.fft.rfft(added))) == pytest.approx(7500, abs=50)
    impulse = np.zeros(100)
    impulse[[3, 50]] = 0.8, 0.4
    soundfile.write(tmp_path / "room.wav", impulse, 16000, subtype="FLOAT")
    (tmp_path / "wav.scp").write_text(f"r {tmp_path / 'room.wav'}\n")
    view = NoisyView(**dict(NONE, reverb_prob=1.0), rir_scp=scp)
    reverberant = view("u", speech, rng()).audio
    expected = speech.copy()
    expected[47:] += 0.5 * speech[:-47]
    expected *= np.sqrt((speech**2).sum() / (expected**2).sum())
    np.testing.assert_allclose(reverberant, expected, atol=1e-5)
    (tmp_path / "wav.scp").write_text(f"c {tmp_path / 'c.wav'}\n")
    for where, words in (
        (tmp_path / "c.wav", "samples at 8000 Hz in .*c.wav, expected some at 16000"),
        (tmp_path / "gone.wav", "gone.wav, which cannot be read"),
        (tmp_path / "empty.wav", "found 0 samples"),
    ):
        soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
        (tmp_path / "wav.scp").write_text(f"c {where}\n")
        with pytest.raises(DataError, match=f"noisy_view.noise_scp: c of .*{words}"):
            NoisyView(**dict(NONE, noise_prob=1.0), noise_scp=scp)


def test_what_changed_nothing_is_not_said_to_be_done(tmp_path):
    """Silent noises, rooms without an impulse, and silence."""
    soundfile.write(tmp_path / "silence.wav", np.zeros(800), 16000)
    (tmp_path / "wav.scp").write_text(f"s {tmp_path / 'silence.wav'}\n")
    scp = str(tmp_path / "wav.scp")
    options = [
        dict(NONE, noise_prob=1.0, reverb_prob=1.0),
        dict(scheme="single"),
        dict(scheme="double"),
    ]
    for each in options:
        view = NoisyView(**each, noise_scp=scp, rir_scp=scp)
        for seed in range(40):
            for speech in (tone(300, 2000), np.zeros(2000, np.float32)):
                audio, kinds, snr = view("u", speech, rng(seed))
                assert not {"noise", "reverb"} & set(kinds)
                assert np.isnan(snr) or "gaussian" in kinds
                if not kinds:
                    np.testing.assert_array_equal(audio, speech.astype(np.float32))
                assert speech.any() or not kinds


def test_shares_of_kinds(speakers):
    view = NoisyView(
        noise_prob=0.5, speech_prob=0.2, reverb_prob=0.0, wav_paths=speakers
    )
    speech = tone(200, 800)
    views = [view("a", speech, rng(i)) for i in range(300)]
    clean = [np.allclose(one.audio, speech) for one in views]
    assert np.mean(clean) == pytest.approx(0.3, abs=0.08)
    assert clean == [one.kinds == () for one in views]
    assert clean == [np.isnan(one.snr) for one in views]


@pytest.mark.parametrize(
    "options",
    [
        {"noise_prob": 0.7, "speech_prob": 0.7},
        {"noise_snr": (5.0, 1.0)},
        {"rt60": (0.0, 1.0)},
        {"speech_prob": 0.1},
        {"scheme": "triple"},
        {"teacher": "other"},
        {"scheme": "systems"},
        {"scheme": "systems", "systems": ["mnru_weak", "unheard_of"]},
        {"scheme": "double", "systems": ["mnru_weak"]},
        {"scheme": "double", "noise_prob": 1.0},
        {"scheme": "double", "noise_snr": [0.9, 1.9]},
        {"scheme": "systems", "systems": ["mnru_weak"], "noise_scp": "noises.scp"},
        {"nosuch": 3},
        {"noise_snr": [10]},
        {"noise_snr": 5},
        {"noise_prob": "x"},
        {"noise_scp": 5},
        {"scheme": ["double"]},
        {"scheme": "systems", "systems": [["mnru_weak"]]},
        {"noise_prob": float("nan")},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match="found noisy_view"):
        NoisyView(**options)


def test_crossed_distortions_are_drawn_as_the_paper_does():
    view, speech = NoisyView(scheme="double"), tone(300, 2000)
    views = [view("u", speech, rng(i)) for i in range(400)]
    added = [[k for k in v.kinds if k in ("noise", "gaussian")] for v in views]
    second = [[k for k in v.kinds if k not in ("noise", "gaussian")] for v in views]
    for kinds, shares in (
        (added, {"noise": 0.5, "gaussian": 0.25}),
        (second, {"reverb": 0.25, "pitch": 0.25, "band_reject": 0.25}),
    ):
        assert max(map(len, kinds)) == 1
        for kind, share in shares.items():
            assert np.mean([[kind] == k for k in kinds]) == pytest.approx(
                share, abs=0.07
            )
    # nothing was done to one in 16
    assert np.mean([not v.kinds for v in views]) == pytest.approx(1 / 16, abs=0.04)
    ratios = [v.snr for v, k in zip(views, added) if k]
    assert set(ratios) == set(range(10, 20))
    assert all(np.isnan(v.snr) for v, k in zip(views, added) if not k)
    alone = next(v for v, k in zip(views, second) if v.kinds and not k)
    assert decibels(speech, alone.audio - speech) == pytest.approx(alone.snr, abs=1e-3)
    assert all(len(v.audio) == 2000 and np.isfinite(v.audio).all() for v in views)

    single = NoisyView(scheme="single", noise_snr=(3, 4))
    views = [single("u", speech, rng(i)) for i in range(200)]
    assert {v.kinds for v in views} == {("noise",), ("gaussian",), ("reverb",)}
    assert {v.snr for v in views if not np.isnan(v.snr)} == {3.0, 4.0}


def test_labels_say_what_was_done():
    view = NoisyView(scheme="double")
    assert view.kinds == ["noise", "gaussian", "reverb", "pitch", "band_reject"]
    done = next(
        v
        for v in (view("u", tone(300, 2000), rng(i)) for i in range(99))
        if v.kinds == ("gaussian", "pitch")
    )
    kinds, snr = view.labels(done)
    assert kinds.tolist() == [0, 1, 0, 1, 0] and snr.tolist() == [done.snr]
    kinds, snr = view.labels()
    assert not kinds.any() and np.isnan(snr).all()


def test_systems_of_degradations():
    names = ["mnru_strong", "telephone"]
    view, speech = NoisyView(scheme="systems", systems=names), 0.1 * tone(300)
    before = speech.copy()
    views = [view("u", speech, rng(i)) for i in range(20)]
    assert {v.kinds for v in views} == {("mnru_strong",), ("telephone",)}
    for one in views:
        assert np.std(one.audio) == pytest.approx(np.std(speech), rel=5e-3)
    assert np.array_equal(speech, before)
    assert view("u", 0 * speech, rng()).kinds == ()


@pytest.mark.parametrize("cents", [-500, -31, 500])
def test_pitch_moves_by_cents_and_length_and_time_stay(cents):
    """The frequency by the spectrum's peak; the time by where a burst is."""
    speech = tone(440)
    moved = shift_pitch(speech, cents)
    assert len(moved) == len(speech)
    spectrum = np.abs(np.fft.rfft(moved * np.hanning(16000), 16 * 16000))
    expected = 440 * 2 ** (cents / 1200)
    assert np.argmax(spectrum) / 16 == pytest.approx(expected, rel=2e-3)
    burst = tone(700) * (np.abs(np.arange(16000) - 9000) < 800)
    centre = np.average(np.arange(16000), weights=shift_pitch(burst, cents) ** 2)
    assert centre == pytest.approx(9000, abs=160)


def test_a_rejected_band_is_the_only_thing_that_goes():
    noise = rng().standard_normal(16000)
    widths = []
    for seed in range(20):
        rest = np.abs(np.fft.rfft(reject_band(noise, 16000, rng(seed))))
        gone = np.flatnonzero(rest < 1e-6)
        widths.append(len(gone))
        if len(gone):
            assert gone[-1] - gone[0] == len(gone) - 1
            mel = 2595 * np.log10(1 + gone[[0, -1]] / 700)
            assert mel[1] - mel[0] <= 13.5 / 256 * 2595 * np.log10(1 + 8000 / 700)
        kept = rest >= 1e-6
        original = np.abs(np.fft.rfft(noise))
        np.testing.assert_allclose(rest[kept], original[kept], rtol=1e-9)
    assert max(widths) > 50


def test_an_empty_list_of_noises_is_refused(tmp_path):
    (tmp_path / "wav.scp").write_text("")
    with pytest.raises(DataError, match="wav.scp"):
        NoisyView(speech_prob=0.0, noise_scp=str(tmp_path / "wav.scp"))
