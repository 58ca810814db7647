# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Recipe pstn on a fabricated pstn_train, and its download."""

import shutil

HEADER = "filename,MOS,std,95%CI,votes"


def fabricate(folder, tone, count=20):
    """Write the table and the audio; return {utt_id: mos}."""
    truth, lines = {}, [HEADER]
    for n in range(count):
        name = f"{n:08d}_clean.wav"
        tone(folder / name, 0.2, 8000, 100 + 20 * n)
        truth[f"pstn_{n:08d}_clean"] = 1 + n / 5
        lines.append(f"{name},{1 + n / 5},0.5,0.4,5")
    (folder / "pstn_train.csv").write_text("\n".join(lines) + "\n")
    return truth


def test_the_download_is_unpacked_and_read(recipes, tone, tmp_path):
    """With a train.zip in place, as download.sh leaves it; no network."""
    recipe = recipes.add("pstn")
    truth = fabricate(tmp_path / "pstn_train", tone)
    (recipe / "downloads").mkdir()
    archive = recipe / "downloads" / "train"
    shutil.make_archive(archive, "zip", tmp_path, "pstn_train")
    options = ("local/data.sh", "--skip_bad", "true")
    result = recipes.run("pstn", *options)
    assert "train: the lists have 20 clips, expected the 58709" in result.stderr
    train, dev = (recipes.scores("pstn", f"data/{name}") for name in ("train", "dev"))
    assert len(dev) == 2 and {**train, **dev} == truth
    # The next run needs no archive, and --download false takes what is there.
    assert not (recipe / "downloads" / "train.zip").exists()
    recipes.run("pstn", *options, "--download", "false")
    assert recipes.scores("pstn", "data/dev") == dev


def test_nothing_is_downloaded_when_told_so(recipes):
    recipes.add("pstn")
    options = ("local/data.sh", "--download", "false")
    assert "PSTN of db.sh is empty" in recipes.run("pstn", *options, code=1).stderr


def test_oddities(recipes, tone, tmp_path):
    recipes.add("pstn")
    fabricate(tmp_path, tone, 5)
    path = tmp_path / "pstn_train.csv"
    lines = path.read_text().splitlines()
    lines[1] = lines[1].replace(",1.0,", ",0.9,")
    path.write_text("\n".join([*lines, lines[2], "x.wav,3"]) + "\n")
    (tmp_path / "00000004_clean.wav").unlink()
    options = ("local/data.sh", "--skip_bad", "true", "--sets", "train")
    result = recipes.run("pstn", *options, PSTN=tmp_path)
    for sentence in (
        f"{path}:2: clip pstn_00000000_clean has the score '0.9'",
        f"{path}:7: clip pstn_00000001_clean has a second row",
        f"{path}:8 has 2 fields, expected 5",
        "the audio of 1 of",
    ):
        assert sentence in result.stderr
    assert not (recipes.root / "egs2" / "pstn" / "mos1" / "data" / "dev").exists()
