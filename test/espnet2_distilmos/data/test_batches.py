# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import itertools
import math
import threading

import numpy as np
import pytest
import soundfile

from espnet2_distilmos.data.batches import AudioBatches, map_ahead
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
    assert batches.failures == {} and len(batches) == 4
    alone = list(AudioBatches(str(corpus / "wav.scp"), batch_seconds=0.05))
    assert [len(batch.utt_ids) for batch in alone] == [1] * 10


def test_equal_lengths_keep_the_order_of_the_scp(corpus):
    scp = dict.fromkeys(["z", "a", "m"], str(corpus / "u05.wav"))
    batches = list(AudioBatches(scp, batch_seconds=1.0))
    assert [b.utt_ids for b in batches] == [["z", "a"], ["m"]]


def test_failures_are_collected_and_the_rest_is_yielded(corpus):
    (corpus / "empty.wav").touch()
    soundfile.write(corpus / "nan.wav", np.full(1000, np.nan), 16000, subtype="FLOAT")
    soundfile.write(corpus / "short.wav", np.zeros(399), 16000)
    scp = {name: str(corpus / f"{name}.wav") for name in ("short", "nan", "u05")}
    scp.update(empty=str(corpus / "empty.wav"), none=str(corpus / "none.wav"))
    for names, start in (
        (None, "utterance {0}: {1} "),
        (dict.fromkeys(scp, ""), "{1} "),
    ):
        batches = AudioBatches(scp, 10, minimum_samples=400, names=names)
        assert [b.utt_ids for b in batches] == [["u05"]]
        failures = batches.sorted_failures()
        assert list(failures) == ["short", "nan", "empty", "none"]
        for utt_id, sentence in failures.items():
            assert sentence.startswith(start.format(utt_id, scp[utt_id]))
        assert "399 samples" in failures["short"] and "400" in failures["short"]


def test_lengths_are_at_the_wanted_rate(corpus):
    """From the header, or from utt2num_samples where that is present."""
    soundfile.write(corpus / "fast.wav", np.zeros(48000), 48000)
    scp = {"a": str(corpus / "fast.wav"), "b": str(corpus / "u10.wav")}
    (batch,) = AudioBatches(scp, batch_seconds=2.0)
    np.testing.assert_array_equal(batch.speech_lengths, [16000, 16000])
    # a value that the header contradicts shows which of the two was read
    write_scp(corpus / "utt2num_samples", {"u01": 99999})
    batches = AudioBatches(str(corpus / "wav.scp"), batch_seconds=2.0)
    assert batches.num_samples["u01"] == 99999
    assert batches.num_samples["u02"] == 3200
    write_scp(corpus / "utt2num_samples", {"u01": "many"})
    with pytest.raises(DataError, match="utterance u01 has 'many' samples"):
        AudioBatches(str(corpus / "wav.scp"), batch_seconds=2.0)


def test_choosing_and_dropping_utterances(corpus):
    wav_scp = str(corpus / "wav.scp")
    batches = AudioBatches(wav_scp, 10, utt_ids=["u01", "u02"])
    assert [b.utt_ids for b in batches] == [["u02", "u01"]]
    batches = AudioBatches(wav_scp, 1.0)
    batches.drop([f"u{k:02d}" for k in range(2, 10)])
    assert [b.utt_ids for b in batches] == [["u10"], ["u01"]]
    for seconds in (0, -1, math.inf, math.nan, None, "60"):
        with pytest.raises(DataError, match=f"batch_seconds={seconds!r}, expected"):
            AudioBatches(wav_scp, batch_seconds=seconds)


@pytest.mark.parametrize("header", ["true", "declares less"])
def test_long_ones_are_listed_and_not_read(corpus, monkeypatch, header):
    if header != "true":
        monkeypatch.setattr(
            "espnet2_distilmos.data.batches.read_header", lambda *_: (5000, 16000, 1)
        )
    batches = AudioBatches(str(corpus / "wav.scp"), 2.0, maximum_samples=11200)
    seen = {utt_id for batch in batches for utt_id in batch.utt_ids}
    assert seen == {f"u{k:02d}" for k in range(1, 8)}
    assert sorted(batches.too_long) == ["u08", "u09", "u10"]


def test_leaving_the_loop_early_stops_the_threads(corpus):
    before = threading.active_count()
    batches = iter(AudioBatches(str(corpus / "wav.scp"), batch_seconds=0.1))
    next(batches)
    assert threading.active_count() > before
    # As leaving a loop over it does.
    batches.close()
    assert threading.active_count() == before


def test_a_map_ahead_is_in_order_and_bounded():
    taken = []

    def square(item):
        taken.append(item)
        return item * item

    squares = map_ahead(square, itertools.count(), num_threads=3, depth=5)
    assert list(itertools.islice(squares, 20)) == [k * k for k in range(20)]
    assert len(taken) <= 20 + 5
    squares.close()
    broken = map_ahead(lambda item: 1 // item, [2, 1, 0])
    assert [next(broken), next(broken)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(broken)
