# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""A corpus of noises, an upstream of 20 k parameters, and the training command."""

import argparse
import copy
import json
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

UPSTREAM = {
    "model_type": "hubert",
    "conv_dim": [32, 32, 32],
    "conv_kernel": [10, 8, 4],
    "conv_stride": [5, 8, 8],
    "num_feat_extract_layers": 3,
    "feat_extract_norm": "group",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
FRAME = 320
NUM_CLUSTERS = 5


class Corpus:
    """Noises of 24 (train) and 11 (valid) utterances, the louder the better."""

    def __init__(self, root: Path):
        from espnet2_distilmos.mos.build import build_frontend

        self.root = root
        self.frontend_conf = {"init_seed": 0, "upstream_config": dict(UPSTREAM)}
        frontend = build_frontend("hf", self.frontend_conf)
        generator = np.random.default_rng(0)
        self.labels, self.systems = {}, {}
        for name, count in (("train", 24), ("valid", 11)):
            lines = {k: [] for k in ("wav", "metric", "utt2sys", "tokens", "shape")}
            (root / name / "data").mkdir(parents=True)
            for k in range(count):
                utt = f"{name}{k:02d}"
                n = 4000 + 320 * (k % 7) + 13 * k
                score = round(1.0 + 4.0 * ((k * 7) % count) / count, 2)
                self.labels[utt] = score
                self.systems[utt] = f"system{k % 4}"
                path = root / name / "data" / f"{utt}"
                speech = 0.02 * score * generator.normal(size=n)
                soundfile.write(f"{path}.wav", speech, 16000)
                tokens = generator.integers(
                    NUM_CLUSTERS, size=(frontend.num_frames(n), 2), dtype=np.int16
                )
                np.save(f"{path}.npy", tokens)
                lines["wav"].append(f"{utt} {path}.wav")
                lines["metric"].append(f"{utt} {json.dumps({'mos': score})}")
                lines["utt2sys"].append(f"{utt} {self.systems[utt]}")
                lines["tokens"].append(f"{utt} {path}.npy")
                lines["shape"].append(f"{utt} {n}")
            for kind, content in lines.items():
                suffix = "" if kind == "utt2sys" else "_" if kind == "shape" else ".scp"
                file = "speech_shape" if suffix == "_" else kind + suffix
                (root / name / file).write_text("\n".join(content) + "\n")
        self.token_info = {
            "format_version": 1,
            "columns": [
                {"stream": "hubert", "layer": 1, "K": NUM_CLUSTERS},
                {"stream": "hubert", "layer": 2, "K": NUM_CLUSTERS},
            ],
            "frame_shift": FRAME,
            "frame_offset": 0,
            "sample_rate": 16000,
            "codebook_fingerprint": "0",
            "upstream_fingerprint": frontend.fingerprint(),
        }
        (root / "tokens.json").write_text(json.dumps(self.token_info))

    def config(self, **changes) -> dict:
        """A training configuration: no dropout, one epoch unless changed."""
        config = {
            "frontend": "hf",
            "frontend_conf": copy.deepcopy(self.frontend_conf),
            "head": "distilmos",
            "head_conf": {"hidden_dim": 16},
            "losses": {"mos_l1": {"weight": 1.0}, "token_ce": {"weight": 0.1}},
            "optim": "adamw",
            "optim_conf": {"lr": 1e-3},
            "batch_type": "sorted",
            "batch_size": 6,
            "max_epoch": 1,
            "num_workers": 0,
            "seed": 3,
            "keep_nbest_models": 1,
            "use_matplotlib": False,
            "use_tensorboard": False,
            "best_model_criterion": [["valid", "sys_srcc", "max"]],
        }
        config.update(changes)
        return config

    def command(self, output_dir, *options, tokens=True, utt2sys=True, **changes):
        """Command line of mos_train; ``changes`` go into the configuration file."""
        output_dir = Path(output_dir)
        output_dir.parent.mkdir(parents=True, exist_ok=True)
        config = output_dir.with_suffix(".yaml")
        config.write_text(yaml.safe_dump(self.config(**changes)))
        command = ["--config", config, "--output_dir", output_dir]
        for name in ("train", "valid"):
            option = f"--{name}_data_path_and_name_and_type"
            folder = self.root / name
            command += [option, f"{folder}/wav.scp,speech,sound"]
            command += [option, f"{folder}/metric.scp,mos,text"]
            if tokens:
                command += [option, f"{folder}/tokens.scp,tokens,npy"]
            command += [f"--{name}_shape_file", folder / "speech_shape"]
        if tokens:
            command += ["--token_info", self.root / "tokens.json"]
        if utt2sys:
            command += ["--valid_utt2sys", self.root / "valid" / "utt2sys"]
        return [str(part) for part in [*command, *options]]

    def args(self, output_dir, *options, **changes) -> argparse.Namespace:
        """The parsed command line."""
        from espnet2_distilmos.tasks.mos import MOSTask

        command = self.command(output_dir, *options, **changes)
        return MOSTask.get_parser().parse_args(command)

    def train(self, output_dir, *options, **changes) -> Path:
        """Run the training command in this process."""
        from espnet2_distilmos.tasks.mos import MOSTask

        MOSTask.main(cmd=self.command(output_dir, *options, **changes))
        return Path(output_dir)


@pytest.fixture(scope="session")
def mos_corpus(tmp_path_factory):
    return Corpus(tmp_path_factory.mktemp("mos_corpus"))


@pytest.fixture(scope="session")
def scorer_dir(tmp_path_factory):
    """An experiment directory whose random model scores differ, with tokens."""
    import torch

    from espnet2_distilmos.mos.build import build_frontend, build_model

    folder = tmp_path_factory.mktemp("scorer")
    conf = {"init_seed": 0, "upstream_config": dict(UPSTREAM)}
    columns = [{"stream": "hubert", "layer": n, "K": NUM_CLUSTERS} for n in (1, 2)]
    config = {
        "mos_format_version": 1,
        "frontend": "hf",
        "frontend_conf": build_frontend("hf", conf).resolved_conf(),
        "head": "distilmos",
        "head_conf": {"hidden_dim": 16},
        "losses": {"mos_l1": {"weight": 1.0}},
        "token_info": {"format_version": 1, "columns": columns},
        "model_conf": {},
        "best_model_criterion": [["valid", "sys_srcc", "max"]],
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(config, load_pretrained=True)
    with torch.no_grad():
        model.head.linear.weight.mul_(3)
    torch.save(model.state_dict(), folder / "valid.sys_srcc.best.pth")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="session")
def corpora_dir(scorer_dir, tmp_path_factory):
    """The same model with a listener and the corpora a, b and c."""
    import torch

    folder = tmp_path_factory.mktemp("corpora")
    config = yaml.safe_load((scorer_dir / "config.yaml").read_text())
    config["model_conf"] = {"listener_embedding": True, "corpus_embedding": True}
    config.update(listener_list=["somebody"], corpus_list=["a", "b", "c"])
    name = "valid.sys_srcc.best.pth"
    states = torch.load(scorer_dir / name, weights_only=True)
    generator = torch.Generator().manual_seed(0)
    states["condition.listener"] = torch.randn(1, 16, generator=generator)
    states["condition.corpus"] = torch.randn(3, 16, generator=generator)
    torch.save(states, folder / name)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(autouse=True)
def keep_random_state():
    """Training seeds all generators; other tests shall not depend on that."""
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def reporter_stats(output_dir) -> dict:
    """Statistics by epoch of a training's checkpoint, without the clock's."""
    from espnet2_distilmos.train.mos_trainer import read_history

    clocks = ("time", "iter_time", "total_count")
    return {
        epoch: {
            phase: {
                key: value
                for key, value in stats.items()
                if key not in clocks and not key.endswith("_time")
            }
            for phase, stats in phases.items()
        }
        for epoch, phases in read_history(output_dir).items()
    }


@pytest.fixture
def training_log():
    return reporter_stats
