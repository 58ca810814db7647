# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json

import numpy as np

from espnet2_distilmos.bin.mos_scoring import get_parser, main
from espnet2_distilmos.data.datadir import write_metric_scp


def test_rows_are_scored_and_a_bad_one_spoils_no_other(tmp_path, capsys):
    generator = np.random.default_rng(0)
    command = ["--output_dir", f"{tmp_path}/out", "--bootstrap", "20"]
    for name in ("dev", "bad", "gone", "far", "far"):
        true = {f"{name}{i}": v for i, v in enumerate(generator.uniform(1, 5, 30))}
        if name != "gone":
            write_metric_scp(tmp_path / name / "metric.scp", true)
            pred = {u: mos + generator.normal(0, 0.5) for u, mos in true.items()}
            write_metric_scp(tmp_path / f"{name}.pred", pred)
        files = [f"{tmp_path}/{name}", f"{tmp_path}/{name}.pred"]
        command += ["--score", "m", name, *files]
    (tmp_path / "far" / "score_range").write_text("0 100\n")
    (tmp_path / "bad.pred").write_text('bad0 {"mos": "good"}\n')
    assert main(command) == 1
    first = json.loads((tmp_path / "out" / "results.json").read_text())
    dev, far = first["results"]
    assert (dev["test_set"], far["test_set"]) == ("dev", "far")
    assert dev["utt_mos_mse"] > 0 and far["utt_mos_mse"] is None
    captured = capsys.readouterr()
    assert f"{dev['utt_mos_srcc']:.3f} [" in captured.out
    assert captured.out.splitlines()[-1].endswith("RESULTS.md")
    assert len(first["problems"]) == 3
    for word, sentence in zip(("bad.pred", "gone", "twice"), first["problems"]):
        assert word in sentence and f"{sentence}\n" in captured.err
    # The same again, but for the environment.
    options = ["--command", "./run.sh"]
    assert main([*command, *options]) == 1
    second = json.loads((tmp_path / "out" / "results.json").read_text())
    assert second.pop("environment")["command"] == "./run.sh"
    del first["environment"]
    assert first == second
    options = ["--score_range", "0", "100", "--note", "A note."]
    assert main([*command, *options]) == 1
    third = json.loads((tmp_path / "out" / "results.json").read_text())
    assert third["notes"] == ["A note."] and third["results"][1]["utt_mos_mse"] > 0
    (tmp_path / "file").touch()
    command[1] = f"{tmp_path}/file/out"
    assert main(command) == 1
    assert "cannot be written" in capsys.readouterr().err.splitlines()[-1]


def test_parser_has_a_description():
    assert get_parser().description
