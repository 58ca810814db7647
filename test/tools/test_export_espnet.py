# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The export into a skeleton of ESPnet: the installed package and shell helpers."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import espnet2
import pytest

from espnet2_distilmos import FORMAT_VERSION

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "egs2" / "TEMPLATE" / "mos1"
# ESPnet's own command lines, as little of them as the recipe asks for.
HELPERS = {
    "utils/copy_data_dir.sh": 'mkdir -p "$4"; cp "$3"/{wav.scp,utt2spk,spk2utt} "$4"',
    "utils/filter_scp.pl": 'if [ "$1" = --exclude ]; then not="!"; shift; fi\n'
    'awk "NR == FNR { a[\\$1]; next } ${not:-}(\\$1 in a)" "$1" "$2"',
    "local/path.sh": "",
    "steps/x.sh": "",
    "db.sh": "",
    "conf/slurm.conf": "",
    "conf/queue.conf": "",
    "conf/pbs.conf": "",
}


@pytest.fixture(scope="module")
def tool():
    path = ROOT / "tools" / "export_espnet.py"
    spec = importlib.util.spec_from_file_location("export_espnet", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def git(folder, *command):
    names = {
        f"GIT_{w}_{n}": "a@b"
        for w in ("AUTHOR", "COMMITTER")
        for n in ("NAME", "EMAIL")
    }
    done = subprocess.run(
        ["git", *command],
        cwd=folder,
        env={**os.environ, **names},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def make_skeleton(root):
    """A git checkout with ESPnet's package, linked, and a TEMPLATE like its own."""
    installed = Path(espnet2.__file__).parent
    open_folders = ("bin", "schedulers", "tasks", "train")  # new files go there
    for path in installed.iterdir():
        paths = path.iterdir() if path.name in open_folders else [path]
        for file in paths:
            if file.name != "__pycache__":
                link = root / "espnet2" / file.relative_to(installed)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(file)
    asr = root / "egs2" / "TEMPLATE" / "asr1"
    for name, text in HELPERS.items():
        (asr / name).parent.mkdir(parents=True, exist_ok=True)
        (asr / name).write_text(f"#!/usr/bin/env bash\nset -eu\n{text}\n")
        (asr / name).chmod(0o755)
    for name in ("cmd.sh", "path.sh", "utils", "scripts", "pyscripts"):
        copy = shutil.copytree if (TEMPLATE / name).is_dir() else shutil.copy
        options = {"dirs_exist_ok": True} if copy is shutil.copytree else {}
        copy(TEMPLATE / name, asr / name, **options)
    (root / "tools").mkdir()
    (root / "tools" / "extra_path.sh").write_text("")
    (root / "tools" / "activate_python.sh").write_text(
        f"PATH={Path(sys.executable).parent}:$PATH; PYTHONPATH={ROOT}"
    )
    (root / "setup.cfg").write_text(
        "[flake8]\nmax-line-length = 88\nextend-ignore = E203,W503\n"
        "[pycodestyle]\nmax-line-length = 88\nignore = E203,W503\n"
        "[isort]\nprofile = black\n[tool:pytest]\ntestpaths = test\n"
    )
    (root / ".gitignore").write_text("egs2/*/*/data\negs2/*/*/local\n")
    git(root, "init", "-q")
    git(root, "add", "--all")
    git(root, "commit", "-qm", "ESPnet")
    return root


@pytest.fixture(scope="module")
def exported(tool, tmp_path_factory):
    """The skeleton after the export, and what was added to it."""
    root = make_skeleton(tmp_path_factory.mktemp("espnet"))
    with pytest.MonkeyPatch.context() as patch:
        for who in ("AUTHOR", "COMMITTER"):
            patch.setenv(f"GIT_{who}_NAME", "a")
            patch.setenv(f"GIT_{who}_EMAIL", "a@b")
        assert tool.main([str(root)]) == 0
    first = git(root, "rev-list", "--max-parents=0", "HEAD").strip()
    return root, git(root, "diff", "--name-only", first, "HEAD").splitlines()


def run(root, *command, **options):
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_commits_are_of_the_size_that_espnet_asks_for(exported, tool):
    root, added = exported
    titles = git(root, "log", "--format=%s", "--reverse").splitlines()
    assert titles[1:] == [f"MOS prediction: {title}" for title in tool.COMMITS]
    for n in range(len(titles) - 1):
        stat = git(root, "show", "--format=", "--numstat", f"HEAD~{n}").splitlines()
        lines = [line.split("\t")[:2] for line in stat]
        assert len(lines) <= 20 and sum(int(a) for a, _ in lines) <= 1000
        assert {deleted for _, deleted in lines} == {"0"}
    assert git(root, "status", "--porcelain") == ""
    assert (
        f"FORMAT_VERSION = {FORMAT_VERSION}\n"
        in (root / "espnet2/mos/__init__.py").read_text()
    )
    # Beside the copyright nothing tells where it comes from.
    for path in added:
        if (root / path).is_file():
            text = (root / path).read_text().replace("espnet2_distilmos developers", "")
            assert "espnet2_distilmos" not in text, path


@pytest.mark.slow
def test_style_and_imports_are_as_espnet_checks_them(exported):
    root, added = exported
    python = [path for path in added if path.endswith(".py")]
    for linter in ("black --check -q", "isort --check -q", "flake8", "pycodestyle"):
        run(root, sys.executable, "-m", *linter.split(), *python)
    # Without this repository on the path.
    modules = [p[:-3].replace("/", ".") for p in python if p.startswith("espnet2/")]
    code = f"import importlib, sys\nfor m in {modules}: importlib.import_module(m)\n"
    code += "sys.exit('espnet2_distilmos' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(root)}
    run(root, sys.executable, "-c", code, env=env)


@pytest.mark.slow
def test_a_recipe_made_by_the_template_and_a_dry_run(exported):
    root, _ = exported
    run(root, "egs2/TEMPLATE/mos1/setup.sh", "egs2/new/mos1")
    names = ["mos.sh", "cmd.sh", "path.sh", "db.sh", "utils", "steps", "conf", "local"]
    assert all((root / "egs2/new/mos1" / name).exists() for name in names)
    shutil.rmtree(root / "egs2" / "new")
    command = [sys.executable, "-m", "espnet2.bin.mos_train", "--dry_run", "true"]
    command += ["--config", "egs2/mini_mos/mos1/conf/train.yaml"]
    command += ["--iterator_type", "none", "--output_dir", "out"]
    run(root, *command, env={**os.environ, "PYTHONPATH": str(root)})


@pytest.mark.slow
def test_its_tests_pass_there(exported):
    root, _ = exported
    env = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    run(root, *command, "test/espnet2/mos", env=env)


@pytest.mark.slow
def test_the_mini_recipe_runs_there(exported):
    root, _ = exported
    recipe = root / "egs2" / "mini_mos" / "mos1"
    options = ["--train_args", "--max_epoch 2", "--skip_upload", "false"]
    env = {**os.environ, "cmd_backend": "local"}
    run(recipe, "./run.sh", *options, env=env)
    (exp,) = (recipe / "exp").glob("mos_train_*")
    assert "|test|" in (exp / "RESULTS.md").read_text()
    assert list(exp.glob("*.zip"))


@pytest.fixture
def refused(tool, tmp_path, capsys, monkeypatch):
    """Expects a sentence of the export, and an untouched checkout."""
    root = make_skeleton(tmp_path)

    def refuse(message):
        before = git(root, "log", "--all", "--format=%H")
        assert tool.main([str(root)]) == 1
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1 and message in error
        assert git(root, "log", "--all", "--format=%H") == before
        assert not (root / "espnet2" / "mos").exists()

    return root, refuse


def test_a_checkout_that_is_not_ready_is_refused(refused, tool, tmp_path, capsys):
    root, refuse = refused
    assert tool.main([str(tmp_path / "nowhere")]) == 1
    assert "is no git checkout of ESPnet" in capsys.readouterr().err
    git(root, "branch", "mos")
    refuse("has a branch mos already")
    git(root, "branch", "-D", "mos")
    (root / "setup.cfg").write_text("")
    refuse("has changes")
    git(root, "checkout", "setup.cfg")
    (root / "espnet2" / "tasks" / "mos.py").write_text("")
    refuse("espnet2/tasks/mos.py is there already")
    (root / "espnet2" / "tasks" / "mos.py").unlink()
    git(root, "rm", "-q", "egs2/TEMPLATE/asr1/conf/pbs.conf")
    git(root, "commit", "-qm", "incomplete")
    refuse("conf/pbs.conf is not there")


def test_a_table_that_espnet_would_not_take_is_refused(refused, tool, monkeypatch):
    _, refuse = refused
    entries = [("README.md", f"a{n}") for n in range(21)]
    monkeypatch.setitem(tool.COMMITS, "many", entries)
    refuse("'many' has 21 files")
    long = [("egs2/TEMPLATE/mos1/mos.sh", "a"), ("egs2/TEMPLATE/mos1/mos.sh", "b")]
    monkeypatch.setitem(tool.COMMITS, "many", long)
    refuse("expected at most 20 files and 1000 lines")
    serving = [("espnet2_distilmos/predictor.py", "espnet2/mos/predictor.py")]
    monkeypatch.setitem(tool.COMMITS, "many", serving)
    refuse("espnet2_distilmos/predictor.py needs espnet2_distilmos.abs_predictor")
