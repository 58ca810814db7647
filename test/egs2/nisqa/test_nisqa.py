# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Recipe nisqa on a fabricated NISQA_Corpus."""

import pytest
import soundfile

HEADER = (
    "db,con,file,con_description,filename_deg,filename_ref,source,lang,votes,mos,noi,"
    "col,dis,loud,noi_std,col_std,dis_std,loud_std,mos_std,filepath_deg,filepath_ref,"
    "filter"
)
# Database: files in the owner's naming, with condition and reference.
FILES = {
    "NISQA_TRAIN_SIM": [
        ("c03267_book_09653_chp_0007_reader_11917_36_seg.wav", 3267, "book_09653.wav"),
        ("c03268_som_08784_02134347412_seg.wav", 3268, "som_08784_02134347412.wav"),
    ],
    "NISQA_TRAIN_LIVE": [
        (
            "book_00162_chp_0028_reader_08756_4_seg_live_skype_12.wav",
            12,
            "book_00162.wav",
        )
    ],
    "NISQA_VAL_SIM": [("c2500_som_08784_seg.wav", 2500, "som_08784_seg.wav")],
    "NISQA_VAL_LIVE": [("book_03558_live_phone_204.wav", 204, "book_03558.wav")],
    "NISQA_TEST_FOR": [
        (f"c{c:05d}_for_cnv_{t}.wav", c, f"for_cnv_{t}.wav")
        for c in (1, 2)
        for t in ("f_0036_01", "m_0068_01")
    ],
    "NISQA_TEST_P501": [
        (f"c000{c}_P501_C_english_{t}_FB_48k.wav", c, f"P501_C_english_{t}.wav")
        for c in (10, 33)
        for t in ("f1", "m1")
    ],
    "NISQA_TEST_LIVETALK": [
        (f"c{c}_{t}.wav", c, "") for c in (16, 53) for t in ("f2", "m2")
    ],
}


def fabricate(folder, tone):
    """Write the databases; return {database: {file name without ending: mos}}."""
    truth = {}
    for database, files in FILES.items():
        rows, truth[database] = [HEADER], {}
        for n, (name, con, reference) in enumerate(files):
            tone(folder / database / "deg" / name, 0.2, 48000, 100 + 20 * n)
            mos = round(1 + 31 * (n + len(database)) % 40 / 10, 9)
            truth[database][name[:-4]] = mos
            # Some files of the owner have a description with a comma in quotes.
            rows.append(
                f'{database},{con},{n},"amrnb, 2 frames",{name},{reference},src,en,5,'
                f"{mos},3,3,3,3,1,1,1,1,0.7,{database}/deg/{name},,"
            )
        path = folder / database / f"{database}_file.csv"
        path.write_text("\n".join(rows) + "\n")
    return truth


@pytest.mark.parametrize("inner", ["", "NISQA_Corpus"])
def test_databases_become_sets(recipes, tone, tmp_path, inner):
    recipes.add("nisqa")
    truth = fabricate(tmp_path / "corpus" / inner, tone)
    options = ("local/data.sh", "--skip_bad", "true")
    result = recipes.run("nisqa", *options, NISQA=tmp_path / "corpus")
    for name, databases in (
        ("train", ("NISQA_TRAIN_SIM", "NISQA_TRAIN_LIVE")),
        ("dev", ("NISQA_VAL_SIM", "NISQA_VAL_LIVE")),
        ("test_for", ("NISQA_TEST_FOR",)),
        ("test_p501", ("NISQA_TEST_P501",)),
        ("test_livetalk", ("NISQA_TEST_LIVETALK",)),
    ):
        expected = {f"{d}_{u}": m for d in databases for u, m in truth[d].items()}
        assert recipes.scores("nisqa", f"data/{name}") == expected
        domains = recipes.table("nisqa", f"data/{name}/utt2domain")
        assert set(domains.values()) == set(databases)
    faults = [s for s in result.stderr.splitlines() if "expected" in s]
    assert [f.split(":")[0] for f in faults] == [
        *("train", "dev", "test_for", "test_p501", "test_livetalk")
    ]
    assert "expected the 11020 that were published" in faults[0]

    # A condition is one of its database, a reference is what the sentences share.
    systems = recipes.table("nisqa", "data/test_for/utt2sys")
    assert set(systems.values()) == {"NISQA_TEST_FOR_con1", "NISQA_TEST_FOR_con2"}
    sources = recipes.table("nisqa", "data/test_for/utt2src")
    assert sources["NISQA_TEST_FOR_c00002_for_cnv_f_0036_01"] == "for_cnv_f_0036_01"
    folder = recipes.root / "egs2" / "nisqa" / "mos1" / "data" / "test_livetalk"
    assert not (folder / "utt2src").exists()  # it has no references
    audio = recipes.table("nisqa", "data/test_livetalk/wav.scp").values()
    assert {soundfile.info(path).samplerate for path in audio} == {48000}


def test_a_test_set_alone_needs_no_other_database(recipes, tone, tmp_path):
    recipes.add("nisqa")
    fabricate(tmp_path, tone)
    for database in FILES:
        if database != "NISQA_TEST_FOR":
            (tmp_path / database / f"{database}_file.csv").unlink()
    options = ("local/data.sh", "--sets", "test_for")
    result = recipes.run("nisqa", *options, code=1, NISQA=tmp_path)
    faults = [s for s in result.stderr.splitlines() if "expected" in s]
    assert len(faults) == 1 and "expected the 240 that were published" in faults[0]
    result = recipes.run("nisqa", "local/data.sh", code=1, NISQA=tmp_path)
    assert "NISQA_TRAIN_SIM_file.csv is not there, expected the table" in result.stderr
    result = recipes.run(
        "nisqa", "local/data.sh", "--sets", "x y", code=1, NISQA=tmp_path
    )
    assert "--sets has x, y, expected some of train, dev, test_for" in result.stderr


def test_oddities(recipes, tone, tmp_path):
    recipes.add("nisqa")
    truth = fabricate(tmp_path, tone)["NISQA_TEST_P501"]
    path = tmp_path / "NISQA_TEST_P501" / "NISQA_TEST_P501_file.csv"
    header, first, second, third, fourth = path.read_text().splitlines()
    rows = [
        *(first.replace(",10,0,", ",10.0,0,"), second.replace(",10,1,", ",,1,")),
        *(third, third, fourth.replace(",en,5,", ",en,5,nan")),
    ]
    path.write_text("\n".join(["\ufeff" + header, *rows]) + "\n", "utf-8")
    audio = tmp_path / "NISQA_TEST_P501" / "deg" / f"{sorted(truth)[2]}.wav"
    audio.unlink()
    options = ("local/data.sh", "--sets", "test_p501", "--skip_bad", "true")
    result = recipes.run("nisqa", *options, NISQA=tmp_path)
    for sentence in (
        f"{path}:3: clip ",
        "has the system ''",
        f"{path}:5: clip NISQA_TEST_P501_{audio.stem} has a second row",
        "has the score 'nan",
        f"test_p501: the audio of 1 of 2 clips is missing in {audio.parent}",
    ):
        assert sentence in result.stderr
    systems = recipes.table("nisqa", "data/test_p501/utt2sys")
    assert list(systems.values()) == ["NISQA_TEST_P501_con10"]
