# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import joblib
import numpy as np
import pytest
import soundfile
import torch
from sklearn.cluster import MiniBatchKMeans

from espnet2_distilmos.bin import dump_tokens
from espnet2_distilmos.bin.learn_codebooks import main, parse_layers
from espnet2_distilmos.data.audio import read_audio
from espnet2_distilmos.data.datadir import DataError, read_scp, write_scp
from espnet2_distilmos.mos.build import build_frontend
from espnet2_distilmos.mos.frontend.hf import HFFrontend
from espnet2_distilmos.mos.tokens import Codebooks, fit_codebooks


def learn(corpus, *options, name="codebooks.npz", wav_scp="wav.scp"):
    output = corpus / name
    cmd = ["--config", f"{corpus}/train.yaml", "--wav_scp", f"{corpus}/{wav_scp}"]
    cmd += ["--output", str(output), "--num_clusters", "6", "--batch_seconds", "3"]
    return main(cmd + list(options)), output


def permuted(ids, seed=0):
    ids = sorted(ids)
    return [ids[i] for i in np.random.default_rng(seed).permutation(len(ids))]


def test_codebooks_equal_a_plain_fit_to_single_files(corpus, tiny_conf):
    code, output = learn(corpus)
    assert code == 0
    codebooks = Codebooks.load(str(output))
    frontend = build_frontend("hf", tiny_conf).eval()
    assert codebooks.layers == (1, 2, 3) and codebooks.stream == "hubert"
    assert codebooks.frame_shift == 320 and codebooks.sample_rate == 16000
    assert codebooks.upstream_fingerprint == frontend.fingerprint()
    paths = read_scp(corpus / "wav.scp")
    hidden_states = []
    for utt_id in permuted(paths):
        speech = torch.from_numpy(read_audio(paths[utt_id]))[None]
        with torch.inference_mode():
            hidden, _ = frontend(speech, torch.tensor([speech.shape[1]]))
        hidden_states.append([h[0].numpy() for h in hidden])
    for i, layer in enumerate(codebooks.layers):
        features = np.concatenate([hidden[layer] for hidden in hidden_states])
        assert codebooks.num_frames == len(features)
        plain, inertia = fit_codebooks(features[None], 6)
        # kept in fp16
        np.testing.assert_allclose(codebooks.centroids[i], plain[0], atol=1e-2)
        assert codebooks.inertia[i] == pytest.approx(inertia[0], rel=1e-3)


def test_same_seed_same_bytes_whatever_jobs_and_order_of_the_scp(corpus):
    _, first = learn(corpus, "--nj", "1")
    scp = read_scp(corpus / "wav.scp")
    write_scp(corpus / "reversed.scp", dict(reversed(scp.items())), sort=False)
    _, second = learn(corpus, "--nj", "2", name="b.npz", wav_scp="reversed.scp")
    assert first.read_bytes() == second.read_bytes()
    _, other = learn(corpus, "--seed", "1", name="c.npz")
    assert other.read_bytes() != first.read_bytes()


def test_tokens_of_the_same_pass_are_those_of_dump_tokens(corpus, caplog):
    caplog.set_level("INFO")
    folder = corpus / "tokens"
    code, output = learn(corpus, "--tokens_dir", str(folder))
    assert code == 0
    cmd = ["--config", f"{corpus}/train.yaml", "--wav_scp", f"{corpus}/wav.scp"]
    cmd += ["--codebooks", str(output), "--output_dir"]
    assert dump_tokens.main(cmd + [str(corpus / "dumped")]) == 0
    found, expected = (read_scp(d / "tokens.scp") for d in (folder, corpus / "dumped"))
    assert list(found) == list(expected)
    same = []
    for utt_id in found:
        tokens = np.load(found[utt_id])
        assert tokens.dtype == np.int16
        same.append(tokens == np.load(expected[utt_id]))
    # states in fp16 move a frame that is between two centroids
    assert np.concatenate(same).mean() > 0.995
    infos = [(d / "tokens.json").read_text() for d in (folder, corpus / "dumped")]
    assert infos[0] == infos[1]
    # and dump_tokens takes them for its own
    assert dump_tokens.main(cmd + [str(folder)]) == 0
    assert "12 utterances are done already" in caplog.text
    (corpus / "none").mkdir()
    options = ["--tokens_dir", str(corpus / "none"), "--max_frames", "50"]
    assert learn(corpus, *options, name="few.npz")[0] == 0
    assert not list((corpus / "none").iterdir())


def test_states_beyond_fp16(corpus, monkeypatch, caplog):
    caplog.set_level("INFO")
    forward = HFFrontend.forward

    def larger(*args):
        states, lengths = forward(*args)
        return [1e6 * state for state in states], lengths

    monkeypatch.setattr(HFFrontend, "forward", larger)
    code, output = learn(corpus)
    assert code == 0 and "beyond torch.float16" in caplog.text
    assert np.abs(Codebooks.load(str(output)).centroids).max() > 1e5


def test_a_file_outside_the_sample_is_never_opened(corpus):
    paths = read_scp(corpus / "wav.scp")
    paths[permuted(paths)[-1]] = str(corpus / "missing.wav")
    write_scp(corpus / "wav.scp", paths)
    code, output = learn(corpus, "--max_frames", "50", "--layers", "0,2")
    codebooks = Codebooks.load(str(output))
    assert code == 0 and codebooks.num_frames == 50 and codebooks.layers == (0, 2)
    assert learn(corpus, name="all.npz")[0] == 1


def test_existing_output(corpus, tiny_conf, capsys):
    _, output = learn(corpus)
    before = output.stat().st_mtime_ns
    assert learn(corpus)[0] == 0
    assert learn(corpus, "--seed", "1")[0] == 1
    error = capsys.readouterr().err
    assert "differs in seed (0, now 1)" in error and "--overwrite" in error
    code, _ = learn(corpus, "--train_args", "--frontend_conf init_seed=3")
    assert code == 1 and "differs in upstream" in capsys.readouterr().err
    assert output.stat().st_mtime_ns == before
    train_args = "--train_args=--max_epoch 2 --frontend_conf init_seed=3 --optim adam"
    assert learn(corpus, "--seed", "1", "--overwrite", train_args)[0] == 0
    codebooks = Codebooks.load(str(output))
    frontend = build_frontend("hf", {**tiny_conf, "init_seed": 3})
    assert codebooks.seed == 1
    assert codebooks.upstream_fingerprint == frontend.fingerprint()


def test_bad_utterances_are_named_and_the_rest_is_used(corpus, capsys):
    paths = read_scp(corpus / "wav.scp")
    samples = np.full(16000, np.nan)
    soundfile.write(corpus / "nan.wav", samples, 16000, subtype="FLOAT")
    (corpus / "empty.wav").touch()
    paths.update(nan=f"{corpus}/nan.wav", empty=f"{corpus}/empty.wav")
    write_scp(corpus / "more.scp", paths)
    code, output = learn(corpus, wav_scp="more.scp")
    error = capsys.readouterr().err
    assert code == 1 and "utterance nan:" in error and "utterance empty:" in error
    _, good = learn(corpus, name="good.npz")
    codebooks = Codebooks.load(str(output))
    assert codebooks.num_frames == Codebooks.load(str(good)).num_frames
    # Rows of the failed utterance would be uninitialised memory.
    assert np.abs(codebooks.centroids).max() < 100


@pytest.mark.parametrize(
    "options, found",
    [
        (["--num_clusters", "5000"], "frames for 5000 clusters"),
        (["--layers", "1,9"], "'1,9', expected `all`"),
        (["--output", "{corpus}/train.yaml/x/c.npz"], "cannot be written"),
        (["--wav_scp", "{corpus}/none.scp"], "none.scp cannot be read"),
    ],
)
def test_impossible_options_are_refused(corpus, capsys, options, found):
    options = [option.replace("{corpus}", str(corpus)) for option in options]
    code, output = learn(corpus, *options)
    assert code == 1 and not output.exists()
    assert found in capsys.readouterr().err


def test_layers():
    assert parse_layers("all", 3) == (1, 2, 3)
    assert parse_layers("all", 0) == (0,)
    assert parse_layers("3,0", 3) == (3, 0)
    for text in ("", "1,,2", "1,1", "-1", "5", "x"):
        with pytest.raises(DataError, match="correct --layers"):
            parse_layers(text, 4)


def test_import_km(corpus, caplog, capsys):
    features = np.random.default_rng(0).normal(size=(100, 16)).astype(np.float32)
    models = {layer: MiniBatchKMeans(5, random_state=layer) for layer in (2, 1)}
    specs = []
    for layer, model in models.items():
        joblib.dump(model.fit(features), corpus / f"km_{layer}.mdl")
        specs.append(f"{layer}={corpus}/km_{layer}.mdl")
    code, output = learn(corpus, "--import_km", *specs)
    assert code == 0 and "runs whatever code" in caplog.text
    codebooks = Codebooks.load(str(output))
    assert codebooks.layers == (1, 2)
    np.testing.assert_array_equal(codebooks.centroids[1], models[2].cluster_centers_)

    joblib.dump(MiniBatchKMeans(4).fit(features), corpus / "four.mdl")
    for bad in (
        ["km_200.mdl"],
        [f"1={corpus}/wav.scp"],
        [f"9={corpus}/km_1.mdl"],
        [specs[0], f"1={corpus}/four.mdl"],
        [specs[0], specs[0]],
    ):
        assert learn(corpus, "--overwrite", "--import_km", *bad)[0] == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert bad[-1] in error and "expected LAYER=PATH" in error
