# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import copy

import numpy as np
import pytest
import torch

from espnet2_distilmos.mos.build import build_model
from espnet2_distilmos.mos.frontend.hf import HFFrontend


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Checkpoints of two HuBERTs of three layers, of 16 and 24 dimensions."""
    folders = []
    for name, size in (("a", 16), ("b", 24), ("c", 16)):
        conf = {
            "model_type": "hubert",
            "conv_dim": [8, 8],
            "conv_kernel": [10, 8],
            "conv_stride": [5, 4],
            "num_feat_extract_layers": 2,
            "hidden_size": size,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "num_conv_pos_embeddings": 8,
            "num_conv_pos_embedding_groups": 2,
        }
        frontend = HFFrontend(upstream_config=conf, init_seed=len(folders))
        folder = tmp_path_factory.mktemp("teachers") / name
        frontend.model.save_pretrained(folder)
        folders.append(str(folder))
    return folders


def make(folders, count=2, losses=None, head="token", num_layers=1, **options):
    """The first teacher's first layer as a student of the first two teachers."""
    torch.manual_seed(0)
    options = {"teachers": folders[:count], "layers": [1, 3], **options}
    config = {
        "frontend": "hf",
        "frontend_conf": {"upstream": folders[0], "num_layers": num_layers},
        "head": head,
        "losses": {"layer_distill": options, **(losses or {})},
        "model_conf": {"mask": {"start_prob": 0.0}},
    }
    return build_model(config, load_pretrained=True).eval()


def data(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "speech": torch.randn(2, 900, generator=generator),
        "speech_lengths": torch.tensor([900, 500]),
        "utt_id": ["a", "b"],
    }


def states_of(folder, speech, length):
    """Hidden states of one utterance by transformers itself: (L + 1, T, D)."""
    from transformers import AutoModel

    network = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    network.config.apply_spec_augment = False
    with torch.no_grad():
        out = network(speech[None, :length], output_hidden_states=True)
    return [x[0].double().numpy() for x in out.hidden_states]


def normal(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def expected_loss(model, speech, lengths, heard, folders, aggregate, cos_weight):
    """The formula in NumPy, an utterance at a time."""
    predictor = model.losses["layer_distill"].predictor
    costs = None
    for one, said, length in zip(speech, heard, lengths.tolist()):
        with torch.no_grad():
            state = model.frontend(one[None, :length], torch.tensor([length]))[0][-1]
            found = [x[0].double().numpy() for x in predictor(state)]
        each = [[states_of(f, said, length)[n] for n in (1, 3)] for f in folders]
        if aggregate == "heads":
            wanted = [x for some in each for x in some]
        elif aggregate == "concat":
            wanted = [np.concatenate([normal(x) for x in xs], -1) for xs in zip(*each)]
        else:
            wanted = [np.mean([normal(x) for x in xs], axis=0) for xs in zip(*each)]
        assert len(found) == len(wanted)
        costs = costs or [[] for _ in wanted]
        for cost, p, h in zip(costs, found, wanted):
            cosine = (p * h).sum(-1)
            cosine /= np.linalg.norm(p, axis=-1) * np.linalg.norm(h, axis=-1)
            entropy = np.log1p(np.exp(-cosine))
            cost.extend(np.abs(p - h).mean(-1) + cos_weight * entropy)
    return np.mean([np.mean(cost) for cost in costs])


@pytest.mark.parametrize(
    "aggregate, chosen", [("heads", "ab"), ("concat", "ab"), ("average", "ac")]
)
@pytest.mark.parametrize("view", ["clean", "masked"])
def test_the_loss_is_the_formula_on_states_of_transformers(
    teachers, aggregate, chosen, view
):
    folders = [teachers["abc".index(name)] for name in chosen]
    options = {"aggregate": aggregate, "cos_weight": 0.7, "view": view}
    model, batch = make(folders, **options), data()
    noisy, heard = data(1)["speech"], data(2)["speech"]
    found = model(**batch, noisy=noisy, heard=heard)
    told = (noisy, heard) if view == "masked" else (batch["speech"], batch["speech"])
    lengths = batch["speech_lengths"]
    expected = expected_loss(
        model, told[0], lengths, told[1], folders, aggregate, cos_weight=0.7
    )
    assert found["loss"].item() == pytest.approx(expected, rel=1e-4)
    frames = sum(model.frontend.num_frames(n) for n in (900, 500))
    assert found["counts"]["layer_distill"].item() == frames


def test_student_and_predictor_learn_and_the_teacher_is_nowhere(teachers):
    model, batch = make(teachers), data()
    networks = model.losses["layer_distill"].teachers._networks
    before = [copy.deepcopy(network.state_dict()) for network in networks]
    model.train()(**batch)["loss"].backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not name.startswith("head."):
            assert parameter.grad is not None and parameter.grad.any(), name
    names = set(model.state_dict())
    assert {n.split(".")[0] for n in names} == {"frontend", "head", "losses"}
    assert {".".join(n.split(".")[:3]) for n in names if n.startswith("losses")} == {
        "losses.layer_distill.predictor"
    }
    for network, state in zip(networks, before):
        assert not network.training
        assert all(p.grad is None and not p.requires_grad for p in network.parameters())
        assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
    # and a student of the teacher's own first layers begins with these
    teacher = networks[0](batch["speech"], batch["speech_lengths"])[0]
    student = model.eval().frontend(batch["speech"], batch["speech_lengths"])[0]
    torch.testing.assert_close(student[1], teacher[1])


def test_the_loss_on_labels_stays_what_it_was(teachers):
    """A MOS training with a distilled view has the scores and loss of one without."""
    batch = {**data(), "mos": torch.tensor([2.0, 4.0])}
    noisy = data(1)["speech"]
    found = {}
    for weight in (0.0, 1.0):
        model = make(
            teachers,
            losses={"mos_l1": {"weight": 1.0}},
            head="distilmos",
            view="masked",
            weight=weight,
        )
        torch.manual_seed(5)
        for name, parameter in sorted(model.named_parameters()):
            if not name.startswith("losses."):
                torch.nn.init.normal_(parameter, std=0.1)
        found[weight] = model.train()(**batch, noisy=noisy)
    assert torch.equal(found[0.0]["utt_mos"], found[1.0]["utt_mos"])
    assert found[0.0]["stats"]["mos_l1"] == found[1.0]["stats"]["mos_l1"]
    assert "layer_distill" not in found[0.0]["stats"]
    total = found[1.0]["stats"]["mos_l1"] + found[1.0]["stats"]["layer_distill"]
    assert found[1.0]["loss"].item() == pytest.approx(total.item(), rel=1e-6)


def test_no_file_of_a_teacher_is_read_where_it_is_known(teachers, tmp_path):
    model = make(teachers)
    known = model.losses["layer_distill"].resolved_conf()["known"]
    assert [x["size"] for x in known] == [16, 24]
    assert [x["layers"] for x in known] == [[1, 3], [1, 3]]
    gone = [str(tmp_path / "gone_a"), str(tmp_path / "gone_b")]
    options = {"teachers": gone, "layers": [1, 3], "known": known}
    config = {
        "frontend": "hf",
        "frontend_conf": model.frontend.resolved_conf(),
        "head": "token",
        "losses": {"layer_distill": options},
    }
    again = build_model(config, load_pretrained=False)
    again.load_state_dict(model.state_dict())
    # other weights under the same name are not the same teachers
    moved = {**options, "teachers": [teachers[2], teachers[1]]}
    again = build_model({**config, "losses": {"layer_distill": moved}}, False)
    with pytest.raises(ValueError, match="other weights of .* expected the same"):
        again(**data())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"teachers": []}, "teachers=.., expected a list of upstreams"),
        ({"aggregate": "sum"}, "aggregate='sum', expected one of heads"),
        ({"aggregate": "average"}, "sizes 16, 24 for aggregate=average"),
        ({"layers": [4]}, "layers .4. of the teacher .*, expected some of 0 to 3"),
        ({"layers": [[1], [1], [1]]}, "layers of 3 teachers, expected those of 2"),
        (
            {"layers": [[1], [1, 2]], "aggregate": "concat"},
            "1, 2 layers of the teachers for aggregate=concat",
        ),
        ({"view": "noisy"}, "layer_distill.view='noisy', expected clean or masked"),
    ],
)
def test_teachers_that_do_not_fit_are_refused(teachers, options, message):
    with pytest.raises(ValueError, match=message):
        make(teachers, **options)


def test_teachers_are_two_networks_that_are_there(teachers, tmp_path):
    with pytest.raises(ValueError, match="one network twice .*: name each once"):
        make([teachers[0], teachers[0]])
    gone = tmp_path / "gone"
    with pytest.raises(ValueError, match=f"teacher {gone}: found no {gone}/config.js"):
        make([teachers[0], str(gone)])


def test_a_teacher_of_another_rate_is_refused(teachers, tmp_path):
    conf = HFFrontend(upstream=teachers[0]).config_dict
    other = {**conf, "conv_stride": [5, 2], "conv_kernel": [10, 8]}
    HFFrontend(upstream_config=other).model.save_pretrained(tmp_path / "slow")
    with pytest.raises(
        ValueError, match="slow with a frame every 10 samples.*every 20"
    ):
        make([teachers[0], str(tmp_path / "slow")])


def test_layers_are_thirds_where_none_are_named(teachers):
    model = make(teachers, layers=None)
    known = model.losses["layer_distill"].teachers.describe()
    assert [fact["layers"] for fact in known] == [[1, 2, 3], [1, 2, 3]]


def test_frames_of_networks_that_pad_are_those_nearest_in_time(teachers, tmp_path):
    """A Whisper, whose first frame is at sample 0, and a HuBERT teach each other."""
    conf = {
        "model_type": "whisper",
        "d_model": 16,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "num_mel_bins": 80,
        "max_source_positions": 100,
        "vocab_size": 10,
        "pad_token_id": 0,
        "decoder_layers": 1,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 16,
    }
    from transformers import WhisperConfig, WhisperModel

    WhisperModel(WhisperConfig(**conf)).save_pretrained(tmp_path / "whisper")
    strides = {"conv_stride": [8, 40], "conv_kernel": [10, 100]}
    hubert = {**HFFrontend(upstream=teachers[0]).config_dict, **strides}
    HFFrontend(upstream_config=hubert).model.save_pretrained(tmp_path / "hubert")
    folders = [str(tmp_path / name) for name in ("whisper", "hubert")]
    networks = [HFFrontend(upstream=folder) for folder in folders]
    # the field of 10 + 99 * 8 samples has its centre at 400.5
    assert [network.frame_centre for network in networks] == [0.0, 400.5]
    speech = torch.randn(2, 8000)
    lengths = torch.tensor([8000, 5000])
    for student, teacher, offset in ((1, 0, 1), (0, 1, -1)):
        model = make([folders[student]], teachers=[folders[teacher]], layers=[1])
        shown = model.losses["layer_distill"].teachers
        (wanted,), valid = shown.targets(speech, lengths)
        with torch.no_grad():
            states, frames = networks[teacher].eval()(speech, lengths)
            own, own_frames = networks[student].eval()(speech, lengths)
        assert valid.tolist() == (frames - offset).tolist()
        moved = states[1][:, max(0, offset) :]
        torch.testing.assert_close(wanted[:, max(0, -offset) :], moved)
        # cut to the common frames, of which each is within half a frame in time
        found = model(speech=speech, speech_lengths=lengths)
        common = np.minimum(valid, own_frames).sum()
        assert found["counts"]["layer_distill"] == common
