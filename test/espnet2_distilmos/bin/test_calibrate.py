# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import csv
import os
import pickle
import shutil

import numpy as np
import pytest
import scipy.spatial
import scipy.stats
import soundfile
import torch
import yaml

from espnet2_distilmos import MOSPredictor
from espnet2_distilmos.bin import calibrate
from espnet2_distilmos.bin.calibrate import main, sample_train
from espnet2_distilmos.bin.mos_inference import main as mos_inference
from espnet2_distilmos.bin.mos_pack import main as mos_pack
from espnet2_distilmos.bin.predict import main as predict
from espnet2_distilmos.data.datadir import read_metric_scp
from espnet2_distilmos.evaluation.trust import (
    conformal_quantile,
    fit_scale,
    novelty_distance,
    read_calibration,
    read_scale,
)

MODEL = "valid.sys_srcc.best.pth"
SIZES = {"calibration": 59, "test": 60, "valid": 11, "train": 40}
RANK = 54  # ceil(0.9 * 60)
LISTENERS_SD = 0.4


def write_clips(folder, count, seed):
    """Tones in noise, and their wav.scp; returns the waveforms."""
    generator = np.random.default_rng(seed)
    (folder / "wav").mkdir(parents=True)
    lines, waves = [], []
    for k in range(count):
        n = int(generator.integers(3000, 6000))
        tone = np.sin(2 * np.pi * generator.uniform(200, 400) * np.arange(n) / 16e3)
        share = generator.uniform()
        wave = share * tone + (1 - share) * generator.normal(size=n)
        path = folder / "wav" / f"{folder.name}{k:03d}.wav"
        soundfile.write(path, 0.1 * wave / wave.std(), 16000)
        lines.append(f"{path.stem} {path}\n")
        waves.append(soundfile.read(path)[0])
    (folder / "wav.scp").write_text("".join(lines))
    return waves


def write_labels(folder, name, labels):
    lines = [f'{name}{k:03d} {{"mos": {x}}}\n' for k, x in enumerate(labels)]
    (folder / "metric.scp").write_text("".join(lines))


class Setting:
    """A tiny model, clips to calibrate it on, and clips to test it on.

    The listeners agree with the model up to normal errors of a known deviation.
    """

    def __init__(self, root, scorer_dir):
        self.root = root
        self.exp = shutil.copytree(scorer_dir, root / "exp")
        waves = {
            name: write_clips(root / name, count, seed)
            for seed, (name, count) in enumerate(SIZES.items())
        }
        predictor = MOSPredictor.from_pretrained(str(self.exp))
        scores = [predictor(wave, 16000).score for wave in waves["train"]]
        # Its last layer gets the scale of the labels.
        states = torch.load(self.exp / MODEL, weights_only=True)
        weight, bias = states["head.linear.weight"], states["head.linear.bias"]
        factor = 0.5 / np.std(scores)
        weight *= factor
        bias.copy_((bias - float(np.mean(scores))) * factor + 3)
        torch.save(states, self.exp / MODEL)
        config = yaml.safe_load((self.exp / "config.yaml").read_text())
        config["score_range"] = [1, 5]
        for name in ("train", "valid"):
            entry = [str(root / name / "wav.scp"), "speech", "sound"]
            config[f"{name}_data_path_and_name_and_type"] = [entry]
        (self.exp / "config.yaml").write_text(yaml.safe_dump(config))

        self.predictor = MOSPredictor.from_pretrained(str(self.exp))
        generator = np.random.default_rng(1)
        self.results, self.scores, self.labels = {}, {}, {}
        for name in ("calibration", "test", "valid"):
            # One at a time: other batches than those of the commands.
            found = [self.predictor(wave, 16000) for wave in waves[name]]
            self.results[name] = found
            self.scores[name] = np.array([result.score for result in found])
            error = LISTENERS_SD * generator.normal(size=len(found))
            self.labels[name] = np.clip(self.scores[name] + error, 1, 5).round(3)
            write_labels(root / name, name, self.labels[name])
        self.residuals = np.abs(self.scores["calibration"] - self.labels["calibration"])


@pytest.fixture(scope="module")
def setting(tmp_path_factory, scorer_dir):
    return Setting(tmp_path_factory.mktemp("calibrate"), scorer_dir)


@pytest.fixture(scope="module")
def calibrated(setting):
    """The experiment with its calibration; tests copy what they change."""
    exp = shutil.copytree(setting.exp, setting.root / "calibrated")
    labels, train = setting.root / "calibration", setting.root / "train"
    command = [str(exp), "--labels", str(labels), "--train", str(train / "wav.scp")]
    assert main(command) == 0
    return exp


@pytest.fixture
def run(capsys):
    def call(command, *options):
        capsys.readouterr()
        code = command([*map(str, options)])
        return code, capsys.readouterr()

    return call


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def columns(rows, *names):
    return [np.array([float(row[name]) for row in rows]) for name in names]


def test_intervals_are_the_direct_formula_and_cover(setting, calibrated, run):
    output = setting.root / "intervals.csv"
    options = ["--model", calibrated, "--output", output, "--interval", "0.9"]
    code, _ = run(predict, setting.root / "test" / "wav.scp", *options)
    rows = read_csv(output)
    assert code == 0
    half = np.sort(setting.residuals)[RANK - 1]
    score, lower, upper, novelty = columns(rows, "score", "lower", "upper", "novelty")
    np.testing.assert_allclose(lower, np.clip(score - half, 1, 5), atol=2e-4)
    np.testing.assert_allclose(upper, np.clip(score + half, 1, 5), atol=2e-4)
    # What the 54th of 59 covers of 60 others, whatever the distribution.
    labels = setting.labels["test"]
    covered = int(((lower <= labels) & (labels <= upper)).sum())
    band = scipy.stats.betabinom(60, RANK, 60 - RANK).interval(0.999)
    assert band[0] <= covered <= band[1]
    stored = read_calibration(str(calibrated / "calibration.npz"))
    embeddings = [result.embedding for result in setting.results["test"]]
    expected = novelty_distance(stored["novelty"], embeddings)
    expected = expected / stored["novelty"]["threshold"]
    np.testing.assert_allclose(novelty, expected, rtol=1e-2)
    # the stored file gives nothing of this machine away
    assert (stored["labels"], stored["train"]) == ("calibration", "train")
    content = (calibrated / "calibration.npz").read_bytes()
    assert os.fsencode(setting.root) not in content


def test_what_is_unlike_the_training_set_is_flagged(setting, calibrated, run, tmp_path):
    for hertz in (2000, 3000, 5000, 7000):
        tone = 0.5 * np.sin(2 * np.pi * hertz * np.arange(8000) / 16000)
        soundfile.write(tmp_path / f"tone{hertz}.wav", tone, 16000)
    output = tmp_path / "s.csv"
    options = ["--model", calibrated, "--interval", 0.9, "--output", output]
    assert run(predict, tmp_path, *options)[0] == 0
    assert columns(read_csv(output), "novel")[0].all()
    assert run(predict, setting.root / "test" / "wav", *options)[0] == 0
    assert columns(read_csv(output), "novel")[0].sum() <= 5
    # another distance, another share of the labelled clips
    output = tmp_path / "knn.npz"
    options = ["--labels", setting.root / "calibration", "--output", output]
    options += ["--train", setting.root / "train", "--novelty", "knn"]
    options += ["--novelty-quantile", 0.8, "--max-train", 20]
    code, printed = run(main, setting.exp, *options)
    assert code == 0 and "20 clips of train; knn distance" in printed.out
    novelty = read_calibration(str(output))["novelty"]
    embeddings = [result.embedding for result in setting.results["calibration"]]
    beyond = novelty_distance(novelty, embeddings) > novelty["threshold"] + 1e-6
    assert abs(beyond.sum() - 0.2 * 59) <= 1


def test_the_sample_of_the_training_set_is_seeded(setting, tmp_path):
    lines = (setting.root / "train" / "wav.scp").read_text().splitlines()
    (tmp_path / "wav.scp").write_text("\n".join(reversed(lines)) + "\n")
    first = sample_train([str(setting.root / "train")], 9, 0)
    assert len(first) == 9 and first == sample_train([str(tmp_path)], 9, 0)
    assert first != sample_train([str(tmp_path)], 9, 1)


def test_clips_of_one_source_are_one_cluster(setting, run, tmp_path):
    labels = shutil.copytree(setting.root / "calibration", tmp_path / "labels")
    clusters = [f"source{k % 20}" for k in range(59)]
    lines = [f"calibration{k:03d} {c}\n" for k, c in enumerate(clusters)]
    (labels / "utt2src").write_text("".join(lines))
    output = tmp_path / "c.npz"
    code, printed = run(main, setting.exp, "--labels", labels, "--output", output)
    assert code == 0 and "59 clips of labels in 20 clusters" in printed.out
    intervals = read_calibration(str(output))["intervals"]
    found = conformal_quantile(intervals["scores"], 0.9, intervals["clusters"])
    expected = conformal_quantile(setting.residuals, 0.9, clusters)
    assert found == pytest.approx(expected, abs=1e-4)


def test_another_checkpoints_calibration_is_refused(calibrated, setting, run, tmp_path):
    other = shutil.copytree(calibrated, tmp_path / "other", symlinks=True)
    states = torch.load(other / MODEL, weights_only=True)
    states["head.linear.bias"] += 1e-3
    (other / MODEL).unlink()
    torch.save(states, other / MODEL)
    audio = setting.root / "test" / "wav" / "test000.wav"
    assert run(predict, audio, "--model", other)[0] == 0
    named = ["--calibration", calibrated / "calibration.npz", "--interval", 0.9]
    for options in (["--interval", 0.9], named):
        code, printed = run(predict, audio, "--model", other, *options)
        assert code == 1 and printed.out == ""
        assert "the calibration is of the model" in printed.err
    # without one, the command is named
    code, printed = run(predict, audio, "--model", setting.exp, "--interval", 0.9)
    assert code == 1 and f"distilmos calibrate {setting.exp} --labels" in printed.err
    # the same model elsewhere is the same
    moved = shutil.copytree(setting.exp, tmp_path / "moved")
    assert run(predict, audio, "--model", moved, *named)[0] == 0


@pytest.mark.slow
def test_packed_it_gives_the_same(calibrated, setting, run, tmp_path):
    audio = setting.root / "valid" / "wav"
    packed = tmp_path / "model.zip"
    options = ["--train_config", calibrated / "config.yaml", "--outpath", packed]
    assert run(mos_pack, *options, "--model_file", calibrated / MODEL)[0] == 0
    rows = []
    for model in (calibrated, packed):
        output = tmp_path / "s.csv"
        options = ["--model", model, "--interval", 0.8, "--output", output]
        assert run(predict, audio, *options)[0] == 0
        rows.append(read_csv(output))
    assert len(rows[0]) == 11 and rows[0] == rows[1]


def test_labels_in_other_files(setting, run, tmp_path):
    labels = setting.labels["calibration"]
    audio = shutil.copytree(setting.root / "calibration" / "wav", tmp_path / "audio")
    files = sorted(audio.iterdir())
    rows = [f"audio/{p.name},{x},s,{p.stem}\n" for p, x in zip(files, labels)]
    header = "wav_path,score,system_id,sample_id\n"
    (tmp_path / "sheet.csv").write_text(header + "".join(rows))
    answer = "".join(f"{p.stem},{x}\n" for p, x in zip(files, labels))
    (tmp_path / "answer.txt").write_text(answer)
    for name, options in (("sheet.csv", []), ("answer.txt", ["--audio", audio])):
        output = tmp_path / "c.npz"
        options = ["--labels", tmp_path / name, "--output", output, *options]
        assert run(main, setting.exp, *options)[0] == 0
        found = read_calibration(str(output))
        assert found["labels"] == name
        scores = found["intervals"]["scores"]
        np.testing.assert_allclose(scores, np.sort(setting.residuals), atol=1e-4)


def test_bad_clips_are_named_and_the_others_calibrate(setting, run, tmp_path):
    labels = shutil.copytree(setting.root / "calibration", tmp_path / "labels")
    lines = (labels / "wav.scp").read_text().splitlines()
    (tmp_path / "bad.wav").write_text("no audio")
    lines[3] = f"{lines[3].split()[0]} {tmp_path / 'bad.wav'}"
    (labels / "wav.scp").write_text("\n".join(lines[:-1]) + "\n")
    output = tmp_path / "c.npz"
    code, printed = run(main, setting.exp, "--labels", labels, "--output", output)
    assert code == 1 and "bad.wav cannot be read as audio" in printed.err
    assert "1 utterance (the first is calibration058) without audio" in printed.err
    assert read_calibration(str(output))["intervals"]["num_clips"] == 57
    (labels / "wav.scp").write_text(f"calibration000 {tmp_path / 'bad.wav'}\n")
    output.unlink()
    code, printed = run(main, setting.exp, "--labels", labels, "--output", output)
    assert code == 1 and "none of the 1 labelled clips" in printed.err
    assert not output.exists()


def test_clips_that_chose_the_checkpoint_are_noticed(setting, run, tmp_path):
    for name, seen in (("valid", True), ("calibration", False)):
        options = ["--labels", setting.root / name, "--output", tmp_path / "c.npz"]
        code, printed = run(main, setting.exp, *options)
        assert code == 0
        assert ("11 of the 11 labelled clips" in printed.err) == seen
        assert ("chose the checkpoint" in printed.err) == seen


def rescaled(setting, folder, name, transform):
    """The clips with the labels of listeners who use 0 to 100."""
    target = shutil.copytree(setting.root / name, folder / name)
    labels = transform(setting.labels[name]).round(3)
    write_labels(target, name, labels)
    (target / "score_range").write_text("0 100\n")
    return target, labels


def test_a_linear_scale(calibrated, setting, run, tmp_path):
    few, labels = rescaled(setting, tmp_path, "calibration", lambda x: 20 * x - 10)
    scale = calibrated / "scale.json"  # beside the model
    options = ["--labels", few, "--fit-scale", "linear"]
    code, printed = run(main, calibrated, *options)
    assert code == 0 and "linear, 59 clips of calibration" in printed.out
    slope, intercept = np.polyfit(setting.scores["calibration"], labels, 1)
    stored = read_scale(str(scale))
    assert stored["slope"] == pytest.approx(slope, rel=1e-3)
    assert stored["intercept"] == pytest.approx(intercept, rel=1e-3)
    assert stored["score_range"] == [0, 100] and stored["labels"] == "calibration"

    audio, output = setting.root / "test" / "wav", tmp_path / "s.csv"
    expected = setting.scores["test"]
    options = ["--model", calibrated, "--scale", scale, "--output", output]
    code, printed = run(predict, audio, *options, "--interval", 0.9)
    assert code == 0 and "not known" in printed.err
    score, lower = columns(read_csv(output), "score", "lower")
    np.testing.assert_allclose(score, intercept + slope * expected, atol=2e-2)
    half = MOSPredictor.from_pretrained(str(calibrated)).confidence.half_width(0.9)
    ends = intercept + slope * np.clip(expected - half, 1, 5)
    np.testing.assert_allclose(lower, np.clip(ends, 0, 100), atol=2e-2)

    # Other clips of that test make the coverage known.
    others, labels = rescaled(setting, tmp_path, "test", lambda x: 20 * x - 10)
    own = ["--labels", others, "--scale", scale]
    code, printed = run(main, calibrated, *own)
    assert code == 1 and "no place beside" in printed.err
    assert run(main, calibrated, *own, "--output", tmp_path / "own.npz")[0] == 0
    options += ["--interval", 0.9, "--calibration", tmp_path / "own.npz"]
    code, printed = run(predict, audio, *options)
    assert code == 0 and "not known" not in printed.err
    half = np.sort(np.abs(intercept + slope * expected - labels))[54]  # ceil(0.9 * 61)
    score, lower = columns(read_csv(output), "score", "lower")
    np.testing.assert_allclose(lower, np.clip(score - half, 0, 100), atol=2e-2)


def test_gradients_through_a_scale(setting):
    wave, _ = soundfile.read(setting.root / "test" / "wav" / "test000.wav")
    wave = torch.from_numpy(wave).requires_grad_()
    raw = setting.predictor(wave, 16000, grad=True).score
    (expected,) = torch.autograd.grad(raw, wave)
    points = [1.0, 2.0, 5.0], [4.0, 16.0, 100.0]
    scales = {kind: fit_scale(*points, kind) for kind in ("linear", "monotone")}
    predictor = MOSPredictor.from_pretrained(str(setting.exp), scale=scales["linear"])
    score = predictor(wave, 16000, grad=True).score
    (found,) = torch.autograd.grad(score, wave)
    expected = scales["linear"]["slope"] * expected
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    predictor = MOSPredictor.from_pretrained(str(setting.exp), scale=scales["monotone"])
    score = predictor(wave.detach(), 16000).score
    assert score == pytest.approx(np.interp(raw.item(), *points), abs=1e-3)
    with pytest.raises(ValueError, match="monotone scale, which is flat"):
        predictor(wave, 16000, grad=True)


@pytest.fixture(scope="module")
def stored(setting):
    """The experiment with a datastore of the labelled clips."""
    exp = shutil.copytree(setting.exp, setting.root / "stored")
    labels = setting.root / "calibration"
    assert main([str(exp), "--labels", str(labels), "--datastore"]) == 0
    return exp


def test_scores_are_blended_with_labels_of_neighbours(setting, stored, run, tmp_path):
    """By hand from single files; the same rows from a batch, and from packed."""
    audio, output = setting.root / "test" / "wav.scp", tmp_path / "s.csv"
    train = np.array([r.embedding for r in setting.results["calibration"]], float)
    queries = np.array([r.embedding for r in setting.results["test"]], float)
    deviation = train.std(axis=0)
    distances = scipy.spatial.distance.cdist(queries / deviation, train / deviation)
    labels = []
    for row in distances:
        nearest = np.argsort(row)[:9]
        weights = row[nearest[-1]] ** 2 - row[nearest] ** 2
        near = setting.labels["calibration"][nearest]
        labels.append(np.average(near, weights=weights))
    expected = 0.25 * setting.scores["test"] + 0.75 * np.array(labels)
    options = ["--knn", 8, "--knn-weight", 0.75]
    common = ["--output", output, "--model", stored]
    found = []
    for seconds in (0.01, 600):
        code, printed = run(
            predict, audio, *common, *options, "--batch-seconds", seconds
        )
        assert code == 0 and "8 neighbours among 59 clips of calib" in printed.err
        found.append(columns(read_csv(output), "score")[0])
        np.testing.assert_allclose(found[-1], expected, atol=2e-4)
    np.testing.assert_allclose(*found, atol=1e-4)
    knn = MOSPredictor.from_pretrained(str(stored), knn=8, knn_weight=0.75)
    assert knn.datastore.score_range == [1, 5] and knn.datastore.ids[0][-3:] == "000"
    out = tmp_path / "out"
    files = ["--train_config", stored / "config.yaml", "--model_file", stored / MODEL]
    words = ["--wav_scp", audio, "--output_dir", out, "--knn", 8, "--knn_weight", 0.75]
    assert run(mos_inference, *files, *words)[0] == 0
    scores = list(read_metric_scp(out / "metric.scp").values())
    np.testing.assert_allclose(scores, expected, atol=2e-4)
    # packed and unpacked
    packed, unpacked = tmp_path / "model.zip", tmp_path / "unpacked"
    assert run(mos_pack, *files, "--outpath", packed)[0] == 0
    assert run(mos_pack, "--unpack", packed, "--output_dir", unpacked)[0] == 0
    for model in (packed, unpacked):
        same = MOSPredictor.from_pretrained(
            str(model), knn=np.int64(8), knn_weight=0.75
        )
        assert same.fingerprint == knn.fingerprint
        assert same.method_fingerprint == knn.method_fingerprint
    content = (stored / "datastore.npz").read_bytes()
    assert os.fsencode(setting.root) not in content
    # Rows of another method do not go on with these.
    for other in ([], ["--knn", 7, "--knn-weight", 0.75], ["--knn", 8]):
        code, printed = run(predict, audio, *common, *other, "--resume")
        assert code == 1 and "cannot be resumed" in printed.err
    code, printed = run(predict, audio, *common, *options, "--resume")
    assert code == 0 and "60 of 60 files have scores" in printed.err
    # Whoever scores clips of the datastore is told.
    clips = setting.root / "calibration" / "wav.scp"
    code, printed = run(predict, clips, *common, "--knn", 8)
    assert code == 0 and "59 of the 59 clips are in the datastore" in printed.err


@pytest.mark.parametrize("options", [[], ["--datastore"]])
def test_labels_are_checked_before_anything_is_scored(
    options, setting, run, tmp_path, monkeypatch
):
    def refuse(*_, **__):
        raise AssertionError("scored")

    monkeypatch.setattr(calibrate, "score_files", refuse)
    beyond = shutil.copytree(setting.root / "calibration", tmp_path / "beyond")
    write_labels(beyond, "calibration", [*setting.labels["calibration"][1:], 73])
    options = [*options, "--labels", beyond, "--output", tmp_path / "c.npz"]
    code, printed = run(main, setting.exp, *options)
    assert code == 1 and "73, expected one on the model's scale" in printed.err


def test_a_long_file_is_looked_up_once(setting, stored):
    wave = np.tile(soundfile.read(setting.root / "test/wav/test000.wav")[0], 4)
    options = {"max_seconds": 0.4}
    plain = MOSPredictor.from_pretrained(str(stored), **options)(wave, 16000)
    knn = MOSPredictor.from_pretrained(str(stored), knn=5, **options)
    found = knn(wave, 16000)
    assert "windows" in found.note and np.array_equal(found.frames, plain.frames)
    label = knn.datastore.label(plain.embedding, 5)
    assert found.score == pytest.approx((plain.score + label) / 2, abs=1e-6)
    copied = pickle.loads(pickle.dumps(knn))
    assert copied(wave, 16000).score == found.score
    assert copied.fingerprint == knn.fingerprint


def test_intervals_of_blended_scores(setting, stored, run, tmp_path):
    """Of their own errors; a calibration of the plain scores is refused."""
    labels, output = setting.root / "test", tmp_path / "knn.npz"
    options = [stored, "--labels", labels, "--knn", 8, "--output", output]
    assert run(main, *options)[0] == 0
    knn = MOSPredictor.from_pretrained(str(stored), knn=8, calibration=str(output))
    plain = read_calibration(str(output))["intervals"]["scores"]
    waves = sorted((labels / "wav").iterdir())
    scores = [one.result.score for one in knn.predict_files(map(str, waves))]
    residuals = np.sort(np.abs(np.array(scores) - setting.labels["test"]))
    np.testing.assert_allclose(plain, residuals, atol=2e-4)
    options = ["--model", stored, "--interval", 0.9, "--calibration", output]
    code, printed = run(predict, waves[0], *options)
    assert code == 1 and "--knn) say nothing" in printed.err
    options = [stored, "--labels", setting.root / "calibration", "--knn", 8]
    code, printed = run(main, *options, "--output", tmp_path / "c.npz")
    assert code == 0 and "59 of the 59 clips are in the datastore" in printed.err


def test_datastores_that_cannot_be_used_are_one_sentence(
    setting, stored, run, tmp_path
):
    audio = setting.root / "test" / "wav" / "test000.wav"
    made = ["--knn-datastore", stored / "datastore.npz"]
    other = shutil.copytree(stored, tmp_path / "other")
    states = torch.load(other / MODEL, weights_only=True)
    states["head.linear.bias"] += 1e-3
    torch.save(states, other / MODEL)
    (tmp_path / "bad.npz").write_text("no archive")
    mend = "distilmos calibrate MODEL --labels DATA_DIR --datastore"
    for model, options, words in (
        (setting.exp, ["--knn", 8], mend),
        (other, ["--knn", 8], "is of the model"),
        (stored, ["--knn", 8, "--knn-datastore", tmp_path / "bad.npz"], "no readable"),
        (stored, ["--knn", 59], "knn=59 and a datastore of 59 clips"),
        (stored, ["--knn", 0], "found knn=0, expected a number of"),
        (stored, ["--knn", 8, "--knn-weight", 1.5], "expected a share from 0 to 1"),
        (stored, made, "without knn, expected both"),
        (stored, ["--knn-weight", 0.9], "found knn_weight=0.9 without knn, expected"),
        (stored, ["--knn-weight", 0], "found knn_weight=0.0 without knn, expected"),
    ):
        code, printed = run(predict, audio, "--model", model, *options)
        assert code == 1 and printed.out == ""
        assert words in printed.err and len(printed.err.splitlines()) == 1
    moved = ["--model", setting.exp, "--knn", 8, *made]  # the same model elsewhere
    assert run(predict, audio, *moved)[0] == 0
    options = ["--outpath", tmp_path / "m.zip", "--train_config", other / "config.yaml"]
    code, printed = run(mos_pack, *options, "--model_file", other / MODEL)
    assert code == 0 and "datastore.npz is left out: " in printed.err
    beyond = shutil.copytree(setting.root / "calibration", tmp_path / "beyond")
    write_labels(beyond, "calibration", [73, *setting.labels["calibration"][1:]])
    labels = ["--labels", beyond, "--datastore", "--output", tmp_path / "d.npz"]
    for options, words in (
        ([], "73, expected one on the model's scale from 1 to 5; map the labels"),
        (
            ["--knn", 8],
            "--datastore makes one file and nothing else, expected no --knn",
        ),
        (["--train", audio], "expected no --train with it"),
        (["--fit-scale", "linear"], "expected no --datastore with it"),
    ):
        code, printed = run(main, stored, *labels, *options)
        assert code == 1 and words in printed.err.splitlines()[-1]
    one = tmp_path / "one"
    one.mkdir()
    (one / "wav.scp").write_text(f"calibration000 {audio}\n")
    write_labels(one, "calibration", [3])
    code, printed = run(main, stored, "--labels", one, *labels[2:])
    assert code == 1 and "has 1 labelled clip that could be scored" in printed.err
    assert not (tmp_path / "d.npz").exists()
    predictor = MOSPredictor.from_pretrained(str(stored), knn=8)
    with pytest.raises(ValueError, match="knn=8, whose neighbours are looked up"):
        predictor(torch.ones(9000, requires_grad=True), 16000, grad=True)


def test_what_cannot_be_used_is_one_sentence(setting, run, tmp_path):
    labels = ["--labels", setting.root / "calibration"]
    (tmp_path / "empty").mkdir()
    beyond = shutil.copytree(setting.root / "calibration", tmp_path / "beyond")
    write_labels(beyond, "calibration", [73, *setting.labels["calibration"][1:]])
    falling, _ = rescaled(setting, tmp_path, "calibration", lambda x: 100 - 20 * x)
    fit = ["--fit-scale", "linear", "--output", tmp_path / "scale.json"]
    packed = tmp_path / "model.zip"
    pack = ["--train_config", setting.exp / "config.yaml", "--outpath", packed]
    assert run(mos_pack, *pack, "--model_file", setting.exp / MODEL)[0] == 0
    code, printed = run(main, packed, *labels)  # there is no place beside a .zip
    assert code == 1 and "--output is missing" in printed.err
    for options, words in (
        ([*labels, *fit, "--train", setting.root / "train"], "run the command twice"),
        (["--labels", tmp_path / "empty"], "empty/metric.scp cannot be read"),
        (["--labels", falling, *fit], "do not rise"),
        (["--labels", beyond], "calibration000 has the label 73, expected one on the"),
    ):
        code, printed = run(main, setting.exp, *options)
        assert code == 1 and words in printed.err.splitlines()[-1]
        assert printed.out == "" and not (setting.exp / "calibration.npz").exists()
