# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Trained models on another machine: no network, no upstream files, the same scores."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import yaml

from espnet2_distilmos.bin.mos_pack import main as mos_pack
from espnet2_distilmos.data.audio import read_audio
from espnet2_distilmos.data.datadir import read_scp
from espnet2_distilmos.mos.checkpoint import load_model

pytest.importorskip("s3prl")

CONV = dict(conv_dim=[16, 24, 24], conv_kernel=[10, 8, 8], conv_stride=[5, 8, 8])
TRANSFORMERS = dict(
    CONV,
    num_feat_extract_layers=3,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=48,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=2,
)
APC_URL = "https://huggingface.co/leo19941227/apc_series/resolve/main/apc_360hr.ckpt"
# Weights in files that no configuration rebuilds: one of each library; and the others.
KINDS = ["hf_directory", "s3prl_file"] + [
    pytest.param(kind, marks=pytest.mark.slow)
    for kind in (
        *("hf_config", "hf_first_layers", "spec_cnn"),
        *("s3prl_config", "s3prl_download"),
    )
]

# Runs where nothing of the training is left: argv names the folder with the models.
CHILD = """
import os, shutil, socket, sys, traceback, zipfile
from pathlib import Path

def refuse(*args, **kwargs):
    # What ESPnet 202511 imports asks for data and goes on without.
    files = [frame.filename for frame in traceback.extract_stack()]
    if any("nltk" in file for file in files):
        raise OSError("no network")
    raise AssertionError("The network was asked")

socket.socket.connect = socket.getaddrinfo = refuse
import torch
import huggingface_hub
from espnet2.main_funcs.pack_funcs import unpack
from espnet2_distilmos.bin.mos_pack import main as mos_pack
from espnet2_distilmos.mos.checkpoint import load_model

here = Path(sys.argv[1])
torch.set_num_threads(int(sys.argv[2]))
speech = torch.load(here / "speech.pt")
os.chdir(here)
def snapshot(name, **kwargs):
    # As the hub's own client leaves an uploaded model: links into a store.
    kind = name.split("/")[1]
    with zipfile.ZipFile(f"{kind}.zip") as archive:
        archive.extractall(f"blobs/{kind}")
        for i, member in enumerate(archive.namelist()):
            link = here / "snapshots" / kind / member
            link.parent.mkdir(parents=True, exist_ok=True)
            blob = here / "blobs" / f"{kind}{i}"
            os.rename(here / "blobs" / kind / member, blob)
            link.symlink_to(blob)
    return str(here / "snapshots" / kind)

huggingface_hub.snapshot_download = snapshot
kind = sys.argv[3]
assert mos_pack(["--unpack", f"{kind}.zip", "--output_dir", "ours"]) == 0
shutil.copytree("ours", "copy", symlinks=True)
shutil.rmtree("ours")
assert mos_pack(["--unpack", f"user/{kind}", "--output_dir", "hub"]) == 0
theirs = unpack(f"{kind}.zip", "theirs")
moved = unpack(f"{kind}.zip", "before")
shutil.move("before", "after")
moved = {k: v.replace("before", "after", 1) for k, v in moved.items()}
scores = {}
for way, files in {
    "copied": (f"{kind}/config.yaml", f"{kind}/valid.utt_srcc.best.pth"),
    "unpacked": ("copy/config.yaml", "copy/1epoch.pth"),
    "hub": ("hub/config.yaml", "hub/1epoch.pth"),
    "unpacked_by_espnet": (theirs["train_config"], theirs["model_file"]),
    "moved_after_unpacking": (moved["train_config"], moved["model_file"]),
}.items():
    model, _ = load_model(*files)
    scores[way] = [model.inference(*s) for s in speech]
torch.save(
    {k: [(p.utt_mos, p.frame_mos) for p in v] for k, v in scores.items()},
    here / "scores.pt",
)
"""


def frontend_of(kind: str, folder: Path):
    """Options of a kind of upstream, with its files in ``folder``."""
    torch.manual_seed(1)
    if kind == "hf_directory":
        hubert = transformers.HubertModel(transformers.HubertConfig(**TRANSFORMERS))
        hubert.save_pretrained(folder / "hubert")
        extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
        extractor.save_pretrained(folder / "hubert")
        conf = {"upstream": str(folder / "hubert")}
        return {"frontend": "hf", "frontend_conf": conf}
    if kind == "hf_first_layers":
        sizes = dict(d_model=32, encoder_layers=3, decoder_layers=1, vocab_size=9)
        sizes.update(encoder_attention_heads=2, encoder_ffn_dim=48, pad_token_id=0)
        sizes.update(decoder_attention_heads=2, decoder_ffn_dim=8)
        whisper = transformers.WhisperModel(transformers.WhisperConfig(**sizes))
        whisper.save_pretrained(folder / "whisper")
        conf = {"upstream": str(folder / "whisper"), "num_layers": 1}
        return {"frontend": "hf", "frontend_conf": conf}
    if kind == "spec_cnn":
        conf = {"channels": [4, 8], "hidden_size": 32, "num_attention_heads": 2}
        return {"frontend": "spec_cnn", "frontend_conf": conf}
    if kind == "s3prl_config":
        from s3prl.upstream.wavlm.WavLM import WavLM, WavLMConfig

        config = dict(
            conv_feature_layers=str([(16, 10, 5), (24, 8, 8), (24, 8, 8)]),
            encoder_layers=2,
            encoder_embed_dim=32,
            encoder_ffn_embed_dim=48,
            encoder_attention_heads=2,
            conv_pos=16,
            conv_pos_groups=2,
            relative_position_embedding=True,
            num_buckets=32,
            max_distance=80,
            gru_rel_pos=True,
        )
        weights = WavLM(WavLMConfig(config)).state_dict()
        torch.save({"cfg": config, "model": weights}, folder / "wavlm.pt")
        path = str(folder / "wavlm.pt")
        conf = {"upstream": "wavlm_local", "path_or_url": path}
        return {"frontend": "s3prl", "frontend_conf": conf}
    if kind in ("s3prl_file", "s3prl_download"):
        from s3prl.upstream.apc.apc import APC

        paras = dict(num_layers=3, hidden_size=16, dropout=0.1, residual=True)
        audio = dict(feat_type="fbank", feat_dim=20, frame_length=25, frame_shift=10)
        contents = {"config": {"data": {"audio": audio}, "model": {"paras": paras}}}
        contents["model"] = APC(20, **paras).state_dict()
        torch.save(contents, folder / "apc.pt")
        cached = f"{hashlib.sha256(APC_URL.encode()).hexdigest()}.apc_360hr.ckpt"
        (folder / "cache").mkdir()
        torch.save(contents, folder / "cache" / cached)
        conf = {"upstream": "apc_360hr"}
        if kind == "s3prl_file":
            conf = {"upstream": "apc", "path_or_url": str(folder / "apc.pt")}
        return {"frontend": "s3prl", "frontend_conf": conf}
    return {}  # the corpus has a configuration and a seed


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_scores_to_the_last_bit(kind, mos_corpus, tmp_path):
    """Trained and scored on one machine; copied, packed and scored on another."""
    from s3prl.util import download

    first, second, home = (tmp_path / name for name in ("first", "second", "home"))
    for folder in (first / "upstreams", second, home):
        folder.mkdir(parents=True)
    wavs = read_scp(str(mos_corpus.root / "valid" / "wav.scp")).values()
    wavs = [torch.from_numpy(read_audio(path)) for path in wavs]
    lengths = torch.tensor([len(wav) for wav in wavs])
    padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    speech = [(padded, lengths), (padded[3:4, : lengths[3]], lengths[3:4])]
    torch.save(speech, second / "speech.pt")

    cache = download.get_dir()
    download.set_dir(first / "upstreams" / "cache")
    try:
        out = first / "exp" / kind
        mos_corpus.train(
            out,
            best_model_criterion=[["valid", "utt_srcc", "max"]],
            losses={"mos_l1": {"weight": 1.0}},
            tokens=False,
            **frontend_of(kind, first / "upstreams"),
        )
        model_file = out / "valid.utt_srcc.best.pth"
        model, _ = load_model(out / "config.yaml", model_file)
        expected = [model.inference(*s) for s in speech]
        (out / "RESULTS.md").write_text(f"- command: `run.sh --x {first}/x.yaml`\n")
        options = ["--train_config", out / "config.yaml", "--model_file", model_file]
        options += ["--outpath", second / f"{kind}.zip", "--results", out]
        assert mos_pack([str(option) for option in options]) == 0
        shutil.copytree(out, second / kind, symlinks=True)
    finally:
        download.set_dir(cache)
    shutil.rmtree(first)
    subprocess.run(
        [sys.executable, "-c", CHILD, second, str(torch.get_num_threads()), kind],
        check=True,
        cwd=home,
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "HOME": str(home),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
    )
    found = torch.load(second / "scores.pt")
    assert len(found) == 5
    for scores in found.values():
        for one, (utt_mos, frame_mos) in zip(expected, scores):
            assert torch.equal(one.utt_mos, utt_mos)
            assert torch.equal(one.frame_mos, frame_mos)
    assert np.unique(expected[0].utt_mos).size == len(wavs) == 11
    check_kept_files(kind, second)
    check_zip(second / f"{kind}.zip", second / kind, [first, mos_corpus.root])


def check_kept_files(kind, folder):
    """What cannot be rebuilt from config.yaml lies beside it, and nothing else."""
    conf = yaml.safe_load((folder / kind / "config.yaml").read_text())["frontend_conf"]
    kept = [path.name for path in (folder / kind).glob("upstream_files/*")]
    if kind in ("s3prl_config", "s3prl_file"):
        name = "wavlm.pt" if kind == "s3prl_config" else "apc.pt"
        assert kept == [name]
        assert conf["path_or_url"] == f"upstream_files/{name}"
    elif kind == "s3prl_download":
        assert len(kept) == 1 and kept[0].endswith(".apc_360hr.ckpt")
        assert conf["download_dir"] == "upstream_files" and not conf["path_or_url"]
    else:
        assert not kept and not (folder / kind / "upstream_files").exists()
    with zipfile.ZipFile(folder / f"{kind}.zip") as archive:
        packed = [n for n in archive.namelist() if "upstream_files" in n]
    assert packed == [f"exp/{kind}/upstream_files/{name}" for name in kept]


def check_zip(path, experiment, folders):
    """It tells nothing of the machine that it was made on."""
    config = (experiment / "config.yaml").read_text()
    assert all(str(folder) in config for folder in folders)  # the test could fail
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            assert not name.startswith("/")
            if not name.endswith((".pth", ".pt")):
                content = archive.read(name).decode(errors="replace")
                assert not any(str(folder) in content for folder in folders)
        config = yaml.safe_load(archive.read(f"exp/{experiment.name}/config.yaml"))
    assert config["train_data_path_and_name_and_type"][0][0] == "wav.scp"
    assert config["seed"] == 3 and config["score_range"] == [1.0, 5.0]
