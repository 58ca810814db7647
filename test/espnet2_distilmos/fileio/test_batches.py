# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import threading

import numpy as np
import pytest
import soundfile

from espnet2_distilmos.fileio.batches import AudioBatches, read_num_samples
from espnet2_distilmos.fileio.datadir import DataError, write_scp


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
