# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import importlib
import pkgutil
import re
import subprocess
import sys

import pytest

import espnet2_distilmos.bin
from espnet2_distilmos.bin.distilmos import COMMANDS, main

MODULES = [m.name for m in pkgutil.iter_modules(espnet2_distilmos.bin.__path__)]


def child(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_help_comes_without_torch():
    done = child(
        "import sys; from espnet2_distilmos.bin.distilmos import main;"
        "main(['--help']); sys.exit(' '.join({'torch', 'numpy'} & set(sys.modules)))"
    )
    assert done.stderr.strip() == ""
    for name, (_, text) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", done.stdout, re.MULTILINE)
    # ESPnet makes the options of a training from the classes that it could build.
    modules = [f"espnet2_distilmos.bin.{name}" for name in set(MODULES) - {"mos_train"}]
    done = child(
        "import importlib, sys\n"
        f"for name in {modules}:\n"
        "    importlib.import_module(name).get_parser().format_help()\n"
        "    slow = {'torch', 'scipy.optimize', 'scipy.signal', 'scipy.stats'}\n"
        "    assert not slow & set(sys.modules), name\n"
    )
    assert done.returncode == 0, done.stderr


def test_statistics_come_without_torch(tmp_path):
    pytest.importorskip("matplotlib")
    labels = {f"{k % 2}-{k}": 1 + k % 4 for k in range(20)}
    for name, change in (("labels", 0), ("a", 0.3), ("b", 0.4)):
        rows = [
            f"{i},{v + change * (-1) ** (k // 3)}\n"
            for k, (i, v) in enumerate(labels.items())
        ]
        (tmp_path / f"{name}.csv").write_text("id,mos\n" + "".join(rows))
    files = ["labels.csv", "a.csv", "b.csv", "--systems", "^([01])"]
    commands = [
        ["score", *files, "--bootstrap", "20", "--output", "out"],
        ["compare", *files, "--bootstrap", "20", "--output", "out"],
        ["results", "out/results.json"],
        ["plot", "scatter", *files[:2], "--output", "scatter.png"],
        ["convert", "a.csv", "a.txt", "--to", "voicemos"],
    ]
    code = (
        "import os, sys\n"
        "from espnet2_distilmos.bin.distilmos import main\n"
        f"os.chdir({str(tmp_path)!r})\n"
        f"for command in {commands}:\n"
        "    assert main(command) == 0, command\n"
        "    assert 'torch' not in sys.modules, command\n"
    )
    done = child(code)
    assert done.returncode == 0, done.stderr
    assert "| utt SRCC | a" in done.stdout and (tmp_path / "out/RESULTS.md").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["distilmos", name])
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert f"usage: distilmos {name} " in capsys.readouterr().out


def test_exit_codes_and_arguments_pass_through(capsys, monkeypatch):
    seen = []
    module = importlib.import_module(COMMANDS["predict"][0])
    monkeypatch.setattr(module, "main", lambda arguments: seen.append(arguments) or 7)
    monkeypatch.setattr(sys, "argv", ["distilmos"])
    assert main(["predict", "a b", "--x"]) == 7
    assert seen == [["a b", "--x"]]
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == espnet2_distilmos.__version__
    assert main(["frobnicate"]) == 2
    assert "found the command frobnicate, expected one of" in capsys.readouterr().err
    assert main([]) == 2
    assert "Commands:" in capsys.readouterr().err


@pytest.mark.parametrize("name", MODULES)
def test_each_command_has_a_parser_with_a_description(name):
    """ESPnet makes the page of a command of it, and stops at one without."""
    module = importlib.import_module(f"espnet2_distilmos.bin.{name}")
    assert module.get_parser().description
