# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import math

import pytest
import torch
import torch.nn.functional as F

from espnet2_distilmos.mos.build import build_model
from espnet2_distilmos.mos.head.condition import ConditionRows

FRAMES = 12  # of 4000 samples


def make(mos_corpus, losses=None, token_info="given", **changes):
    torch.manual_seed(0)
    if losses is None:
        losses = {"mos_l1": {"weight": 2.0}, "token_ce": {"weight": 0.5}}
    config = {
        "frontend": "hf",
        "frontend_conf": mos_corpus.frontend_conf,
        "head": "distilmos",
        "head_conf": {"hidden_dim": 16, "dropout": 0.0},
        "losses": losses,
        "token_info": mos_corpus.token_info if token_info == "given" else token_info,
        **changes,
    }
    return build_model(config, load_pretrained=False).eval()


def batch(mos=(3.0, 2.0, 4.5)):
    generator = torch.Generator().manual_seed(0)
    size = len(mos)
    return {
        "speech": torch.randn(size, 4000, generator=generator),
        "speech_lengths": torch.tensor([4000, 3500, 3000, 2500][:size]),
        "mos": torch.tensor(mos)[:, None],
        "tokens": torch.randint(5, (size, FRAMES, 2), generator=generator),
    }


def value(tensor):
    return tensor.item()


def test_loss_is_the_weighted_sum(mos_corpus):
    model = make(mos_corpus)
    data = batch()
    result = model(**data, utt_id=["a", "b", "c"], tokens_lengths=None)
    stats = {key: value(v) for key, v in result["stats"].items()}
    assert value(result["weight"]) == 3.0
    assert value(result["loss"]) == pytest.approx(stats["loss"])
    assert stats["loss"] == pytest.approx(2 * stats["mos_l1"] + 0.5 * stats["token_ce"])
    assert not result["utt_mos"].requires_grad

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
    for i, name in enumerate(("l01", "l02")):
        assert stats[f"token_acc_hubert_{name}"] == pytest.approx(correct[i] / count)
    mix = torch.stack([v.reshape(()) for k, v in result["stats"].items() if "mix" in k])
    torch.testing.assert_close(
        mix, model.head.weighted_sum.mix.probabilities().detach()
    )


def test_what_the_trainer_averages_over_processes(mos_corpus):
    """ESPnet's recursive_average asserts this under DDP."""
    result = make(mos_corpus)(**batch())
    assert result["weight"].shape == (1,)
    assert all(v.shape == (1,) for v in result["stats"].values())


def gradients(model, data):
    model.zero_grad()
    model(**data)["loss"].backward()
    return {
        name: parameter.grad.clone() if parameter.grad is not None else None
        for name, parameter in model.named_parameters()
    }


def all_zero(gradient):
    return gradient is None or not gradient.any()


def test_unlabelled_utterances_carry_only_the_token_loss(mos_corpus):
    model = make(mos_corpus)
    unlabelled = gradients(model, batch(mos=(math.nan,) * 3))
    score_only = [
        n for n in unlabelled if n.startswith(("head.decoder", "head.linear"))
    ]
    assert score_only and all(all_zero(unlabelled[name]) for name in score_only)
    assert not all_zero(unlabelled["head.predictors.0.layers.0.weight"])
    assert not all_zero(
        unlabelled["frontend.model.encoder.layers.0.final_layer_norm.bias"]
    )
    # the same as with the MOS loss left out
    alone = make(mos_corpus, losses={"token_ce": {"weight": 0.5}})
    for name, gradient in gradients(alone, batch()).items():
        if all_zero(gradient):
            assert all_zero(unlabelled[name]), name
        else:
            torch.testing.assert_close(unlabelled[name], gradient)


def test_one_unlabelled_utterance_of_three(mos_corpus):
    model = make(mos_corpus, losses={"mos_l1": {"weight": 1.0}})
    some = gradients(model, batch(mos=(3.0, math.nan, 4.5)))
    data = {key: tensor[[0, 2]] for key, tensor in batch().items()}
    for name, gradient in gradients(model, data).items():
        if gradient is None:
            assert all_zero(some[name])
        else:
            torch.testing.assert_close(some[name], gradient, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    "losses",
    [
        {"mos_l1": {}},
        {"mos_mse": {}},
        {"frame_l1": {}},
        {"frame_mse": {}},
        {"contrastive": {}},
        {"token_ce": {}},
        {"mos_l1": {}, "contrastive": {}, "token_ce": {}},
    ],
)
@pytest.mark.parametrize("empty", [False, True])
def test_a_batch_without_labels_and_tokens(losses, empty, mos_corpus):
    model = make(mos_corpus, losses=losses).train()
    data = batch(mos=(math.nan,) * 3)
    data["tokens"] = torch.full((3, 0 if empty else FRAMES, 2), -1)
    result = model(**data)
    assert value(result["loss"]) == 0.0
    for name, gradient in gradients(model, data).items():
        assert all_zero(gradient), name


def test_an_item_without_tokens_trains_on_the_others(mos_corpus):
    model = make(mos_corpus, losses={"token_ce": {"weight": 1.0}})
    data = batch()
    expected = model(**{k: v[:2] for k, v in data.items()})["loss"]
    data["tokens"][2] = -1
    torch.testing.assert_close(model(**data)["loss"], expected)


def test_columns_are_chosen_by_name(mos_corpus):
    losses = {"token_ce": {"weight": 1.0, "columns": ["hubert_l02"]}}
    data = batch()
    result = make(mos_corpus, losses=losses)(**data)
    assert "token_acc_hubert_l02" in result["stats"]
    assert "token_acc_hubert_l01" not in result["stats"]
    data["tokens"][..., 0] = 0
    model = make(mos_corpus, losses=losses)
    torch.testing.assert_close(model(**data)["loss"], result["loss"])
    data["tokens"][..., 1] = 0
    assert value(model(**data)["loss"]) != value(result["loss"])
    with pytest.raises(ValueError, match="no token column hubert_l09, .*hubert_l01"):
        make(mos_corpus, losses={"token_ce": {"columns": ["hubert_l09"]}})


def test_weight_zero_is_not_computed(mos_corpus):
    losses = {"mos_l1": {"weight": 1.0}, "token_ce": {"weight": 0}}
    model = make(mos_corpus, losses=losses)
    assert list(model.losses) == ["mos_l1"]
    calls = []
    for predictor in model.head.predictors:
        predictor.register_forward_hook(lambda *_: calls.append(1))
        assert not any(p.requires_grad for p in predictor.parameters())
    data = batch()
    result = model(**data)
    assert not calls and not any("token" in key for key in result["stats"])
    del data["tokens"]
    assert torch.equal(model(**data)["loss"], result["loss"])


def test_weight_zero_keeps_the_other_weights(mos_corpus):
    on = make(mos_corpus).state_dict()
    off = make(
        mos_corpus, losses={"mos_l1": {}, "token_ce": {"weight": 0}}
    ).state_dict()
    assert list(on) == list(off)
    assert all(torch.equal(on[key], off[key]) for key in on)
    # without the tokens at all, what remains starts equally too
    without = make(mos_corpus, losses={"mos_l1": {}}, token_info=None).state_dict()
    assert set(without) == {key for key in on if "predictors" not in key}
    assert all(torch.equal(on[key], without[key]) for key in without)


@pytest.mark.parametrize("name,user", [("mos", "mos_l1"), ("tokens", "token_ce")])
def test_a_batch_that_lacks_what_a_loss_needs(name, user, mos_corpus):
    data = batch()
    del data[name]
    with pytest.raises(ValueError, match=f"batch without {name}, which {user} needs"):
        make(mos_corpus)(**data)


def test_labels_of_either_shape(mos_corpus):
    model, data = make(mos_corpus), batch()
    expected = model(**data)["loss"]
    data["mos"] = data["mos"][:, 0]
    assert torch.equal(model(**data)["loss"], expected)


@pytest.mark.parametrize("head", ["distilmos", "ssl_mos"])
def test_inference_is_the_same_alone_and_in_a_batch(head, mos_corpus):
    model = make(
        mos_corpus, losses={"mos_l1": {}}, token_info=None, head=head, head_conf={}
    )
    data = batch(mos=(1.0, 2.0, 3.0, 4.0))
    # a longer batch than its longest item, with rubbish behind the ends
    speech = F.pad(data["speech"], (0, 500), value=9.0)
    together = model.inference(speech, data["speech_lengths"])
    assert together.token_logits is None and not together.utt_mos.requires_grad
    for i, length in enumerate(data["speech_lengths"]):
        alone = model.inference(data["speech"][i : i + 1, :length], length[None])
        torch.testing.assert_close(
            alone.utt_mos[0], together.utt_mos[i], atol=1e-5, rtol=0
        )
        frames = int(alone.lengths[0])
        assert frames == int(together.lengths[i])
        torch.testing.assert_close(
            alone.frame_mos[0, :frames],
            together.frame_mos[i, :frames],
            atol=1e-4,
            rtol=0,
        )


def test_inference_runs_no_token_predictor(mos_corpus):
    model, data = make(mos_corpus), batch()
    runs = []
    for predictor in model.head.predictors:
        predictor.register_forward_hook(lambda *_: runs.append(1))
    model(**data)
    assert len(runs) == len(model.head.predictors) > 0
    runs.clear()
    model.inference(data["speech"], data["speech_lengths"])
    assert not runs


def test_too_short_audio_is_refused(mos_corpus):
    with pytest.raises(ValueError, match="found an utterance of 100 samples"):
        make(mos_corpus).inference(torch.zeros(1, 100), torch.tensor([100]))


def test_statistics_stage_needs_no_features(mos_corpus):
    with pytest.raises(ValueError, match="extract_feats_in_collect_stats=true"):
        make(mos_corpus, model_conf={"extract_feats_in_collect_stats": True})
    data = batch()
    feats = make(mos_corpus).collect_feats(**data)
    assert torch.equal(feats["speech"], data["speech"])
    assert torch.equal(feats["speech_lengths"], data["speech_lengths"])


# --- masked view ----------------------------------------------------------------------

MASKED = {"masked_token_ce": {"weight": 1.0}}
IDS = ["a", "b", "c"]


def pretraining(mos_corpus, **changes):
    return make(mos_corpus, losses=MASKED, head="token", head_conf={}, **changes)


def without_labels():
    data = batch()
    del data["mos"]
    return dict(data, utt_id=IDS)


def test_masked_prediction_without_labels(mos_corpus):
    model, data = pretraining(mos_corpus), without_labels()
    result = model(**data)
    assert result["utt_mos"] is None
    # each by hand, from files on their own
    frames = [model.frontend.num_frames(int(n)) for n in data["speech_lengths"]]
    masks = model.span_mask(frames, IDS, 0)
    costs, correct, seen = [], [0, 0], [0, 0]
    for i, length in enumerate(data["speech_lengths"]):
        mask = masks[i, : frames[i]]
        hidden, count = model.frontend(
            data["speech"][i : i + 1, :length], length[None], mask[None]
        )
        logits = model.head(hidden, count, [0, 1]).token_logits
        for column, scores in enumerate(logits):
            tokens = data["tokens"][i, : frames[i], column]
            cost = F.cross_entropy(scores[0], tokens, reduction="none")
            costs.append(cost[mask])
            hit = scores[0].argmax(-1) == tokens
            correct[column] += int(hit[mask].sum())
            seen[column] += int(mask.sum())
    expected = torch.cat(costs).mean()
    torch.testing.assert_close(result["loss"], expected)
    for i, name in enumerate(("l01", "l02")):
        found = result["stats"][f"masked_token_acc_hubert_{name}"]
        assert found.item() == pytest.approx(correct[i] / seen[i])
    assert "unmasked_token_acc_hubert_l01" in result["stats"]


def test_the_mask_embedding_is_trained_and_hides_the_frames(mos_corpus):
    model, data = pretraining(mos_corpus).train(), without_labels()
    found = gradients(model, data)
    assert found["frontend.model.masked_spec_embed"].any()
    assert found["frontend.model.feature_extractor.conv_layers.0.conv.weight"].any()
    for changes, trained in (
        ({}, False),
        ({"losses": MASKED}, True),
        ({"losses": MASKED, "frontend_conf": {"freeze": 1}}, False),
        ({"losses": MASKED, "frontend_conf": {"freeze": "cnn"}}, True),
    ):
        conf = dict(mos_corpus.frontend_conf, **changes.pop("frontend_conf", {}))
        other = make(mos_corpus, frontend_conf=conf, **changes)
        assert other.frontend.model.masked_spec_embed.requires_grad is trained


def test_masks_change_with_the_epoch_and_not_in_validation(mos_corpus):
    model, data = pretraining(mos_corpus), without_labels()

    def loss(seed):
        torch.manual_seed(seed)
        torch.rand(3)  # the generator's state does not matter
        return value(model(**data)["loss"])

    assert loss(1) == loss(2)
    model.train()
    assert loss(1) == loss(1) != loss(2)


def test_the_clean_pass_is_as_without_the_masked_view(mos_corpus):
    data = dict(batch(), utt_id=IDS)
    both = {"mos_l1": {}, "token_ce": {}, **MASKED}
    models = [
        make(mos_corpus, losses=losses).train()
        for losses in ({"mos_l1": {}, "token_ce": {}}, both)
    ]
    results = []
    for model in models:
        torch.manual_seed(1)  # of dropout; the clean pass comes first
        results.append(model(**data))
    plain, viewed = results
    for name in ("mos_l1", "token_ce", "token_acc_hubert_l01"):
        assert torch.equal(plain["stats"][name], viewed["stats"][name])
    assert torch.equal(plain["utt_mos"], viewed["utt_mos"])
    assert value(viewed["loss"]) == pytest.approx(
        value(plain["loss"]) + value(viewed["stats"]["masked_token_ce"]), rel=1e-6
    )
    # what inference normalises by is that of the true signal
    for (name, a), (_, b) in zip(models[0].named_buffers(), models[1].named_buffers()):
        assert torch.equal(a, b), name
    # the score's own parameters hear nothing of the view
    results = []
    for model in models:
        torch.manual_seed(1)
        results.append(gradients(model, data))
    expected, found = results
    for name in expected:
        if name.startswith(("head.decoder", "head.linear")):
            torch.testing.assert_close(found[name], expected[name])
    # a view that is the only pass must fill the statistics itself
    alone = make(mos_corpus, losses=MASKED).train()
    before = alone.head.feature_processor.blocks[0].bn.running_mean.clone()
    alone(**data)
    assert not torch.equal(
        before, alone.head.feature_processor.blocks[0].bn.running_mean
    )


def test_losses_of_both_views_choose_their_own_columns(mos_corpus):
    losses = {
        "token_ce": {"weight": 1.0, "columns": ["hubert_l02"]},
        "masked_token_ce": {"weight": 1.0, "columns": ["hubert_l01"]},
    }
    data = dict(batch(), utt_id=IDS)
    result = make(mos_corpus, losses=losses)(**data)["stats"]
    for name, options in losses.items():
        alone = make(mos_corpus, losses={name: options})(**data)["stats"]
        assert torch.equal(result[name], alone[name])
    assert "masked_token_acc_hubert_l01" in result
    assert "masked_token_acc_hubert_l02" not in result


def test_a_head_without_scores_is_refused_where_scores_are_wanted(mos_corpus):
    with pytest.raises(ValueError, match="mos_l1 with TokenHead, which predicts no"):
        make(mos_corpus, head="token", head_conf={})
    model, data = pretraining(mos_corpus), batch()
    with pytest.raises(ValueError, match="fine-tune it"):
        model.inference(data["speech"], data["speech_lengths"])


def test_only_the_masked_view_hears_the_noise(mos_corpus):
    model = make(mos_corpus, losses={"mos_l1": {}, "token_ce": {}, **MASKED})
    data = dict(batch(), utt_id=IDS)
    noisy = data["speech"] + 0.3 * torch.randn(data["speech"].shape)
    plain = model(**data)["stats"]
    found = model(**data, noisy=noisy)["stats"]
    other = model(**dict(data, speech=noisy))["stats"]
    for name in found:
        if "masked" in name:
            assert torch.equal(found[name], other[name])
        elif name != "loss":
            assert torch.equal(found[name], plain[name])
    assert value(found["masked_token_ce"]) != value(plain["masked_token_ce"])
    assert value(other["mos_l1"]) != value(plain["mos_l1"])


# --- listeners and corpora ------------------------------------------------------------

NAMES = {"listener_list": ["x", "y", "z"], "corpus_list": ["a", "b"]}
BOTH = {"listener_embedding": True, "corpus_embedding": True, "corpus_dropout": 0.0}


def make_condition(mos_corpus, **changes):
    model = make(mos_corpus, model_conf=BOTH, **NAMES, **changes)
    with torch.no_grad():
        for table in (model.condition.listener, model.condition.corpus):
            table.copy_(torch.randn(table.shape))
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
        assert torch.equal(off.state_dict()[key], tensor)
        assert torch.equal(on.state_dict()[key], tensor)
    # Nor do votes that come all the same change anything.
    expected = plain(**batch())
    found = off(**{**voted(), **batch()})
    assert torch.equal(found["loss"], expected["loss"])
    assert list(found["stats"]) == list(expected["stats"])


def test_losses_hear_each_vote(mos_corpus):
    losses = {name: {"weight": 1.0} for name in ("mos_l1", "frame_mse", "token_ce")}
    losses["frame_mse"]["tau"] = 0.0
    model = make_condition(mos_corpus, losses=losses)
    data = voted()
    result = model(**data)
    offset = torch.zeros(3, 16)
    corpora = model.condition.corpus - model.condition.corpus.mean(dim=0)
    offset[:2] = corpora
    rows = [(0, None, 3.0), (2, None, 4.5), (0, 2, 2.0), (0, 0, 4.0), (1, 1, 1.5)]
    l1, mse = [], []
    for item, listener, label in rows:
        length = data["speech_lengths"][item]
        hidden, frames = model.frontend(
            data["speech"][item : item + 1, :length], length[None]
        )
        own = offset[item]
        if listener is not None:
            own = own + model.condition.listener[listener]
        prediction = model.head(hidden, frames, heard=ConditionRows(own[None]))
        l1.append((prediction.utt_mos - label).abs().mean())
        mse.append((prediction.frame_mos - label).square().mean())
        if listener is None:
            mean = result["utt_mos"][item : item + 1]
            torch.testing.assert_close(mean, prediction.utt_mos, atol=1e-5, rtol=0)
    assert value(result["stats"]["mos_l1"]) == pytest.approx(
        torch.stack(l1).mean().item(), abs=1e-5
    )
    assert value(result["stats"]["frame_mse"]) == pytest.approx(
        torch.stack(mse).mean().item(), abs=1e-5
    )
    assert result["utt_mos"].shape == (3,)
    # What is no matter of listeners stays as it is without.
    plain = make(mos_corpus, losses=losses)(**batch((3.0, math.nan, 4.5)))
    for name in ("token_ce", "token_acc_hubert_l01"):
        torch.testing.assert_close(result["stats"][name], plain["stats"][name])


def test_votes_train_their_listeners_and_run_the_upstream_once(mos_corpus):
    model = make_condition(mos_corpus)
    batches = []
    model.frontend.register_forward_hook(
        lambda module, inputs, output: batches.append(len(inputs[0]))
    )
    found = gradients(model, voted())
    assert batches == [3]
    assert found["condition.listener"].abs().sum(dim=1).gt(0).tolist() == [True] * 3
    assert found["condition.corpus"].any()
    again = {"votes": torch.ones(3, 1), "listeners": torch.tensor([[1], [1], [-1]])}
    found = gradients(model, {**voted(), **again})
    heard = found["condition.listener"].abs().sum(dim=1).gt(0)
    assert heard.tolist() == [False, True, False]


@torch.no_grad()
def test_inference_hears_as_the_mean_or_as_one_corpus(mos_corpus):
    model, plain = make_condition(mos_corpus), make(mos_corpus)
    speech, lengths = batch()["speech"], batch()["speech_lengths"]
    expected = plain.inference(speech, lengths).utt_mos
    assert torch.equal(model.inference(speech, lengths).utt_mos, expected)
    scores = {}
    for corpus in ("a", "b"):
        model.set_corpus(corpus)
        scores[corpus] = model.inference(speech, lengths).utt_mos
        assert (scores[corpus] - expected).abs().min() > 1e-3
        told = model(**{**batch(), "corpus": torch.full((3,), "ab".index(corpus))})
        torch.testing.assert_close(told["utt_mos"], scores[corpus])
        alone = model.inference(speech[2:, :3000], lengths[2:]).utt_mos
        torch.testing.assert_close(alone, scores[corpus][2:], atol=1e-5, rtol=0)
    model.set_corpus(None)
    assert torch.equal(model.inference(speech, lengths).utt_mos, expected)
    with pytest.raises(ValueError, match="found the corpus c, expected one of a, b,"):
        model.set_corpus("c")
    with pytest.raises(ValueError, match="the corpus a for a model without corpora"):
        plain.set_corpus("a")


def test_votes_without_labels_and_without_a_loss_for_them(mos_corpus):
    data = {key: value for key, value in voted().items() if key != "mos"}
    model = make_condition(mos_corpus, losses={"token_ce": {"weight": 1.0}})
    assert model(**data)["utt_mos"].shape == (3,)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model_conf": {"listener_embedding": True}}, "=true and no listener_list"),
        ({"model_conf": {"corpus_embedding": True}}, "=true and no corpus_list"),
        (
            {"model_conf": BOTH, "head": "token", "head_conf": {}, **NAMES},
            "embedding with TokenHead, which takes none",
        ),
    ],
)
def test_refused_embeddings(changes, message, mos_corpus):
    with pytest.raises(ValueError, match=message):
        make(mos_corpus, losses={"token_ce": {"weight": 1.0}}, **changes)


def test_the_head_stays_in_fp32_under_autocast(mos_corpus):
    model = make(mos_corpus, {"mos_l1": {}, "token_ce": {}, "masked_token_ce": {}})
    data = batch()
    inputs = data["speech"], data["speech_lengths"]
    with torch.autocast("cpu", torch.bfloat16):
        result = model(**data)
        hidden, frames = model.frontend(*inputs)
        score = model.inference(*inputs).utt_mos
    assert hidden[-1].dtype == torch.bfloat16
    expected = model.head([states.float() for states in hidden], frames).utt_mos
    assert torch.equal(score, expected) and torch.equal(result["utt_mos"], expected)
    # near 3, bfloat16 knows every 1/64 only
    assert not torch.equal(expected, expected.bfloat16().float())
    plain = model(**data)
    torch.testing.assert_close(result["loss"], plain["loss"], atol=0.05, rtol=0)
    result["loss"].backward()
    assert all(
        p.grad.dtype == torch.float32 for p in model.head.predictors.parameters()
    )
