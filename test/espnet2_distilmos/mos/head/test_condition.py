# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import pytest
import torch

from espnet2_distilmos.mos.head.condition import MEAN, Condition, ConditionRows
from espnet2_distilmos.mos.head.distilmos import DistilMOSHead
from espnet2_distilmos.mos.head.ssl_mos import SSLMOSHead

LENGTHS = torch.tensor([10, 7, 4, 9])


def make_head(cls):
    torch.manual_seed(0)
    return cls(8, 2, hidden_dim=6).eval()


def states(batch_size=4):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch_size, 10, 8, generator=generator) for _ in range(3)]


@torch.no_grad()
@pytest.mark.parametrize("cls", [DistilMOSHead, SSLMOSHead])
def test_rows_are_as_single_files_with_their_offsets(cls):
    """An utterance repeated in a batch has the scores that it has on its own."""
    head = make_head(cls)
    assert head.condition_size == 6
    hidden = states()
    offset = torch.randn(6, 6)
    item = torch.tensor([0, 1, 2, 3, 1, 2])
    rows = head(hidden, LENGTHS, condition=ConditionRows(offset, item))
    assert rows.utt_mos.shape == rows.lengths.shape == (6,)
    for row, i in enumerate(item.tolist()):
        alone = [layer[i : i + 1, : LENGTHS[i]] for layer in hidden]
        expected = head(
            alone, LENGTHS[i : i + 1], condition=ConditionRows(offset[row : row + 1])
        )
        torch.testing.assert_close(rows.utt_mos[row], expected.utt_mos[0])
        frames = rows.frame_mos[row, : LENGTHS[i]]
        torch.testing.assert_close(frames, expected.frame_mos[0])
        torch.testing.assert_close(rows.embedding[row], expected.embedding[0])
    # An offset matters, and that of zero is the head alone.
    assert (rows.utt_mos[1] - rows.utt_mos[4]).abs() > 1e-3
    plain = head(hidden, LENGTHS)
    zero = head(hidden, LENGTHS, condition=ConditionRows(torch.zeros(4, 6)))
    assert torch.equal(zero.utt_mos, plain.utt_mos)
    first = rows.first(4)
    assert torch.equal(first.frame_mos, rows.frame_mos[:4])
    assert torch.equal(first.lengths, LENGTHS)


def test_rows_of_a_batch():
    condition = Condition(3, ["x", "y", "z"], ["a", "b"], corpus_dropout=0.0)
    with torch.no_grad():
        condition.listener.copy_(torch.arange(9.0).reshape(3, 3))
        condition.corpus.copy_(torch.tensor([[1.0, 2.0, 3.0], [5.0, 2.0, 1.0]]))
    listeners = torch.tensor([[2, 0], [-1, -1], [-1, 1]])
    rows = condition(3, listeners, torch.tensor([0, 1, MEAN]))
    assert rows.item.tolist() == [0, 1, 2, 0, 0, 2]
    # Corpora count from their mean, (3, 2, 2).
    a, b, mean = [-2.0, 0.0, 1.0], [2.0, 0.0, -1.0], [0.0, 0.0, 0.0]
    expected = [a, b, mean, [6 - 2, 7, 8 + 1], [0 - 2, 1, 2 + 1], [3, 4, 5]]
    assert rows.offset.tolist() == expected


def test_no_rows_without_listeners_or_corpora():
    assert Condition(3, ["x"])(2, None, torch.tensor([0, 0])) is None
    assert Condition(3, None, ["a", "b"])(2, torch.tensor([[0], [0]]), None) is None
    rows = Condition(3, ["x"])(2, torch.full((2, 4), -1), None)
    assert rows.item.tolist() == [0, 1] and not rows.offset.any()


def test_corpus_dropout_is_of_training_only():
    torch.manual_seed(0)
    condition = Condition(2, None, ["a", "b"], corpus_dropout=0.25)
    with torch.no_grad():
        condition.corpus[0] = 1.0
    corpus = torch.zeros(4000, dtype=torch.long)
    dropped = (condition(4000, None, corpus).offset == 0).all(dim=1)
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert (condition.eval()(4000, None, corpus).offset == 0.5).all()


def test_rows_of_another_model():
    condition = Condition(2, ["x", "new"], ["b", "c", "a"])
    table = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    assert condition.take_rows("listener", ["y", "x"], table) == 1
    assert condition.listener.tolist() == [[3.0, 6.0], [0.0, 0.0]]
    assert condition.take_rows("corpus", ["a", "b"], table) == 2
    # The new one is the mean over the old, which stays as it was.
    assert condition.corpus.tolist() == [[3.0, 6.0], [2.0, 4.0], [1.0, 2.0]]
    offsets = condition.of_corpus(torch.tensor([0, 1, 2]))
    assert offsets.tolist() == [[1.0, 2.0], [0.0, 0.0], [-1.0, -2.0]]


def test_impossible_conditions_are_refused():
    for options, what in (
        ({"size": 0, "listeners": ["x"]}, "a head that takes none"),
        ({"size": 2, "corpora": ["a"]}, "corpus_embedding=true and 1 names"),
        ({"size": 2, "listeners": []}, "listener_embedding=true and 0 names"),
    ):
        with pytest.raises(ValueError, match=what):
            Condition(**options)
