# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import math

import pytest
import torch
import torch.nn.functional as F

from espnet2_distilmos.mos import espnet_model
from espnet2_distilmos.mos.build import build_model
from espnet2_distilmos.mos.head.condition import ConditionRows

FRAMES = 12  # of 4000 samples
IDS = ["a", "b", "c"]
MASKED = {"masked_token_ce": {"weight": 1.0}}


def make(mos_corpus, losses=None, **changes):
    torch.manual_seed(0)
    if losses is None:
        losses = {"mos_l1": {"weight": 2.0}, "token_ce": {"weight": 0.5}}
    config = mos_corpus.config(
        losses=losses,
        **{
            "head_conf": {"hidden_dim": 16, "dropout": 0.0},
            "token_info": mos_corpus.token_info,
            **changes,
        },
    )
    return build_model(config, load_pretrained=False).eval()


def batch(mos=(3.0, 2.0, 4.5)):
    generator = torch.Generator().manual_seed(0)
    size = len(mos)
    return {
        "speech": torch.randn(size, 4000, generator=generator),
        "speech_lengths": torch.tensor([4000, 3500, 3000, 2500][:size]),
        "mos": torch.tensor(mos)[:, None],
        "tokens": torch.randint(5, (size, FRAMES, 2), generator=generator),
        "utt_id": list("abcd"[:size]),
    }


def gradients(model, data):
    model.zero_grad()
    model(**data)["loss"].backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def all_zero(gradient):
    return gradient is None or not gradient.any()


def test_lengths_as_numbers_change_nothing(mos_corpus):
    model, data = make(mos_corpus), batch()
    expected = gradients(model, data)
    lengths = data["speech_lengths"].tolist()
    # and the tensor is then not read
    data["speech_lengths"] = torch.zeros(3, dtype=torch.long)
    for name, gradient in gradients(model, data | {"num_samples": lengths}).items():
        assert gradient is None or torch.equal(gradient, expected[name])


def test_loss_is_the_weighted_sum(mos_corpus):
    model, data = make(mos_corpus), batch()
    result = model(**data, tokens_lengths=None)
    # ESPnet's recursive_average asserts these shapes under DDP
    assert all(v.shape == (1,) for v in [result["weight"], *result["stats"].values()])
    stats = {key: v.item() for key, v in result["stats"].items()}
    assert result["weight"].item() == 3.0
    assert result["loss"].item() == pytest.approx(stats["loss"])
    assert stats["loss"] == pytest.approx(2 * stats["mos_l1"] + 0.5 * stats["token_ce"])

    # each by hand, from files on their own
    scores, costs, correct, count = [], [], [0, 0], 0
    for speech, length, tokens in zip(
        data["speech"], data["speech_lengths"], data["tokens"]
    ):
        hidden, frames = model.frontend(speech[None, :length], length[None])
        prediction = model.head(hidden, frames, [0, 1])
        scores.append(prediction.utt_mos[0])
        tokens = tokens[: frames[0]]
        for i, logits in enumerate(prediction.token_logits):
            costs.append(F.cross_entropy(logits[0], tokens[:, i], reduction="sum"))
            correct[i] += int((logits[0].argmax(-1) == tokens[:, i]).sum())
        count += int(frames)
    scores = torch.stack(scores)
    torch.testing.assert_close(result["utt_mos"], scores.detach(), atol=1e-5, rtol=0)
    expected = (scores - data["mos"][:, 0]).abs().mean()
    assert stats["mos_l1"] == pytest.approx(expected.item(), abs=1e-5)
    assert stats["token_ce"] == pytest.approx(sum(costs).item() / count / 2, abs=1e-5)
    counts = {key: v.item() for key, v in result["counts"].items()}
    for i, name in enumerate(("token_acc_hubert_l01", "token_acc_hubert_l02")):
        assert stats[name] == pytest.approx(correct[i] / count)
        assert counts.pop(name) == count
    assert counts == {"mos_l1": 3, "token_ce": count}
    mix = [stats[f"mix_l0{layer}"] for layer in (1, 2)]
    assert mix == pytest.approx(model.head.weighted_sum.mix.probabilities().tolist())


def test_unlabelled_utterances_carry_only_the_token_loss(mos_corpus):
    unlabelled = gradients(make(mos_corpus), batch(mos=(math.nan,) * 3))
    alone = make(mos_corpus, losses={"token_ce": {"weight": 0.5}})
    expected = gradients(alone, batch())
    assert all_zero(expected["head.linear.weight"])
    assert not all_zero(expected["head.predictors.0.layers.0.weight"])
    for name, gradient in expected.items():
        if all_zero(gradient):
            assert all_zero(unlabelled[name]), name
        else:
            torch.testing.assert_close(unlabelled[name], gradient)


def test_a_batch_without_labels_and_tokens(mos_corpus):
    names = ("mos_l1", "mos_mse", "frame_l1", "frame_mse", "contrastive", "token_ce")
    model = make(mos_corpus, losses={name: {} for name in (*names, *MASKED)}).train()
    data = batch(mos=(math.nan,) * 3)
    data["tokens"] = torch.full((3, FRAMES, 2), -1)
    assert model(**data)["loss"].item() == 0.0
    assert all(all_zero(gradient) for gradient in gradients(model, data).values())


def test_losses_of_both_views_choose_their_own_columns(mos_corpus):
    losses = {
        "token_ce": {"weight": 1.0, "columns": ["hubert_l02"]},
        "masked_token_ce": {"weight": 1.0, "columns": ["hubert_l01"]},
    }
    data = batch()
    result = make(mos_corpus, losses=losses)(**data)["stats"]
    for name, options in losses.items():
        alone = make(mos_corpus, losses={name: options})(**data)["stats"]
        assert torch.equal(result[name], alone[name])
    found = {name for name in result if "acc" in name}
    assert found == {
        "token_acc_hubert_l02",
        "masked_token_acc_hubert_l01",
        "unmasked_token_acc_hubert_l01",
    }


def test_weight_zero_is_not_computed_and_keeps_the_other_weights(mos_corpus):
    losses = {"mos_l1": {"weight": 1.0}, "token_ce": {"weight": 0}}
    model, data = make(mos_corpus, losses=losses), batch()
    calls = []
    for predictor in model.head.predictors:
        predictor.register_forward_hook(lambda *_: calls.append(1))
        assert not any(p.requires_grad for p in predictor.parameters())
    result = model(**data)
    assert not calls and not any("token" in key for key in result["stats"])
    del data["tokens"]
    assert torch.equal(model(**data)["loss"], result["loss"])
    on, off = make(mos_corpus).state_dict(), model.state_dict()
    without = make(mos_corpus, losses={"mos_l1": {}}, token_info=None).state_dict()
    assert list(on) == list(off)
    assert all(torch.equal(on[key], off[key]) for key in on)
    assert set(without) == {key for key in on if "predictors" not in key}
    assert all(torch.equal(on[key], without[key]) for key in without)


def test_a_batch_that_lacks_what_a_loss_needs(mos_corpus):
    for name, user in (("mos", "mos_l1"), ("tokens", "token_ce")):
        data = batch()
        del data[name]
        with pytest.raises(ValueError, match=f"without {name}, which {user} needs"):
            make(mos_corpus)(**data)


def test_inference_is_the_same_alone_and_in_a_batch(mos_corpus):
    model = make(mos_corpus)
    data = batch(mos=(1.0, 2.0, 3.0, 4.0))
    # a longer batch than its longest item, with rubbish behind the ends
    speech = F.pad(data["speech"], (0, 500), value=9.0)
    together = model.inference(speech, data["speech_lengths"])
    assert together.token_logits is None and not together.utt_mos.requires_grad
    for i, length in enumerate(data["speech_lengths"]):
        alone = model.inference(data["speech"][i : i + 1, :length], length[None])
        frames = int(alone.lengths[0])
        assert frames == int(together.lengths[i])
        near = dict(atol=1e-4, rtol=0)
        torch.testing.assert_close(alone.utt_mos[0], together.utt_mos[i], **near)
        found = together.frame_mos[i, :frames]
        torch.testing.assert_close(alone.frame_mos[0, :frames], found, **near)


def test_the_head_stays_in_fp32_under_autocast(mos_corpus):
    model = make(mos_corpus, {"mos_l1": {}, "token_ce": {}, **MASKED})
    data = batch()
    inputs = data["speech"], data["speech_lengths"]
    with torch.autocast("cpu", torch.bfloat16):
        result = model(**data)
        hidden, frames = model.frontend(*inputs)
        score = model.inference(*inputs).utt_mos
    assert hidden[-1].dtype == torch.bfloat16
    expected = model.head([states.float() for states in hidden], frames).utt_mos
    # Kernels differ by a digit with and without a graph; bfloat16 would by 1e-2.
    for found in (score, result["utt_mos"]):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    # near 3, bfloat16 knows every 1/64 only
    assert not torch.equal(expected, expected.bfloat16().float())
    plain = model(**data)
    torch.testing.assert_close(result["loss"], plain["loss"], atol=0.05, rtol=0)


# --- masked view ----------------------------------------------------------------------


def pretraining(mos_corpus, **changes):
    return make(mos_corpus, losses=MASKED, head="token", head_conf={}, **changes)


def test_masks_change_with_the_epoch_and_not_in_validation(mos_corpus):
    model, data = pretraining(mos_corpus), batch()

    def loss(seed):
        torch.manual_seed(seed)
        return model(**data)["loss"].item()

    assert loss(1) == loss(2)
    model.train()
    assert loss(1) == loss(1) != loss(2)


def test_the_clean_pass_is_as_without_the_masked_view(mos_corpus):
    data, plain_losses = batch(), {"mos_l1": {}, "token_ce": {}}
    models = [
        make(mos_corpus, losses=losses).train()
        for losses in (plain_losses, {**plain_losses, **MASKED})
    ]
    results = []
    for model in models:
        torch.manual_seed(1)  # of dropout; the clean pass comes first
        results.append(model(**data))
    plain, viewed = results
    for name in ("mos_l1", "token_ce", "token_acc_hubert_l01"):
        assert torch.equal(plain["stats"][name], viewed["stats"][name])
    assert torch.equal(plain["utt_mos"], viewed["utt_mos"])
    # what inference normalises by is that of the true signal
    for (name, a), (_, b) in zip(models[0].named_buffers(), models[1].named_buffers()):
        assert torch.equal(a, b), name
    # a view that is the only pass must fill the statistics itself
    alone = make(mos_corpus, losses=MASKED).train()
    norm = alone.head.feature_processor.blocks[0].bn
    before = norm.running_mean.clone()
    alone(**data)
    assert not torch.equal(before, norm.running_mean)


def test_noise_is_in_the_masked_view_alone(mos_corpus):
    model = make(mos_corpus, losses={"mos_l1": {}, "token_ce": {}, **MASKED})
    data = batch()
    noisy = data["speech"] + 0.3 * torch.randn(data["speech"].shape)
    plain = model(**data)["stats"]
    found = model(**data, noisy=noisy)["stats"]
    other = model(**dict(data, speech=noisy))["stats"]
    for name in set(found) - {"loss"}:
        expected = other if "masked" in name else plain
        assert torch.equal(found[name], expected[name])
    assert found["masked_token_ce"] != plain["masked_token_ce"]
    assert other["mos_l1"] != plain["mos_l1"]


def test_a_head_without_scores_is_refused_where_scores_are_wanted(mos_corpus):
    with pytest.raises(ValueError, match="mos_l1 with TokenHead, which predicts no"):
        make(mos_corpus, head="token", head_conf={})
    data = batch()
    with pytest.raises(ValueError, match="fine-tune it"):
        pretraining(mos_corpus).inference(data["speech"], data["speech_lengths"])


# --- listeners and corpora ------------------------------------------------------------

NAMES = {"listener_list": ["x", "y", "z"], "corpus_list": ["a", "b"]}
BOTH = {"listener_embedding": True, "corpus_embedding": True, "corpus_dropout": 0.0}


def make_condition(mos_corpus, **changes):
    model = make(mos_corpus, model_conf=BOTH, **NAMES, **changes)
    with torch.no_grad():
        for table in (model.condition.listener, model.condition.corpus):
            table.copy_(torch.randn(table.shape))
    # A validation knows no corpus; dropout and norms below stay as in one.
    model.training = True
    return model


def voted(mos=(3.0, math.nan, 4.5)):
    votes = {
        "votes": torch.tensor([[2.0, 4.0], [1.5, 0.0], [0.0, 0.0]]),
        "listeners": torch.tensor([[2, 0], [1, -1], [-1, -1]]),
        "corpus": torch.tensor([[0], [1], [-1]]),
    }
    return {**batch(mos), **votes}


def test_off_is_as_if_there_were_none(mos_corpus):
    plain, off = make(mos_corpus), make(mos_corpus, model_conf={}, **NAMES)
    on = make(mos_corpus, model_conf=BOTH, **NAMES)
    assert list(off.state_dict()) == list(plain.state_dict())
    extra = set(on.state_dict()) - set(plain.state_dict())
    assert extra == {"condition.listener", "condition.corpus"}
    for key, tensor in plain.state_dict().items():
        assert torch.equal(on.state_dict()[key], tensor)
    found, expected = off(**{**voted(), **batch()}), plain(**batch())
    assert torch.equal(found["loss"], expected["loss"])


def test_each_vote_is_a_further_utterance_to_losses_on_labels(mos_corpus):
    losses = {name: {"weight": 1.0} for name in ("mos_l1", "frame_mse", "token_ce")}
    losses["frame_mse"]["tau"] = 0.0
    model, data = make_condition(mos_corpus, losses=losses), voted()
    batches = []
    model.frontend.register_forward_hook(
        lambda module, inputs, output: batches.append(len(inputs[0]))
    )
    result = model(**data)
    assert batches == [3]  # the upstream runs once
    offset = torch.zeros(3, 16)
    offset[:2] = model.condition.corpus - model.condition.corpus.mean(dim=0)
    rows = [(0, None, 3.0), (2, None, 4.5), (0, 2, 2.0), (0, 0, 4.0), (1, 1, 1.5)]
    l1, mse = [], []
    for item, listener, label in rows:
        length = data["speech_lengths"][item : item + 1]
        speech = data["speech"][item : item + 1, : int(length)]
        own = offset[item]
        if listener is not None:
            own = own + model.condition.listener[listener]
        hidden, frames = model.frontend(speech, length)
        prediction = model.head(hidden, frames, condition=ConditionRows(own[None]))
        l1.append((prediction.utt_mos - label).abs().mean().item())
        mse.append((prediction.frame_mos - label).square().mean().item())
        if listener is None:
            mean = result["utt_mos"][item : item + 1]
            torch.testing.assert_close(mean, prediction.utt_mos, atol=1e-5, rtol=0)
    stats = result["stats"]
    assert stats["mos_l1"].item() == pytest.approx(sum(l1) / 5, abs=1e-5)
    assert stats["frame_mse"].item() == pytest.approx(sum(mse) / 5, abs=1e-5)
    assert result["counts"]["mos_l1"] == 5 and result["utt_mos"].shape == (3,)


def test_losses_on_pairs_know_the_corpus_and_the_error_of_each_row(mos_corpus):
    """Rows are three utterances, the first without a label, and three votes."""
    losses = {"bradley_terry": {"weight": 1.0, "margin": 1.0}}
    model = make_condition(mos_corpus, losses=losses)
    data = voted((math.nan, 2.0, 4.5))
    data["corpus"] = torch.tensor([[0], [1], [1]])
    # of the corpus 0: votes 2 and 4; of 1: labels 2 and 4.5, the vote 1.5 on the former
    assert model(**data)["counts"]["bradley_terry"] == 1 + 3
    errors = torch.tensor([[9.0], [1.0], [1.0]])
    # 2 against 1.5 is within the error of 2, which the vote does not have
    assert model(**data, mos_se=errors)["counts"]["bradley_terry"] == 1 + 2
    # In a validation the corpus is the losses' alone.
    validation = model.eval()(**data)["utt_mos"]
    assert torch.equal(validation, model(**{**data, "corpus": None})["utt_mos"])
    # a number that has no embedding
    assert torch.equal(
        validation, model(**{**data, "corpus": data["corpus"] + 7})["utt_mos"]
    )


@torch.no_grad()
def test_inference_is_of_the_mean_or_of_one_corpus(mos_corpus):
    model, plain = make_condition(mos_corpus), make(mos_corpus)
    speech, lengths = batch()["speech"], batch()["speech_lengths"]
    expected = plain.inference(speech, lengths).utt_mos
    for index, corpus in enumerate("ab"):
        model.set_corpus(corpus)
        scores = model.inference(speech, lengths).utt_mos
        assert (scores - expected).abs().min() > 1e-3
        told = model(**batch(), corpus=torch.full((3,), index))
        torch.testing.assert_close(told["utt_mos"], scores)
        alone = model.inference(speech[2:, :3000], lengths[2:]).utt_mos
        torch.testing.assert_close(alone, scores[2:], atol=1e-5, rtol=0)
    model.set_corpus(None)
    assert torch.equal(model.inference(speech, lengths).utt_mos, expected)
    with pytest.raises(ValueError, match="the corpus c, expected .*a, b"):
        model.set_corpus("c")
    with pytest.raises(ValueError, match="the corpus a, expected .*none"):
        plain.set_corpus("a")


@torch.no_grad()
@pytest.mark.parametrize("corpus", [None, "b"])
@pytest.mark.parametrize("rows", [1, 7, 64])
@pytest.mark.parametrize("head", ["distilmos", "ssl_mos"])
def test_all_listeners_are_the_mean_over_each(
    mos_corpus, monkeypatch, head, rows, corpus
):
    """However many the head takes at a time; the upstream runs once."""
    changes = {"head": head, "head_conf": {"hidden_dim": 16}}
    if head == "ssl_mos":
        changes.update(losses={"mos_l1": {}}, token_info=None)
    model, data = make_condition(mos_corpus, **changes), batch()
    speech, lengths = data["speech"], data["speech_lengths"]
    offset = torch.zeros(16)
    if corpus:
        table = model.condition.corpus
        offset = table[1] - table.mean(dim=0)
    each = []
    for listener in model.condition.listener:
        hidden, frames = model.frontend(speech, lengths)
        own = (offset + listener).expand(len(speech), -1)
        each.append(model.head(hidden, frames, condition=ConditionRows(own)))
    assert torch.stack([one.utt_mos for one in each]).std(dim=0).min() > 1e-3
    monkeypatch.setattr(espnet_model, "_LISTENER_ROWS", rows)
    batches = []
    model.frontend.register_forward_hook(
        lambda module, inputs, output: batches.append(len(inputs[0]))
    )
    model.set_corpus(corpus)
    model.set_listener("all")
    columns = [1] if head == "distilmos" else []
    found = model.inference(speech, lengths, columns)
    assert batches == [3] and torch.equal(found.lengths, each[0].lengths)
    for name in ("utt_mos", "frame_mos", "embedding"):
        expected = torch.stack([getattr(one, name) for one in each]).mean(dim=0)
        torch.testing.assert_close(getattr(found, name), expected, atol=1e-5, rtol=0)
    alone = model.inference(speech[2:, :3000], lengths[2:]).utt_mos
    torch.testing.assert_close(alone, found.utt_mos[2:], atol=1e-5, rtol=0)
    model.set_listener("mean")
    plain = model.inference(speech, lengths, columns)
    assert (plain.utt_mos - found.utt_mos).abs().min() > 1e-4
    if columns:
        assert torch.equal(found.token_logits[0], plain.token_logits[0])


def test_listener_embeddings_are_trained_by_votes(mos_corpus):
    """From zero to what each listener adds to the label; who did not vote stays."""
    offsets = torch.tensor([-1.2, -0.6, 0.0, 0.5, 1.3])
    names = [str(k) for k in range(6)]  # the last one never votes
    options = {"losses": {"mos_l1": {"weight": 1.0}}, "listener_list": names}
    model = make(mos_corpus, model_conf={"listener_embedding": True}, **options)
    data = batch()
    listeners = torch.tensor([[0, 1, 2, 3], [4, 0, 1, 2], [3, 4, 0, 1]])
    data.update(listeners=listeners, votes=data["mos"] + offsets[listeners])
    grads = gradients(model, data)["condition.listener"]
    assert grads[:5].abs().sum(dim=1).gt(0).all() and not grads[5].any()
    model.frontend.requires_grad_(False)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, 1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        model(**data)["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        hidden, lengths = model.frontend(data["speech"], data["speech_lengths"])
        scores = []
        for row in model.condition.listener:
            rows = ConditionRows(row.expand(3, -1))
            scores.append(model.head(hidden, lengths, condition=rows).utt_mos.mean())
        model.set_listener("all")
        found = model.inference(data["speech"], data["speech_lengths"]).utt_mos.mean()
    scores = torch.stack(scores)
    assert torch.corrcoef(torch.stack([scores[:5], offsets]))[0, 1] > 0.97
    assert not model.condition.listener[5].any()
    assert found == pytest.approx(float(scores.mean()), abs=1e-4)


def test_listeners_that_there_are_not_are_refused(mos_corpus):
    with pytest.raises(ValueError, match="found the listener x, expected mean or all"):
        make_condition(mos_corpus).set_listener("x")
    corpora = make(mos_corpus, model_conf={"corpus_embedding": True}, **NAMES)
    for model in (make(mos_corpus), corpora):
        model.set_listener("mean")
        with pytest.raises(ValueError, match="a model without listeners, expected"):
            model.set_listener("all")
