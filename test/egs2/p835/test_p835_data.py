# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Stage 1 of p835: both layouts of both corpora, the faults, and the folds."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import load_script

ROOT = Path(__file__).resolve().parents[3]
RECIPE = ROOT / "egs2" / "p835" / "mos1"
TALKERS = ("f1", "f2", "f3", "m1", "m2", "m3")
TABLES = ("metric.scp", "spk2utt", "utt2spk", "utt2src", "utt2sys", "wav.scp")
prepare_data = load_script("p835/mos1/local/prepare_data.py")
corpus = load_script("p835/mos1/local/corpus.py")


def prepare(out, p835, bvrnn="", leave="talkers"):
    options = ["--p835", str(p835), "--bvrnn", str(bvrnn)]
    return prepare_data.main([*options, "--leave", leave, "--out", str(out)])


def read(path):
    return dict(line.split(maxsplit=1) for line in path.read_text().splitlines())


def parts(utt_id):
    """Bandwidth, condition number and talker, from the name alone."""
    band, condition, talker = utt_id[len("p835") :].split("_")
    return band, int(condition[1:]), talker


def test_an_extract_gives_its_rows(corpora, tmp_path):
    assert prepare(tmp_path, corpora["p835"], corpora["bvrnn"]) == 0
    for name, count, source in (("p835", 156, "talker"), ("bvrnn", 128, None)):
        tables = {table: read(tmp_path / name / table) for table in TABLES}
        with open(corpora[name] / "ratings.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == count
        utt_ids = sorted(row["utt"] for row in rows)
        for table in set(TABLES) - {"spk2utt"}:
            assert list(tables[table]) == utt_ids
        for row in rows:
            utt = row["utt"]
            assert json.loads(tables["metric.scp"][utt]) == {"mos": float(row["mos"])}
            assert tables["utt2sys"][utt] == row["system"].replace(" ", "_")
            assert Path(tables["wav.scp"][utt]) == corpora[name] / row["wav"]
            expected = row[source] if source else utt[len("bvrnn_") :][:7]
            assert tables["utt2src"][utt] == tables["utt2spk"][utt] == expected
        of_speaker = {s: u.split() for s, u in tables["spk2utt"].items()}
        assert sorted(sum(of_speaker.values(), [])) == utt_ids
    assert (tmp_path / "bvrnn" / "score_range").read_text() == "0 100\n"
    assert not (tmp_path / "p835" / "score_range").exists()


def test_the_owners_layouts_give_the_same(corpora, tmp_path):
    assert prepare(tmp_path / "a", corpora["p835"], corpora["bvrnn"]) == 0
    assert prepare(tmp_path / "b", corpora["P.808"], corpora["codec"]) == 0
    for name in ("p835", "bvrnn", "train_f2"):
        for table in set(TABLES) - {"wav.scp"}:
            text = (tmp_path / "b" / name / table).read_text()
            assert text == (tmp_path / "a" / name / table).read_text(), (name, table)
        for path in read(tmp_path / "b" / name / "wav.scp").values():
            assert os.path.isfile(path)
    wavs = read(tmp_path / "b" / "p835" / "wav.scp")
    assert wavs["p835fb_c3_m1"].endswith("/degraded_fullband_48KHz/c3_m1.wav")
    assert wavs["p835wb_c3_m1"].endswith("/degraded_WB_16KHz/c3_m1.wav")
    wavs = read(tmp_path / "b" / "bvrnn" / "wav.scp")
    assert wavs["bvrnn_stim_03_lyra_6"].endswith("/audio/stim_03/lyra_6.wav")
    # The inner folders will do too.
    inner = corpora["P.808"] / "p835_reference_conditions"
    assert corpus.read_p835(str(inner)) == corpus.read_p835(str(corpora["P.808"]))


def test_folds_hold_every_talker_out_once(corpora, tmp_path):
    assert prepare(tmp_path, corpora["p835"]) == 0
    assert not (tmp_path / "bvrnn").exists()
    tested, validated = [], []
    for talker in TALKERS:
        sets = {
            name: list(read(tmp_path / f"{name}_{talker}" / "wav.scp"))
            for name in ("train", "dev", "test")
        }
        talkers = {name: {parts(u)[2] for u in utts} for name, utts in sets.items()}
        assert talkers["test"] == {talker}
        assert len(talkers["dev"]) == 1 and len(talkers["train"]) == 4
        assert talkers["test"] | talkers["dev"] | talkers["train"] == set(TALKERS)
        assert [len(sets[n]) for n in ("train", "dev", "test")] == [104, 26, 26]
        tested += sets["test"]
        validated += talkers["dev"]
    assert sorted(tested) == sorted(read(tmp_path / "p835" / "wav.scp"))
    assert sorted(validated) == sorted(TALKERS)


def test_folds_hold_conditions_out_too(corpora, tmp_path):
    assert prepare(tmp_path, corpora["p835"], leave="conditions") == 0
    tested = []
    for talker in TALKERS:
        groups = set()
        for group in range(3):
            fold = f"{talker}_g{group}"
            train, dev, test = (
                {parts(u) for u in read(tmp_path / f"{name}_{fold}" / "wav.scp")}
                for name in ("train", "dev", "test")
            )
            assert {t for _, _, t in test} == {talker}
            assert len({t for _, _, t in train}) == 4
            assert not {t for _, _, t in train | test} & {t for _, _, t in dev}
            assert talker not in {t for _, _, t in train | dev}
            # Whatever its bandwidth, a tested condition is nowhere else.
            held_out = {c for _, c, _ in test}
            assert not held_out & {c for _, c, _ in train | dev}
            assert {c for _, c, _ in train} == {c for _, c, _ in dev}
            assert held_out | {c for _, c, _ in train} == set(range(13))
            assert len(test) == 2 * len(held_out)
            groups |= held_out
            tested += test
        assert groups == set(range(13))
    assert len(tested) == len(set(tested)) == 156


def edit_csv(path, edit):
    with open(path, newline="") as file:
        columns, *rows = csv.reader(file)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, *edit(rows)])


def test_every_fault_has_a_sentence_and_the_good_are_written(
    own_corpora, tmp_path, capsys
):
    folder = own_corpora["p835"]
    (folder / "flac" / "p835fb_c1_f2.flac").unlink()

    def edit(rows):
        by_name = {row[0]: row for row in rows}
        by_name["p835fb_c2_m1"][3] = "6.5"
        by_name["p835fb_c3_m1"][3] = "good"
        by_name["p835wb_c4_m1"][2] = "wb_c77"
        rows = [row for row in rows if row[-1] != "m3" and row[0] != "p835wb_c0_f1"]
        return [*rows, by_name["p835fb_c0_f1"]]

    edit_csv(folder / "ratings.csv", edit)
    assert prepare(tmp_path / "data", folder) == 1
    lines = capsys.readouterr().err.splitlines()
    said = [line for line in lines if line.startswith("prepare_data: ")]
    for words in (
        "p835fb_c1_f2.flac, does not exist",
        "p835fb_c2_m1 has the score '6.5', expected a number from 1 to 5",
        "p835fb_c3_m1 has the score 'good'",
        "p835wb_c4_m1 is of condition 'wb_c77' and talker 'm1'",
        "ratings.csv:131: the clip p835fb_c0_f1 occurs a second time",
        "no rating for 1 of the 26 conditions of talker f1 (the first is wb_c0)",
        "no rating for 26 of the 26 conditions of talker m3 (the first is fb_c0)",
        "no rating for 1 of the 26 conditions of talker m1 (the first is wb_c4)",
        "8 faults",
    ):
        assert sum(words in line for line in said) == 1, words
    assert len(said) == 9
    written = read(tmp_path / "data" / "p835" / "metric.scp")
    assert len(written) == 156 - 26 - 1 - 4
    assert len(read(tmp_path / "data" / "test_f1" / "metric.scp")) == 25


def test_faults_of_bvrnn(own_corpora, tmp_path, capsys):
    folder = own_corpora["codec"] / "mushra_results_dataset"

    def edit(rows):
        rows[0][2] = "[]"
        rows[1][2] = "[1.0, 300.0]"
        rows[2][4] = "stim_01/none.wav"
        return rows[:-9]

    edit_csv(folder / "ratings_formated_filtered.csv", edit)
    assert prepare(tmp_path / "data", own_corpora["p835"], own_corpora["codec"]) == 1
    said = capsys.readouterr().err
    assert "bvrnn_stim_01_prop_13 has the score '[]'" in said
    assert "bvrnn_stim_01_prop_13_16k has the score 150.5, expected a number" in said
    assert "audio/stim_01/none.wav, does not exist" in said
    assert "no rating for 8 of the 8 codecs of source stim_16" in said
    assert "4 faults" in said
    assert len(read(tmp_path / "data" / "bvrnn" / "wav.scp")) == 128 - 8 - 3


def test_what_is_no_corpus_is_said_in_a_sentence(own_corpora, tmp_path, capsys):
    assert prepare(tmp_path / "data", tmp_path) == 1
    said = capsys.readouterr().err
    assert f"{tmp_path} has neither CSP835_Ref_Conditions.xlsx nor ratings.csv" in said

    ratings = own_corpora["p835"] / "ratings.csv"
    ratings.write_text(ratings.read_text().replace("utt,wav,system,mos", "a,b,c,d", 1))
    assert prepare(tmp_path / "data", own_corpora["p835"]) == 1
    assert "expected also utt,wav,system,mos" in capsys.readouterr().err

    folder = own_corpora["P.808"] / "p835_reference_conditions"
    workbook = folder / "CSP835_Ref_Conditions.xlsx"
    workbook.write_bytes(workbook.read_bytes()[:1000])
    assert prepare(tmp_path / "data", own_corpora["P.808"]) == 1
    said = capsys.readouterr().err
    assert f"{workbook} cannot be read (File is not a zip file)" in said
    assert "Traceback" not in said


def data_sh(tmp_path, p835, bvrnn, speech=""):
    names = {"P835": str(p835), "BVRNN": str(bvrnn), "PYTHONPATH": str(ROOT)}
    names["SPEECH"] = str(speech)
    return subprocess.run(
        ["local/data.sh", "--out", str(tmp_path / "data"), "--python", sys.executable],
        cwd=RECIPE,
        env={**os.environ, **names},
        capture_output=True,
        text=True,
    )


def test_data_sh_takes_both_places_and_says_where_to_download(corpora, tmp_path):
    refused = data_sh(tmp_path, "", "")
    assert refused.returncode == 1 and not (tmp_path / "data").exists()
    assert "github.com/microsoft/P.808" in refused.stderr
    assert "set P835=" in refused.stderr

    done = data_sh(tmp_path, corpora["p835"], "")
    assert done.returncode == 0, done.stderr
    assert "github.com/BenjSta/bernoulli-var-speech-codec" in done.stderr
    assert "set BVRNN=" in done.stderr
    assert (tmp_path / "data" / "train_m3").exists()
    assert not (tmp_path / "data" / "bvrnn").exists()

    done = data_sh(tmp_path, corpora["p835"], corpora["bvrnn"])
    assert done.returncode == 0 and "set BVRNN=" not in done.stderr
    assert len(read(tmp_path / "data" / "bvrnn" / "wav.scp")) == 128
    assert not (tmp_path / "data" / "speech").exists()

    done = data_sh(tmp_path, corpora["p835"], "", corpora["bvrnn"])
    assert done.returncode == 0, done.stderr
    tables = [read(tmp_path / "data/speech" / name) for name in ("wav.scp", "utt2spk")]
    assert len(tables[0]) == 128 and list(tables[0]) == list(tables[1])


def test_speech_is_drawn_from_all_folders(tmp_path):
    paths = [f"reader {i % 5}/{i:02d}.{'opus' if i % 2 else 'wav'}" for i in range(40)]
    for path in (*paths, "manifest.csv", "reader 0/text.txt"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    everything = corpus.draw_speech(str(tmp_path), 400)
    assert sorted(everything.values()) == sorted(f"{tmp_path}/{p}" for p in paths)
    assert everything["reader_1_01"] == f"{tmp_path}/reader 1/01.opus"
    some = corpus.draw_speech(str(tmp_path), 20)
    assert len(some) == 20 and some.items() < everything.items()
    assert some == corpus.draw_speech(str(tmp_path), 20)
    assert some != corpus.draw_speech(str(tmp_path), 20, seed=1)
    assert len({utt_id.split("_")[1] for utt_id in some}) > 2

    (tmp_path / "reader_0").mkdir()
    (tmp_path / "reader_0" / "00.wav").touch()
    with pytest.raises(ValueError, match="would both be reader_0_00, expected one"):
        corpus.draw_speech(str(tmp_path), 400)
    with pytest.raises(ValueError, match="no audio was found, expected a folder"):
        corpus.draw_speech(str(tmp_path / "nowhere"), 400)
