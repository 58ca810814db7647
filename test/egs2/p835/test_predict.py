# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Predictions without training: ridge regression, the released model, conditions."""

import sys
import types

import numpy as np
import pytest
import soundfile
import torch
import transformers

from espnet2_distilmos.data.datadir import (
    read_metric_scp,
    write_metric_scp,
    write_scp,
)

from ..conftest import load_script

predict = load_script("p835/mos1/local/predict.py")


def write_set(folder, num_clips, seed, talkers="ab"):
    rng = np.random.default_rng(seed)
    wavs, labels, spk = {}, {}, {}
    for i in range(num_clips):
        name = f"utt{i:02d}"
        path = folder / "wav" / f"{name}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal(2000 + 160 * i), 16000)
        wavs[name], labels[name] = str(path), float(rng.uniform(1, 5))
        spk[name] = talkers[i % len(talkers)]
    write_scp(folder / "wav.scp", wavs)
    write_scp(folder / "utt2spk", spk)
    write_metric_scp(folder / "metric.scp", labels)
    return wavs


@pytest.fixture(scope="module")
def upstream(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wav2vec2")
    config = transformers.Wav2Vec2Config(
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
        conv_dim=(8, 8),
        conv_kernel=(10, 8),
        conv_stride=(10, 8),
        num_feat_extract_layers=2,
        num_conv_pos_embedding_groups=2,
        num_conv_pos_embeddings=4,
    )
    torch.manual_seed(0)
    transformers.Wav2Vec2Model(config).save_pretrained(folder)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=False)
    extractor.save_pretrained(folder)
    return folder


def test_penalty_and_solution_are_those_of_the_normal_equations():
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((24, 5)) * [1, 10, 0.1, 3, 1] + 2
    labels = inputs[:, 1] / 10 + 0.5 * rng.standard_normal(24) + 3
    talkers = np.repeat(list("abc"), 8)

    def solve(x, y, penalty):
        mean, scale = x.mean(0), x.std(0)
        z = (x - mean) / scale
        w = np.linalg.solve(z.T @ z + penalty * np.eye(5), z.T @ (y - y.mean()))
        return lambda new: ((new - mean) / scale) @ w + y.mean()

    def error(penalty):
        return np.mean(
            [
                np.mean(
                    (
                        solve(inputs[talkers != t], labels[talkers != t], penalty)(
                            inputs[talkers == t]
                        )
                        - labels[talkers == t]
                    )
                    ** 2
                )
                for t in "abc"
            ]
        )

    best = min(predict.PENALTIES, key=error)
    model = predict.fit(inputs, labels, talkers)
    assert model.best_params_["ridge__alpha"] == best
    expected = solve(inputs, labels, best)(inputs)
    np.testing.assert_allclose(model.predict(inputs), expected, rtol=1e-6)


def run(root, method, *options):
    command = ["--method", method, "--data", f"{root}", "--fold", "a"]
    return predict.main([*command, "--out", f"{root}/exp", *options])


def test_features_are_the_means_of_transformers_own_hidden_states(upstream, tmp_path):
    wavs = write_set(tmp_path / "train_a", 12, seed=0)
    (tmp_path / "test_a").mkdir()
    write_scp(tmp_path / "test_a" / "wav.scp", dict(list(wavs.items())[:3]))
    assert run(tmp_path, "ridge", "--upstream", str(upstream)) == 0

    model = transformers.Wav2Vec2Model.from_pretrained(upstream).eval()
    features = []
    for path in wavs.values():
        speech = torch.from_numpy(soundfile.read(path, dtype="float32")[0])[None]
        with torch.no_grad():
            states = model(speech, output_hidden_states=True).hidden_states
        features.append(np.concatenate([h[0].mean(0).numpy() for h in states]))
    labels = read_metric_scp(f"{tmp_path}/train_a/metric.scp")
    fitted = predict.fit(np.stack(features), list(labels.values()), list("ab" * 6))
    found = read_metric_scp(f"{tmp_path}/exp/test_a/metric.scp")
    assert list(found) == ["utt00", "utt01", "utt02"]
    np.testing.assert_allclose(
        list(found.values()), fitted.predict(np.stack(features[:3])), atol=1e-4
    )


def test_unreadable_audio_is_named(upstream, tmp_path, capsys):
    write_set(tmp_path / "train_a", 4, seed=0)
    (tmp_path / "train_a" / "wav" / "utt02.flac").write_bytes(b"no audio")
    assert run(tmp_path, "ridge", "--upstream", str(upstream)) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("predict:") and "utt02" in last
    assert not (tmp_path / "exp").exists()


def test_the_released_model_scores_every_clip_alone(tmp_path, monkeypatch, capsys):
    """The package is stood in for by a network that returns the mean square."""

    class Peer(torch.nn.Module):
        def forward(self, x):
            assert x.dim() == 2 and x.size(0) == 1 and not self.training
            return x.square().mean(1)

    package = types.SimpleNamespace(ConvTransformerSQAModel=Peer)
    monkeypatch.setitem(sys.modules, "distillmos", package)
    for name in ("test_a", "bvrnn/test"):
        wavs = write_set(tmp_path / name, 3, seed=len(name))
        assert run(tmp_path, "distill-mos") == 0
        found = read_metric_scp(f"{tmp_path}/exp/{name}/metric.scp")
        for utt_id, path in wavs.items():
            power = np.mean(soundfile.read(path)[0] ** 2)
            assert found[utt_id] == pytest.approx(power, abs=1e-6)
    monkeypatch.setattr(Peer, "forward", lambda self, x: x.new_tensor([np.nan]))
    assert run(tmp_path, "distill-mos") == 1
    assert capsys.readouterr().err.startswith("predict: utt00: ")
    monkeypatch.setitem(sys.modules, "distillmos", None)
    assert run(tmp_path, "distill-mos") == 1
    assert "pip install distillmos" in capsys.readouterr().err


def test_condition_mean_knows_the_training_labels_only(tmp_path):
    write_metric_scp(tmp_path / "train_a" / "metric.scp", {"a": 1, "b": 2, "c": 5})
    write_scp(tmp_path / "train_a" / "utt2sys", {"a": "x", "b": "x", "c": "y"})
    write_scp(tmp_path / "test_a" / "utt2sys", {"d": "x", "e": "y", "f": "z"})
    assert run(tmp_path, "condition_mean") == 0
    found = read_metric_scp(f"{tmp_path}/exp/test_a/metric.scp")
    assert found == pytest.approx({"d": 1.5, "e": 5, "f": 8 / 3}, abs=1e-6)
