# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The stages of mos.sh on a fabricated corpus of twelve utterances."""

import json
import os
import shutil
import signal
import subprocess
import time

import joblib
import numpy as np
import pytest
import soundfile
import torch
import yaml
from sklearn.cluster import MiniBatchKMeans

from espnet2_distilmos import MOSPredictor
from espnet2_distilmos.data.datadir import read_metric_scp
from espnet2_distilmos.mos.build import build_frontend

TOKENS = "dump/tokens/train_tiny_k4_lall"
EXP = "exp/mos_train_tiny_raw"
CALIBRATION = "dev_calibration"


# The stages that need no model: seconds


def test_stages_1_to_4(recipe):
    result = recipe.run("--stop_stage", 4)
    assert "train: 6 of 6 utterances kept" in result.stdout
    for name, folder in (("train", "org/train"), ("train", "train"), ("test", "test")):
        ids = [f"{name}{i}" for i in range(recipe.sets[name])]
        for file in ("wav.scp", "metric.scp", "utt2sys", "utt2num_samples", "spk2utt"):
            lines = recipe.lines(f"dump/raw/{folder}/{file}")
            assert [line.split()[0] for line in lines] == ids, (folder, file)
    wav = recipe.lines("dump/raw/test/wav.scp")[1].split()[1]
    written, rate = soundfile.read(recipe.dir / wav)
    source, _ = soundfile.read(recipe.dir / "source" / "test" / "audio" / "test1.wav")
    assert rate == 16000
    np.testing.assert_allclose(written, source, atol=1e-4)


def test_stage_4_filters_training_and_validation_only(recipe):
    recipe.run("--stop_stage", 3)
    recipe.run("--stage", 4, "--stop_stage", 4, "--max_wav_duration", 0.75)
    kept = [line.split()[0] for line in recipe.lines("dump/raw/train/wav.scp")]
    assert kept == ["train0", "train1", "train2"]  # 0.5, 0.6 and 0.7 s
    assert len(recipe.lines("dump/raw/train/metric.scp")) == 3
    assert len(recipe.lines("dump/raw/test/wav.scp")) == 3
    # Rerun alone, with the limits back.
    recipe.run("--stage", 4, "--stop_stage", 4)
    assert len(recipe.lines("dump/raw/train/wav.scp")) == 6
    options = ["--stage", 4, "--stop_stage", 4, "--max_wav_duration", 0.2]
    assert "no utterance of train lasts between" in recipe.run(*options, code=1).stderr


def test_stage_4_keeps_a_part_of_the_validation_set_back(recipe):
    """By source: dev0 and dev2 have one, and at 0.3 it calibrates."""
    recipe.write("dev", "utt2src", ["dev0 s5", "dev1 s1", "dev2 s5"])
    recipe.run("--stop_stage", 3)
    options = ["--stage", 4, "--stop_stage", 4]
    recipe.run(*options)
    whole = recipe.lines("dump/raw/dev/wav.scp")
    assert len(whole) == 3
    assert not (recipe.dir / "dump" / "raw" / "dev_calibration").exists()
    result = recipe.run(*options, "--calibration_share", 0.3)
    assert "dev_calibration: 2 utterances of dev will calibrate" in result.stdout
    for file in ("wav.scp", "metric.scp", "utt2sys", "utt2src", "utt2num_samples"):
        parts = [recipe.lines(f"dump/raw/{d}/{file}") for d in ("dev", CALIBRATION)]
        assert [[x.split()[0] for x in lines] for lines in parts] == (
            [["dev1"], ["dev0", "dev2"]]
        )
    parts = [recipe.lines(f"dump/raw/{d}/wav.scp") for d in ("dev", CALIBRATION)]
    assert sorted(parts[0] + parts[1]) == whole
    refused = recipe.run(*options, "--calibration_share", 0.0001, code=1)
    assert "change --calibration_share 0.0001" in refused.stderr
    recipe.run(*options)
    assert recipe.lines("dump/raw/dev/wav.scp") == whole


def test_every_fault_of_the_audio_stops_after_stage_2_with_the_good_done(recipe):
    audio = recipe.dir / "source" / "train" / "audio"
    (audio / "train0.wav").unlink()
    (audio / "train1.wav").write_bytes(b"")
    samples = np.zeros(8000)
    samples[5] = np.nan
    soundfile.write(audio / "train2.wav", samples, 16000, subtype="FLOAT")
    soundfile.write(audio / "train3.wav", np.zeros(100), 16000)
    # A stereo file of another rate is no fault.
    soundfile.write(audio / "train5.wav", np.zeros((22050, 2)), 44100)
    lines = recipe.lines("source/test/wav.scp")
    recipe.write("test", "wav.scp", [*lines, lines[0]])

    result = recipe.run(code=1)
    assert "Stage 3" not in result.stdout
    for words in (
        "utterance train0: " + str(audio / "train0.wav") + " does not exist",
        "train1.wav is empty (0 bytes)",
        "train2.wav has 1 samples that are NaN or infinite",
        "train3.wav is 0.006 s long, expected at least 0.1 s",
        "utterance test0: data/test/wav.scp has it on the lines 1 and 4",
        "stage 2 found bad utterances in: train test",
        "--skip_bad true",
    ):
        assert words in result.stderr
    assert recipe.lines("dump/raw/org/train/utt2num_samples") == [
        "train4 14400",
        "train5 8000",
    ]
    assert len(recipe.lines("dump/raw/org/dev/wav.scp")) == 3
    assert len(recipe.lines("dump/raw/test/wav.scp")) == 2

    # A later stage does not go on quietly.
    later = recipe.run("--stage", 4, "--stop_stage", 4, code=1)
    assert "stage 2 left bad utterances out" in later.stderr
    # Asked to, it goes on without them.
    recipe.run("--stage", 2, "--stop_stage", 4, "--skip_bad", "true")
    assert len(recipe.lines("dump/raw/train/metric.scp")) == 2
    # Mended, it goes on with them, and nothing good is written twice.
    for i in range(4):
        soundfile.write(audio / f"train{i}.wav", np.zeros(8000), 16000)
    (recipe.dir / "source" / "test" / "wav.scp").write_text("\n".join(lines) + "\n")
    result = recipe.run("--stop_stage", 4)
    assert "dump/raw/org/train has 6 utterances, 4 of them written" in result.stderr
    assert len(recipe.lines("dump/raw/train/wav.scp")) == 6


def test_every_fault_of_the_labels_stops_after_stage_3(recipe):
    labels = recipe.lines("source/train/metric.scp")
    labels[0] = 'train0 {"mos": "good"}'
    labels[1] = 'train1 {"mos": 5.5}'
    labels[3] = labels[4]
    labels[5] = "train5 {}"
    recipe.write("train", "metric.scp", labels)
    recipe.write("test", "utt2sys", recipe.lines("source/test/utt2sys")[:2])
    labels = recipe.lines("source/dev/metric.scp")
    recipe.write("dev", "metric.scp", [*labels, 'dev9 {"mos": 3}'])

    result = recipe.run(code=1)
    assert "Stage 4" not in result.stdout
    for words in (
        'utterance train0 has the mos "good", expected a finite number',
        "utterance train1 has the mos 5.5, expected a number from 1 to 5",
        "utterance train3 has no label",
        "utterance train4 has a second line",
        "utterance test2 has no system",
        "utterance dev9 is not in",
        "stage 3 found bad utterances in: train dev test",
    ):
        assert words in result.stderr
    assert "train5" not in result.stderr
    later = recipe.run("--stage", 4, "--stop_stage", 4, code=1)
    assert "stage 3 left bad utterances out" in later.stderr

    options = ["--stage", 3, "--stop_stage", 4, "--skip_bad", "true"]
    recipe.run(*options)
    for file in ("wav.scp", "metric.scp", "utt2spk", "utt2num_samples"):
        kept = [line.split()[0] for line in recipe.lines(f"dump/raw/train/{file}")]
        assert kept == ["train2", "train5"]
    assert len(recipe.lines("dump/raw/test/wav.scp")) == 2


def test_a_test_set_may_have_its_own_scale(recipe):
    recipe.write(
        "test", "metric.scp", [f'test{i} {{"mos": {40 * i}}}' for i in range(3)]
    )
    assert "expected a number from 1 to 5" in recipe.run(code=1).stderr
    recipe.write("test", "score_range", ["0  100"])
    recipe.run("--stop_stage", 3)
    assert recipe.lines("dump/raw/test/score_range") == ["0  100"]
    # The training set's scale is that of the model.
    recipe.write("train", "score_range", ["0 100"])
    refused = recipe.run("--stop_stage", 3, code=1)
    assert "data/train/score_range is '0 100'" in refused.stderr
    assert "give --score_range '0 100'" in refused.stderr


def test_a_corpus_of_test_sets_only(recipe):
    options = ["--train_set", "", "--valid_set", "", "--stop_stage", 5]
    assert "--train_set is missing" in recipe.run(*options, code=1).stderr
    result = recipe.run(*options, "--skip_train", "true")
    assert "Stage 3" in result.stdout and "Stage 4" not in result.stdout
    assert len(recipe.lines("dump/raw/test/wav.scp")) == 3
    assert not (recipe.dir / "dump" / "raw" / "org").exists()
    options += ["--skip_train", "true", "--test_sets", ""]
    assert "--test_sets is missing" in recipe.run(*options, code=1).stderr


def test_a_corpus_without_systems(recipe):
    for name in recipe.sets:
        (recipe.dir / "source" / name / "utt2sys").unlink()
    refused = recipe.run("--stop_stage", 3, code=1)
    assert "utt2sys" in refused.stderr
    options = ["--stage", 3, "--stop_stage", 4, "--need_systems", "false"]
    recipe.run(*options)
    assert recipe.lines("dump/raw/train/wav.scp")


def test_a_test_set_of_others_may_lack_systems(recipe):
    (recipe.dir / "source" / "test" / "utt2sys").unlink()
    result = recipe.run("--stop_stage", 3)
    assert "test has no utt2sys: it is scored by utterances only" in result.stdout
    # Half a list is a fault all the same.
    lines = [f"test{i} s" for i in range(2)]
    recipe.write("test", "utt2sys", lines)
    assert (
        "utterance test2 has no system" in recipe.run("--stop_stage", 3, code=1).stderr
    )


def test_a_stage_2_that_was_killed_leaves_no_half_files_and_goes_on(recipe):
    recipe.run("--stop_stage", 2)
    data = recipe.dir / "dump" / "raw" / "test" / "data"
    before = (data / "test0.flac").stat().st_mtime_ns
    # What a kill leaves: one file not made, another one beside its place, no list.
    (data / "test1.flac").unlink()
    (data / ".test1.flac.tmp1").write_bytes(b"half")
    (recipe.dir / "dump" / "raw" / "test" / "wav.scp").unlink()
    result = recipe.run("--stage", 2, "--stop_stage", 4)
    assert "dump/raw/test has 3 utterances, 1 of them written" in result.stderr
    assert (data / "test0.flac").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "options, words",
    [
        (["--stage", "two"], "--stage two is not a whole number"),
        (["--no_such", 1], "there is no option --no_such"),
        (["--stage", 4], "dump/raw/org/train/wav.scp is missing or empty; run stage 2"),
        (["--stage", 5], "dump/raw/train/wav.scp is missing or empty; run stage 4"),
        (["--stage", 7], "speech_shape is missing or empty; run stage 6 first"),
        (["--stage", 8], "config.yaml is missing or empty; run stage 7 first"),
        (["--train_config", "no.yaml"], "--train_config no.yaml cannot be read"),
        (["--train_set", ""], "--train_set is missing"),
        (["--calibration_share", "1.5"], "--calibration_share 1.5 is not a number"),
        (
            ["--calibration_share", ".3", "--train_set", "dev"],
            "would split the training set",
        ),
        (
            ["--calibration_share", ".3", "--test_sets", "dev_calibration"],
            "the set dev_calibration is asked for",
        ),
        (["--train_sets", "a:x b:1"], "--train_sets has a:x, expected a name, or a"),
        (["--train_sets", "a b:1"], "has weights for some, expected one for each or"),
        (["--train_sets", "a:2 a:1"], "names a set twice"),
        (["--train_sets", "train:2"], "is one set; give it as --train_set"),
        (
            ["--train_sets", "train no/train", "--stop_stage", 1],
            "--train_sets names no/train, which cannot be prepared; see",
        ),
        (
            ["--adapt_config", "conf/train_tiny.yaml", "--adapt_sets", "no/train"]
            + ["--stop_stage", 1],
            "--adapt_sets names no/train, which cannot be prepared; see",
        ),
        (["surplus"], "'surplus' is not an option"),
        (["--dumpdir", "cmd.sh"], "cmd.sh cannot be written; choose another --dumpdir"),
    ],
)
def test_what_cannot_work_is_said_in_a_sentence(recipe, options, words):
    result = recipe.run(*options, code=1)
    assert words in result.stderr.splitlines()[-1]


def test_help_lists_every_option(recipe):
    text = recipe.run("--help").stdout
    for name in (
        *("stage", "stop_stage", "skip_data_prep", "skip_train", "skip_eval"),
        *("skip_upload", "ngpu", "num_nodes", "nj", "inference_nj", "gpu_inference"),
        *("dumpdir", "expdir", "python", "tag", "train_config", "train_args"),
        *("inference_config", "inference_model", "train_set", "valid_set"),
        *("test_sets", "download_model", "hf_repo", "num_clusters", "token_layers"),
        *("max_frames", "import_km", "tokens_tag", "score_range", "skip_bad"),
        *("min_wav_duration", "max_wav_duration", "calibration_share"),
        *("train_sets", "unlabelled_sets", "map_scores", "use_votes", "use_corpora"),
    ):
        assert f"  --{name} (" in text


# The stages with a model


def test_all_stages_end_with_the_table_and_where_it_lies(finished):
    recipe, result = finished
    lines = result.stdout.splitlines()
    assert lines[-1] == f"The results are in {EXP}/RESULTS.md"
    assert "| test " in lines[-2] and "mos_train_tiny_raw" in lines[-2]
    assert "epoch 2 (validation): loss=" in result.stdout
    assert lines[-2] in recipe.lines(f"{EXP}/RESULTS.md")
    with open(recipe.dir / EXP / "results.json") as f:
        assert "format_version" in json.load(f)
    predictions = recipe.lines(f"{EXP}/inference_valid.utt_mse.best/test/metric.scp")
    assert [line.split()[0] for line in predictions] == ["test0", "test1", "test2"]


def test_tokens_and_shapes_cover_every_utterance(finished):
    recipe, _ = finished
    for name in ("train", "dev"):
        rows = [line.split() for line in recipe.lines(f"{TOKENS}/{name}/tokens.scp")]
        lengths = dict(
            line.split() for line in recipe.lines(f"dump/raw/{name}/utt2num_samples")
        )
        assert [row[0] for row in rows] == sorted(lengths)
        for utt_id, path in rows:
            tokens = np.load(recipe.dir / path)
            assert tokens.dtype == np.int16
            assert abs(len(tokens) - int(lengths[utt_id]) / 320) <= 2
            assert tokens.min() >= 0 and tokens.max() < 4
    assert len(recipe.lines("exp/mos_stats_raw/train/speech_shape")) == 6
    assert len(recipe.lines("exp/mos_stats_raw/valid/speech_shape")) == 3


def test_several_training_sets_with_listeners_and_corpora(recipe):
    """From all directories to scores; the other test gave 0 to 100."""
    shutil.copytree(recipe.dir / "source" / "train", recipe.dir / "source" / "other")
    for file in ("wav.scp", "utt2spk", "utt2sys", "metric.scp"):
        lines = recipe.lines(f"source/train/{file}")[:2]
        recipe.write("other", file, [f"other_{line}" for line in lines])
    labels = ['other_train0 {"mos": 0}', 'other_train1 {"mos": 50.0}']
    recipe.write("other", "metric.scp", labels)
    recipe.write("other", "score_range", ["0 100"])
    votes = [f'train{i} [["l{i % 3}", {1.5 + 0.5 * i}]]' for i in range(5)]
    recipe.write("train", "votes.scp", votes)
    recipe.write("other", "votes.scp", ['other_train1 [["l1", 100]]'])
    options = ["--nj", 1, "--inference_nj", 1, "--use_tokens", "false"]
    sets = ["--train_sets", "train other", "--stop_stage", 4]
    result = recipe.run(*options, *sets, code=1)
    assert "dump/raw/other/score_range is '0 100', and the training is told" in (
        result.stderr
    )
    options += ["--train_sets", "train:1 other:1.0"]
    options += ["--map_scores", "true", "--use_votes", "true", "--use_corpora", "true"]
    args = "--max_epoch 1 --losses token_ce.weight=0"
    for kind in ("listener", "corpus"):
        args += f" --model_conf {kind}_embedding=true"
    options += ["--train_args", args, "--tag", "several"]
    recipe.run(*options, "--stage", 4, "--inference_args", "--corpus other")
    combined = recipe.lines("dump/raw/train+other/metric.scp")
    assert combined[:2] == ['other_train0 {"mos": 1.0}', 'other_train1 {"mos": 3.0}']
    exp = recipe.dir / "exp" / "mos_several"
    config = yaml.safe_load((exp / "config.yaml").read_text())
    assert config["listener_list"] == ["other/l1", "train/l0", "train/l1", "train/l2"]
    assert config["corpus_list"] == ["other", "train"]
    # 8 utterances, half of the draws from each set.
    log = (exp / "train.log").read_text()
    assert "Epoch 1 draws 4 of other, 4 of train in 4 batches" in log
    assert (exp / "votes.scp").read_text().count(" []\n") == 2
    inference = "inference_corpusother_valid.utt_mse.best"
    predictions = recipe.lines(f"exp/mos_several/{inference}/test/metric.scp")
    assert [line.split()[0] for line in predictions] == ["test0", "test1", "test2"]
    assert (exp / "RESULTS.md").exists()


def test_unlabelled_sets_train_besides(recipe):
    """A folder of audio with its wav.scp, and labels that are not read."""
    shutil.copytree(recipe.dir / "source" / "train", recipe.dir / "source" / "unlab")
    for file in ("wav.scp", "utt2spk"):
        lines = recipe.lines(f"source/train/{file}")[:4]
        recipe.write("unlab", file, [f"unlab_{line}" for line in lines])
    (recipe.dir / "source" / "unlab" / "utt2sys").unlink()
    options = ["--unlabelled_sets", "unlab:3", "--nj", 1, "--stop_stage", 4]
    recipe.run(*options)
    labels = recipe.lines("dump/raw/train+unlab/metric.scp")
    assert [line for line in labels if line.endswith(" {}")] == [
        f"unlab_train{i} {{}}" for i in range(4)
    ]
    assert len(labels) == 10
    categories = recipe.lines("dump/raw/train+unlab/utt2set")
    assert categories.count("unlab_train0 unlab") == 1 and "train0 train" in categories
    # without a labelled set there is nothing to train besides
    command = [part if part != "train" else "" for part in recipe.command(*options)]
    result = subprocess.run(
        command,
        cwd=recipe.dir,
        env=recipe.environment(),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert "--unlabelled_sets has no labelled set beside it" in result.stderr


def test_scoring_again_gives_the_same_metrics(finished):
    recipe, _ = finished
    with open(recipe.dir / EXP / "results.json") as f:
        before = json.load(f)
    recipe.run("--stage", 9)
    with open(recipe.dir / EXP / "results.json") as f:
        after = json.load(f)
    for results in (before, after):
        results.pop("environment", None)
    assert after == before


def test_another_scale_has_no_error_in_the_table(finished, tmp_path):
    recipe = finished[0].copy(tmp_path)
    before = json.loads("\n".join(recipe.lines(f"{EXP}/results.json")))["results"][0]
    (recipe.dir / "dump" / "raw" / "test" / "score_range").write_text("0 100\n")
    recipe.run("--stage", 9, "--stop_stage", 9)
    after = json.loads("\n".join(recipe.lines(f"{EXP}/results.json")))["results"][0]
    assert before["utt_mos_mse"] > 0 and after["utt_mos_mse"] is None
    assert after["utt_mos_srcc"] == before["utt_mos_srcc"]
    recipe.run("--stage", 9, "--stop_stage", 9, "--score_range", "0 100")
    again = json.loads("\n".join(recipe.lines(f"{EXP}/results.json")))["results"][0]
    assert again["utt_mos_mse"] == before["utt_mos_mse"]


def test_baselines_stand_in_the_same_table(finished, tmp_path):
    recipe = finished[0].copy(tmp_path)
    script = recipe.dir / "local" / "baselines.sh"
    script.write_text("""#!/usr/bin/env bash
set -eu
exp="${@: -1}"
mkdir -p "$exp/oracle/test"
cp dump/raw/test/metric.scp "$exp/oracle/test"
echo "oracle $exp/oracle" > "$exp/extra_predictions"
""")
    script.chmod(0o755)
    (recipe.dir / "conf" / "results_notes.txt").write_text("Simulated.\n")
    result = recipe.run("--stage", 9)
    (row,) = [line for line in result.stdout.splitlines() if "| oracle " in line]
    assert " 1.000" in row
    assert "Simulated." in (recipe.dir / EXP / "RESULTS.md").read_text()


def test_fine_tuning_a_packed_model(finished, tmp_path):
    """Its tokens are made with the network that the training starts from."""
    recipe = finished[0].copy(tmp_path)
    recipe.run("--stage", 10, "--stop_stage", 10, "--skip_upload", "false")
    packed = f"{EXP}/mos_train_tiny_raw_valid.utt_mse.best.zip"
    shutil.copy(recipe.dir / packed, recipe.dir / "model.zip")
    shutil.rmtree(recipe.dir / EXP)
    options = ["--stage", 5, "--stop_stage", 7, "--nj", 1, "--tag", "fine"]
    recipe.run(*options, "--train_args", "--init_model model.zip --max_epoch 1")
    config = yaml.safe_load("\n".join(recipe.lines("exp/mos_fine/config.yaml")))
    assert config["init_model"] == "model.zip"
    tokens = f"{TOKENS}_init_modelmodel.zip"
    found = json.loads("\n".join(recipe.lines(f"{tokens}/train/tokens.json")))
    before = json.loads("\n".join(recipe.lines(f"{TOKENS}/train/tokens.json")))
    assert config["token_info"] == found
    assert found["upstream_fingerprint"] != before["upstream_fingerprint"]


def test_the_upstream_is_adapted_before_the_training_on_labels(finished, tmp_path):
    """On audio without labels; tokens are of the original upstream or the adapted."""
    recipe = finished[0].copy(tmp_path)
    config = yaml.safe_load((recipe.dir / "conf" / "train_tiny.yaml").read_text())
    config.update(head="token", losses={"masked_token_ce": {"alpha": 1.0}})
    config.update(crop_seconds=0.6, num_iters_per_epoch=2, upstream_lr=1e-2)
    config.update(best_model_criterion=[["valid", "loss", "min"]])
    config["frontend_conf"]["upstream_config"]["mask_time_prob"] = 0.05
    adapt = recipe.dir / "conf" / "adapt_tiny.yaml"
    adapt.write_text(yaml.safe_dump(config))
    train = yaml.safe_load((recipe.dir / "conf" / "train_tiny.yaml").read_text())
    train["frontend_conf"] = config["frontend_conf"]
    (recipe.dir / "conf" / "train_tiny.yaml").write_text(yaml.safe_dump(train))
    # A set that the adaptation alone hears; it has no labels at all.
    (recipe.dir / "data" / "more").mkdir()
    lines = [f"more_{line}" for line in recipe.lines("source/train/wav.scp")[:4]]
    (recipe.dir / "data" / "more" / "wav.scp").write_text("\n".join(lines) + "\n")
    speakers = [f"{line.split()[0]} x" for line in lines]
    (recipe.dir / "data" / "more" / "utt2spk").write_text("\n".join(speakers) + "\n")

    options = ["--nj", 1, "--adapt_config", "conf/adapt_tiny.yaml"]
    options += ["--adapt_sets", "train more", "--min_wav_duration", 0.5]
    refused = recipe.run(*options, "--train_args", "--init_model exp", code=1)
    assert "--train_args has --init_model, expected one of them" in refused.stderr
    refused = recipe.run(*options, "--adapt_tokens", "both", code=1)
    assert "expected original or adapted" in refused.stderr
    missing = recipe.run(*options, "--stage", 7, "--stop_stage", 7, code=1)
    assert "exp/adapt_tiny_train+more/valid.loss.best.pth is missing" in missing.stderr

    recipe.run(*options, "--stage", 2, "--stop_stage", 5)
    heard = recipe.lines("exp/adapt_tiny_train+more/train_shape")
    assert len(heard) == 10 and "more_train3 9600" in heard  # 0.8 s, cropped
    recipe.run(*options, "--stage", 7, "--stop_stage", 7)
    tag = "mos_train_tiny_raw_adapt_tiny_train+more_original_tokens"
    found = yaml.safe_load("\n".join(recipe.lines(f"exp/{tag}/config.yaml")))
    adapted_model = "exp/adapt_tiny_train+more/valid.loss.best.pth"
    assert found["init_model"] == adapted_model and found["head"] == "distilmos"
    fingerprints = [found["token_info"]["upstream_fingerprint"]]
    both = ["--adapt_tokens", "adapted", "--stage", 5, "--stop_stage", 5]
    recipe.run(*options, *both)
    tokens = f"{TOKENS}_init_model{adapted_model.replace('/', '')}/train"
    found = json.loads("\n".join(recipe.lines(f"{tokens}/tokens.json")))
    fingerprints.append(found["upstream_fingerprint"])
    original = build_frontend("hf", config["frontend_conf"])
    trained = torch.load(recipe.dir / adapted_model, weights_only=True)
    adapted = build_frontend("hf", config["frontend_conf"])
    adapted.load_state_dict(
        {k[len("frontend.") :]: v for k, v in trained.items() if "frontend." in k}
    )
    assert fingerprints == [original.fingerprint(), adapted.fingerprint()]
    assert original.fingerprint() != adapted.fingerprint()


def test_pack_and_use_the_packed_model(finished, tmp_path):
    recipe = finished[0].copy(tmp_path)
    recipe.run("--stage", 10, "--stop_stage", 10, "--skip_upload", "false")
    packed = f"{EXP}/mos_train_tiny_raw_valid.utt_mse.best.zip"
    assert (recipe.dir / packed).exists()
    shutil.copy(recipe.dir / packed, recipe.dir / "model.zip")
    predictions = "inference_valid.utt_mse.best/test/metric.scp"
    before = recipe.lines(f"{EXP}/{predictions}")
    shutil.rmtree(recipe.dir / "exp")
    shutil.rmtree(recipe.dir / TOKENS)
    options = ["--stage", 8, "--stop_stage", 8, "--inference_nj", 1]
    recipe.run(*options, "--download_model", "model.zip")
    (found,) = (recipe.dir / "exp" / "model").glob("inference*/test/metric.scp")
    after = found.read_text().splitlines()
    scores = [
        [json.loads(line.split(None, 1)[1])["mos"] for line in lines]
        for lines in (before, after)
    ]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)


def test_calibration_is_made_and_packed(finished, tmp_path):
    recipe = finished[0].copy(tmp_path)
    options = ["--calibration_share", 0.9, "--nj", 1, "--inference_nj", 1]
    missing = recipe.run("--stage", 8, "--stop_stage", 8, *options, code=1)
    assert "dev_calibration/wav.scp is missing or empty; run stage 4" in missing.stderr
    recipe.run("--stage", 4, "--stop_stage", 4, *options)
    options += ["--skip_upload", "false"]
    result = recipe.run("--stage", 8, "--stop_stage", 10, *options)
    lines = recipe.lines(f"dump/raw/{CALIBRATION}/wav.scp")
    assert f"intervals: {len(lines)} clips of dev_calibration" in result.stdout
    assert "novelty: 6 clips of train" in result.stdout
    packed = recipe.dir / EXP / "mos_train_tiny_raw_valid.utt_mse.best.zip"
    predictor = MOSPredictor.from_pretrained(str(packed))
    labels = read_metric_scp(
        str(recipe.dir / "dump" / "raw" / CALIBRATION / "metric.scp")
    )
    residuals = []
    for utt_id, path in (line.split() for line in lines):
        score = predictor(*soundfile.read(recipe.dir / path)).score
        residuals.append(abs(score - labels[utt_id]))
    level = len(lines) / (len(lines) + 1)
    found = predictor(*soundfile.read(recipe.dir / lines[0].split()[1]))
    low, high = (found.score + sign * max(residuals) for sign in (-1, 1))
    expected = np.clip([low, high], 1, 5)
    np.testing.assert_allclose(found.interval(level), expected, atol=1e-4)
    assert found.novelty > 0


def test_upload_says_that_no_one_is_logged_in(finished, tmp_path):
    recipe = finished[0].copy(tmp_path)
    options = ["--stage", 11, "--skip_upload", "false"]
    assert "--hf_repo is missing" in recipe.run(*options, code=1).stderr
    options += ["--hf_repo", "someone/model"]
    assert "run stage 10 first" in recipe.run(*options, code=1).stderr


def run_until(recipe, condition, *options):
    """Start mos.sh, and kill it and all its jobs as soon as ``condition()`` holds."""
    process = subprocess.Popen(
        recipe.command(*options),
        cwd=recipe.dir,
        env=recipe.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.time() + 300
    while not condition():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.time() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_killed_token_dump_resumes_to_the_same_tokens(finished, tmp_path):
    recipe = finished[0].copy(tmp_path)
    rows = [line.split() for line in recipe.lines(f"{TOKENS}/train/tokens.scp")]
    before = {utt_id: np.load(recipe.dir / path) for utt_id, path in rows}
    shutil.rmtree(recipe.dir / TOKENS / "train")
    options = ["--stage", 5, "--stop_stage", 5, "--nj", 1]
    data = recipe.dir / TOKENS / "train" / "split1" / "1" / "data"
    run_until(recipe, lambda: data.exists() and any(data.glob("*.npy")), *options)
    assert not (recipe.dir / TOKENS / "train" / "tokens.scp").exists()
    result = recipe.run(*options)
    assert "The tokens of dev are there already" in result.stdout
    rows = [line.split() for line in recipe.lines(f"{TOKENS}/train/tokens.scp")]
    assert dict(rows).keys() == before.keys()
    for utt_id, path in rows:
        np.testing.assert_array_equal(np.load(recipe.dir / path), before[utt_id])
    # Nothing is to do now.
    result = recipe.run(*options)
    assert "The tokens of train are there already" in result.stdout


def test_new_audio_under_old_names_gets_new_tokens(finished, tmp_path):
    recipe = finished[0].copy(tmp_path)
    path = recipe.dir / "source" / "dev" / "audio" / "dev0.wav"
    # The ids keep their files' places in the first recipe; point this one at its own.
    rng = np.random.default_rng(1)
    tone = 0.3 * np.sin(0.2 * np.arange(8000)) + 0.01 * rng.standard_normal(8000)
    soundfile.write(path, tone, 16000)
    lines = recipe.lines("source/dev/wav.scp")
    recipe.write("dev", "wav.scp", [f"dev0 {path}", *lines[1:]])
    rows = dict(line.split() for line in recipe.lines(f"{TOKENS}/dev/tokens.scp"))
    before = np.load(recipe.dir / rows["dev0"])
    time.sleep(1.1)  # dates of files may be whole seconds
    recipe.run("--stop_stage", 5, "--nj", 1)
    rows = dict(line.split() for line in recipe.lines(f"{TOKENS}/dev/tokens.scp"))
    after = np.load(recipe.dir / rows["dev0"])
    assert after.shape == before.shape and np.any(after != before)


def test_tokens_of_imported_models_are_those_that_sklearn_predicts(finished, tmp_path):
    recipe = finished[0].copy(tmp_path)
    config = yaml.safe_load((recipe.dir / "conf" / "train_tiny.yaml").read_text())
    frontend = build_frontend(config["frontend"], config["frontend_conf"]).eval()
    audio = dict(line.split() for line in recipe.lines("dump/raw/dev/wav.scp"))
    features = {}
    for utt_id, path in audio.items():
        speech = torch.from_numpy(soundfile.read(recipe.dir / path, dtype="float32")[0])
        with torch.no_grad():
            hidden, _ = frontend(speech[None], torch.tensor([len(speech)]))
        features[utt_id] = hidden[2][0].numpy()
    model = MiniBatchKMeans(3, random_state=0, n_init=1)
    model.fit(np.concatenate(list(features.values())))
    joblib.dump(model, recipe.dir / "km_3.mdl")
    options = ["--stage", 5, "--stop_stage", 5, "--import_km", "2=km_3.mdl"]
    recipe.run(*options)
    rows = recipe.lines("dump/tokens/train_tiny_km2/dev/tokens.scp")
    for utt_id, path in (row.split() for row in rows):
        tokens = np.load(recipe.dir / path)
        np.testing.assert_array_equal(tokens[:, 0], model.predict(features[utt_id]))


def test_a_killed_training_resumes(finished, tmp_path):
    recipe = finished[0].copy(tmp_path)
    options = ["--stage", 7, "--stop_stage", 7, "--tag", "killed"]
    options += ["--train_args", "--max_epoch 4"]
    exp = recipe.dir / "exp" / "mos_killed"
    log = exp / "train.log"

    def second_epoch_is_done():
        return log.exists() and "2epoch results" in log.read_text()

    run_until(recipe, second_epoch_is_done, *options)
    recipe.run(*options)
    text = log.read_text()
    assert "4epoch results" in text and "1epoch results" not in text
    assert (exp / "valid.utt_mse.best.pth").exists()


def test_a_failed_training_says_where_to_look(finished, tmp_path):
    recipe = finished[0].copy(tmp_path)
    options = ["--stage", 7, "--stop_stage", 7, "--tag", "wrong"]
    options += ["--train_args", "--best_model_criterion valid,no_such,max"]
    result = recipe.run(*options, code=1)
    assert "stage 7 failed, see exp/mos_wrong/train.log" in result.stderr


def test_token_loss_off_needs_no_tokens(finished, tmp_path):
    recipe = finished[0].copy(tmp_path)
    shutil.rmtree(recipe.dir / TOKENS)
    options = ["--stage", 5, "--stop_stage", 7, "--use_tokens", "false"]
    options += ["--train_args", "--losses token_ce.weight=0 --max_epoch 1"]
    recipe.run(*options, "--nj", 1, "--tag", "no_tokens")
    assert not (recipe.dir / TOKENS).exists()
    assert (recipe.dir / "exp" / "mos_no_tokens" / "1epoch.pth").exists()
