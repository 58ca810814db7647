# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Recipe tencent on a fabricated TencentCorups."""

LISTS = {
    "withoutReverberationTrainDevMOS.csv": "withoutReverberationTrainDev/{:05d}",
    "withReverberationTrainDevMOS.csv": "withReverberationTrainDevMOS/{:04d}",
}


def fabricate(folder, tone):
    """Write both lists and the audio; return {utt_id: mos}."""
    truth = {}
    folder.mkdir()
    for name, pattern in LISTS.items():
        lines = ["deg_wav,mos"]
        for n in range(20):
            path = pattern.format(n)
            tone(folder / f"{path}.wav", hertz=100 + 10 * n + 5 * len(truth))
            truth[path.replace("/", "_")] = round(1 + 3.9 * n / 20, 9)
            lines.append(f"./{path}.wav,{truth[path.replace('/', '_')]}")
        # The owner's file ends in an empty line.
        (folder / name).write_text("\n".join(lines) + "\n\n")
    return truth


def test_both_lists_without_systems(recipes, tone, tmp_path):
    recipes.add("tencent")
    truth = fabricate(tmp_path / "TencentCorups", tone)
    options = ("local/data.sh", "--skip_bad", "true")
    result = recipes.run("tencent", *options, TENCENT=tmp_path)
    assert "train: the lists have 40 clips, expected the 11563" in result.stderr
    train = recipes.scores("tencent", "data/train")
    dev = recipes.scores("tencent", "data/dev")
    assert len(dev) == 4 and {**train, **dev} == truth
    folder = recipes.root / "egs2" / "tencent" / "mos1" / "data" / "train"
    assert not (folder / "utt2sys").exists() and not (folder / "utt2src").exists()
    domains = recipes.table("tencent", "data/train/utt2domain")
    assert set(domains.values()) == {"tencent", "tencent_reverberant"}
    assert all(("withRev" in u) == ("_" in d) for u, d in domains.items())


def test_a_list_that_is_missing(recipes, tone, tmp_path):
    recipes.add("tencent")
    fabricate(tmp_path / "TencentCorups", tone)
    name = "withReverberationTrainDevMOS.csv"
    (tmp_path / "TencentCorups" / name).unlink()
    result = recipes.run("tencent", "local/data.sh", code=1, TENCENT=tmp_path)
    assert f"{name} cannot be read" in result.stderr
