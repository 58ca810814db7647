#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Commit the part of this repository that ESPnet would take to an ESPnet checkout.

``COMMITS`` is the table: what goes, under which name, in which order. Modules get their
new names wherever they are written; ``tools/espnet`` has what is simpler there than
here (inference, tokens, the TEMPLATE, a mini recipe). Statistics and serving stay:
nothing that goes may import them, and tests that do are left out.
"""

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "espnet2_distilmos"
# What ESPnet asks of a pull request.
MAX_FILES, MAX_LINES = 20, 1000
BRANCH = "mos"

# What is written: from a file here, from one of the checkout ("= name"), or a link
# ("-> target").
Entry = Tuple[str, str]


def mos(*names: str, tests: Optional[bool] = None) -> List[Entry]:
    """Modules of ``mos`` and their tests; the one or the other if ``tests`` says so."""
    entries = []
    for name in names:
        folder, _, base = name.rpartition("/")
        test = str(Path(folder, f"test_{base}.py"))
        if tests is not True:
            entries.append((f"{PACKAGE}/mos/{name}.py", f"espnet2/mos/{name}.py"))
        if tests is not False:
            entries.append((f"test/{PACKAGE}/mos/{test}", f"test/espnet2/mos/{test}"))
    return entries


def packages(*folders: str) -> List[Entry]:
    """The empty ``__init__.py`` of parts of ``mos``, and of their tests."""
    names = [f"mos/{folder}/__init__.py" for folder in folders]
    return [
        entry
        for name in names
        for entry in (
            (f"{PACKAGE}/{name}", f"espnet2/{name}"),
            (f"test/{PACKAGE}/{name}", f"test/espnet2/{name}"),
        )
    ]


def moved(ours: str, theirs: str, folder: Optional[str] = None) -> List[Entry]:
    """A module with another name there, and its test in a folder of those of mos."""
    entries = [(f"{PACKAGE}/{ours}.py", f"espnet2/{theirs}.py")]
    return entries if folder is None else [*entries, test_of(ours, folder)]


def test_of(ours: str, folder: str) -> Entry:
    """The test of a module, in a folder of those of mos."""
    room, _, base = ours.rpartition("/")
    name = f"test_{base}.py"
    theirs = Path("test/espnet2/mos", folder, name)
    return f"test/{PACKAGE}/{room}/{name}", str(theirs)


def here(*names: str) -> List[Entry]:
    """Files that ``tools/espnet`` has."""
    return [(f"tools/espnet/{name}", name) for name in names]


def template(recipe: str, task: str, *names: str) -> List[Entry]:
    """Links of a recipe to what all recipes of a TEMPLATE share."""
    return [(f"-> ../../TEMPLATE/{task}/{name}", f"{recipe}/{name}") for name in names]


INIT = f"{PACKAGE}/train/__init__.py"  # empty
MINI = "egs2/mini_mos/mos1"
CONF = ("conf/slurm.conf", "conf/queue.conf", "conf/pbs.conf")
COMMITS: Dict[str, List[Entry]] = {
    "data files": [
        *here("espnet2/mos/__init__.py", "test/espnet2/mos/conftest.py"),
        (INIT, "test/espnet2/mos/__init__.py"),
        ("test/conftest.py", "test/espnet2/mos/corpus.py"),
        *moved("data/datadir", "mos/datadir", ""),
    ],
    "metrics": moved("evaluation/metrics", "mos/metrics", ""),
    "masks, normalisation and adapters of upstreams": [
        *packages("frontend"),
        *mos("masking", "span_mask", "frontend/masked_norm", "frontend/parts"),
        *mos("frontend/gradient_checkpointing", "frontend/lora", tests=False),
        *mos("frontend/pruned", tests=False),
    ],
    "the contract of an upstream": [
        *mos("frontend/abs_frontend", "frontend/spectrum"),
        *mos("frontend/hf_family", "frontend/hf_waveform", tests=False),
    ],
    "upstreams of transformers": [
        *mos("frontend/hf_whisper", "frontend/hf_wav2vec2_bert", tests=False),
        *mos("frontend/hf", tests=False),
    ],
    "tests of upstreams": [
        *mos("frontend/hf", "frontend/gradient_checkpointing", tests=True),
        (
            f"test/{PACKAGE}/mos/frontend/tiny_upstreams.py",
            "test/espnet2/mos/frontend/tiny_upstreams.py",
        ),
    ],
    "upstreams of s3prl, and MFCC": [
        *mos("frontend/mfcc"),
        *mos("frontend/s3prl", tests=False),
    ],
    "a small upstream to train from scratch": mos("frontend/spec_cnn"),
    "tests of s3prl and adapters": mos("frontend/s3prl", "frontend/lora", tests=True),
    "the contract of a head and its parts": [
        *packages("head"),
        *mos("head/abs_head", "head/condition", "head/layer_mix"),
        *mos("head/masked_batch_norm", "head/masked_lstm"),
    ],
    "a linear probe": mos("head/pooling", "head/probe", tests=False),
    "heads": [
        *mos("head/distilmos", "head/ssl_mos", "head/token"),
        *mos("head/probe", tests=True),
    ],
    "losses": [
        *packages("loss"),
        *mos("loss/abs_loss", "loss/regression", "loss/token"),
        *mos("loss/masked_token", "loss/aux_scores"),
    ],
    "losses on pairs": [
        *mos("loss/pair", "loss/contrastive"),
        *mos("loss/bradley_terry", "loss/prs", "loss/triplet", tests=False),
    ],
    "units that can be pruned": mos("pruning", "loss/l0", tests=False),
    "codebooks": mos("grid", "tokens"),
    "teachers": [
        *mos("teacher", "loss/masked_ema"),
        *mos("optimizer_state", "head/layer_predictor", tests=False),
    ],
    "distillation": mos("loss/layer_distill"),
    "distortions as domains": mos("loss/domain_adversarial", "loss/distortion"),
    "the model": mos("espnet_model", tests=False),
    "registries": mos("build"),
    "checkpoints": [
        *moved("named_models", "mos/named_models"),
        *mos("checkpoint", tests=False),
    ],
    "tokens of several upstreams": mos("token_upstreams"),
    "released models": mos("official", tests=False),
    "preprocessing": [
        (INIT, "test/espnet2/mos/train/__init__.py"),
        *moved("train/mos_collate_fn", "train/mos_collate_fn", "train"),
        *moved(
            "train/mos_preprocessor",
            "train/mos_preprocessor",
            "train",
        ),
    ],
    "distortions": [
        *moved("distortion/degradations", "mos/degradations"),
        *moved("distortion/systems", "mos/systems"),
    ],
    "views": [
        (INIT, "test/espnet2/mos/distortion/__init__.py"),
        *moved("distortion/signals", "mos/signals", "distortion"),
        *moved("train/views", "train/mos_views", "train"),
    ],
    "sampling and schedule": [
        *moved("train/mos_sampler", "train/mos_sampler", "train"),
        *moved(
            "train/warmup_linear_lr",
            "schedulers/warmup_linear_lr",
            "train",
        ),
    ],
    "the trainer": moved("train/mos_trainer", "train/mos_trainer"),
    "checks before a training": moved("train/mos_checks", "train/mos_checks"),
    "the task": [
        *moved("tasks/mos", "tasks/mos"),
        *here("espnet2/bin/mos_train.py"),
    ],
    "tests of the task": [
        (INIT, "test/espnet2/mos/tasks/__init__.py"),
        test_of("tasks/mos", "tasks"),
    ],
    "tests of the model": mos("espnet_model", tests=True),
    "tests of pruning": mos("pruning", "loss/l0", tests=True),
    "tests of the trainer": [test_of("train/mos_trainer", "train")],
    "tests of the checks": [test_of("train/mos_checks", "train")],
    "tests of checkpoints": mos("checkpoint", tests=True),
    "inference and tokens": here(
        "espnet2/bin/mos_inference.py",
        "espnet2/bin/mos_tokens.py",
        "test/espnet2/mos/bin/test_mos_bin.py",
    )
    + [(INIT, "test/espnet2/mos/bin/__init__.py")],
    "the recipe's TEMPLATE": here(
        "egs2/TEMPLATE/mos1/README.md",
        "egs2/TEMPLATE/mos1/mos.sh",
        "egs2/TEMPLATE/mos1/setup.sh",
        "egs2/TEMPLATE/asr1/pyscripts/utils/mos_score.py",
    ),
    "a mini recipe": [
        *here(f"{MINI}/run.sh", f"{MINI}/conf/train.yaml"),
        *here(f"{MINI}/local/data.sh", f"{MINI}/local/data_prep.py"),
        # ESPnet's CI wants these equal in all recipes.
        *((f"= egs2/TEMPLATE/asr1/{f}", f"{MINI}/{f}") for f in ("cmd.sh", *CONF)),
        ("= egs2/TEMPLATE/asr1/local/path.sh", f"{MINI}/local/path.sh"),
        *template(MINI, "mos1", "mos.sh"),
        *template(MINI, "asr1", "path.sh", "db.sh", "scripts", "pyscripts"),
        *template(MINI, "asr1", "steps", "utils"),
    ],
}


class ExportError(Exception):
    """Why nothing was exported, in one sentence."""


def module_of(path: str) -> str:
    """Dotted name of a Python file."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


# The root's only name that goes is FORMAT_VERSION.
MODULES = {PACKAGE: "espnet2.mos"}
MODULES.update((f"{PACKAGE}.{x}", f"espnet2.{x}") for x in ("mos", "train", "tasks"))
MODULES[f"{PACKAGE}.bin"] = "espnet2.bin"
MODULES.update(
    (module_of(ours), module_of(theirs))
    for entries in COMMITS.values()
    for ours, theirs in entries
    if ours.startswith(f"{PACKAGE}/") and ours != INIT
)


def module_in(dotted: str) -> str:
    """The module or package here that a dotted name begins with."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:end])
        if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file():
            return ".".join(parts[:end])
    return PACKAGE


def staying(text: str) -> List[str]:
    """Modules that a piece of Python names and that do not go."""
    names = re.findall(rf"\b{PACKAGE}(?:\.\w+)+", text)
    # Modules and what the root has beside FORMAT_VERSION may be imported from packages.
    for module, what in re.findall(
        rf"from ({PACKAGE}[\w.]*) import \(?([\w\s,]+)", text
    ):
        aliases = [alias.split()[0] for alias in what.split(",") if alias.strip()]
        if module == PACKAGE:
            aliases = [a for a in aliases if a != "FORMAT_VERSION"]
            aliases = ["predictor" if a == "MOSPredictor" else a for a in aliases]
        names += [f"{module}.{alias}" for alias in aliases]
    return sorted({module_in(name) for name in names} - set(MODULES))


class Exported(NamedTuple):
    """A file as it stands there: bytes and mode, or a link's target."""

    content: bytes
    mode: int = 0o644
    link: Optional[str] = None


def renamed(ours: str) -> Tuple[str, List[str]]:
    """A Python file with the new names, and the tests that it loses.

    Raises:
        ExportError: It needs what stays.
    """
    text = (ROOT / ours).read_text(encoding="utf-8")
    lines, lost = text.splitlines(keepends=True), []
    if ours.startswith("test/"):
        for node in reversed(ast.parse(text).body):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
                if staying("".join(lines[first : node.end_lineno])):
                    lost.append(node.name)
                    del lines[first : node.end_lineno]
    text = "".join(lines)
    if lost:
        used = {n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name)}
        for line in re.findall(r"^import \w+\n", text, re.MULTILINE):
            if line.split()[1] not in used:
                text = text.replace(line, "", 1)
    for name in staying(text):
        raise ExportError(
            f"{ours} needs {name}, which stays here: move what it needs into a module "
            "that goes, or change the table COMMITS."
        )

    def new_name(match: "re.Match[str]") -> str:
        module = module_in(match[0])
        return MODULES[module] + match[0][len(module) :]

    # The copyright keeps its holder.
    return re.sub(rf"\b{PACKAGE}(?! developers)(?:\.\w+)*", new_name, text), lost


def read(entry: Entry, espnet: Path) -> Exported:
    """Make one file of the table.

    Raises:
        ExportError: It is not there, or needs what stays.
    """
    ours, theirs = entry
    if ours.startswith("-> "):
        return Exported(b"", link=ours[3:])
    source = espnet / ours[2:] if ours.startswith("= ") else ROOT / ours
    if not source.is_file():
        raise ExportError(
            f"{source} is not there, expected a checkout of ESPnet as a whole: choose "
            "one, or correct the table COMMITS."
        )
    mode = 0o755 if os.access(source, os.X_OK) else 0o644
    if not theirs.endswith(".py") or source.parts[: len(ROOT.parts)] != ROOT.parts:
        return Exported(source.read_bytes(), mode)
    text, lost = renamed(ours)
    for name in lost:
        print(f"Left out: {name} of {ours}, which needs what stays here")
    return Exported(text.encode(), mode)


def write(file: Exported, path: Path) -> None:
    """Write a file, or the link that it is, with its mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if file.link is not None:
        path.symlink_to(file.link)
    else:
        path.write_bytes(file.content)
        path.chmod(file.mode)


def run(*command: str, cwd: Path) -> str:
    """Output of a command.

    Raises:
        ExportError: It failed.
    """
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        reason = " ".join((done.stderr or done.stdout).split())[-300:]
        raise ExportError(f"'{' '.join(command[:4])}' failed in {cwd}: {reason}")
    return done.stdout


def check_checkout(espnet: Path) -> None:
    """Refuse what is no checkout, has changes, or has what would be written."""
    if not (espnet / ".git").exists() or not (espnet / "espnet2" / "tasks").is_dir():
        raise ExportError(f"{espnet} is no git checkout of ESPnet; give its root.")
    if run("git", "status", "--porcelain", "--untracked-files=no", cwd=espnet):
        raise ExportError(f"{espnet} has changes; commit or stash them first.")
    if run("git", "branch", "--list", BRANCH, cwd=espnet):
        raise ExportError(
            f"{espnet} has a branch {BRANCH} already; rename or delete it "
            f"(git branch -D {BRANCH})."
        )
    for _, theirs in (entry for entries in COMMITS.values() for entry in entries):
        if os.path.lexists(espnet / theirs):
            raise ExportError(
                f"{espnet}/{theirs} is there already; check a commit out that has no "
                "MOS task, or rename what stands in the way."
            )


def check_sizes(folder: Path) -> None:
    """Refuse files and commits that are too large for ESPnet."""
    for title, entries in COMMITS.items():
        paths = [folder / theirs for _, theirs in entries]
        lines = {p: 1 if p.is_symlink() else p.read_bytes().count(b"\n") for p in paths}
        total = sum(lines.values())
        largest = max(lines, key=lines.__getitem__)
        if len(paths) > MAX_FILES or total > MAX_LINES:
            raise ExportError(
                f"'{title}' has {len(paths)} files of {total} lines, the largest is "
                f"{largest.relative_to(folder)} of {lines[largest]}, expected at most "
                f"{MAX_FILES} files and {MAX_LINES} lines: split it in the table "
                "COMMITS, or the file."
            )


def export(espnet: Path) -> None:
    """Write the series of commits to a new branch; all or nothing.

    Raises:
        ExportError: The checkout or the table does not allow it.
    """
    check_checkout(espnet)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for entries in COMMITS.values():
            for entry in entries:
                write(read(entry, espnet), folder / entry[1])
        check_sizes(folder)
        # With other names imports have another order, and lines another length.
        python = [str(p) for p in folder.rglob("*.py") if not p.is_symlink()]
        first = ("-p", "espnet2", "-p", "espnet", "--profile", "black")
        run(sys.executable, "-m", "isort", "-q", *first, *python, cwd=folder)
        run(sys.executable, "-m", "black", "-q", *python, cwd=folder)
        check_sizes(folder)
        run("git", "switch", "-q", "-c", BRANCH, cwd=espnet)
        for title, entries in COMMITS.items():
            paths = [theirs for _, theirs in entries]
            for path in paths:
                (espnet / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(folder / path, espnet / path, follow_symlinks=False)
            run("git", "add", "--force", "--", *paths, cwd=espnet)
            run("git", "commit", "-q", "-m", f"MOS prediction: {title}", cwd=espnet)
    print(f"{len(COMMITS)} commits on the branch {BRANCH} of {espnet}")


def main(cmd: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("espnet", type=Path, metavar="ESPNET_ROOT")
    args = parser.parse_args(cmd)
    try:
        export(args.espnet.resolve())
    except ExportError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
