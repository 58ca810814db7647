# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Stage 1 of yourtts on a fabricated tree: both layouts, the faults, the folds."""

import re
import shutil
import statistics

import pytest

from ..conftest import load_script
from ..corpora import write_lines, write_tone

TABLES = ("metric.scp", "utt2domain", "utt2spk", "utt2src", "utt2sys")
FOLDS = ["sys0", "sys1", "sys2", "sysA", "sysB", "spk0", "spk1", "spk2", "spk3", "spk4"]
MLS = "Portuguese_MLS_SECS"
MLS_VOICES = "11995 12249 12287 12710 13069 3050 4367 5677 7925 9351".split()
prepare_data = load_script("yourtts/mos1/local/prepare_data.py")


def facts():
    """By the owner's path of every kind of clip: system, source, voice, input voice."""
    rows = {}

    def add(path, system, source, voice, spoke=""):
        rows[f"{path}.wav"] = (system, source, voice, spoke)

    for model in ("2/model", "2/model+SCL", "3/model", "3/model+SCL", "4/model+SCL"):
        for n, voice in enumerate(MLS_VOICES):
            stem = f"{voice}_{5 * n}"
            add(f"Exp.{model}/{MLS}/{stem}", f"Exp.{model}/{MLS}", stem, voice)
    for sex, folder in (("F", "F-1.5"), ("M", "M-1.5k")):
        stem, head = f"PT-{sex}.wav_3", "Exp.5/Portuguese"
        add(
            f"{head}/After-FT-1-min/{folder}/{stem}",
            f"Exp.5/After-FT-1-min/{sex}",
            stem,
            stem[:4],
        )
        add(
            f"{head}/Zero-shot-from-exp3/{stem}",
            "Exp.5/Zero-shot-from-exp3",
            stem,
            stem[:4],
        )
    for way, targets in (
        ("PT-PT", {"F": ("13069", "3050"), "M": ("4367", "9351")}),
        (
            "PT-EN",
            {
                "F": ("p225", "p261", "p294", "p335"),
                "M": ("p245", "p302", "p326", "p347"),
            },
        ),
    ):
        for a, spoke in (("F", "11995"), ("M", "12287")):
            for b in "FM":
                system = f"Exp.6/{way}/{a}-{b}"
                for voice in targets[b]:
                    stem = f"{spoke}_to_{voice}_sample_{voice}_166"
                    add(f"{system}/generated/{stem}", system, stem, voice, spoke)
    for voice in MLS_VOICES:
        stem = f"{voice}_10229_000002"
        add(f"GT/MLS-PT/{voice}/{stem}", "GT/MLS-PT", f"{voice}_{stem}", voice)
    for folder, sex in (("female-pt-4", "F"), ("male-pt-3", "M")):
        stem = f"PT-{sex}.wav_common_voice_pt_192"
        path = f"GT/Speaker_Adaptation/{folder}/wavs/{stem}"
        add(path, "GT/Speaker_Adaptation", f"{folder}_{stem}", f"PT-{sex}")
    return rows


PORTUGUESE = facts()
ENGLISH = {
    "Exp.1/model/English_VCTK_SECS/p225_0.wav": (
        *("Exp.1/model/English_VCTK_SECS", "p225_0", "p225"),
    ),
    "Exp.4/model+SCL/English_LibriTTS_SECS/1089_10.wav": (
        *("Exp.4/model+SCL/English_LibriTTS_SECS", "1089_10", "1089"),
    ),
    "GT/Libri-TTS/1089_m/1089_134686_1.wav": (
        *("GT/Libri-TTS", "1089_m_1089_134686_1", "1089"),
    ),
    "Exp.5/English/After-FT-1-min/M-1.5k/EN-M.wav_9.wav": (
        *("Exp.5/After-FT-1-min/M", "EN-M.wav_9", "EN-M"),
    ),
}


def id_of(path, language="pt"):
    stem = re.sub(r"\.wav$", "", path)
    return f"ytts{language}_" + stem.replace(".", "").replace("+", "p").replace(
        "/", "_"
    )


def votes_of(n):
    """Return the votes (listener, score) of the n-th clip."""
    return [(who, 1 + (n + who) % 5) for who in range(3570001, 3570003 + n % 3)]


def write_owners(folder, audio="gh-pages/audios_demo"):
    for language, clips in (("PT", PORTUGUESE), ("EN", ENGLISH)):
        rows = ["audio_path,score,evaluator_id"]
        for n, path in enumerate(clips):
            rows += [f"{path},{score}.0,{who}" for who, score in votes_of(n)]
            # The rated clips of Exp.4 are in a folder that the votes do not name.
            place = path.replace("Exp.4/model+SCL/", "Exp.4/model+SCL_MOS/")
            write_tone(folder / audio / place, 0.2, hertz=100 + n)
        write_lines(folder / f"metrics/MOS/{language}/naturalness-MOS.csv", rows)
    other = folder / audio / f"Exp.4/model+SCL/{MLS}/12287_10.wav"
    write_tone(other, 0.4)
    return folder


def write_extract(folder):
    ratings, votes = ["utt,wav,system,source,mos,std"], ["utt,listener,score"]
    for n, (path, (system, source, *_)) in enumerate(PORTUGUESE.items()):
        utt_id, given = id_of(path), votes_of(n)
        write_tone(folder / "flac" / f"{utt_id}.flac", 0.2, hertz=100 + n)
        mos = round(sum(score for _, score in given) / len(given), 4)
        ratings.append(f"{utt_id},flac/{utt_id}.flac,{system},{source},{mos},1")
        votes += [f"{utt_id},evaluator{who},{score}.0" for who, score in given]
    write_lines(folder / "ratings.csv", ratings)
    write_lines(folder / "votes.csv", votes)
    return folder


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Both layouts; not to be changed."""
    root = tmp_path_factory.mktemp("corpora")
    return write_owners(root / "YourTTS"), write_extract(root / "extract")


@pytest.fixture
def prepare(recipes):
    recipes.add("yourtts")

    def prepare(corpus, *options, code=0, script="local/data.sh"):
        options = options or ("--skip_bad", "true")
        return recipes.run("yourtts", script, *options, code=code, YOURTTS=corpus)

    return prepare


def test_both_layouts_give_the_owners_rows(recipes, prepare, corpora):
    owners, extract = corpora
    said = prepare(owners, "--out", "data", code=1).stderr
    votes = sum(len(votes_of(n)) for n in range(len(PORTUGUESE)))
    for words in (
        f"test: the lists have {len(PORTUGUESE)} clips with {votes} votes, expected "
        "the 530 that were published with 6604;",
        "test_en: the lists have 4 clips with 11 votes, expected the 1119 that were "
        "published with 22380;",
        "2 faults: the rest is in data",
    ):
        assert words in said
    for name, language, clips in (
        *(("test", "pt", PORTUGUESE), ("test_en", "en", ENGLISH)),
    ):
        scores = {
            id_of(path, language): statistics.mean(score for _, score in votes_of(n))
            for n, path in enumerate(clips)
        }
        found = recipes.scores("yourtts", f"data/{name}")
        assert found == {utt_id: pytest.approx(mos) for utt_id, mos in scores.items()}
        for place, file in enumerate(("utt2sys", "utt2src", "utt2spk")):
            assert recipes.table("yourtts", f"data/{name}/{file}") == {
                id_of(path, language): fact[place] for path, fact in clips.items()
            }
    wavs = recipes.table("yourtts", "data/test/wav.scp")
    path = f"Exp.4/model+SCL_MOS/{MLS}/12287_10.wav"
    expected = f"{owners}/gh-pages/audios_demo/{path}"
    assert wavs[id_of(path).replace("_MOS", "")] == expected
    sets = [f"{part}_{fold}" for fold in FOLDS for part in ("train", "dev", "test")]
    first = {
        (s, name): recipes.table("yourtts", f"data/{s}/{name}")
        for s in ("test", *sets)
        for name in (*TABLES, "votes.scp")
    }
    # An extract has the same labels, votes and folds, and no English.
    assert (
        "expected some of test, train_sys0"
        in prepare(extract, "--sets", "test_en", code=1).stderr
    )
    prepare(extract)
    for (s, name), table in first.items():
        assert recipes.table("yourtts", f"data/{s}/{name}") == table, (s, name)


def test_folds_hold_systems_and_voices_out(recipes, prepare, corpora):
    prepare(corpora[1])
    clips = {id_of(path): fact for path, fact in PORTUGUESE.items()}
    tested = {"sys": [], "spk": []}
    for fold in FOLDS:
        ids = {
            part: [*recipes.table("yourtts", f"data/{part}_{fold}/wav.scp")]
            for part in ("train", "dev", "test")
        }
        every = sum(ids.values(), [])
        assert len(set(every)) == len(every)
        seen = [clips[u] for u in (*ids["train"], *ids["dev"])]
        test = [clips[u] for u in ids["test"]]
        sources = [{clips[u][1] for u in ids[part]} for part in ("train", "dev")]
        assert not sources[0] & sources[1]
        assert len(ids["dev"]) == pytest.approx(0.1 * len(seen), abs=6)
        if fold.startswith("sys"):
            systems = {fact[0] for fact in test}
            assert len(systems) == 6 and not systems & {fact[0] for fact in seen}
            assert set(every) == set(clips)
        else:
            voices = {fact[2] for fact in test}
            assert len(voices) == 4
            # Neither heard nor, converted to another voice, speaking.
            assert not voices & {v for fact in seen for v in fact[2:]}
            assert all(clips[u][3] in voices for u in set(clips) - set(every))
        if fold[-1].isdigit():
            tested[fold[:3]] += ids["test"]
    assert sorted(tested["sys"]) == sorted(tested["spk"]) == sorted(clips)


def test_the_two_splits_of_the_readme():
    a, b = (set(prepare_data.SYSTEM_FOLDS[name]) for name in ("sysA", "sysB"))
    assert a | b < set(prepare_data.SYSTEMS) and len(a) == len(b) == 6 and not a & b


def test_every_fault_has_a_sentence_and_the_good_are_written(
    recipes, prepare, tmp_path
):
    owners = write_owners(tmp_path / "corpus", audio="audios_demo")
    path = owners / "metrics/MOS/PT/naturalness-MOS.csv"
    lines = path.read_text().splitlines()
    lines[1] = lines[1].replace("Exp.2/model/", "Exp.9/model/")  # a vote of an unknown
    lines[3] = lines[3].replace(",", ",7", 1)
    path.write_text("\n".join([*lines, "Exp.9/x.wav,3,1", "Exp.9/x.wav,3,2"]) + "\n")
    (owners / f"audios_demo/Exp.4/model+SCL_MOS/{MLS}/12287_10.wav").unlink()
    said = prepare(owners, "--sets", "test", "--skip_bad", "false", code=1).stderr
    faults = [line for line in said.splitlines() if "expected" in line]
    for words in (
        f"{path}:2: the clip ytt",
        "is of system 'Exp.9/model/Portuguese_MLS_SECS' and voice '11995'",
        f"{path}:4: clip ",
        "yttspt_Exp9_x is of system 'Exp.9' and voice 'x'",  # once
        "test: the audio of 1 of ",
        "test: the lists have ",
    ):
        assert sum(words in line for line in faults) == 1, (words, faults)
    assert len(faults) == 5
    assert len(recipes.table("yourtts", "data/test/metric.scp")) == len(PORTUGUESE) - 1


def test_what_is_no_corpus_is_said_in_a_sentence(prepare, corpora, tmp_path):
    (tmp_path / "empty").mkdir()
    shutil.copytree(corpora[0] / "metrics", tmp_path / "votes" / "metrics")
    for corpus, words in (
        ("", "YOURTTS of db.sh is empty"),
        (tmp_path / "empty", "has neither metrics/MOS nor ratings.csv"),
        (tmp_path / "votes", "has no gh-pages/audios_demo"),
    ):
        said = prepare(corpus, code=1).stderr
        assert words in said and len(said.splitlines()) == 1
    said = prepare("", "--fold", "sys3", code=1, script="./run.sh").stderr
    assert "--fold is 'sys3', expected sys0" in said and len(said.splitlines()) == 1


def test_an_extract_needs_sources_and_says_that_votes_are_missing(prepare, tmp_path):
    path = write_extract(tmp_path / "extract") / "ratings.csv"
    (path.parent / "votes.csv").unlink()
    said = prepare(path.parent, "--sets", "test", code=1).stderr
    assert "votes.csv is missing, expected the 6604 votes" in said
    rows = [line.split(",") for line in path.read_text().splitlines()]
    write_lines(path, [",".join(row[:3] + row[4:]) for row in rows])
    said = prepare(path.parent, code=1).stderr
    assert "expected also source;" in said and len(said.splitlines()) == 1


@pytest.mark.slow
def test_a_fold_up_to_the_filter(recipes, prepare, corpora):
    options = (
        "--fold",
        "spk1",
        "--stop_stage",
        4,
        "--nj",
        1,
        "--ood",
        "yourtts/test_en",
    )
    options += ("--local_data_opts", "--skip_bad true", "--skip_bad", "true")
    prepare(corpora[0], *options, script="./run.sh")
    raw = recipes.root / "egs2/yourtts/mos1/dump/spk1/raw"
    counts = {
        name: len((raw / name / "wav.scp").read_text().splitlines())
        for name in ("train_spk1", "dev_spk1", "test_spk1", "yourtts/test_en")
    }
    assert counts["yourtts/test_en"] == 4 and all(counts.values())
    votes = (raw / "train_spk1" / "votes.scp").read_text().splitlines()
    assert len(votes) == counts["train_spk1"]
