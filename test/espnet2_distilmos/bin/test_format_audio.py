# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import os
import stat

import numpy as np
import pytest
import soundfile

from espnet2_distilmos.bin.format_audio import get_parser, main, parse_rate
from espnet2_distilmos.data.datadir import read_scp


def tone(seconds, rate, hertz=440.0):
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def run(tmp_path, paths, *options):
    """Format ``paths`` by id; return the exit code and the output directory."""
    wav_scp = tmp_path / "wav.scp"
    wav_scp.write_text("".join(f"{key} {path}\n" for key, path in paths.items()))
    out = tmp_path / "out"
    code = main(["--wav_scp", str(wav_scp), "--output_dir", str(out), *options])
    return code, out


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_rate_and_channel_count_becomes_16k_mono(tmp_path, rate, channels):
    path = tmp_path / "a.wav"
    # The channels differ, so that taking one of them is not the mean.
    scales = np.array([1.0, 0.5])[:channels]
    soundfile.write(path, tone(0.5, rate)[:, None] * scales, rate, subtype="FLOAT")
    code, out = run(tmp_path, {"u": path})
    assert code == 0
    written, fs = soundfile.read(read_scp(str(out / "wav.scp"))["u"])
    assert fs == 16000 and written.ndim == 1
    assert len(written) == 8000
    assert read_scp(str(out / "utt2num_samples")) == {"u": "8000"}
    info = soundfile.info(read_scp(str(out / "wav.scp"))["u"])
    assert (info.format, info.subtype) == ("FLAC", "PCM_16")
    expected = tone(0.5, 16000) * scales.mean()
    inner = slice(1600, -1600)  # the resampler's edges are not those of the sine
    np.testing.assert_allclose(written[inner], expected[inner], atol=2e-3)


def bad_files(tmp_path):
    """Every kind of bad audio: id -> (path, words of its sentence)."""
    good = tone(0.5, 16000)
    nan = good.copy()
    nan[100] = np.nan
    soundfile.write(tmp_path / "nan.wav", nan, 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "none.wav", good[:0], 16000)
    soundfile.write(tmp_path / "short.wav", good[:800], 16000)
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("no audio at all")
    (tmp_path / "folder.wav").mkdir()
    return {
        "missing": (tmp_path / "missing.wav", "does not exist"),
        "folder": (tmp_path / "folder.wav", "is a directory"),
        "empty": (tmp_path / "empty.wav", "is empty"),
        "none": (tmp_path / "none.wav", "has 0 samples"),
        "text": (tmp_path / "text.wav", "cannot be read as audio"),
        "nan": (tmp_path / "nan.wav", "samples that are NaN"),
        "short": (tmp_path / "short.wav", "is 0.050 s long, expected at least 0.1 s"),
        "failing": ("false |", "the command 'false' in wav.scp ended with code 1"),
        "nothing": ("true |", "the output of 'true' is empty"),
    }


def test_bad_audio_gets_a_sentence_each_and_the_good_is_written(tmp_path):
    bad = bad_files(tmp_path)
    soundfile.write(tmp_path / "good.wav", tone(0.5, 16000), 16000)
    paths = {key: path for key, (path, _) in bad.items()}
    paths = {"good1": tmp_path / "good.wav", **paths, "good2": tmp_path / "good.wav"}
    code, out = run(tmp_path, paths)
    assert code == 1
    assert list(read_scp(str(out / "wav.scp"))) == ["good1", "good2"]
    sentences = (out / "errors.txt").read_text().splitlines()
    assert len(sentences) == len(bad)
    for key, (_, words) in bad.items():
        (sentence,) = [s for s in sentences if s.startswith(f"utterance {key}:")]
        assert words in sentence
    assert run(tmp_path, paths, "--bad_exit_code", "0")[0] == 0


def test_a_line_without_a_path_is_one_bad_utterance(tmp_path):
    soundfile.write(tmp_path / "good.wav", tone(0.5, 16000), 16000)
    code, out = run(tmp_path, {"a": "", "b": tmp_path / "good.wav"})
    assert code == 1
    assert "utterance a: " in (out / "errors.txt").read_text()
    assert list(read_scp(str(out / "wav.scp"))) == ["b"]


def test_a_duplicate_id_is_refused(tmp_path, capsys):
    (tmp_path / "wav.scp").write_text("a x.wav\na y.wav\n")
    command = ["--wav_scp", str(tmp_path / "wav.scp"), "--output_dir", str(tmp_path)]
    assert main(command) == 1
    assert "the id a occurs a second time" in capsys.readouterr().err


def test_segments_cut_the_recordings(tmp_path):
    samples = tone(1.0, 16000)
    soundfile.write(tmp_path / "long.wav", samples, 16000)
    segments = tmp_path / "segments"
    segments.write_text("a long 0.1 0.6\nb long 0.5 -1\nc long 0.8 0.2\nd other 0 1\n")
    code, out = run(
        tmp_path, {"long": tmp_path / "long.wav"}, "--segments", str(segments)
    )
    assert code == 1
    written = {k: soundfile.read(p)[0] for k, p in read_scp(f"{out}/wav.scp").items()}
    assert set(written) == {"a", "b"}
    np.testing.assert_allclose(written["a"], samples[1600:9600], atol=1e-4)
    np.testing.assert_allclose(written["b"], samples[8000:], atol=1e-4)
    errors = (out / "errors.txt").read_text()
    assert "utterance c" in errors and "0 <= start < end" in errors
    assert "names the recording other" in errors


def test_a_command_is_run_for_its_output(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(0.5, 16000), 16000)
    code, out = run(tmp_path, {"u": f"cat {tmp_path}/a.wav |"})
    assert code == 0
    assert read_scp(str(out / "utt2num_samples")) == {"u": "8000"}


def test_a_repeat_keeps_files_and_a_change_makes_them_again(tmp_path, capsys):
    paths = {}
    for key in "ab":
        paths[key] = tmp_path / f"{key}.wav"
        soundfile.write(paths[key], tone(0.5, 16000), 16000)
    _, out = run(tmp_path, paths)
    before = os.stat(out / "data" / "a.flac").st_mtime_ns
    soundfile.write(paths["b"], tone(0.25, 16000), 16000)
    capsys.readouterr()
    run(tmp_path, paths)
    assert "1 files written" in capsys.readouterr().err
    assert os.stat(out / "data" / "a.flac").st_mtime_ns == before
    assert read_scp(str(out / "utt2num_samples")) == {"a": "8000", "b": "4000"}
    # Another rate is another file as well.
    run(tmp_path, paths, "--fs", "8k")
    assert read_scp(str(out / "utt2num_samples")) == {"a": "4000", "b": "2000"}


def test_a_file_cut_off_by_a_killed_run_is_made_again(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(0.5, 16000), 16000)
    _, out = run(tmp_path, {"u": tmp_path / "a.wav"})
    flac = out / "data" / "u.flac"
    flac.write_bytes(b"")
    assert run(tmp_path, {"u": tmp_path / "a.wav"})[0] == 0
    assert soundfile.info(flac).frames == 8000


def test_ids_with_a_slash_have_their_own_files(tmp_path):
    paths = {}
    for key, seconds in (("s/a", 0.2), ("s%2Fa", 0.3)):
        paths[key] = tmp_path / f"{seconds}.wav"
        soundfile.write(paths[key], tone(seconds, 16000), 16000)
    _, out = run(tmp_path, paths)
    assert read_scp(str(out / "utt2num_samples")) == {"s/a": "3200", "s%2Fa": "4800"}
    assert len(list((out / "data").iterdir())) == 2


def test_a_directory_that_cannot_be_written_is_named(tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", tone(0.5, 16000), 16000)
    # A file in the way stops root too, whom permissions do not stop.
    (tmp_path / "out").write_text("")
    assert run(tmp_path, {"u": tmp_path / "a.wav"})[0] == 1
    error = capsys.readouterr().err
    assert "cannot be written" in error and "out" in error


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not stop root")
def test_a_read_only_directory_is_named(tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", tone(0.5, 16000), 16000)
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert run(tmp_path, {"u": tmp_path / "a.wav"})[0] == 1
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, rate", [("16000", 16000), ("16k", 16000), ("44.1k", 44100)]
)
def test_rates(text, rate):
    assert parse_rate(text) == rate


def test_parser_has_a_description_and_refuses_a_wrong_rate(capsys):
    assert get_parser().description
    with pytest.raises(SystemExit):
        main(["--wav_scp", "a", "--output_dir", "b", "--fs", "fast"])
    assert "fast is not a rate" in capsys.readouterr().err
