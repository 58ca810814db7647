# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import itertools
import threading

import numpy as np
import pytest
import soundfile

from espnet2_distilmos.data.batches import (
    AudioBatches,
    in_background,
    read_num_samples,
)
from espnet2_distilmos.data.datadir import DataError, write_scp


@pytest.fixture
def corpus(tmp_path):
    """Ten files of 0.1 to 1.0 s; file k is the constant k / 100."""
    paths = {}
    for k in [3, 1, 10, 7, 5, 2, 9, 4, 8, 6]:
        path = tmp_path / f"u{k:02d}.wav"
        soundfile.write(path, np.full(1600 * k, k / 100), 16000, subtype="FLOAT")
        paths[f"u{k:02d}"] = str(path)
    write_scp(tmp_path / "wav.scp", paths, sort=False)
    return tmp_path


def test_every_utterance_once_within_the_limit(corpus):
    batches = AudioBatches(str(corpus / "wav.scp"), batch_seconds=2.0)
    seen = []
    for batch in batches:
        assert batch.speech.size <= 2.0 * 16000
        assert batch.speech.shape == (len(batch.utt_ids), batch.speech_lengths.max())
        for utt_id, row, n in zip(batch.utt_ids, batch.speech, batch.speech_lengths):
            k = int(utt_id[1:])
            assert n == 1600 * k
            np.testing.assert_allclose(row[:n], k / 100, atol=1e-7)
            assert not row[n:].any()
        seen += batch.utt_ids
    assert seen == [f"u{k:02d}" for k in range(10, 0, -1)]
    assert batches.failures == {}


def test_an_utterance_over_the_limit_comes_alone(corpus):
    batches = list(AudioBatches(str(corpus / "wav.scp"), batch_seconds=0.05))
    assert [len(b.utt_ids) for b in batches] == [1] * 10


def test_equal_lengths_keep_the_order_of_the_scp(corpus):
    path = str(corpus / "u05.wav")
    scp = {"z": path, "a": path, "m": path}
    batches = list(AudioBatches(scp, batch_seconds=1.0))
    assert [b.utt_ids for b in batches] == [["z", "a"], ["m"]]


def test_failures_are_collected_and_the_rest_is_yielded(corpus):
    (corpus / "empty.wav").touch()
    samples = np.zeros(1000)
    samples[3] = np.nan
    soundfile.write(corpus / "nan.wav", samples, 16000, subtype="FLOAT")
    soundfile.write(corpus / "short.wav", np.zeros(399), 16000)
    scp = {
        "short": str(corpus / "short.wav"),
        "nan": str(corpus / "nan.wav"),
        "good": str(corpus / "u05.wav"),
        "empty": str(corpus / "empty.wav"),
        "none": str(corpus / "none.wav"),
    }
    batches = AudioBatches(scp, batch_seconds=10, minimum_samples=400)
    assert [b.utt_ids for b in batches] == [["good"]]
    failures = batches.sorted_failures()
    assert list(failures) == ["short", "nan", "empty", "none"]
    assert "399 samples" in failures["short"] and "400" in failures["short"]
    assert "NaN" in failures["nan"]


def test_other_rates_are_resampled_and_counted_in_seconds(corpus):
    soundfile.write(corpus / "fast.wav", np.zeros(48000), 48000)
    scp = {"a": str(corpus / "fast.wav"), "b": str(corpus / "u10.wav")}
    (batch,) = AudioBatches(scp, batch_seconds=2.0)
    np.testing.assert_array_equal(batch.speech_lengths, [16000, 16000])


def test_lengths_come_from_utt2num_samples_where_present(corpus):
    # a value that the header contradicts shows which of the two was read
    write_scp(corpus / "utt2num_samples", {"u01": 99999})
    batches = AudioBatches(str(corpus / "wav.scp"), batch_seconds=2.0)
    assert batches.num_samples["u01"] == 99999
    assert batches.num_samples["u02"] == 3200


def test_bad_utt2num_samples(corpus):
    write_scp(corpus / "utt2num_samples", {"u01": "many"})
    with pytest.raises(DataError, match="utterance u01 has 'many' samples"):
        read_num_samples(str(corpus / "wav.scp"))


def test_selection_and_bad_limit(corpus):
    batches = AudioBatches(str(corpus / "wav.scp"), 10, utt_ids=["u01", "u02"])
    assert [b.utt_ids for b in batches] == [["u02", "u01"]]
    with pytest.raises(DataError, match="batch_seconds"):
        AudioBatches(str(corpus / "wav.scp"), batch_seconds=0)


def test_dropped_utterances_do_not_come(corpus):
    batches = AudioBatches(str(corpus / "wav.scp"), batch_seconds=1.0)
    batches.drop(["u10", "u03", "u02"])
    seen = [utt_id for batch in batches for utt_id in batch.utt_ids]
    assert seen == ["u09", "u08", "u07", "u06", "u05", "u04", "u01"]
    assert batches.failures == {}


def test_leaving_the_loop_early_stops_the_threads(corpus):
    before = threading.active_count()
    batches = iter(AudioBatches(str(corpus / "wav.scp"), batch_seconds=0.1))
    next(batches)
    assert threading.active_count() > before
    # As leaving a loop over it does.
    batches.close()
    assert threading.active_count() == before


def test_long_ones_are_listed_and_not_read(corpus, monkeypatch):
    batches = AudioBatches(
        str(corpus / "wav.scp"), batch_seconds=2.0, maximum_samples=11200
    )
    seen = [utt_id for batch in batches for utt_id in batch.utt_ids]
    assert seen == [f"u{k:02d}" for k in range(7, 0, -1)]
    assert batches.too_long == ["u10", "u09", "u08"]
    # a header may declare less than the file holds
    monkeypatch.setattr(
        "espnet2_distilmos.data.batches.read_header", lambda *_: (5000, 16000, 1)
    )
    batches = AudioBatches(
        str(corpus / "wav.scp"), batch_seconds=2.0, maximum_samples=11200
    )
    seen = {utt_id for batch in batches for utt_id in batch.utt_ids}
    assert seen == {f"u{k:02d}" for k in range(1, 8)}
    assert sorted(batches.too_long) == ["u08", "u09", "u10"]


def test_a_channel_can_be_chosen(tmp_path):
    stereo = np.stack([np.full(800, 0.25), np.full(800, -0.5)], 1)
    soundfile.write(tmp_path / "s.wav", stereo, 16000)
    scp = {"s": str(tmp_path / "s.wav")}
    for channel, value in (("mean", -0.125), (0, 0.25), (1, -0.5)):
        (batch,) = AudioBatches(scp, batch_seconds=1.0, channel=channel)
        np.testing.assert_allclose(batch.speech, value, atol=1e-4)
    batches = AudioBatches(scp, batch_seconds=1.0, channel=2)
    assert list(batches) == []
    assert "has 2 channels, expected one with the number 2" in batches.failures["s"]


def test_sentences_without_utterances(tmp_path):
    soundfile.write(tmp_path / "short.wav", np.zeros(100), 16000)
    scp = {0: str(tmp_path / "none.wav"), 1: str(tmp_path / "short.wav")}
    batches = AudioBatches(
        scp, batch_seconds=1.0, minimum_samples=400, name_utterances=False
    )
    assert list(batches) == []
    for i, sentence in ((0, "does not exist"), (1, "100 samples at 16000 Hz")):
        assert batches.failures[i].startswith(f"{scp[i]} ")
        assert sentence in batches.failures[i]
        assert "wav.scp" not in batches.failures[i]


# Another thread


def test_background_gives_the_same_items_ahead():
    made = []

    def items():
        for k in range(20):
            made.append(k)
            yield k

    with in_background(items(), depth=3) as taken:
        assert next(taken) == 0
        assert [next(taken) for _ in range(4)] == [1, 2, 3, 4]
        # no further ahead than the depth and the one in hand
        assert len(made) <= 5 + 3 + 1
        assert list(taken) == list(range(5, 20))
    assert list(taken) == []


def test_background_raises_what_the_items_raise_after_those_before():
    def items():
        yield 1
        raise DataError("broken")

    with in_background(items()) as taken:
        assert next(taken) == 1
        with pytest.raises(DataError, match="broken"):
            next(taken)


def test_leaving_early_stops_the_thread():
    before = threading.active_count()
    with in_background(itertools.count(), depth=2) as taken:
        assert next(taken) == 0
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
