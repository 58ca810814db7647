# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Stage 1 of the recipes on corpora that others own: what they share, then oddities."""

import json
import shutil
from pathlib import Path

import pytest
import soundfile

from . import corpora

# Recipe: clips that the owner published, by the set that counts them.
PUBLISHED = {
    "bvcc": {"train": 4974, "dev": 1066, "test": 1066},
    "vmc22_ood": {"train": 136, "dev": 136, "test": 540, "train_unlabelled": 676},
    "somos": {
        f"{name}{ending}": count
        for ending in ("", "_full")
        for name, count in (("train", 14100), ("dev", 3000), ("test", 3000))
    },
    "nisqa": {
        **{"train": 11020, "dev": 2700, "test_for": 240},
        **{"test_p501": 240, "test_livetalk": 232},
    },
    "pstn": {"train": 58709},
    "tencent": {"train": 11563},
    "singmos": {"train": 2000, "dev": 544, "test": 645},
    "tmhint_qi": {"train": 12937, "test": 1978},
    "urgent24": {"test": 6900},
    "bvrnn": {"test": 128},
    "vocal_separation": {"test": 112},
    "vmc23": {"track1a": 882, "track1b": 578, "track2": 4040, "track3": 1960},
    "bc23": {"track1a": 882, "track1b": 578},
    "svcc23": {"track2": 4040},
}
# Recipes whose parser is another's.
PARSER_OF = {"vmc22_ood": "bvcc", "bc23": "vmc23", "svcc23": "vmc23"}
# An owner's layout that differs: where the corpus lies, and how it is written.
LAYOUTS = [
    *((recipe, "", {}) for recipe in PUBLISHED),
    ("somos", "", {"nested": True}),
    ("nisqa", "NISQA_Corpus", {}),
    ("tencent", "TencentCorups", {}),
    ("singmos", "DATA", {"prefix": "", "ending": ".wav"}),
    ("tmhint_qi", "TMHINTQI", {"subjects": False}),
    ("vmc23", "", {"answers": ""}),
    ("vmc23", "", {"answers": "{}"}),
    ("bc23", "", {"place": "wavs"}),
]


@pytest.fixture
def prepare(recipes, tmp_path):
    """Return a function that runs stage 1 of a recipe on ``tmp_path/corpus``."""

    def prepare(recipe, *options, code=0, **variables):
        for name in (recipe, PARSER_OF.get(recipe, recipe)):
            if not (recipes.root / "egs2" / name).exists():
                recipes.add(name)
        variables.setdefault(recipe.upper(), tmp_path / "corpus")
        options = options or ("--skip_bad", "true")
        return recipes.run(recipe, "local/data.sh", *options, code=code, **variables)

    return prepare


def read_sets(recipes, recipe):
    """Read all data directories as ``corpora`` describes them, and the audio."""
    data = recipes.root / "egs2" / recipe / "mos1" / "data"
    sets = {}
    for folder in sorted(path.parent for path in data.glob("*/wav.scp")):
        tables = {
            path.name: recipes.table(recipe, f"data/{folder.name}/{path.name}")
            for path in folder.iterdir()
            if path.name not in ("score_range", "missing_audio.txt")
        }
        scores = recipes.scores(recipe, f"data/{folder.name}")
        ids = list(tables["wav.scp"])
        assert ids == sorted(ids, key=lambda i: i.encode())
        for name, table in tables.items():
            if name not in ("spk2utt", "votes.scp"):
                assert list(table) == ids, name
        assert all(Path(path).is_file() for path in tables["wav.scp"].values())
        sets[folder.name] = {
            utt_id: corpora.Clip(
                scores[utt_id],
                *(
                    tables.get(name, {}).get(utt_id, "")
                    for name in ("utt2sys", "utt2src", "utt2domain")
                ),
                votes=(
                    tuple(sorted(map(tuple, json.loads(tables["votes.scp"][utt_id]))))
                    if utt_id in tables.get("votes.scp", ())
                    else None
                ),
            )
            for utt_id in ids
        }
    return sets


def assert_equal(found, truth):
    """Compare the sets; where ``dev`` was held out of ``train``, by whole sources."""
    if "train+dev" in truth:
        train, dev = found.pop("train"), found.pop("dev")
        assert len(dev) == pytest.approx(len({**train, **dev}) / 10, abs=3)
        sources = [{c.source for c in clips.values()} - {""} for clips in (train, dev)]
        assert not sources[0] & sources[1]
        found["train+dev"] = {**train, **dev}
    assert set(found) == set(truth)
    for name, clips in truth.items():
        assert set(found[name]) == set(clips), name
        for utt_id, clip in clips.items():
            other = found[name][utt_id]
            votes = clip.votes and tuple(sorted(clip.votes))
            source = clip.source or other.source  # not every owner states one
            assert other == clip._replace(
                votes=votes, source=source, score=pytest.approx(clip.score)
            ), utt_id


@pytest.mark.parametrize("recipe, inner, options", LAYOUTS)
def test_every_row_gets_to_its_data_directory(
    recipes, prepare, tmp_path, recipe, inner, options
):
    truth = getattr(corpora, recipe)(tmp_path / "corpus" / inner, **options)
    # The counts are not the published ones; what is there is written all the same.
    result = prepare(recipe, "--out", "data", code=1)
    faults = [line for line in result.stderr.splitlines() if "published" in line]
    assert len(faults) == len(PUBLISHED[recipe])
    for (name, count), fault in zip(PUBLISHED[recipe].items(), faults):
        assert fault.startswith(f"{name}: the lists have ")
        assert f"expected the {count} that were published" in fault
    assert f"{len(faults)} faults: the rest is in data" in result.stderr
    assert_equal(read_sets(recipes, recipe), truth)


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_missing_audio_is_named_and_left_out(recipes, prepare, tmp_path, recipe):
    truth = getattr(corpora, recipe)(tmp_path / "corpus")
    files = (tmp_path / "corpus").rglob("*.*")
    path = max(
        p for p in files if p.suffix in (".wav", ".flac") and "Int" not in p.name
    )
    path.unlink()
    said = prepare(recipe).stderr.splitlines()
    assert any(path.name in line and "expected" in line for line in said)
    found = read_sets(recipes, recipe)
    assert sum(map(len, found.values())) < sum(map(len, truth.values()))
    # No corpus at all.
    said = prepare(recipe, code=1, **{recipe.upper(): "/none"}).stderr
    assert "/none, which is no directory" in said and len(said.splitlines()) == 1


def test_all_missing_audio_is_listed(recipes, prepare, tmp_path):
    truth = corpora.bvcc(tmp_path / "corpus")["train"]
    wavs = [tmp_path / "corpus" / "DATA" / "wav" / f"{u}.wav" for u in sorted(truth)]
    for path in wavs[:12]:
        path.rename(path.with_suffix(".hidden"))
    assert "the audio of 12 of 30 clips is missing" in prepare("bvcc").stderr
    missing = recipes.root / "egs2/bvcc/mos1/data/train/missing_audio.txt"
    assert sorted(missing.read_text().split()) == [str(path) for path in wavs[:12]]
    assert len(read_sets(recipes, "bvcc")["train"]) == 18
    # Once it is there, nothing of the old run is left.
    for path in wavs[:12]:
        path.with_suffix(".hidden").rename(path)
    prepare("bvcc")
    assert len(read_sets(recipes, "bvcc")["train"]) == 30 and not missing.exists()


# Votes and means


def test_bad_votes_each_get_a_sentence(recipes, prepare, tmp_path):
    truth = corpora.bvcc(tmp_path / "corpus")["train"]
    path = tmp_path / "corpus" / "DATA" / "sets" / "TRAINSET"
    lines = path.read_text().split("\n")[:-2]
    first, second, third, fourth, fifth, *_ = sorted(truth)
    place = {u: [n for n, s in enumerate(lines) if f",{u}.wav," in s] for u in truth}
    changed = list(lines)
    n = min(place[first], key=lambda n: "L3_id" in lines[n])
    changed[n] = lines[n].replace("{}_", "", 1)
    m = place[second][0]
    changed[m] = ",".join([*lines[m].split(",")[:2], "6", *lines[m].split(",")[3:]])
    changed[place[third][0]] = ",".join(lines[place[third][0]].split(",")[:4])
    changed[place[fourth][7]] = lines[place[fourth][7]].replace("sys", "other", 1)
    changed.append(lines[place[fifth][0]])
    path.write_text("\n".join(changed) + "\n")
    said = prepare("bvcc").stderr
    for number, words in (
        (n + 1, "has the listener ''"),
        (m + 1, f"clip {second} has the score '6', expected a number"),
        (place[third][0] + 1, "has 4 fields, expected 5"),
        (len(lines) + 1, "is the same line as an earlier one"),
    ):
        assert f"{path}:{number}" in said and words in said
    assert f"clip {fourth} is of" in said
    # A vote is missing: the published mean is another.
    assert f"clip {first} has the published mean" in said and "but 7 votes" in said
    votes = recipes.table("bvcc", "data/train/votes.scp")
    bad = (first, second, third, fourth)
    assert {u: len(json.loads(v)) for u, v in votes.items()} == {
        u: 7 if u in bad else 8 for u in truth
    }


def test_a_release_with_means_only(recipes, prepare, tmp_path):
    truth = corpora.bvcc(tmp_path / "corpus")
    (tmp_path / "corpus" / "DATA" / "sets" / "TESTSET").unlink()
    prepare("bvcc")
    clips = {u: clip._replace(votes=None) for u, clip in truth["test"].items()}
    assert read_sets(recipes, "bvcc")["test"] == clips


def test_audio_in_two_sets_is_refused(recipes, prepare, tmp_path):
    truth = corpora.vmc22_ood(tmp_path / "corpus")
    utt_id = min(truth["dev"])
    sets = tmp_path / "corpus" / "DATA" / "sets"
    for dev, test in (
        ("DEVSET", "TESTSET"),
        ("val_mos_list.txt", "test_mos_list.txt"),
    ):
        lines = (sets / dev).read_text().splitlines()
        with open(sets / test, "a") as file:
            file.writelines(f"{line}\n" for line in lines if utt_id in line)
    result = prepare("vmc22_ood", "--out", "data", code=1)
    assert "test: 1 clips have the audio of another clip" in result.stderr
    assert f"{utt_id} is {utt_id} of dev" in result.stderr
    assert set(read_sets(recipes, "vmc22_ood")["test"]) == set(truth["test"])


def test_votes_of_track_2_of_2023(recipes, prepare, tmp_path):
    corpora.vmc23(tmp_path / "corpus")
    one, two = [name for name in corpora.VMC23_NAMES if "Track2" in name]
    answers = tmp_path / "corpus" / "answers"
    corpora.write_lines(answers / "track2_answer.txt", [f"{one},2.5", f"{two},4.5"])
    rows = ["sample_id,listener_name,score", f"{one},21eKjJ,2", f"{one},9a18Rd,3"]
    rows += [f"{two},21eKjJ,4", "VoiceMOS2023Track2-B01-SF1-X-1,z,1"]
    corpora.write_lines(answers / "listener_wise_answer.csv", rows)
    result = prepare("vmc23", "--skip_bad", "true", "--sets", "track2")
    votes = recipes.table("vmc23", "data/track2/votes.scp")
    assert json.loads(votes[one]) == [["21eKjJ", 2], ["9a18Rd", 3]]
    assert f"clip {two} has the published mean 4.5, but 1 votes" in result.stderr


# Lists that are missing or odd


@pytest.mark.parametrize(
    "recipe, path, words",
    [
        ("bvcc", "DATA/sets", "has no DATA/sets"),
        ("somos", "training_files/split1/clean", "split1/clean is not there"),
        ("nisqa", "NISQA_TRAIN_SIM/NISQA_TRAIN_SIM_file.csv", "expected the table"),
        ("tencent", "withReverberationTrainDevMOS.csv", "cannot be read"),
        ("singmos", "sets/eval_mos_list.txt", "eval_mos_list.txt cannot be read"),
        ("tmhint_qi", "train", "train is not there"),
        ("vmc23", "answers/track1_answer.txt", "has no track1_answer.txt"),
    ],
)
def test_a_list_that_is_missing(prepare, tmp_path, recipe, path, words):
    getattr(corpora, recipe)(tmp_path / "corpus")
    path = tmp_path / "corpus" / path
    path.rename(tmp_path / "elsewhere")
    assert words in prepare(recipe, "--out", "data", code=1).stderr


def edit(path, changes):
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)


@pytest.mark.parametrize(
    "recipe, path, changes, words",
    [
        (
            "somos",
            "training_files/split1/clean/TESTSET",
            [("\n000,", "\n001,")],
            "does not end in its systemId '001'",
        ),
        (
            "nisqa",
            "NISQA_TEST_P501/NISQA_TEST_P501_file.csv",
            [(",10,1,", ",,1,")],
            "has the system ''",
        ),
        (
            "pstn",
            "pstn_train.csv",
            [(",1.0,", ",0.9,")],
            "pstn_train.csv:2: clip pstn_00000000_clean has the score '0.9'",
        ),
        (
            "urgent24",
            "metadata.csv",
            [('"[', '"')],
            "clip noisy-fileid_3 has the score",
        ),
        (
            "bvrnn",
            "ratings_formated_filtered.csv",
            [("[2, 3, 5, 8]", "[2, 3, 5]")],
            "expected two lists of the same length",
        ),
        (
            "bvrnn",
            "ratings_formated_filtered.csv",
            [("[20.0", "[101.0")],
            "has the score 101.0, expected a number from 0 to 100",
        ),
        (
            "vmc23",
            "answers/track3_answer.txt",
            [("clean_TMHINT_", "clean_")],
            "is no name of a clip",
        ),
    ],
)
def test_an_odd_row_is_named_and_left_out(
    recipes, prepare, tmp_path, recipe, path, changes, words
):
    truth = getattr(corpora, recipe)(tmp_path / "corpus")
    edit(tmp_path / "corpus" / path, changes)
    assert words in prepare(recipe).stderr

    def num_rows(sets):
        clips = [clip for clips in sets.values() for clip in clips.values()]
        return sum(len(clip.votes or "1") for clip in clips)

    # A vote or a clip less.
    lost = num_rows(truth) - num_rows(read_sets(recipes, recipe))
    assert 1 <= lost <= 4


def test_numbers_and_byte_order_marks_of_spreadsheets(recipes, prepare, tmp_path):
    truth = corpora.nisqa(tmp_path / "corpus")["test_p501"]
    path = tmp_path / "corpus" / "NISQA_TEST_P501" / "NISQA_TEST_P501_file.csv"
    text = path.read_text().replace(",10,", ",10.0,").replace(",33,", ",33.0,")
    path.write_text("\ufeff" + text, "utf-8")
    prepare("nisqa", "--skip_bad", "true", "--sets", "test_p501")
    assert read_sets(recipes, "nisqa") == {"test_p501": truth}


def test_an_extract_of_bvrnn(recipes, prepare, tmp_path):
    lines = ["utt,wav,system,mos,n_votes,votes"]
    for n in range(3):
        utt_id = f"bvrnn_stim_{n + 1:02d}_lyra_6"
        corpora.write_tone(tmp_path / "corpus" / "flac" / f"{utt_id}.flac")
        lines.append(f"{utt_id},flac/{utt_id}.flac,Lyra 6,{20.5 + n},2,20.0 21.0")
    corpora.write_lines(tmp_path / "corpus" / "ratings.csv", lines)
    prepare("bvrnn")
    clips = read_sets(recipes, "bvrnn")["test"].values()
    assert [(c.score, c.source) for c in clips] == [
        *((20.5, "stim_01"), (21.5, "stim_02"), (22.5, "stim_03"))
    ]
    data = recipes.root / "egs2" / "bvrnn" / "mos1" / "data" / "test"
    assert (data / "score_range").read_text() == "0 100\n"


def test_an_extract_of_vocal_separation(recipes, prepare, tmp_path):
    rows, votes = ["utt,wav,system,source,mos"], ["utt,listener,score"]
    for n, song in enumerate(("vocals-10-SIR", "vocals-47-SAR", "")):
        utt_id = f"voc_{n}_HUA"
        corpora.write_tone(
            tmp_path / "corpus" / "flac" / f"{utt_id}.flac", hertz=99 + n
        )
        rows.append(f"{utt_id},flac/{utt_id}.flac,HUA,{song},{20 + n}")
        votes += [f"{utt_id},a,{19 + n}", f"{utt_id},b,{21 + n}"]
    corpora.write_lines(tmp_path / "corpus" / "ratings.csv", rows)
    corpora.write_lines(tmp_path / "corpus" / "votes.csv", votes)
    said = prepare("vocal_separation", "--skip_bad", "true").stderr
    clips = read_sets(recipes, "vocal_separation")["test"].values()
    found = [(c.score, c.source, len(c.votes)) for c in clips]
    assert found == [(20, "vocals-10-SIR", 2), (21, "vocals-47-SAR", 2)]
    assert "ratings.csv:4: the clip voc_2_HUA has no source, expected" in said
    # Votes that were lost are said; songs are needed.
    (tmp_path / "corpus" / "votes.csv").unlink()
    options = ("--skip_bad", "false")
    said = prepare("vocal_separation", *options, code=1).stderr
    assert "votes.csv is missing, expected the 2520 votes" in said
    lines = [",".join(row.split(",")[:3] + row.split(",")[4:]) for row in rows]
    corpora.write_lines(tmp_path / "corpus" / "ratings.csv", lines)
    said = prepare("vocal_separation", "--skip_bad", "true", code=1).stderr
    assert "expected also source;" in said and len(said.splitlines()) == 1


def test_mixtures_are_kept_by_an_option(recipes, prepare, tmp_path):
    truth = corpora.vocal_separation(tmp_path / "corpus", keep_mixture=True)
    options = ("--skip_bad", "true", "--prepare_opts", "--keep_mixture=true")
    said = prepare("vocal_separation", *options).stderr
    found = "the lists have 8 clips with 20 votes, expected the 128 that were published"
    assert f"{found} with 2880;" in said
    assert_equal(read_sets(recipes, "vocal_separation"), truth)
    # As the recipe is run; an option of local/data.sh does not take its place.
    options = ("--keep_mixture", "true", "--local_data_opts", "--skip_bad true")
    recipe = recipes.root / "egs2/vocal_separation/mos1"
    shutil.rmtree(recipe / "data")
    variables = {"VOCAL_SEPARATION": tmp_path / "corpus"}
    options += ("--stop_stage", 4, "--nj", 1)
    recipes.run("vocal_separation", "./run.sh", *options, **variables)
    assert_equal(read_sets(recipes, "vocal_separation"), truth)
    assert (recipe / "dump/raw/test/score_range").read_text() == "0 100\n"


# Downloads, without a network


@pytest.mark.parametrize("recipe", ["somos", "pstn"])
def test_the_download_is_unpacked_once(recipes, prepare, tmp_path, recipe):
    """With an archive in place, as download.sh leaves it."""
    downloads = recipes.add(recipe) / "downloads"
    downloads.mkdir()
    folder = tmp_path / "owner" / ("pstn_train" if recipe == "pstn" else "somos")
    truth = getattr(corpora, recipe)(folder)
    if recipe == "pstn":
        shutil.make_archive(downloads / "train", "zip", folder.parent, "pstn_train")
    else:
        shutil.make_archive(folder / "audios", "zip", folder, "audios")
        shutil.rmtree(folder / "audios")
        shutil.make_archive(downloads / "somos", "zip", folder)
    variable = {recipe.upper(): "downloads"}
    options = ("--skip_bad", "true", "--download", "false")
    result = prepare(recipe, *options, code=1, **variable)
    assert "of db.sh is empty" in result.stderr
    for download in ("true", "false"):
        prepare(recipe, *options[:-1], download, **variable)
        assert_equal(read_sets(recipes, recipe), truth)
        assert not list(downloads.glob("*.zip"))


# What local/download.py of urgent24 uses of the package datasets.
DATASETS = """
import math

def load_dataset(name, split):
    assert (name, split) == ("urgent-challenge/urgent2024_mos", "test")
    for rate in (16000, 22050, 48000):
        wave = [0.1 * math.sin(t / 9) for t in range(rate // 5)]
        yield {
            "id": f"P{rate}-fileid_3",
            "audio": {"array": wave, "sampling_rate": rate},
            "sampling_rate": rate,
            "mos": 2.5,
            "raw_ratings": [2, 3],
        }
"""


def test_urgent24_is_downloaded_by_a_package(recipes, prepare, tmp_path):
    variables = {"PYTHONPATH": f"{tmp_path}:{recipes.repository}"}
    variables["URGENT24"] = "downloads"
    package = tmp_path / "datasets.py"
    for text, words in (
        ("raise ImportError('none')", 'install it with pip install "datasets<4"'),
        ("def load_dataset(*a, **k): raise OSError('no network')", "(no network)"),
    ):
        package.write_text(text + "\n")
        assert words in prepare("urgent24", code=1, **variables).stderr
    package.write_text(DATASETS)
    prepare("urgent24", **variables)
    package.unlink()  # once the audio is there it is not wanted
    prepare("urgent24", **variables)
    clips = read_sets(recipes, "urgent24")["test"]
    assert {clip.score for clip in clips.values()} == {2.5}
    for utt_id, path in recipes.table("urgent24", "data/test/wav.scp").items():
        info = soundfile.info(path)
        assert (
            info.samplerate == int(utt_id[1:6]) and info.frames == info.samplerate // 5
        )
