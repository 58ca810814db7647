# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Recipe vmc22_ood on a fabricated out-of-domain track: what differs from bvcc."""

import json

SETS = {"train": ("TRAINSET", 6), "val": ("DEVSET", 4), "test": ("TESTSET", 8)}


def fabricate(folder, tone):
    """Write DATA: ratings without .wav, and unlabelled clips; return the scores."""
    sets = folder / "DATA" / "sets"
    sets.mkdir(parents=True)
    truth = {}
    for name, (file, count) in SETS.items():
        lines, means = [], []
        for i in range(count):
            system, utt_id = f"sys{i % 3:05x}", f"sys{i % 3:05x}-utt{name}{i:04x}"
            scores = [1 + (i + n) % 5 for n in range(10 + i % 3)]  # 10 to 17 listeners
            for n, score in enumerate(scores):
                info = f"{{}}_na_L{n}_na_na_na_{('EE', 'EP', 'ER')[n % 3]}"
                lines.append(f"{system},{utt_id},{score},na,{info}")
            truth[utt_id] = sum(scores) / len(scores)
            means.append(f"{utt_id}.wav,{truth[utt_id]:.6f}")
            tone(folder / "DATA" / "wav" / f"{utt_id}.wav")
        (sets / file).write_text("\n".join(lines) + "\n")
        (sets / f"{name}_mos_list.txt").write_text("\n".join(means) + "\n")
    unlabelled = [f"sys0000f-uttu{i:04x}.wav" for i in range(5)]
    for wav in unlabelled:
        tone(folder / "DATA" / "wav" / wav)
    (sets / "unlabeled_mos_list.txt").write_text("\n".join(unlabelled) + "\n")
    (sets / "unlabeled_mos_list_LABELS.txt").write_text(
        "\n".join(f"{wav},3.0" for wav in unlabelled) + "\n"
    )
    return truth


def test_ratings_without_wav_and_unlabelled_clips(recipes, tone, tmp_path):
    recipes.add("bvcc")  # its parser is used
    recipes.add("vmc22_ood")
    truth = fabricate(tmp_path / "ood", tone)
    options = ("local/data.sh", "--skip_bad", "true")
    # DATA itself may be given too.
    for root in (tmp_path / "ood", tmp_path / "ood" / "DATA"):
        result = recipes.run("vmc22_ood", *options, VMC22_OOD=root)
        found = {}
        for name in ("train", "dev", "test"):
            found.update(recipes.scores("vmc22_ood", f"data/{name}"))
        assert found == truth
    assert "expected the 540 that were published" in result.stderr
    votes = recipes.table("vmc22_ood", "data/test/votes.scp")
    assert json.loads(votes["sys00000-utttest0000"])[:2] == [["L0", 1], ["L1", 2]]

    scores = recipes.scores("vmc22_ood", "data/train_unlabelled")
    assert [u for u, s in scores.items() if s is None] == [
        f"sys0000f-uttu{i:04x}" for i in range(5)
    ]
    labelled = {u: s for u, s in scores.items() if s is not None}
    assert labelled == recipes.scores("vmc22_ood", "data/train")
    domains = recipes.table("vmc22_ood", "data/test/utt2domain")
    assert set(domains.values()) == {"bc19"}


def test_audio_in_two_sets_is_refused(recipes, tone, tmp_path):
    recipes.add("bvcc")
    recipes.add("vmc22_ood")
    fabricate(tmp_path / "ood", tone)
    sets = tmp_path / "ood" / "DATA" / "sets"
    for name in ("TESTSET", "test_mos_list.txt"):
        lines = (sets / name.replace("TEST", "DEV").replace("test", "val")).read_text()
        with open(sets / name, "a") as file:
            file.write("".join(s for s in lines.splitlines(True) if "uttval0000" in s))
    result = recipes.run(
        "vmc22_ood", "local/data.sh", VMC22_OOD=tmp_path / "ood", code=1
    )
    assert "test: 1 clips have the audio of another clip" in result.stderr
    assert "sys00000-uttval0000 is sys00000-uttval0000 of dev" in result.stderr
    assert len(recipes.scores("vmc22_ood", "data/test")) == 8
