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
    # An offset is heard, and that of zero is the head alone.
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
    heard = condition(3, listeners, torch.tensor([0, 1, MEAN]))
    assert heard.item.tolist() == [0, 1, 2, 0, 0, 2]
    # Corpora count from their mean, (3, 2, 2).
    a, b, mean = [-2.0, 0.0, 1.0], [2.0, 0.0, -1.0], [0.0, 0.0, 0.0]
    expected = [a, b, mean, [6 - 2, 7, 8 + 1], [0 - 2, 1, 2 + 1], [3, 4, 5]]
    assert heard.offset.tolist() == expected


def test_nothing_is_heard_where_nothing_is_told():
    assert Condition(3, ["x"])(2, None, torch.tensor([0, 0])) is None
    assert Condition(3, (), ["a", "b"])(2, torch.tensor([[0], [0]]), None) is None
    heard = Condition(3, ["x"])(2, torch.full((2, 4), -1), None)
    assert heard.item.tolist() == [0, 1] and not heard.offset.any()


def test_offsets_of_linear_listeners_are_those_of_the_closed_form():
    """With a linear decoder least squares has one answer: their mean residuals."""
    head = make_head(SSLMOSHead)
    head.dnn[1] = torch.nn.Identity()
    head.requires_grad_(False)
    hidden = states()
    base = head(hidden, LENGTHS).utt_mos
    condition = Condition(6, ["harsh", "lenient", "absent"])
    listeners = torch.tensor([[0, 1], [0, 1], [1, -1], [0, -1]])
    votes = torch.tensor([[1.0, 4.0], [2.0, 4.0], [5.0, 0.0], [1.5, 0.0]])
    labels = votes[listeners >= 0]
    optimizer = torch.optim.SGD([condition.listener], lr=1.0)
    for _ in range(300):
        heard = condition(4, listeners)
        scores = head(hidden, LENGTHS, condition=heard).utt_mos[4:]
        optimizer.zero_grad()
        (scores - labels).square().mean().backward()
        optimizer.step()
    biases = condition.listener.detach() @ head.linear.weight[0]
    residuals = [
        (votes - base[:, None])[listeners == listener].mean() for listener in (0, 1)
    ]
    torch.testing.assert_close(biases[:2], torch.stack(residuals), atol=1e-3, rtol=0)
    assert biases[2] == 0


def test_harsh_and_lenient_listeners_are_fitted():
    """All of a head learns: votes come out as given, the mean between them."""
    head = make_head(DistilMOSHead).train()
    head.decoder.dropout.p = 0.0
    condition = Condition(6, ["harsh", "lenient"])
    hidden = states()
    mos = torch.tensor([2.0, 3.0, 4.0, 2.5])
    listeners = torch.tensor([[0, 1]] * 4)
    labels = torch.cat([mos, torch.stack([mos - 0.8, mos + 0.8], 1).flatten()])
    parameters = [*head.parameters(), *condition.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.02)
    for _ in range(150):
        heard = condition(4, listeners)
        loss = (head(hidden, LENGTHS, condition=heard).utt_mos - labels).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        votes = head(hidden, LENGTHS, condition=heard).utt_mos[4:].reshape(4, 2)
        mean = head(hidden, LENGTHS).utt_mos  # without a word on listeners
    gap = votes[:, 1] - votes[:, 0]
    torch.testing.assert_close(gap, torch.full((4,), 1.6), atol=0.2, rtol=0)
    torch.testing.assert_close(mean, mos, atol=0.2, rtol=0)


def test_corpus_dropout_is_of_training_only():
    torch.manual_seed(0)
    condition = Condition(2, (), ["a", "b"], corpus_dropout=0.25)
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
    # The new one hears as the mean over the old did, and that stays where it was.
    assert condition.corpus.tolist() == [[3.0, 6.0], [2.0, 4.0], [1.0, 2.0]]
    offsets = condition.of_corpus(torch.tensor([0, 1, 2]))
    assert offsets.tolist() == [[1.0, 2.0], [0.0, 0.0], [-1.0, -2.0]]


def test_names():
    condition = Condition(2, (), ["a", "b"])
    assert condition.index("b") == 1 and condition.index(None) == MEAN
    with pytest.raises(ValueError, match="found the corpus c, expected one of a, b,"):
        condition.index("c")


def test_refusals():
    with pytest.raises(ValueError, match="the one corpus a, expected two"):
        Condition(2, (), ["a"])
    with pytest.raises(ValueError, match="corpus_dropout=1.0, expected"):
        Condition(2, (), ["a", "b"], corpus_dropout=1.0)


def test_random_numbers_are_left_alone():
    """The rest of a model starts from one seed, with or without."""
    torch.manual_seed(0)
    Condition(2, ["x"], ["a", "b"])
    found = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(found, torch.rand(1))
