# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json
import subprocess
import sys

import pytest

from espnet2_distilmos.bin.convert import main
from espnet2_distilmos.data.datadir import read_metric_scp

RESULTS = (
    "wav_path,system_id,sample_id,avg_score,answer\r\n"
    "/w/sys1a-utt01.wav,sys1a,utt01,2.25,2.125\r\n"
    "/w/sys2b-utt02.wav,sys2b,utt02,1.25,1.5\r\n"
)


@pytest.fixture
def results(tmp_path):
    (tmp_path / "results.csv").write_text(RESULTS, newline="")
    return tmp_path / "results.csv"


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_sheet_to_metric_scp_and_answer_txt(tmp_path, results, capsys):
    out = tmp_path / "new" / "metric.scp"
    assert run(results, out) == 0
    assert read_metric_scp(out) == {"utt01": 2.125, "utt02": 1.5}
    assert read_metric_scp(out, "avg_score") == {"utt01": 2.25, "utt02": 1.25}
    captured = capsys.readouterr()
    assert "metric-scp from sheet-results, 2 utterances" in captured.out
    (lost,) = captured.err.splitlines()
    assert "cannot hold the system (2), the path (2) of 2 utterances" in lost
    # the label under another name
    assert run(results, out, "--metric", "avg_score", "--output-metric", "mos") == 0
    assert read_metric_scp(out) == {"utt01": 2.25, "utt02": 1.25}
    # names of files as ids
    assert run(results, tmp_path / "answer.txt", "--path-ids") == 0
    expected = "sys1a-utt01,2.125\nsys2b-utt02,1.5\n"
    assert (tmp_path / "answer.txt").read_text() == expected


def test_systems_by_file_and_expression(tmp_path, capsys):
    source = tmp_path / "answer.txt"
    source.write_text("A-AD_0026,4.5\nB-AD_0026,2\nother,1\n")
    out = tmp_path / "out.csv"
    assert run(source, out, "--systems", r"^(\w+)-AD") == 1
    lines = ["id,path,score,error,system"]
    lines += ["A-AD_0026,,4.5,,A", "B-AD_0026,,2.0,,B", "other,,1.0,,"]
    assert out.read_text().splitlines() == lines
    assert "no system for 1 utterance (the first is other)" in capsys.readouterr().err
    (tmp_path / "utt2sys").write_text("A-AD_0026 A\nB-AD_0026 B\nother C\n")
    assert run(source, out, "--systems", tmp_path / "utt2sys") == 0
    assert out.read_text().splitlines() == lines[:-1] + ["other,,1.0,,C"]


def test_good_rows_are_written_and_bad_ones_named(tmp_path, capsys):
    source = tmp_path / "versa.txt"
    lines = ['{"key": "a", "utmos": 3.5}', '{"key": "b", "utmos": NaN}', "broken"]
    source.write_text("\n".join(lines + [lines[0]]) + "\n")
    out = tmp_path / "out.jsonl"
    assert run(source, out) == 1
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(w["id"], w["score"]) for w in written] == [("a", 3.5), ("b", None)]
    error = capsys.readouterr().err.splitlines()
    found = {line.split(": ")[0].rsplit(":")[-1] for line in error[:3]}
    assert found == {"2", "3", "4"}
    assert "cannot hold the score's name utmos" in error[3]


def test_columns_and_formats_by_option(tmp_path):
    source = tmp_path / "votes"
    source.write_text("A,A-1.wav,4,j,L1\nA,A-1.wav,3,j,L2\nB,B-1.wav,1,j,L1\n")
    out = tmp_path / "sheet"
    columns = ["--system-column", 1, "--id-column", 2, "--score-column", 3]
    columns += ["--listener-column", 5]
    assert run(source, out, *columns, "--to", "sheet") == 0
    assert out.read_text().splitlines() == [
        "wav_path,score,system_id,sample_id,listener_id,4",
        *(",4.0,A,A-1.wav,L1,j", ",3.0,A,A-1.wav,L2,j", ",1.0,B,B-1.wav,L1,j"),
    ]
    assert run(out, out, "--from", "sheet", "--to", "voicemos") == 0  # in place
    assert out.read_text() == "A-1.wav,3.5\nB-1.wav,1.0\n"


def test_what_cannot_be_done_is_one_sentence(tmp_path, results, capsys):
    for arguments, name in (
        ([results, tmp_path / "out.xyz"], "out.xyz"),
        ([tmp_path / "none", tmp_path / "o.scp"], "none"),
        ([results, tmp_path / "o.scp", "--metric", "x"], "results.csv"),
        ([results, results / "o.scp"], "o.scp"),
        ([results, tmp_path / "o.scp", "--id-column", "x"], "results.csv"),
    ):
        assert run(*arguments) == 1
        captured = capsys.readouterr()
        assert name in captured.err and len(captured.err.splitlines()) == 1
        assert captured.out == ""
    assert [p.name for p in tmp_path.iterdir()] == ["results.csv"]
    with pytest.raises(SystemExit):
        run(results, tmp_path / "o.scp", "--to", "mosnet")


def test_torch_is_not_needed(tmp_path, results):
    code = (
        "import sys\nfrom espnet2_distilmos.bin.convert import main\n"
        f"code = main([{str(results)!r}, {str(tmp_path / 'o.txt')!r}])\n"
        "sys.exit(code + 2 * ('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
