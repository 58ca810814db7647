# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json

import numpy as np
import pytest

from espnet2_distilmos.bin.mos_scoring import get_parser, main
from espnet2_distilmos.data.datadir import write_metric_scp, write_scp


@pytest.fixture
def root(tmp_path):
    """Two test sets of 30 utterances and their predictions."""
    generator = np.random.default_rng(0)
    for name in ("dev", "ood"):
        true = dict(zip((f"{name}{i}" for i in range(30)), generator.uniform(1, 5, 30)))
        write_metric_scp(tmp_path / name / "metric.scp", true)
        write_scp(tmp_path / name / "utt2sys", {u: u[-1] for u in true})
        pred = {u: mos + generator.normal(0, 0.5) for u, mos in true.items()}
        write_metric_scp(tmp_path / f"{name}.pred", pred)
    return tmp_path


def run(root, *names, options=()):
    command = ["--output_dir", f"{root}/out", "--bootstrap", "20", *options]
    for name in names:
        command += ["--score", "m", name, f"{root}/{name}", f"{root}/{name}.pred"]
    code = main(command)
    return code, json.loads((root / "out" / "results.json").read_text())


def test_two_runs_give_the_same_but_the_environment(root, capsys):
    code, first = run(root, "dev", "ood", options=["--note", "A note."])
    assert code == 0 and first["notes"] == ["A note."]
    assert [row["test_set"] for row in first["results"]] == ["dev", "ood"]
    printed = capsys.readouterr().out.splitlines()
    assert f"{first['results'][1]['utt_mos_srcc']:.3f} [" in printed[-2]
    assert printed[-1].endswith("RESULTS.md")
    options = ["--note", "A note.", "--command", "./run.sh"]
    _, second = run(root, "dev", "ood", options=options)
    assert second.pop("environment")["command"] == "./run.sh"
    del first["environment"]
    assert first == second


def test_a_bad_row_spoils_no_other(root, capsys):
    (root / "dev.pred").write_text('dev0 {"mos": "good"}\n')
    (root / "ood" / "score_range").write_text("0 100\n")
    code, document = run(root, "dev", "gone", "ood", "ood")
    (row,) = document["results"]
    assert code == 1 and row["test_set"] == "ood" and row["utt_mos_mse"] is None
    errors = capsys.readouterr().err
    assert len(document["problems"]) == 3
    for word, sentence in zip(("dev.pred", "gone", "twice"), document["problems"]):
        assert word in sentence and f"{sentence}\n" in errors
    code, document = run(root, "ood", options=["--score_range", "0", "100"])
    assert code == 0 and document["results"][0]["utt_mos_mse"] > 0


def test_unwritable_output(root, capsys):
    (root / "file").touch()
    rows = ["--score", "m", "dev", f"{root}/dev", f"{root}/dev.pred"]
    assert main(["--output_dir", f"{root}/file/out", "--bootstrap", "0", *rows]) == 1
    assert "cannot be written" in capsys.readouterr().err.splitlines()[-1]


def test_parser_has_a_description():
    assert get_parser().description
