# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest
import soundfile
import torch

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.train.mos_preprocessor import (
    MOSPreprocessor,
    epoch_seed,
    wav_paths_of,
)
from espnet2_distilmos.train.views import NoisyView

SHIFT = 320
TOKEN_INFO = {
    "columns": [{"stream": "s", "layer": 1, "K": 50}, {"layer": 2, "K": 9}],
    "frame_shift": SHIFT,
}


def frames_of(samples):
    """Frames of the usual stack of seven convolutions (400 samples see a frame)."""
    return (samples - 400) // SHIFT + 1


def preprocessor(train=False, **options):
    return MOSPreprocessor(train=train, token_info=TOKEN_INFO, **options)


def noise(seconds=0.5):
    generator = np.random.default_rng(0)
    return generator.normal(size=int(seconds * 16000)).astype(np.float32)


def tokens_for(samples, dtype=np.int16):
    return np.zeros((frames_of(samples), 2), dtype=dtype)


def test_a_good_utterance():
    speech = noise()
    tokens = tokens_for(len(speech))
    tokens[3] = 49, 8
    data = preprocessor()(
        "utt1", {"speech": speech, "mos": '{"mos": 4.25}', "tokens": tokens}
    )
    np.testing.assert_array_equal(data["speech"], speech)
    assert data["speech"].dtype == data["mos"].dtype == np.float32
    assert data["mos"].tolist() == [4.25]
    assert data["tokens"].dtype == np.int64
    np.testing.assert_array_equal(data["tokens"], tokens)
    assert set(preprocessor()("utt1", {"speech": speech})) == {"speech"}


def test_channels_are_averaged():
    left, right = noise(), noise()[::-1]
    data = preprocessor()("utt1", {"speech": np.stack([left, right], axis=1)})
    np.testing.assert_allclose(data["speech"], (left + right) / 2, rtol=1e-6)


@pytest.mark.parametrize("text", ["{}", '{"votes": 3}'])
def test_unlabelled_is_nan(text):
    data = preprocessor()("utt1", {"speech": noise(), "mos": text})
    assert data["mos"].shape == (1,) and np.isnan(data["mos"][0])


@pytest.mark.parametrize(
    "text,found",
    [
        ('{"mos": "good"}', '"good"'),
        ('{"mos": NaN}', "NaN"),
        ('{"mos": null}', "null"),
        ('{"mos": 5.1}', "5.1, expected a number from 1 to 5"),
        ('{"mos": 0.9}', "0.9, expected a number from 1 to 5"),
        ("3.5", "'3.5'"),
        ("", "''"),
        ("four", "'four'"),
    ],
)
def test_bad_labels_name_the_utterance(text, found):
    with pytest.raises(DataError, match="utterance utt1 has the") as error:
        preprocessor()("utt1", {"speech": noise(), "mos": text})
    assert found in str(error.value)


def test_another_scale():
    prepare = preprocessor(score_range=(0, 100))
    data = prepare("utt1", {"speech": noise(), "mos": '{"mos": 72}'})
    assert data["mos"].tolist() == [72.0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_numbers(value):
    speech = noise()
    speech[77] = value
    with pytest.raises(DataError, match="utterance utt1.*NaN or infinite.*stage 2"):
        preprocessor()("utt1", {"speech": speech})


def test_duration_limits():
    prepare = preprocessor(min_seconds=0.2, max_seconds=0.5)
    prepare("utt1", {"speech": noise(0.2)})
    prepare("utt1", {"speech": noise(0.5)})
    for seconds in (0.199, 0.501, 0):
        with pytest.raises(DataError, match="utt1: found 0.* at least 0.2 s and at mo"):
            prepare("utt1", {"speech": noise(seconds)})


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_another_rate_names_the_utterance(rate, tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(), rate)
    prepare = preprocessor(wav_paths={"utt1": str(path)})
    message = f"utterance utt1 .*a.wav.*: found audio at {rate} Hz, expected 16000 Hz"
    for _ in range(2):
        with pytest.raises(DataError, match=message):
            prepare("utt1", {"speech": noise()})


def test_the_right_rate_is_looked_up_once(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(), 16000)
    prepare = preprocessor(wav_paths={"utt1": str(path)})
    prepare("utt1", {"speech": noise()})
    path.unlink()
    # Reading the header once more would fail now, as it does for another utterance.
    assert len(prepare("utt1", {"speech": noise()})["speech"]) == len(noise())
    with pytest.raises(soundfile.LibsndfileError):
        preprocessor(wav_paths={"utt1": str(path)})("utt1", {"speech": noise()})


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda t: t[:, :1], r"shape \(24, 1\), expected \(frames, 2\)"),
        (lambda t: t[:, 0], r"shape \(24,\)"),
        (lambda t: t[:0, :1], r"shape \(0, 1\)"),
        (lambda t: t + [[0, 9]], "token 9 in frame 0, column 1, expected 0 to 8"),
        (lambda t: t - 1, "token -1 in frame 0, column 0, expected 0 to 49"),
        (lambda t: t[:-2], "22 token frames, expected 25 for 8000 samples"),
        (lambda t: np.repeat(t, 2, axis=0), "48 token frames"),
    ],
)
def test_tokens_that_do_not_fit(change, message):
    tokens = change(tokens_for(8000))
    with pytest.raises(DataError, match=f"utterance utt1: found .*{message}") as error:
        preprocessor()("utt1", {"speech": noise(), "tokens": tokens})
    assert "rerun stage 5" in str(error.value)


@pytest.mark.parametrize(
    "frames,good", [(21, False), (22, True), (26, True), (27, False)]
)
def test_frames_are_counted_with_the_receptive_field(frames, good):
    """A network that sees 400 samples makes 24 frames of 8000 samples."""
    prepare = MOSPreprocessor(
        train=False, token_info=dict(TOKEN_INFO, minimum_samples=400)
    )
    data = {"speech": noise(), "tokens": np.zeros((frames, 2), dtype=np.int16)}
    if good:
        assert len(prepare("utt1", data)["tokens"]) == frames
    else:
        with pytest.raises(DataError, match=f"found {frames} token .* expected 24 for"):
            prepare("utt1", data)


def test_an_utterance_without_tokens():
    empty = np.zeros((0, 2), dtype=np.int16)
    data = preprocessor()("utt1", {"speech": noise(), "tokens": empty})
    assert data["tokens"].shape == (0, 2) and data["tokens"].dtype == np.int64
    prepare = preprocessor(train=True, crop_seconds=0.2)
    assert prepare("utt1", {"speech": noise(), "tokens": empty})["tokens"].size == 0


def test_tokens_without_a_description():
    prepare = MOSPreprocessor(train=False)
    with pytest.raises(DataError, match="utterance utt1.*--token_info"):
        prepare("utt1", {"speech": noise(), "tokens": tokens_for(8000)})


# --- cropping -------------------------------------------------------------------------


def ramp(samples):
    """A signal and tokens that say where they were taken from."""
    frames = np.arange(frames_of(samples))
    return {
        "speech": np.arange(samples, dtype=np.float32),
        "tokens": np.stack([frames % 50, frames % 9], axis=1),
    }


def test_crop_takes_audio_and_tokens_of_the_same_frames():
    # 0.21 s is no multiple of a frame
    prepare = preprocessor(train=True, crop_seconds=0.21)
    starts = set()
    for seed in range(60):
        np.random.seed(seed)
        data = prepare("utt1", ramp(8000))
        assert len(data["speech"]) == 3360
        assert (np.diff(data["speech"]) == 1).all()
        start = int(data["speech"][0])
        assert start % SHIFT == 0
        frames = frames_of(3360)
        assert frames <= len(data["tokens"])
        first = start // SHIFT
        expected = ramp(8000)["tokens"][first : first + frames]
        np.testing.assert_array_equal(data["tokens"][:frames], expected)
        starts.add(first)
    # (8000 - 3360) // 320 = 14 is the last start
    assert starts == set(range(15))


def test_crop_is_that_of_the_seed():
    prepare = preprocessor(train=True, crop_seconds=0.1)
    crops = []
    for _ in range(2):
        np.random.seed(5)
        crops.append([prepare("utt1", ramp(8000))["speech"][0] for _ in range(4)])
    assert crops[0] == crops[1] and len(set(crops[0])) > 1


@pytest.mark.parametrize("samples", [3200, 3201, 3519, 3521])
def test_crop_of_barely_longer_audio(samples):
    prepare = preprocessor(train=True, crop_seconds=0.2)
    data = prepare("utt1", ramp(samples))
    assert len(data["speech"]) == 3200
    assert data["tokens"][0, 0] == data["speech"][0] // SHIFT


def test_shorter_audio_is_whole():
    data = preprocessor(train=True, crop_seconds=0.3)("utt1", ramp(4000))
    assert len(data["speech"]) == 4000


def test_validation_is_not_cropped():
    data = preprocessor(train=False, crop_seconds=0.1)("utt1", ramp(8000))
    assert len(data["speech"]) == 8000
    assert len(data["tokens"]) == frames_of(8000)


def test_crop_without_tokens_starts_anywhere():
    prepare = MOSPreprocessor(train=True, crop_seconds=0.1)
    speech = ramp(8000)["speech"]
    starts = {int(prepare("u", {"speech": speech})["speech"][0]) for _ in range(30)}
    assert any(start % SHIFT for start in starts)


def test_impossible_crop():
    with pytest.raises(ValueError, match="crop_seconds=0.05.*min_seconds=0.1"):
        MOSPreprocessor(train=True, crop_seconds=0.05)


def test_wav_paths(tmp_path, caplog):
    (tmp_path / "wav.scp").write_text("utt1 /a b.wav\nutt2 /c.wav\n")
    entries = [
        (str(tmp_path / "wav.scp"), "speech", "sound"),
        (str(tmp_path / "metric.scp"), "mos", "text"),
        ("feats.scp", "speech", "kaldi_ark"),
    ]
    assert wav_paths_of(entries) == {"utt1": "/a b.wav", "utt2": "/c.wav"}
    assert "feats.scp is of type kaldi_ark" in caplog.text


def test_a_noisy_view_is_of_the_crop_and_of_training_alone():
    view = NoisyView(noise_prob=1.0, speech_prob=0.0, reverb_prob=0.0)
    prepare = MOSPreprocessor(train=True, crop_seconds=0.5, noisy_view=view)
    speech = np.random.default_rng(0).normal(size=16000).astype(np.float32)

    def run(seed, uid="u"):
        torch.manual_seed(seed)
        np.random.seed(3)  # the crop's
        return prepare(uid, {"speech": speech})

    first = run(1)
    assert first["noisy"].shape == first["speech"].shape == (8000,)
    correlation = np.corrcoef(first["noisy"], first["speech"])[0, 1]
    assert 0.5 < correlation < 0.9999
    # a function of epoch and utterance, not of what was drawn before
    torch.rand(5)
    assert np.array_equal(run(1)["noisy"], first["noisy"])
    assert not np.array_equal(run(2)["noisy"], first["noisy"])
    assert not np.array_equal(run(1, "v")["noisy"], first["noisy"])
    valid = MOSPreprocessor(train=False, noisy_view=view)
    assert set(valid("u", {"speech": speech})) == {"speech"}


def test_workers_draw_the_same_noise_in_any_number():
    class Seeds(torch.utils.data.Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, place):
            return epoch_seed()

    def seeds(workers):
        torch.manual_seed(5)
        loader = torch.utils.data.DataLoader(Seeds(), 1, num_workers=workers)
        return set(torch.cat(list(loader)).tolist())

    assert len(seeds(1)) == 1 and seeds(1) == seeds(2)


# --- listeners and corpora ------------------------------------------------------------

VOTES = '[["x", 2], ["unknown", 1], ["y", 4.5], ["z", 3]]'


def test_votes_and_corpus_of_training():
    options = dict(listeners=["z", "y", "x"], corpora=["b", "a"])
    data = {"speech": noise(), "votes": VOTES, "corpus": "a"}
    found = preprocessor(train=True, **options)("utt1", data)
    assert found["votes"].tolist() == [2.0, 4.5, 3.0]
    assert found["listeners"].tolist() == [2, 1, 0]
    assert found["corpus"].tolist() == [1]
    assert found["votes"].dtype == np.float32
    assert found["listeners"].dtype == found["corpus"].dtype == np.int64
    none = preprocessor(train=True, **options)("utt1", {**data, "votes": "[]"})
    assert none["votes"].shape == none["listeners"].shape == (0,)
    # A validation hears as inference does.
    assert set(preprocessor(train=False, **options)("utt1", data)) == {"speech"}


def test_votes_are_drawn_anew_and_without_replacement():
    prepare = preprocessor(train=True, listeners=["x", "y", "z"], votes_per_utterance=2)
    pairs = {"x": 2.0, "y": 4.5, "z": 3.0}
    drawn = set()
    for epoch in range(20):
        torch.manual_seed(epoch)
        found = prepare("utt1", {"speech": noise(), "votes": VOTES})
        names = ["xyz"[i] for i in found["listeners"]]
        assert len(set(names)) == 2
        assert [pairs[name] for name in names] == found["votes"].tolist()
        drawn.add(frozenset(names))
    assert len(drawn) == 3


@pytest.mark.parametrize(
    "data, message",
    [
        ({"votes": '[["x", 6]]'}, "votes.scp: utterance utt1 has .* from 1 to 5"),
        ({"votes": "x 3"}, "votes.scp: utterance utt1 has x 3, expected a list"),
        ({"corpus": "c"}, "utterance utt1: found the corpus 'c', expected one of a"),
    ],
)
def test_bad_votes_and_corpora(data, message):
    prepare = preprocessor(train=True, listeners=["x"], corpora=["a"])
    with pytest.raises(DataError, match=message):
        prepare("utt1", {"speech": noise(), **data})
