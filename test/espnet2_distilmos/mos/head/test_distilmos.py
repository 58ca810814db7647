# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import pytest
import torch
import torch.nn.functional as F

from espnet2_distilmos.mos.head.abs_head import TokenColumn
from espnet2_distilmos.mos.head.condition import ConditionRows
from espnet2_distilmos.mos.head.distilmos import DistilMOSHead

COLUMNS = [TokenColumn("hubert", 1, 7), TokenColumn("hubert", 2, 5)]


def _head(**options):
    torch.manual_seed(0)
    head = DistilMOSHead(8, 3, COLUMNS, hidden_dim=12, **options)
    # Batch norm with statistics that are not those of the start.
    for block in head.feature_processor.blocks:
        block.bn.running_mean.normal_()
        block.bn.running_var.uniform_(0.5, 2.0)
    return head.eval()


def _states(lengths=(20, 13, 4), seed=1):
    torch.manual_seed(seed)
    return [torch.randn(len(lengths), max(lengths), 8) for _ in range(4)], torch.tensor(
        lengths
    )


def _written_out(head, states):
    """One unpadded file through torch primitives, as methods.md words it."""
    s = head.state_dict()
    w = s["weighted_sum.mix.weights"]
    p = head.weighted_sum.mix.probabilities().detach()
    assert len(w) == len(p) == 3
    x = sum(p[i] * states[i + 1] for i in range(3))
    out = "weighted_sum.out_proj"
    x = F.linear(x, s[f"{out}.weight"], s[f"{out}.bias"]).transpose(1, 2)
    neck = "feature_processor"
    x = F.conv1d(x, s[f"{neck}.proj_in.weight"], s[f"{neck}.proj_in.bias"])
    for i, kernel in enumerate((5, 3, 3)):
        block = f"{neck}.blocks.{i}"
        x = F.conv1d(x, s[f"{block}.dw.weight"], padding=(kernel - 1) // 2, groups=12)
        x = F.conv1d(x, s[f"{block}.pw.weight"])
        mean, var = s[f"{block}.bn.running_mean"], s[f"{block}.bn.running_var"]
        x = (x - mean[:, None]) / torch.sqrt(var[:, None] + 1e-5)
        x = x * s[f"{block}.bn.weight"][:, None] + s[f"{block}.bn.bias"][:, None]
        x = F.gelu(x)
    z = F.layer_norm(
        x.transpose(1, 2), (12,), s[f"{neck}.ln.weight"], s[f"{neck}.ln.bias"]
    )
    x = F.conv1d(
        z.transpose(1, 2), s["decoder.cnn.weight"], s["decoder.cnn.bias"], padding=1
    ).transpose(1, 2)
    lstm = torch.nn.LSTM(12, 12, batch_first=True, bidirectional=True)
    lstm.load_state_dict(head.decoder.bilstm.state_dict())
    y = F.linear(lstm(x)[0], s["decoder.linear.weight"], s["decoder.linear.bias"])
    y = F.layer_norm(
        F.gelu(y) + x,
        (12,),
        s["decoder.layer_norm.weight"],
        s["decoder.layer_norm.bias"],
    )
    frames = F.linear(y, s["linear.weight"], s["linear.bias"])[..., 0]
    logits = z
    for layer in (0, 2, 4):
        name = f"predictors.1.layers.{layer}"
        logits = F.linear(logits, s[f"{name}.weight"], s[f"{name}.bias"])
        logits = torch.relu(logits) if layer < 4 else logits
    return frames, logits, y


@torch.no_grad()
def test_equals_the_written_out_network():
    head = _head()
    states, _ = _states((17,))
    prediction = head(states, torch.tensor([17]), [1])
    frames, logits, embedding = _written_out(head, states)
    assert torch.allclose(prediction.frame_mos, frames, atol=1e-5)
    assert torch.allclose(prediction.utt_mos, frames.mean(dim=1), atol=1e-5)
    assert torch.allclose(prediction.token_logits[0], logits, atol=1e-5)
    assert torch.allclose(prediction.embedding, embedding.mean(dim=1), atol=1e-5)


@torch.no_grad()
def test_a_padded_batch_scores_as_single_files():
    strides = (2, 1, 2)
    head = _head(downsample_strides=strides)
    states, lengths = _states()
    padded = head(states, lengths, [0, 1])
    for i, n in enumerate(lengths.tolist()):
        # What stands in the padding must not matter either.
        states = [h.clone() for h in states]
        for h in states:
            h[i, n:] = 1e3
        alone = head([h[i : i + 1, :n] for h in states], lengths[i : i + 1], [0, 1])
        count = int(alone.lengths[0])
        assert count == int(padded.lengths[i]) == alone.frame_mos.size(1)
        assert torch.allclose(padded.utt_mos[i], alone.utt_mos[0], atol=1e-5)
        assert torch.allclose(
            padded.frame_mos[i, :count], alone.frame_mos[0], atol=1e-5
        )
        assert (padded.frame_mos[i, count:] == 0).all()
        for a, b in zip(padded.token_logits, alone.token_logits):
            assert torch.allclose(a[i, :count], b[0], atol=1e-4)
    assert padded.frame_stride == torch.tensor(strides).prod()


def test_tokens_cost_nothing_unless_wanted():
    head = _head()
    states, lengths = _states()
    called = []
    for predictor in head.predictors:
        predictor.register_forward_hook(lambda *_: called.append(1))
    assert head(states, lengths).token_logits is None and not called
    logits = head(states, lengths, [1]).token_logits
    assert [t.shape for t in logits] == [(3, 20, 5)] and len(called) == 1
    part = head(states, lengths, [1], scores=False)
    assert part.utt_mos is None and torch.equal(part.token_logits[0], logits[0])
    head.set_token_training(False)
    assert not any(p.requires_grad for p in head.predictors.parameters())
    head.set_token_training(True)
    assert all(p.requires_grad for p in head.predictors.parameters())


def test_score_starts_at_init_score_and_layers_are_chosen():
    head = _head(init_score=2.5, layers=[3], layer_mix="single")
    assert float(head.linear.bias) == 2.5
    states, lengths = _states()
    expected = head(states, lengths).utt_mos
    for layer in (0, 1, 2):
        states[layer] = torch.full_like(states[layer], 1e6)
    assert torch.equal(head(states, lengths).utt_mos, expected)
    assert head.statistics() == {}


OPTIONS = [
    {"layer_adapter": {"dim": 3}},
    {"pooling": ["mean", "sd", "attention"]},
    {"probe": {"pooling": ["mean", "sd", "attention"]}},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: next(iter(options)))
def test_an_option_changes_nothing_at_the_start_and_learns(options):
    """Apart from the probe, which replaces the decoder's score at the start."""
    head, plain = _head(**options), _head()
    state = head.state_dict()
    missing, left = head.load_state_dict(plain.state_dict(), strict=False)
    assert missing and not left and set(missing) <= set(state)
    states, lengths = _states()
    expected = plain(states, lengths).utt_mos
    assert torch.allclose(head(states, lengths).utt_mos, expected, atol=1e-5)
    # Whatever it learns, an item scores as it does alone.
    learned = {n: p for n, p in head.named_parameters() if n in missing}
    for parameter in learned.values():
        torch.nn.init.normal_(parameter, std=0.5)
    padded = head(states, lengths)
    assert not torch.allclose(padded.utt_mos, expected, atol=1e-5)
    for i, count in enumerate(lengths):
        alone = head([x[i : i + 1, :count] for x in states], lengths[i : i + 1])
        assert torch.allclose(padded.utt_mos[i], alone.utt_mos[0], atol=1e-5)
        mean = padded.frame_mos[i, :count].mean()
        assert torch.allclose(mean, padded.utt_mos[i], atol=1e-5)
    padded.utt_mos.sum().backward()
    assert learned and all(p.grad.any() for p in learned.values())


def test_the_probe_scores_the_rows_of_a_condition():
    head = _head(probe={})
    torch.nn.init.normal_(head.probe.linear.weight)
    states, lengths = _states()
    rows = ConditionRows(torch.zeros(4, 12), torch.tensor([0, 1, 2, 1]))
    expected = head(states, lengths).utt_mos[rows.item]
    found = head(states, lengths, condition=rows).utt_mos
    assert torch.allclose(found, expected, atol=1e-5)


def test_refusals():
    with pytest.raises(ValueError, match="between 0 and 3"):
        DistilMOSHead(8, 3, layers=[4])
    for size in (0, -1, 2.5):
        with pytest.raises(ValueError, match=f"hidden_dim={size}, expected a whole"):
            DistilMOSHead(8, 3, hidden_dim=size)
    for adapter in ({"dim": 0}, {"size": 4}, {}):
        with pytest.raises(ValueError, match="a bottleneck such as"):
            DistilMOSHead(8, 3, layer_adapter=adapter)
    with pytest.raises(ValueError, match="a probe scores every frame"):
        DistilMOSHead(8, 3, downsample_strides=[1, 2, 1], probe={})
    with pytest.raises(ValueError, match="as many of both"):
        DistilMOSHead(8, 3, downsample_strides=[1])
