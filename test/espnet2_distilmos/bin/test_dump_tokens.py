# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json
import os

import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet2_distilmos.bin.dump_tokens import main
from espnet2_distilmos.bin.learn_codebooks import main as learn_codebooks
from espnet2_distilmos.data.audio import read_audio
from espnet2_distilmos.data.datadir import read_scp, write_scp
from espnet2_distilmos.mos.build import build_frontend, build_model
from espnet2_distilmos.mos.frontend.mfcc import MFCCFrontend
from espnet2_distilmos.mos.tokens import Codebooks


@pytest.fixture
def codebooks(corpus):
    assert learn(corpus) == 0
    return corpus / "codebooks.npz"


def learn(corpus, *options, name="codebooks.npz"):
    cmd = ["--config", f"{corpus}/train.yaml", "--wav_scp", f"{corpus}/wav.scp"]
    cmd += ["--output", f"{corpus}/{name}", "--num_clusters", "6", *options]
    return learn_codebooks(cmd)


def dump(corpus, *options, out="tokens", wav_scp="wav.scp", name="codebooks.npz"):
    cmd = ["--config", f"{corpus}/train.yaml", "--wav_scp", f"{corpus}/{wav_scp}"]
    cmd += ["--codebooks", f"{corpus}/{name}", "--output_dir", f"{corpus}/{out}"]
    return main(cmd + ["--batch_seconds", "3", *options]), corpus / out


def load(out):
    return {u: np.load(p) for u, p in read_scp(out / "tokens.scp").items()}


def test_tokens_are_the_nearest_centroids_of_single_files(corpus, codebooks, tiny_conf):
    code, out = dump(corpus)
    assert code == 0
    tokens = load(out)
    paths = read_scp(corpus / "wav.scp")
    assert list(tokens) == sorted(paths)
    frontend = build_frontend("hf", tiny_conf).eval()
    centroids = Codebooks.load(str(codebooks)).centroids.astype(np.float64)
    for utt_id, path in paths.items():
        speech = torch.from_numpy(read_audio(path))[None]
        with torch.inference_mode():
            hidden, lengths = frontend(speech, torch.tensor([speech.shape[1]]))
        found = tokens[utt_id]
        assert found.dtype == np.int16 and found.shape == (int(lengths[0]), 3)
        for column, layer in enumerate((1, 2, 3)):
            h = hidden[layer][0].double().numpy()
            distance = ((h[:, None] - centroids[column]) ** 2).sum(-1)
            near = np.sort(distance, 1)
            clear = near[:, 1] > (1 + 1e-4) * near[:, 0]
            assert clear.mean() > 0.9
            np.testing.assert_array_equal(
                found[clear, column], distance.argmin(1)[clear]
            )
    info = json.loads((out / "tokens.json").read_text())
    assert info == {
        "format_version": 1,
        "columns": [{"stream": "hubert", "layer": n, "K": 6} for n in (1, 2, 3)],
        "frame_shift": 320,
        # 20 + 7 * 10 + 3 * 80: the receptive field of the three convolutions.
        "minimum_samples": 330,
        "frame_offset": 0,
        "sample_rate": 16000,
        "codebook_fingerprint": Codebooks.load(str(codebooks)).fingerprint(),
        "upstream_fingerprint": frontend.fingerprint(),
    }


def test_tokens_of_mfcc(corpus, monkeypatch):
    (corpus / "train.yaml").write_text(
        "frontend: mfcc\nfrontend_conf: {receptive_field: 930}\n"
    )
    assert learn(corpus) == 0
    # As networks that pad their input have it.
    monkeypatch.setattr(MFCCFrontend, "frame_centre", 42.0)
    code, out = dump(corpus)
    info = json.loads((out / "tokens.json").read_text())
    assert code == 0 and len(load(out)) == 12
    assert info["columns"] == [{"stream": "mfcc", "layer": 0, "K": 6}]
    assert (info["frame_shift"], info["minimum_samples"]) == (320, 930)
    assert info["frame_centre"] == 42.0


def test_tokens_of_a_trained_student(corpus, scorer_dir):
    """Of its weights: the configuration alone would be another, random network."""
    conf = {"num_layers": 2, "init_seed": 3}
    config = yaml.safe_load((scorer_dir / "config.yaml").read_text())
    config.update(frontend="spec_cnn", frontend_conf=conf, token_info=None)
    config["losses"] = {"mos_l1": {}}
    model = build_model(config, load_pretrained=True)
    (corpus / "exp").mkdir()
    config["frontend_conf"] = {**model.frontend.resolved_conf(), "init_seed": 0}
    (corpus / "exp" / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save(model.state_dict(), corpus / "exp" / "model.pth")
    start = {"init_model": str(corpus / "exp"), "frontend_conf": {"num_layers": 2}}
    (corpus / "train.yaml").write_text(yaml.safe_dump(start))
    assert learn(corpus) == 0
    code, out = dump(corpus)
    assert code == 0
    info, tokens = json.loads((out / "tokens.json").read_text()), load(out)
    assert info["columns"] == [
        {"stream": "spec_cnn", "layer": n, "K": 6} for n in (1, 2)
    ]
    assert info["upstream_fingerprint"] == model.frontend.fingerprint()
    assert (info["frame_shift"], info["minimum_samples"]) == (320, 320)
    for utt_id, path in read_scp(corpus / "wav.scp").items():
        frames = (soundfile.info(path).frames - 320) // 320 + 1
        assert tokens[utt_id].shape == (frames, 2)


def test_split_jobs_equal_one_job(corpus, codebooks):
    _, whole = dump(corpus)
    paths = list(read_scp(corpus / "wav.scp").items())
    parts = {}
    # The last one has nothing to do.
    for job, some in enumerate([paths[::2], paths[1::2], []]):
        write_scp(corpus / f"wav.{job}.scp", dict(some))
        _, out = dump(corpus, out=f"job{job}", wav_scp=f"wav.{job}.scp")
        parts.update(load(out))
        assert (out / "tokens.json").read_bytes() == (
            whole / "tokens.json"
        ).read_bytes()
    expected = load(whole)
    assert parts.keys() == expected.keys()
    for utt_id, tokens in expected.items():
        np.testing.assert_array_equal(parts[utt_id], tokens)


def test_a_killed_run_continues(corpus, codebooks):
    _, out = dump(corpus)
    expected = load(out)
    paths = read_scp(out / "tokens.scp")
    os.remove(out / "tokens.scp")  # written last
    os.remove(paths["u03"])
    with open(paths["u04"], "r+b") as file:  # cut short by something else
        file.truncate(140)
    np.save(paths["u05"], expected["u05"][:-1])  # of another length
    kept = {u: os.stat(p).st_ino for u, p in paths.items() if u != "u03"}
    # Audio that is newer is done again.
    wav = read_scp(corpus / "wav.scp")["u02"]
    samples, rate = soundfile.read(wav)
    soundfile.write(wav, np.roll(samples, 3000), rate)
    os.utime(wav, (os.stat(paths["u02"]).st_mtime + 10,) * 2)
    code, _ = dump(corpus)
    again = load(out)
    assert code == 0 and again.keys() == expected.keys()
    assert (again.pop("u02") != expected["u02"]).any()
    for utt_id, tokens in again.items():
        np.testing.assert_array_equal(tokens, expected[utt_id])
    changed = {u for u, inode in kept.items() if os.stat(paths[u]).st_ino != inode}
    assert changed == {"u02", "u04", "u05"}


def test_tokens_of_another_codebook_are_refused(corpus, codebooks, capsys):
    _, out = dump(corpus)
    before = load(out)
    assert learn(corpus, "--seed", "5", name="other.npz") == 0
    code, _ = dump(corpus, name="other.npz")
    error = capsys.readouterr().err
    assert code == 1 and "--overwrite" in error and "another directory" in error
    for utt_id, tokens in load(out).items():
        np.testing.assert_array_equal(tokens, before[utt_id])
    # Overwriting leaves nothing of the old kind.
    (corpus / "short.scp").write_text(f"u00 {corpus}/wav/u00.wav\n")
    code, _ = dump(corpus, "--overwrite", wav_scp="short.scp", name="other.npz")
    assert code == 0 and os.listdir(out / "data") == ["u00.npy"]
    assert (load(out)["u00"] != before["u00"]).any()
    info = json.loads((out / "tokens.json").read_text())
    other = Codebooks.load(str(corpus / "other.npz"))
    assert info["codebook_fingerprint"] == other.fingerprint()


def test_codebook_of_another_upstream_is_refused(corpus, codebooks, capsys):
    code, out = dump(corpus, "--train_args", "--frontend_conf init_seed=9")
    error = capsys.readouterr().err
    assert code == 1 and not out.exists()
    assert "learned with another upstream" in error and "rerun stage 5" in error


def test_bad_utterances_are_named_and_the_rest_is_written(corpus, codebooks, capsys):
    paths = read_scp(corpus / "wav.scp")
    soundfile.write(corpus / "nan.wav", [np.nan] * 16000, 16000, subtype="FLOAT")
    soundfile.write(corpus / "short.wav", np.zeros(100), 16000)
    (corpus / "text.wav").write_text("no audio")
    names = ("nan", "short", "text", "missing")
    paths.update({name: f"{corpus}/{name}.wav" for name in names})
    write_scp(corpus / "more.scp", paths)
    code, out = dump(corpus, wav_scp="more.scp")
    error = capsys.readouterr().err
    assert code == 1 and len(load(out)) == 12
    assert all(f"utterance {name}:" in error for name in names)
    assert "4 utterances have no tokens" in error


def test_any_id_makes_a_safe_file_name(corpus, codebooks):
    wav = read_scp(corpus / "wav.scp")["u00"]
    ids = ["a/b", "../up", "ü*?", "..", "%2F"]
    write_scp(corpus / "odd.scp", {utt_id: wav for utt_id in ids})
    code, out = dump(corpus, wav_scp="odd.scp")
    assert code == 0 and sorted(load(out)) == sorted(ids)
    assert len(os.listdir(out / "data")) == len(ids)
