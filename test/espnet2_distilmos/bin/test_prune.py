# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import csv
import json
import shutil
import zipfile

import numpy as np
import pytest
import soundfile
import torch
import yaml
from scipy.stats import spearmanr

from espnet2_distilmos.bin import export_upstream, mos_pack
from espnet2_distilmos.bin.prune import main
from espnet2_distilmos.data.datadir import lock, read_scp, write_scp
from espnet2_distilmos.mos.build import build_frontend
from espnet2_distilmos.mos.checkpoint import (
    load_model,
    model_states,
    open_trained_model,
    read_config,
)
from espnet2_distilmos.mos.head.probe import Probe
from espnet2_distilmos.mos.pruning import Units, choose, taylor_importance
from espnet2_distilmos.predictor import MOSPredictor
from espnet2_distilmos.train.mos_preprocessor import MOSPreprocessor


@pytest.fixture(scope="module")
def trained(mos_corpus, tmp_path_factory):
    """A model with tokens; the training wrote where they are."""
    folder = tmp_path_factory.mktemp("trained") / "exp"
    return mos_corpus.train(folder, max_epoch=2)


def command(corpus, model, output, *options, keep=0.5):
    sets = ["--train_set", corpus.root / "train", "--valid_set", corpus.root / "valid"]
    base = [model, "--keep", keep, *sets, "--output", output, "--steps", 2]
    return [str(part) for part in [*base, *options]]


def rows_of(folder):
    return json.loads((folder / "pruning.json").read_text())["rounds"]


def model_of(folder):
    return load_model(str(folder / "config.yaml"), str(folder / "model.pth"))[0]


def size(model):
    return sum(p.numel() for p in model.frontend.parameters())


@pytest.fixture(scope="module")
def pruned(mos_corpus, trained, tmp_path_factory):
    """Two rounds to half of the units."""
    folder = tmp_path_factory.mktemp("pruned") / "half"
    assert main(command(mos_corpus, trained, folder, "--rounds", 2)) == 0
    return folder


def test_sizes_and_the_record(pruned, trained, capsys):
    rows = rows_of(pruned)
    assert [row["round"] for row in rows] == [0, 1, 2]
    assert [row["target"] for row in rows] == [1.0, 0.75, 0.5]
    model, last = model_of(pruned), rows[-1]
    units = Units(model.frontend)
    assert last["kept"] == units.kept and 0.47 < last["kept"] <= 0.5
    assert 0.72 < rows[1]["kept"] <= 0.75
    assert last["upstream_parameters"] == size(model)
    left = model.frontend.units()
    assert last["heads"] == [len(heads) for heads in left["heads"]]
    assert last["ffn"] == left["ffn"]
    for key in ("parameters", "gmacs_per_second", "upstream_gmacs_per_second"):
        assert rows[0][key] > rows[1][key] > rows[2][key]
    assert rows[0]["valid_utt_srcc"] == rows[0]["cut_utt_srcc"]
    with open(pruned / "pruning.csv") as file:
        table = list(csv.DictReader(file))
    assert [row["valid_utt_srcc"] for row in table] == [
        str(row["valid_utt_srcc"]) for row in rows
    ]
    before = max(p.stat().st_size for p in trained.glob("*epoch.pth"))
    assert (pruned / "model.pth").stat().st_size < 0.9 * before
    assert not list(pruned.rglob("checkpoint*")) and not list(pruned.glob("cut*"))
    assert (pruned / "round1" / "latest.pth").exists()


def test_the_validation_is_that_of_the_predictor(pruned, mos_corpus):
    predictor = MOSPredictor.from_pretrained(str(pruned))
    files = sorted((mos_corpus.root / "valid" / "data").glob("*.wav"))
    scores = [predictor(*soundfile.read(f, dtype="float32")).score for f in files]
    labels = [mos_corpus.labels[f.stem] for f in files]
    found = rows_of(pruned)[-1]["valid_utt_srcc"]
    assert spearmanr(scores, labels).statistic == pytest.approx(found)


def test_the_units_are_those_of_the_least_importance(
    pruned, trained, mos_corpus, tmp_path
):
    """By a loop of our own over the files, one batch."""
    path = tmp_path / "one"
    options = ["--rounds", 1, "--train_args", "--batch_type unsorted --batch_size 99"]
    assert main(command(mos_corpus, trained, path, *options)) == 0
    with open_trained_model(str(trained)) as opened:
        model = load_model(*opened)[0]
    units = Units(model.frontend)
    files = sorted((mos_corpus.root / "train" / "data").glob("*.wav"))
    waves = [torch.from_numpy(soundfile.read(f, dtype="float32")[0]) for f in files]
    tokens = [torch.from_numpy(np.load(f.with_suffix(".npy"))) for f in files]
    pad = torch.nn.utils.rnn.pad_sequence
    inputs = dict(
        speech=pad(waves, batch_first=True),
        speech_lengths=torch.tensor([len(w) for w in waves]),
        mos=torch.tensor([mos_corpus.labels[f.stem] for f in files]),
        tokens=pad(tokens, batch_first=True, padding_value=-1).long(),
    )
    found = taylor_importance(lambda b: model(**b)["loss"], units, [inputs])
    kept = choose(found, units.sizes, 0.5 * units.total)
    heads = [p.nonzero().flatten().tolist() for p in units.split(kept)[::2]]
    ffn = [int(p.sum()) for p in units.split(kept)[1::2]]
    assert model_of(path).frontend.units() == {"heads": heads, "ffn": ffn}


def test_a_killed_pruning_ends_the_same(pruned, trained, mos_corpus, tmp_path, capsys):
    folder = tmp_path / "half"
    cmd = command(mos_corpus, trained, folder, "--rounds", 2)
    plain, calls = MOSPreprocessor.__call__, 0
    # 24 and 11 utterances: in the validation of the model, the first importance, the
    # validation of the cut, the training (12) and its validation, then in the second
    # importance and training.
    for stop in (5, 21, 29, 17, 28, 44, 38):
        calls = 0

        def interrupted(*args):
            nonlocal calls
            calls += 1
            if calls > stop:
                raise KeyboardInterrupt
            return plain(*args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MOSPreprocessor, "__call__", interrupted)
            assert main(cmd) == 130
    assert len(rows_of(folder)) < 3
    assert main(cmd) == 0
    assert rows_of(folder) == rows_of(pruned)
    states, expected = (model_states(f / "model.pth") for f in (folder, pruned))
    assert set(states) == set(expected)
    assert all(torch.equal(states[k], expected[k]) for k in expected)
    # Done: the same command changes nothing.
    assert main(cmd) == 0
    assert rows_of(folder) == rows_of(pruned)
    # Another one is not mixed with it.
    assert main(command(mos_corpus, trained, folder, "--rounds", 3)) == 1
    assert "another pruning" in capsys.readouterr().err


def test_packed_exported_and_trained_on(pruned, mos_corpus, tmp_path, capsys):
    files = str(pruned / "config.yaml"), str(pruned / "model.pth")
    mos_pack.pack_model(*files, str(tmp_path / "m.zip"))
    last = rows_of(pruned)[-1]
    words = f"pruned to {sum(last['heads'])} attention heads and {sum(last['ffn'])}"
    card = zipfile.ZipFile(tmp_path / "m.zip").read("exp/half/README.md").decode()
    assert words in " ".join(card.split())
    wave = torch.randn(9000, generator=torch.Generator().manual_seed(0)) * 0.1
    scores = [
        MOSPredictor.from_pretrained(str(path))(wave, 16000).score
        for path in (pruned, tmp_path / "m.zip", pruned / "round2" / "latest.pth")
    ]
    assert len(set(scores)) == 1
    start = ["--init_model", str(tmp_path / "m.zip"), "--token_source", "hubert"]
    new = dict(frontend=None, frontend_conf={}, head=None, head_conf={})
    further = mos_corpus.train(tmp_path / "further", *start, **new)
    config = read_config(str(further / "config.yaml"))
    model = load_model(str(further / "config.yaml"), str(further / "latest.pth"))[0]
    assert config["frontend_conf"]["pruned"] == model_of(pruned).frontend.units()
    assert size(model) == size(model_of(pruned))
    # A smaller network has no configuration of transformers.
    assert export_upstream.main([str(pruned), str(tmp_path / "upstream")]) == 1
    assert "pruned" in capsys.readouterr().err


def test_a_pruned_model_is_pruned_on(pruned, mos_corpus, tmp_path, capsys):
    options = ["--rounds", 1, "--importance", "magnitude"]
    assert main(command(mos_corpus, pruned, tmp_path / "a", *options, keep=0.2)) == 0
    rows = rows_of(tmp_path / "a")
    assert rows[0]["kept"] == rows_of(pruned)[-1]["kept"]
    assert 0.15 < rows[1]["kept"] <= 0.2
    old, new = model_of(pruned).frontend.units(), model_of(tmp_path / "a")
    for before, after in zip(old["heads"], new.frontend.units()["heads"]):
        assert set(after) <= set(before)
    assert main(command(mos_corpus, pruned, tmp_path / "b", keep=0.6)) == 1
    assert "of its units left" in capsys.readouterr().err
    # 1 removes nothing here either.
    assert main(command(mos_corpus, pruned, tmp_path / "c", keep=1)) == 0
    assert [row["kept"] for row in rows_of(tmp_path / "c")] == [rows[0]["kept"]] * 2


@pytest.mark.parametrize("kind", ["l0", "random"])
def test_other_importances(kind, trained, mos_corpus, tmp_path):
    options = ["--rounds", 4, "--importance", kind]
    cmd = command(mos_corpus, trained, tmp_path / "a", *options)
    assert main(cmd) == 0
    rows = rows_of(tmp_path / "a")
    assert [row["target"] for row in rows[1:]] == (
        [0.5] if kind == "l0" else [0.875, 0.75, 0.625, 0.5]
    )
    # Closed gates are removed even where the budget has room for them.
    assert (0.2 if kind == "l0" else 0.47) < rows[-1]["kept"] <= 0.5
    assert not (tmp_path / "a" / "gates").exists()
    assert "l0" not in read_config(str(tmp_path / "a" / "config.yaml"))["losses"]
    model_of(tmp_path / "a")


def test_training_on_without_removing(trained, mos_corpus, tmp_path, caplog):
    assert main(command(mos_corpus, trained, tmp_path / "a", keep=1)) == 0
    rows = rows_of(tmp_path / "a")
    assert [row["kept"] for row in rows] == [1.0, 1.0]
    # As cut, it is the model itself.
    assert rows[1]["cut_utt_mse"] == pytest.approx(rows[0]["valid_utt_mse"])
    assert rows[1]["valid_utt_mse"] != rows[0]["valid_utt_mse"]
    # Its own losses, the tokens' among them, at half its rate.
    config = read_config(str(tmp_path / "a" / "round1" / "config.yaml"))
    assert set(config["losses"]) == {"mos_l1", "token_ce"}
    assert config["optim_conf"]["lr"] == 5e-4
    # The next one takes half of the same.
    config = read_config(str(tmp_path / "a" / "config.yaml"))
    assert config["optim_conf"]["lr"] == 1e-3
    assert "goes without" not in caplog.text


def test_other_audio_without_tokens(trained, mos_corpus, tmp_path, caplog):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("wav.scp", "metric.scp"):
        lines = (mos_corpus.root / "train" / name).read_text().splitlines()
        (other / name).write_text("".join(f"new_{line}\n" for line in lines))
    cmd = [str(trained), "--keep", "0.7", "--train_set", str(other), "--steps", "1"]
    assert main([*cmd, "--output", str(tmp_path / "a")]) == 0
    assert "goes without token_ce" in caplog.text
    # Without --valid_set and systems.
    assert "valid_sys_srcc" not in rows_of(tmp_path / "a")[-1]
    # Tokens of other codebooks would be other classes.
    info = dict(mos_corpus.token_info, codebook_fingerprint="1")
    (other / "tokens.json").write_text(json.dumps(info))
    lines = (mos_corpus.root / "train" / "tokens.scp").read_text().splitlines()
    (other / "tokens.scp").write_text("".join(f"new_{line}\n" for line in lines))
    assert main([*cmd, "--output", str(tmp_path / "b")]) == 1


@pytest.fixture(scope="module")
def ridge(mos_corpus, tmp_path_factory):
    """Ridge regression on a frozen upstream, of two sets drawn 3 to 1."""
    root = tmp_path_factory.mktemp("ridge")
    sets = root / "sets"
    shutil.copytree(mos_corpus.root / "train", sets)
    lines = (sets / "wav.scp").read_text().splitlines()
    groups = {line.split()[0]: "ab"[k < 6] for k, line in enumerate(lines)}
    for name in ("utt2set", "utt2domain"):
        write_scp(sets / name, groups)
    conf = {**mos_corpus.frontend_conf, "freeze": "all"}
    options = ["--sampling_categories", f"{sets}/utt2set"]
    options += ["--sampling_weights", '{"a": 1, "b": 3}']
    options += ["--train_data_path_and_name_and_type"]
    options += [f"{sets}/utt2domain,corpus,text"]
    changes = dict(frontend_conf=conf, head="probe", head_conf={"penalty": 10.0})
    changes.update(losses={"mos_l1": {"weight": 1.0}}, optim_conf={"lr": 0.0})
    return mos_corpus.train(root / "exp", *options, tokens=False, **changes), sets


def test_a_ridge_regression_is_made_anew(ridge, mos_corpus, tmp_path):
    """To the states of the smaller network, by the weights of the sets."""
    exp, sets = ridge
    options = ["--train_set", str(sets), "--rounds", "1", "--steps", "1"]
    cmd = command(mos_corpus, exp, tmp_path / "a", *options)
    assert main([*cmd, "--importance_utterances", "6"]) == 0
    model = model_of(tmp_path / "a")
    labels = mos_corpus.labels
    utts = sorted(read_scp(str(sets / "wav.scp")))
    waves = [
        soundfile.read(sets / "data" / f"{u}.wav", dtype="float32")[0] for u in utts
    ]
    features = torch.cat(
        [
            model.probe_features(torch.from_numpy(w)[None], torch.tensor([len(w)]))
            for w in waves
        ]
    )
    groups = ["ab".index(x) for x in map(read_scp(str(sets / "utt2set")).get, utts)]
    counts = {g: groups.count(g) for g in (0, 1)}
    probe = Probe(32, 2, penalty=10.0)
    probe.fit(
        features,
        torch.tensor([labels[u] for u in utts]),
        torch.tensor(groups),
        torch.tensor([(1, 3)[g] / counts[g] for g in groups]),
    )
    found = model.head.probe
    torch.testing.assert_close(found.linear.weight, probe.linear.weight)
    torch.testing.assert_close(found.centre, probe.centre)
    before = load_model(str(exp / "config.yaml"), str(exp / "latest.pth"))[0]
    assert not torch.allclose(before.head.probe.linear.weight, found.linear.weight)
    # A frozen network keeps the weights of the units that are left.
    kept = model.frontend.state_dict()
    assert torch.equal(
        kept["model.feature_projection.projection.weight"],
        before.frontend.state_dict()["model.feature_projection.projection.weight"],
    )


def test_bad_input(trained, scorer_dir, mos_corpus, tmp_path, capsys):
    def refuse(words, *options, model=trained, output=tmp_path / "x", keep=0.5):
        assert main(command(mos_corpus, model, output, *options, keep=keep)) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert all(word in error for word in words), error

    for keep in (0, -0.1, 1.2, "nan"):
        refuse(["--keep", "above 0 and up to 1"], keep=keep)
    refuse(["--rounds 0"], "--rounds", 0)
    refuse(["--steps -1"], "--steps", -1)
    refuse(["--importance_utterances 0"], "--importance_utterances", 0)
    refuse(["where the model is"], output=trained)
    # Of another training, which would be lost.
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "config.yaml").write_text("of: another")
    refuse(["config.yaml is there and is of no pruning"], output=tmp_path / "y")
    assert (tmp_path / "y" / "config.yaml").read_text() == "of: another"
    refuse(["nowhere"], model=tmp_path / "nowhere")
    refuse(["wav.scp"], "--train_set", tmp_path)
    # A raw set, as README warns: its samples would be taken for others of 16 kHz.
    for rate, channels in ((48000, 1), (16000, 2)):
        raw = tmp_path / f"raw{rate}"
        write_scp(raw / "wav.scp", {"utt1": f"{raw}/a.wav"})
        soundfile.write(raw / "a.wav", np.zeros((rate, channels)), rate)
        words = ["utt1", f"{rate} Hz and {channels} channels", "stage 4"]
        refuse(words, "--train_set", raw)
    # A family without a plan names those that have one.
    config = yaml.safe_load((scorer_dir / "config.yaml").read_text())
    other = tmp_path / "bert"
    shutil.copytree(scorer_dir, other)
    bert = {"model_type": "wav2vec2-bert", "hidden_size": 32, "num_hidden_layers": 2}
    bert.update(num_attention_heads=2, intermediate_size=48)
    config["frontend_conf"] = {"upstream_config": bert}
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    file = other / "valid.sys_srcc.best.pth"
    states = model_states(str(file))
    head = {k: v for k, v in states.items() if not k.startswith("frontend.")}
    frontend = build_frontend("hf", config["frontend_conf"])
    own = {f"frontend.{k}": v for k, v in frontend.state_dict().items()}
    torch.save({**own, **head}, file)
    refuse(["wav2vec2-bert", "hubert", "whisper"], model=other)


def test_two_at_a_time_are_refused(trained, mos_corpus, tmp_path, capsys):
    (tmp_path / "a").mkdir()
    with open(tmp_path / "a" / ".prune.lock", "ab") as file:
        assert lock(file)
        assert main(command(mos_corpus, trained, tmp_path / "a")) == 1
    assert "another pruning at work" in capsys.readouterr().err
