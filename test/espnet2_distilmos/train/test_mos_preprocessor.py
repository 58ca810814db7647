# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest
import soundfile
import torch

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.train.mos_preprocessor import MOSPreprocessor, epoch_seed
from espnet2_distilmos.train.views import NoisyView

SHIFT = 320
TOKEN_INFO = {
    "columns": [{"stream": "s", "layer": 1, "K": 50}, {"layer": 2, "K": 9}],
    "frame_shift": SHIFT,
    "minimum_samples": 400,
}
VOTES = '[["x", 2], ["unknown", 1], ["y", 4.5], ["z", 3]]'


def preprocessor(train=False, **options):
    options = {"corpora": "a", **options}
    return MOSPreprocessor(train=train, token_info=TOKEN_INFO, **options)


def example(samples=8000):
    """A signal and tokens that say where they were taken from, and a label."""
    frames = np.arange((samples - 400) // SHIFT + 1)
    return {
        "speech": np.arange(samples, dtype=np.float32),
        "mos": '{"mos": 4.25}',
        "tokens": np.stack([frames % 50, frames % 9], axis=1).astype(np.int16),
        "votes": VOTES,
        "corpus": "a",
    }


def test_a_good_utterance():
    data = preprocessor()("utt1", example())
    # a validation is as inference, without listeners
    assert set(data) == {"speech", "mos", "tokens", "mos_se", "corpus"}
    assert data["mos_se"] == np.float32(np.std([2, 1, 4.5, 3], ddof=1) / 2)
    assert np.array_equal(data["speech"], np.arange(8000))
    assert data["speech"].dtype == data["mos"].dtype == np.float32
    assert data["mos"].tolist() == [4.25]
    assert np.array_equal(data["tokens"], example()["tokens"])
    assert data["tokens"].dtype == np.int64
    stereo = np.stack([np.ones(8000), np.zeros(8000)], axis=1)
    assert (preprocessor()("utt1", {"speech": stereo})["speech"] == 0.5).all()


def test_unlabelled_is_nan():
    data = preprocessor()("utt1", {**example(), "mos": "{}"})
    assert data["mos"].shape == (1,) and np.isnan(data["mos"][0])


def test_further_scores():
    prepare = preprocessor(aux_keys=["pesq", "snr"])
    # on scales of their own
    data = {**example(), "mos": '{"mos": 4.25, "snr": -20.5, "other": "x"}'}
    aux = prepare("utt1", data)["aux"]
    assert aux.dtype == np.float32 and np.isnan(aux[0]) and aux[1] == -20.5


@pytest.mark.parametrize(
    "name,change",
    [
        ("mos", lambda _: '{"mos": 5.1}'),
        ("mos", lambda _: '{"mos": 4, "snr": "loud"}'),
        ("votes", lambda _: '[["x", 6]]'),
        ("corpus", lambda _: "c"),
        ("speech", lambda x: np.where(x == 77, np.nan, x)),
        ("speech", lambda x: x[:1000]),  # too short
        ("speech", lambda x: np.tile(x, 9)),  # too long
        ("tokens", lambda t: t[:, :1]),
        ("tokens", lambda t: t + [[0, 9]]),
        ("tokens", lambda t: t - 1),
        ("tokens", lambda t: t[:-3]),
    ],
)
def test_bad_data_names_the_utterance_in_one_line(name, change):
    options = {"listeners": "xyz", "corpora": "ab", "aux_keys": ["snr"]}
    prepare = preprocessor(train=True, max_seconds=3, **options)
    prepare("utt1", example())
    data = example()
    data[name] = change(data[name])
    with pytest.raises(DataError, match="utterance utt1") as error:
        prepare("utt1", data)
    assert "\n" not in str(error.value) and ", expected" in str(error.value)


def test_an_utterance_without_tokens():
    data = {**example(), "tokens": np.zeros((0, 2), dtype=np.int16)}
    prepare = preprocessor(train=True, corpora="a", crop_seconds=0.2)
    assert prepare("utt1", data)["tokens"].shape == (0, 2)
    with pytest.raises(DataError, match="--token_info"):
        MOSPreprocessor(train=False, corpora="a")("utt1", data)


def test_the_rate_is_that_of_the_header_and_looked_up_once(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(8000), 8000)
    prepare = preprocessor(wav_paths={"utt1": str(path)})
    for _ in range(2):
        with pytest.raises(DataError, match="utterance utt1 .*a.wav.* at 8000 Hz"):
            prepare("utt1", example())
    soundfile.write(path, np.zeros(8000), 16000)
    prepare("utt1", example())
    path.unlink()
    prepare("utt1", example())


# --- cropping, noise, votes -----------------------------------------------------------


def test_crop_takes_audio_and_tokens_of_the_same_frames():
    # 0.21 s is no multiple of a frame
    prepare = preprocessor(train=True, crop_seconds=0.21, corpora="a")
    starts = set()
    for seed in range(60):
        np.random.seed(seed)
        data = prepare("utt1", example())
        assert len(data["speech"]) == 3360 and (np.diff(data["speech"]) == 1).all()
        first, rest = divmod(int(data["speech"][0]), SHIFT)
        frames = (3360 - 400) // SHIFT + 1
        assert rest == 0 and frames <= len(data["tokens"])
        expected = example()["tokens"][first : first + frames]
        assert np.array_equal(data["tokens"][:frames], expected)
        starts.add(first)
    # (8000 - 3360) // 320 = 14 is the last start
    assert starts == set(range(15))
    assert len(prepare("utt1", example(3300))["speech"]) == 3300
    valid = preprocessor(crop_seconds=0.21)
    assert len(valid("utt1", example())["speech"]) == 8000
    free = MOSPreprocessor(train=True, crop_seconds=0.1)
    speech = {"speech": example()["speech"]}
    assert any(int(free("u", speech)["speech"][0]) % SHIFT for _ in range(30))
    with pytest.raises(ValueError, match="crop_seconds=0.05.*min_seconds=0.1"):
        MOSPreprocessor(train=True, crop_seconds=0.05)


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
    data = valid("u", {"speech": speech})
    assert set(data) == {"speech", "distortion", "snr"}
    assert not data["distortion"].any() and np.isnan(data["snr"]).all()


def test_what_teachers_hear():
    speech = np.random.default_rng(0).normal(size=16000).astype(np.float32)
    found = {}
    for teacher in ("clean", "same", "own"):
        view = NoisyView(scheme="single", teacher=teacher)
        prepare = MOSPreprocessor(train=True, noisy_view=view)
        torch.manual_seed(1)
        found[teacher] = prepare("u", {"speech": speech})
    # the student's view and its labels are the same in all of them
    for data in found.values():
        for key in ("speech", "noisy", "distortion", "snr"):
            np.testing.assert_array_equal(data[key], found["clean"][key])
    assert "heard" not in found["clean"]
    assert np.array_equal(found["same"]["heard"], found["same"]["noisy"])
    own = found["own"]["heard"]
    assert own.shape == speech.shape and own.dtype == np.float32
    assert not np.array_equal(own, found["own"]["noisy"])
    assert not np.array_equal(own, speech)


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


def test_votes_and_corpus_of_training():
    prepare = preprocessor(train=True, listeners="zyx", corpora="ba")
    found = prepare("utt1", example())
    assert found["votes"].tolist() == [2.0, 4.5, 3.0]
    assert found["listeners"].tolist() == [2, 1, 0] and found["corpus"].tolist() == [1]
    assert found["votes"].dtype == np.float32
    assert found["listeners"].dtype == found["corpus"].dtype == np.int64
    # no one has an embedding
    found = preprocessor(train=True)("utt1", example())
    assert not {"votes", "listeners"} & set(found) and found["mos_se"] > 0
    none = prepare("utt1", {**example(), "votes": "[]"})
    assert np.isnan(none["mos_se"]) and none["mos_se"].shape == (1,)
    assert none["votes"].shape == none["listeners"].shape == (0,)


def test_votes_are_drawn_anew_and_without_replacement():
    prepare = preprocessor(
        train=True, listeners="xyz", corpora="a", votes_per_utterance=2
    )
    drawn = set()
    for epoch in range(20):
        torch.manual_seed(epoch)
        drawn.add(frozenset(prepare("utt1", example())["listeners"].tolist()))
    assert sorted(map(len, drawn)) == [2, 2, 2]
