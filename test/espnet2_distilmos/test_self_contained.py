# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Trained models on another machine: no network, no upstream files, the same scores."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import transformers
import yaml

from espnet2_distilmos.bin.mos_pack import main as mos_pack
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
KINDS = ("hf_config", "hf_directory", "s3prl_config", "s3prl_file", "s3prl_download")
WAYS = (
    "copied",
    "unpacked",
    "unpacked_by_espnet",
    "moved_after_unpacking",
    "hub",
)

# Runs where nothing of the training is left: argv names the folder with the models.
CHILD = """
import json, os, shutil, socket, sys, zipfile
from pathlib import Path

def refuse(*args, **kwargs):
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
scores = {}
for kind in json.loads(sys.argv[3]):
    assert mos_pack(["--unpack", f"{kind}.zip", "--output_dir", f"ours/{kind}"]) == 0
    shutil.copytree(f"ours/{kind}", f"copies/{kind}", symlinks=True)
    shutil.rmtree(f"ours/{kind}")
    assert mos_pack(["--unpack", f"user/{kind}", "--output_dir", f"hub/{kind}"]) == 0
    theirs = unpack(f"{kind}.zip", f"theirs/{kind}")
    moved = unpack(f"{kind}.zip", f"before/{kind}")
    Path("after").mkdir(exist_ok=True)
    shutil.move(f"before/{kind}", f"after/{kind}")
    moved = {k: v.replace("before/", "after/", 1) for k, v in moved.items()}
    for way, files in {
        "copied": (f"{kind}/config.yaml", f"{kind}/valid.utt_srcc.best.pth"),
        "unpacked": (f"copies/{kind}/config.yaml", f"copies/{kind}/1epoch.pth"),
        "hub": (f"hub/{kind}/config.yaml", f"hub/{kind}/1epoch.pth"),
        "unpacked_by_espnet": (theirs["train_config"], theirs["model_file"]),
        "moved_after_unpacking": (moved["train_config"], moved["model_file"]),
    }.items():
        model, _ = load_model(*files)
        scores[f"{kind} {way}"] = [model.inference(*s) for s in speech]
torch.save(
    {k: [(p.utt_mos, p.frame_mos) for p in v] for k, v in scores.items()},
    here / "scores.pt",
)
"""


def frontends(folder: Path):
    """Options of each kind, with their files in ``folder``."""
    torch.manual_seed(1)
    hubert = transformers.HubertModel(transformers.HubertConfig(**TRANSFORMERS))
    hubert.save_pretrained(folder / "hubert")
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    extractor.save_pretrained(folder / "hubert")

    from s3prl.upstream.apc.apc import APC
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

    paras = dict(num_layers=3, hidden_size=16, dropout=0.1, residual=True)
    audio = dict(feat_type="fbank", feat_dim=20, frame_length=25, frame_shift=10)
    contents = {"config": {"data": {"audio": audio}, "model": {"paras": paras}}}
    torch.save({**contents, "model": APC(20, **paras).state_dict()}, folder / "apc.pt")
    cached = f"{hashlib.sha256(APC_URL.encode()).hexdigest()}.apc_360hr.ckpt"
    (folder / "cache").mkdir()
    contents["model"] = APC(20, **paras).state_dict()
    torch.save(contents, folder / "cache" / cached)
    return {
        "hf_config": {},
        "hf_directory": dict(
            frontend="hf", frontend_conf={"upstream": str(folder / "hubert")}
        ),
        "s3prl_config": dict(
            frontend="s3prl",
            frontend_conf={
                "upstream": "wavlm_local",
                "path_or_url": str(folder / "wavlm.pt"),
            },
        ),
        "s3prl_file": dict(
            frontend="s3prl",
            frontend_conf={"upstream": "apc", "path_or_url": str(folder / "apc.pt")},
        ),
        "s3prl_download": dict(
            frontend="s3prl", frontend_conf={"upstream": "apc_360hr"}
        ),
    }


@pytest.fixture(scope="module")
def machines(mos_corpus, tmp_path_factory):
    """Train and score on one machine; copy, pack and score on another.

    Returns:
        The other machine's folder, and the scores by kind and way.
    """
    from s3prl.util import download

    first = tmp_path_factory.mktemp("first")
    second = tmp_path_factory.mktemp("second")
    upstreams = first / "upstreams"
    upstreams.mkdir()
    options = frontends(upstreams)
    wavs = [soundfile.read(p, dtype="float32")[0] for p in _valid_wavs(mos_corpus)]
    lengths = torch.tensor([len(wav) for wav in wavs])
    padded = torch.zeros(len(wavs), int(lengths.max()))
    for row, wav in zip(padded, wavs):
        row[: len(wav)] = torch.from_numpy(wav)
    speech = [(padded, lengths), (padded[3:4, : lengths[3]], lengths[3:4])]
    torch.save(speech, second / "speech.pt")

    scores = {}
    cache = download.get_dir()
    download.set_dir(upstreams / "cache")
    try:
        for kind, changes in options.items():
            out = first / "exp" / kind
            _train(mos_corpus, out, changes)
            model_file = out / "valid.utt_srcc.best.pth"
            model, _ = load_model(out / "config.yaml", model_file)
            scores[kind] = [model.inference(*s) for s in speech]
            (out / "RESULTS.md").write_text(f"- command: `run.sh --x {first}/x.yaml`\n")
            assert _pack(out, model_file, second / f"{kind}.zip") == 0
            shutil.copytree(out, second / kind, symlinks=True)
    finally:
        download.set_dir(cache)
    shutil.rmtree(first)
    home = tmp_path_factory.mktemp("home")
    kinds = json.dumps(list(options))
    subprocess.run(
        [sys.executable, "-c", CHILD, second, str(torch.get_num_threads()), kinds],
        check=True,
        cwd=home,
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "HOME": str(home),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
    )
    return first, second, scores, torch.load(second / "scores.pt")


def _valid_wavs(mos_corpus):
    return list(read_scp(str(mos_corpus.root / "valid" / "wav.scp")).values())


def _train(mos_corpus, out, changes):
    changes = {"losses": {"mos_l1": {"weight": 1.0}}, "tokens": False, **changes}
    criterion = [["valid", "utt_srcc", "max"]]
    mos_corpus.train(out, best_model_criterion=criterion, **changes)


def _pack(out, model_file, outpath):
    options = {"train_config": out / "config.yaml", "model_file": model_file}
    options.update(outpath=outpath, results=out)
    return mos_pack([str(part) for k, v in options.items() for part in (f"--{k}", v)])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_scores_to_the_last_bit(kind, way, machines):
    _, _, expected, found = machines
    for one, (utt_mos, frame_mos) in zip(expected[kind], found[f"{kind} {way}"]):
        assert torch.equal(one.utt_mos, utt_mos) and len(utt_mos) in (1, 11)
        assert torch.equal(one.frame_mos, frame_mos)
    # Different models, each with something to say.
    others = [v[0].utt_mos for k, v in expected.items() if k != kind]
    assert not any(torch.equal(v, expected[kind][0].utt_mos) for v in others)
    assert np.unique(expected[kind][0].utt_mos).size == 11


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_cannot_be_rebuilt_is_kept(kind, machines):
    _, second, _, _ = machines
    conf = yaml.safe_load((second / kind / "config.yaml").read_text())["frontend_conf"]
    kept = sorted(p.name for p in (second / kind).glob("upstream_files/*"))
    if kind in ("s3prl_config", "s3prl_file"):
        name = "wavlm.pt" if kind == "s3prl_config" else "apc.pt"
        assert kept == [name]
        assert conf["path_or_url"] == f"upstream_files/{name}"
    elif kind == "s3prl_download":
        assert len(kept) == 1 and kept[0].endswith(".apc_360hr.ckpt")
        assert conf["download_dir"] == "upstream_files" and not conf["path_or_url"]
    else:
        assert not kept and not (second / kind / "upstream_files").exists()
    with zipfile.ZipFile(second / f"{kind}.zip") as archive:
        packed = [n for n in archive.namelist() if "upstream_files" in n]
    assert packed == [f"exp/{kind}/upstream_files/{name}" for name in kept]


@pytest.mark.parametrize("kind", KINDS)
def test_the_zip_tells_nothing_of_the_machine(kind, machines, mos_corpus):
    first, second, _, _ = machines
    experiment = (second / kind / "config.yaml").read_text()
    secrets = {str(first), str(mos_corpus.root), first.name, mos_corpus.root.name}
    assert all(secret in experiment for secret in secrets)  # the test could fail
    with zipfile.ZipFile(second / f"{kind}.zip") as archive:
        texts = [n for n in archive.namelist() if not n.endswith((".pth", ".pt"))]
        assert {"meta.yaml", f"exp/{kind}/config.yaml"} <= set(texts)
        for name in archive.namelist():
            assert not name.startswith("/") and first.name not in name
        for name in texts:
            content = archive.read(name).decode(errors="replace")
            assert not any(secret in content for secret in secrets)
        config = yaml.safe_load(archive.read(f"exp/{kind}/config.yaml"))
    assert config["train_data_path_and_name_and_type"][0][0] == "wav.scp"
    assert config["seed"] == 3 and config["score_range"] == [1.0, 5.0]
