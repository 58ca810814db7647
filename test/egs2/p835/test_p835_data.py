# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Stage 1 of p835: both layouts, the faults, the folds, and speech besides."""

import csv
import json

import pytest

from ..conftest import load_script

TALKERS = ("f1", "f2", "f3", "m1", "m2", "m3")
TABLES = ("metric.scp", "spk2utt", "utt2spk", "utt2src", "utt2sys", "wav.scp")
prepare_data = load_script("p835/mos1/local/prepare_data.py")


def read(path):
    return dict(line.split(maxsplit=1) for line in path.read_text().splitlines())


def parts(utt_id):
    """Bandwidth, condition number and talker, from the name alone."""
    band, condition, talker = utt_id[len("p835") :].split("_")
    return band, int(condition[1:]), talker


@pytest.fixture
def prepare(recipes):
    folder = recipes.add("p835")

    def prepare(corpus, *options, code=0, **variables):
        variables["P835"] = corpus
        result = recipes.run("p835", "local/data.sh", *options, code=code, **variables)
        return folder / "data", result.stderr

    return prepare


def test_both_layouts_give_the_owners_rows(prepare, corpora):
    data, _ = prepare(corpora["extract"])
    found = {name: read(data / "p835" / name) for name in TABLES}
    with open(corpora["extract"] / "ratings.csv", newline="") as file:
        rows = {row["utt"]: row for row in csv.DictReader(file)}
    assert len(rows) == 156
    for name in set(TABLES) - {"spk2utt"}:
        assert list(found[name]) == sorted(rows)
    for utt_id, row in rows.items():
        assert json.loads(found["metric.scp"][utt_id]) == {"mos": float(row["mos"])}
        assert found["utt2sys"][utt_id] == row["system"]
        assert found["wav.scp"][utt_id] == f"{corpora['extract']}/{row['wav']}"
        assert found["utt2src"][utt_id] == found["utt2spk"][utt_id] == row["talker"]
    # The toolkit's checkout, and the folder in it.
    for corpus in (corpora["P.808"], corpora["P.808"] / "p835_reference_conditions"):
        prepare(corpus)
        wavs = read(data / "p835" / "wav.scp")
        assert wavs["p835fb_c3_m1"].endswith("/degraded_fullband_48KHz/c3_m1.wav")
        assert wavs["p835wb_c3_m1"].endswith("/degraded_WB_16KHz/c3_m1.wav")
        for name in set(TABLES) - {"wav.scp"}:
            assert read(data / "p835" / name) == found[name]


def test_folds_hold_talkers_and_conditions_out(prepare, corpora):
    data, _ = prepare(corpora["extract"])
    everyone = sorted(read(data / "p835" / "wav.scp"))
    tested = {"talkers": [], "conditions": []}
    validated = []
    for fold in (path.name[5:] for path in data.glob("test_*")):
        ids = {
            n: [*read(data / f"{n}_{fold}/wav.scp")] for n in ("train", "dev", "test")
        }
        talkers = {n: {parts(u)[2] for u in utts} for n, utts in ids.items()}
        assert talkers["test"] == {fold[:2]}
        assert (len(talkers["dev"]), len(talkers["train"])) == (1, 4)
        assert set.union(*talkers.values()) == set(TALKERS)
        conditions = {n: {parts(u)[1] for u in utts} for n, utts in ids.items()}
        assert conditions["train"] == conditions["dev"]
        if "_g" in fold:
            tested["conditions"] += ids["test"]
            # Whatever its bandwidth, a tested condition is nowhere else.
            assert not conditions["test"] & conditions["train"]
            assert conditions["test"] | conditions["train"] == set(range(13))
            assert len(ids["test"]) == 2 * len(conditions["test"])
        else:
            tested["talkers"] += ids["test"]
            validated += talkers["dev"]
            assert [len(utts) for utts in ids.values()] == [104, 26, 26]
    assert sorted(tested["talkers"]) == sorted(tested["conditions"]) == everyone
    assert sorted(validated) == sorted(TALKERS)


def test_every_fault_has_a_sentence_and_the_good_are_written(prepare, own_corpora):
    folder = own_corpora["extract"]
    (folder / "flac" / "p835fb_c1_f2.flac").unlink()
    path = folder / "ratings.csv"
    with open(path, newline="") as file:
        columns, *rows = csv.reader(file)
    by_name = {row[0]: row for row in rows}
    by_name["p835fb_c2_m1"][3] = "6.5"
    by_name["p835fb_c3_m1"][3] = "good"
    by_name["p835wb_c4_m1"][2] = "wb_c77"
    rows = [row for row in rows if row[-1] != "m3"] + [by_name["p835fb_c0_f1"]]
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    data, said = prepare(folder, code=1)
    faults = [line for line in said.splitlines() if "expected" in line]
    for words in (
        "p835fb_c2_m1 has the score '6.5', expected a number from 1 to 5",
        "p835fb_c3_m1 has the score 'good'",
        "p835wb_c4_m1 is of condition 'wb_c77' and talker 'm1'",
        "ratings.csv:132: clip p835fb_c0_f1 has a second row",
        "the lists have 127 clips, expected the 156 that were published",
        "the audio of 1 of 127 clips is missing",
    ):
        assert sum(words in line for line in faults) == 1, words
    assert len(read(data / "p835" / "metric.scp")) == 126
    assert len(read(data / "test_f2" / "metric.scp")) == 25


def test_what_is_no_corpus_is_said_in_a_sentence(prepare, own_corpora, tmp_path):
    (tmp_path / "empty").mkdir()
    workbook = own_corpora["P.808"] / "p835_reference_conditions"
    workbook /= "CSP835_Ref_Conditions.xlsx"
    workbook.write_bytes(workbook.read_bytes()[:1000])
    for corpus, words in (
        ("", "P835 of db.sh is empty"),
        (tmp_path / "empty", "has neither CSP835_Ref_Conditions.xlsx nor ratings.csv"),
        (own_corpora["P.808"], f"{workbook} cannot be read (File is not a zip file)"),
    ):
        _, said = prepare(corpus, code=1)
        assert words in said and len(said.splitlines()) == 1


def test_a_workbook_without_the_tables(corpora):
    folder = corpora["P.808"] / "p835_reference_conditions"
    with pytest.raises(ValueError, match="has not the tables none .*'none'"):
        path = str(folder / "CSP835_Ref_Conditions.xlsx")
        prepare_data.read_workbook(path, ["none"])


def test_speech_is_drawn_from_all_folders(prepare, corpora, tmp_path):
    paths = [f"reader_{i % 5}/{i:02d}.{'opus' if i % 2 else 'wav'}" for i in range(40)]
    speech = tmp_path / "speech"
    for path in (*paths, "manifest.csv", "reader_0/text.txt"):
        (speech / path).parent.mkdir(parents=True, exist_ok=True)
        (speech / path).touch()
    data, _ = prepare(corpora["extract"], "--sets", "speech", SPEECH=speech)
    wavs = read(data / "speech" / "wav.scp")
    assert sorted(wavs.values()) == sorted(f"{speech}/{p}" for p in paths)
    assert wavs["reader_1_01"] == f"{speech}/reader_1/01.opus"

    def draw(count, **options):
        return {
            c.utt_id
            for c in prepare_data.draw_speech(str(speech), count, **options).clips()
        }

    some = draw(20)
    assert len(some) == 20 and some < set(wavs) and some == draw(20)
    assert some != draw(20, seed=1)
    assert len({utt_id.split("_")[1] for utt_id in some}) > 2
    with pytest.raises(ValueError, match="no audio was found, expected a folder"):
        prepare_data.draw_speech(str(tmp_path / "nowhere"), 400)
