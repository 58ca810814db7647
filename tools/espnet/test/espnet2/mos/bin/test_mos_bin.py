# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json

import numpy as np
import pytest
import torch
import yaml
from espnet2.bin import mos_inference, mos_tokens
from espnet2.bin.mos_inference import MOSInference
from espnet2.fileio.read_text import read_2columns_text


def test_batches_and_files_have_the_scores_of_single_utterances(
    scorer_dir, mos_corpus, tmp_path
):
    scorer = MOSInference.from_pretrained(str(scorer_dir))
    speech = 0.1 * torch.randn(2, 8000)
    both = scorer(speech, torch.tensor([8000, 5000]))["mos"]
    alone = scorer(speech[1, :5000].numpy())
    assert both.shape == (2,) and alone["frame_mos"].shape == (1, alone["lengths"][0])
    torch.testing.assert_close(both[1:], alone["mos"], rtol=0, atol=1e-4)

    wav_scp = mos_corpus.root / "valid" / "wav.scp"
    data = ["--data_path_and_name_and_type", f"{wav_scp},speech,sound"]
    model = ["--train_config", scorer_dir / "config.yaml"]
    model += ["--model_file", scorer_dir / "valid.sys_srcc.best.pth"]
    options = [*data, *model, "--output_dir", tmp_path, "--batch_size", 4]
    mos_inference.main([str(o) for o in (*options, "--num_workers", 0)])
    scores = read_2columns_text(tmp_path / "metric.scp")
    assert list(scores) == list(read_2columns_text(wav_scp))
    with pytest.raises(ValueError, match="--model_tag"):
        mos_inference.main([*data, "--output_dir", str(tmp_path)])


def test_tokens_train(mos_corpus, tmp_path):
    conf = {"frontend": "hf", "frontend_conf": mos_corpus.frontend_conf}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(conf))
    book = tmp_path / "codebooks.npz"
    options = ["--config", tmp_path / "train.yaml", "--codebooks", book]
    options += ["--wav_scp", mos_corpus.root / "train" / "wav.scp"]
    fitting = [*options, "--num_clusters", 5, "--max_frames", 300]
    mos_tokens.main([str(o) for o in fitting])
    mos_tokens.main([str(o) for o in (*options, "--output_dir", tmp_path / "train")])
    info = json.loads((tmp_path / "train" / "tokens.json").read_text())
    assert [c["layer"] for c in info["columns"]] == [1, 2]
    paths = read_2columns_text(tmp_path / "train" / "tokens.scp")
    assert set(paths) == set(read_2columns_text(mos_corpus.root / "train" / "wav.scp"))
    for utt_id, path in paths.items():
        tokens = np.load(path)
        expected = np.load(mos_corpus.root / "train" / "data" / f"{utt_id}.npy")
        assert tokens.shape == expected.shape and tokens.dtype == np.int16
        assert tokens.min() >= 0 and tokens.max() < 5
    conf["frontend_conf"] = {**mos_corpus.frontend_conf, "init_seed": 1}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(conf))
    with pytest.raises(ValueError, match="of another upstream"):
        mos_tokens.main([str(o) for o in (*options, "--output_dir", tmp_path / "x")])
