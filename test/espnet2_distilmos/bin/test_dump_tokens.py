# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json
import os

import numpy as np
import pytest
import soundfile
import torch
import transformers
import yaml

from espnet2_distilmos.bin.dump_tokens import main
from espnet2_distilmos.bin.learn_codebooks import main as learn_codebooks
from espnet2_distilmos.data.audio import read_audio
from espnet2_distilmos.data.datadir import read_scp, write_scp
from espnet2_distilmos.mos.build import build_frontend, build_model
from espnet2_distilmos.mos.frontend.mfcc import MFCCFrontend
from espnet2_distilmos.mos.grid import Grid
from espnet2_distilmos.mos.tokens import Codebooks, load_codebooks


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


# Several upstreams


@pytest.fixture
def upstreams(corpus, tiny_conf):
    """Checkpoints: the upstream of train.yaml, a Whisper of its size, another one."""
    folders = [corpus / name for name in ("own", "whisper", "second")]
    for folder, seed in ((folders[0], 0), (folders[2], 1)):
        frontend = build_frontend("hf", {**tiny_conf, "init_seed": seed})
        frontend.model.save_pretrained(folder)
    sizes = dict(d_model=16, encoder_layers=3, encoder_attention_heads=2)
    sizes.update(encoder_ffn_dim=32, decoder_layers=1, decoder_attention_heads=2)
    tokens = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2, vocab_size=9)
    config = transformers.WhisperConfig(
        **sizes, **tokens, decoder_start_token_id=1, decoder_ffn_dim=16
    )
    torch.manual_seed(0)
    transformers.WhisperModel(config).save_pretrained(folders[1])
    return [str(folder) for folder in folders]


def test_columns_of_several_upstreams_are_those_of_each_alone(corpus, upstreams):
    """Whisper's, whose windows are centred, from the second frame on."""
    options = ["--upstreams", *upstreams, "--layers", "1,3", "2", "1"]
    whole = ["--tokens_dir", str(corpus / "at_once"), "--num_clusters", "6", "9", "4"]
    assert learn(corpus, *options, *whole) == 0
    code, out = dump(corpus, "--upstreams", *upstreams)
    assert code == 0
    found = load(out)
    alone = []
    clusters, layers = ("6", "9", "4"), ("1,3", "2", "1")
    for n, upstream in enumerate(upstreams):
        one = ["--upstreams", upstream, "--num_clusters", clusters[n]]
        assert learn(corpus, *one, "--layers", layers[n], name=f"{n}.npz") == 0
        # Without a training's frames, hence on the upstream's own.
        cmd = ["--upstreams", upstream, "--codebooks", f"{corpus}/{n}.npz"]
        cmd += ["--wav_scp", f"{corpus}/wav.scp", "--output_dir", f"{corpus}/{n}"]
        assert main(cmd) == 0
        alone.append(load(corpus / f"{n}"))
    books = load_codebooks(str(corpus / "codebooks.npz"))
    for n, book in enumerate(books):
        single = Codebooks.load(str(corpus / f"{n}.npz"))
        np.testing.assert_array_equal(book.centroids, single.centroids)
        assert book.upstream_fingerprint == single.upstream_fingerprint
    for utt_id, tokens in found.items():
        # The first frame of the others is centred 0.51 frames after Whisper's.
        parts = [rows[utt_id][ahead:] for ahead, rows in zip((0, 1, 0), alone)]
        assert len(tokens) == min(map(len, parts)) >= max(map(len, parts)) - 1
        for columns, part in zip(([0, 1], [2], [3]), parts):
            np.testing.assert_array_equal(tokens[:, columns], part[: len(tokens)])
    at_once = load(corpus / "at_once")
    same = [at_once[utt_id] == tokens for utt_id, tokens in found.items()]
    assert np.concatenate(same).mean() > 0.99  # of states in fp16
    info = json.loads((out / "tokens.json").read_text())
    assert json.loads((corpus / "at_once" / "tokens.json").read_text()) == info
    prints = [book.upstream_fingerprint for book in books]
    named = [("hubert", 0), ("hubert", 0), ("whisper", 1), ("hubert-2", 2)]
    assert [
        (c["stream"], prints.index(c["upstream_fingerprint"])) for c in info["columns"]
    ] == named
    assert [(c["layer"], c["K"]) for c in info["columns"]] == [
        *((1, 6), (3, 6), (2, 9), (1, 4))
    ]
    assert info["upstream_fingerprint"] == "+".join(prints)
    assert (info["frame_shift"], info["minimum_samples"]) == (320, 330)
    # A killed run continues.
    paths = read_scp(out / "tokens.scp")
    os.remove(paths["u03"])
    kept = os.stat(paths["u04"]).st_ino
    assert dump(corpus, "--upstreams", *upstreams)[0] == 0
    np.testing.assert_array_equal(load(out)["u03"], found["u03"])
    assert os.stat(paths["u04"]).st_ino == kept
    # Without one of them, or in another order, they are not what was learned.
    for some in (upstreams[:2], upstreams[::-1], upstreams[:1]):
        assert dump(corpus, "--upstreams", *some)[0] == 1


@pytest.mark.parametrize("how", ["average", "concat"])
def test_tokens_of_one_codebook_over_upstreams_equal_numpy(
    corpus, upstreams, how, monkeypatch
):
    # As if its receptive field were that of a larger network: a frame later.
    late = property(lambda self: 464.5 if self.name == "hubert" else 0.0)
    monkeypatch.setattr(
        "espnet2_distilmos.mos.frontend.hf.HFFrontend.frame_centre", late
    )
    pair = upstreams[:2]
    options = ["--upstreams", *pair, "--aggregate", how, "--layers", "3,1", "1,2"]
    assert learn(corpus, *options) == 0
    code, out = dump(corpus, "--upstreams", *pair)
    assert code == 0
    found, book = load(out), Codebooks.load(str(corpus / "codebooks.npz"))
    assert (book.stream, book.layers) == ("hubert+whisper", (1, 3))
    # Pairs stay pairs: the states of this Whisper's layers are too alike to tell.
    assert book.settings["layers"] == [[1, 3], [2, 1]]
    centroids = book.centroids.astype(np.float64)
    networks = [build_frontend("hf", {"upstream": name}).eval() for name in pair]
    clear = []
    for utt_id, path in read_scp(corpus / "wav.scp").items():
        speech = torch.from_numpy(read_audio(path))[None]
        with torch.inference_mode():
            first, second = (
                network(speech, torch.tensor([speech.shape[1]]))[0]
                for network in networks
            )
        for column, (i, j) in enumerate(((1, 2), (3, 1))):
            h = [first[i][0].double().numpy(), second[j][0, 1:].double().numpy()]
            frames = min(map(len, h))
            assert found[utt_id].shape == (frames, 2)
            h = [(x - x.mean(1, keepdims=True))[:frames] for x in h]
            h = [x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-5) for x in h]
            h = (h[0] + h[1]) / 2 if how == "average" else np.hstack(h)
            distance = ((h[:, None] - centroids[column]) ** 2).sum(-1)
            near = np.sort(distance, 1)
            sure = near[:, 1] > (1 + 1e-4) * near[:, 0]
            clear.append(sure.mean())
            np.testing.assert_array_equal(
                found[utt_id][sure, column], distance.argmin(1)[sure]
            )
    assert np.mean(clear) > 0.9
    info = json.loads((out / "tokens.json").read_text())
    assert info["columns"] == [
        {"stream": "hubert+whisper", "layer": n, "K": 6} for n in (1, 3)
    ]
    prints = [network.fingerprint() for network in networks]
    assert info["upstream_fingerprint"] == f"{how}:{prints[0]}+{prints[1]}"


def test_the_upstream_that_is_trained_gives_the_grid(corpus, upstreams, tiny_conf):
    """Whoever is named first; without one the first does."""
    turned = ["--upstreams", *upstreams[1::-1], "--layers", "1"]
    assert learn(corpus, *turned) == 0
    code, out = dump(corpus, *turned[:3])
    own = Grid.of(build_frontend("hf", tiny_conf))
    info = json.loads((out / "tokens.json").read_text())
    assert code == 0 and info["minimum_samples"] == own.minimum_samples == 330
    cmd = ["--wav_scp", f"{corpus}/wav.scp", "--codebooks", f"{corpus}/codebooks.npz"]
    assert main([*cmd, "--output_dir", f"{corpus}/first", *turned[:3]]) == 0
    info = json.loads((corpus / "first" / "tokens.json").read_text())
    assert (info["minimum_samples"], info["frame_centre"]) == (201, 0.0)
    for utt_id, tokens in load(corpus / "first").items():
        # Their first frame serves twice where they begin later.
        expected = load(out)[utt_id]
        np.testing.assert_array_equal(tokens[1 : 1 + len(expected), 0], expected[:, 0])
        np.testing.assert_array_equal(tokens[1 : 1 + len(expected), 1], expected[:, 1])
        assert tokens[0, 1] == tokens[1, 1]


def test_upstreams_that_do_not_go_together(corpus, upstreams, tiny_conf, capsys):
    own, whisper, _ = upstreams
    config = {**tiny_conf["upstream_config"], "conv_stride": [5, 8, 4]}
    fast = build_frontend("hf", {"upstream_config": config})
    fast.model.save_pretrained(corpus / "fast")
    config = {**tiny_conf["upstream_config"], "hidden_size": 8, "num_hidden_layers": 2}
    build_frontend("hf", {"upstream_config": config}).model.save_pretrained(
        corpus / "small"
    )
    small = str(corpus / "small")
    average = ["--aggregate", "average"]
    for options, words in (
        ([own, str(corpus / "fast")], "every 320 samples (hubert) and every 160 (hub"),
        ([own, own], "one network as the upstreams hubert and hubert-2"),
        ([own, small, *average], "numbers of layers to pair, hubert 3, hubert-2 2"),
        ([own, small, "--layers", "1", *average], "to average, hubert 16, hubert-2 8"),
        ([own, *average], "the aggregate 'average' of 1 upstreams"),
        ([own, whisper, "--layers", "1", "2", "3"], "3 values of --layers for 2 str"),
        ([own, whisper, "--num_clusters", "1", "2", "3"], "3 values of --num_clusters"),
        ([own, whisper, "--import_km", "1=a.km"], "--import_km for the upstreams hub"),
        ([own, str(corpus / "none")], "none/config.json"),
    ):
        assert learn(corpus, "--upstreams", *options) == 1
        assert words in capsys.readouterr().err.splitlines()[-1]
        assert not (corpus / "codebooks.npz").exists()
    # What is there is of another number of streams, or aggregated otherwise.
    two = ["--upstreams", own, whisper, "--layers", "1"]
    assert learn(corpus, *two, "--aggregate", "concat") == 0
    assert learn(corpus, *two, "--aggregate", "concat") == 0
    for options in (two, [*two, *average], ["--layers", "1"]):
        assert learn(corpus, *options) == 1
        assert "was made otherwise" in capsys.readouterr().err
