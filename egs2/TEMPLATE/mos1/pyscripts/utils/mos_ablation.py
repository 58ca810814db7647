#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Train every run of a list with every seed and fold, and compare them in one table.

Data and statistics are made once a fold, tokens once a fold for all runs that need the
same. What is done is skipped; a run that fails leaves the others alone and is named at
the end. Options that are not listed here are those of run.sh, for every run. The result
is EXPDIR/ablation_LIST/RESULTS.md.

With --folds, run.sh is called for each of them: {fold} in its options is the fold, and
{seed} the seed; it gets EXPDIR/FOLD and DUMPDIR/FOLD as its directories. The first part
of a fold's name, up to "_", is the group over which folds are compared, a talker say.

Lines of the list, of which the last two fields may be absent; # begins a comment:

    NAME | TRAIN_CONFIG | options of mos_train | options of mos.sh about tokens,
                                                 --use_corpora, --use_votes,
                                                 --further_sets
    NAME | SCRIPT.py | options

A script predicts without training, and with no seed unless its options have {seed}: it
is given `--out DIR` and writes DIR/TEST_SET/metric.scp. In the options {fold}, {seed}
and {dumpdir} are those of the run; {exp} is the directory of all runs, so that
`--init_model {exp}/OTHER/seed{seed}/{fold}/latest.pth` starts from the model of another
run.
"""

import argparse
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import yaml

from espnet2_distilmos.data.datadir import DataError

METRICS = "utt_mos_srcc,utt_mos_lcc,utt_mos_mse,sys_mos_srcc,sys_mos_lcc,sys_mos_mse"
# Options of mos.sh that a run may have of its own: they are about its tokens, about the
# audio that has tokens and no labels, and about further data: files, which change no
# token, and sets.
FURTHER_FILES = ("use_corpora", "use_votes")
FURTHER_SETS = ("further_sets", "unlabelled_sets")
TOKEN_OPTIONS = {
    "use_tokens": r"true|false",
    "num_clusters": r"[1-9][0-9]*",
    "token_layers": r"all|[0-9]+(,[0-9]+)*",
    "max_frames": r"[1-9][0-9]*",
    "token_upstreams": r"[\w./,+-]+",
    "token_aggregate": r"heads|average|concat",
    **{name: r"[A-Za-z0-9_./-]+(:[0-9]*\.?[0-9]+)?" for name in FURTHER_SETS},
    **{name: r"true|false" for name in FURTHER_FILES},
}
FOR_ALL = ("num_clusters", "token_layers", "max_frames")
OF_A_RUN = ("train_config", "tag", "mos_exp", "tokens_tag", "use_tokens")
# Options of a frontend that say how it is trained, not what it puts out untrained.
TRAINING_ONLY = (
    *("freeze", "lora", "gradient_checkpointing"),
    *("layerdrop", "spec_augment"),
)
# What this script itself gives to mos_train; a script of a list may take a seed.
OF_SCRIPTS = ("--config", "--output_dir", "--resume")
RESERVED = ("--seed", *OF_SCRIPTS)


class Run(NamedTuple):
    """A line of the list.

    Attributes:
        name: Of the run, and of its directory.
        config: Training configuration, or a script.
        args: Options of mos_train, those of all runs first, or of the script.
        use_tokens: "true" or "false".
        tokens_tag: Name of its tokens, which runs that need the same tokens share.
        options: Options of mos.sh, such as ``--num_clusters 50``.
        file_hash: Of the contents of the configuration or the script.
    """

    name: str
    config: str
    args: str
    use_tokens: str = "false"
    tokens_tag: str = ""
    options: str = ""
    file_hash: str = ""

    @property
    def is_script(self):
        return self.config.endswith(".py")

    @property
    def has_sets(self):
        """Whether it trains on sets that the others do not train on."""
        return any(f"--{name} " in f"{self.options} " for name in FURTHER_SETS)

    def settings(self):
        """What the run is, to be compared with the training that is there."""
        tokens = self.tokens_tag if self.use_tokens == "true" else "no tokens"
        for name, value in parse_token_options(self.options).items():
            if name == "further_sets" or (name in FURTHER_FILES and value == "true"):
                tokens += f" | --{name} {value}"
        return f"{self.config} ({self.file_hash}) | {self.args} | {tokens}"


# The list


def hash_of(content):
    """Identify settings: 8 hexadecimal digits of what JSON makes of them."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def parse_token_options(text):
    """Return {name: value}."""
    words = text.split()
    options = {}
    for option, value in zip(words[::2], [*words[1::2], ""]):
        name = option[2:].replace("-", "_") if option.startswith("--") else ""
        if not re.fullmatch(TOKEN_OPTIONS.get(name, "$."), value):
            known = "; ".join(f"--{k} {v}" for k, v in TOKEN_OPTIONS.items())
            raise DataError(
                f"the options about tokens have {option!r} with {value!r}, expected "
                f"some of {known}; those of the training stand before the third |."
            )
        options[name] = value
    return options


def check_args(text, reserved=RESERVED):
    """Return options of mos_train or of a script, words that no shell evaluates."""
    words = text.split()
    reserved = [word for word in words if word.partition("=")[0] in reserved]
    if reserved:
        raise DataError(
            f"{reserved[0]} is not for a list, expected it on the command line or in "
            "the configuration: seeds are --seeds of the script."
        )
    if set(text) & set("'\"\\$`") or not (words or ["--"])[0].startswith("--"):
        raise DataError(
            f"the options of the training are {text!r}, expected plain words, which no "
            "shell will evaluate, such as `--losses token_ce.weight=0.3`."
        )
    return " ".join(words)


def without_other_runs(args):
    """Drop the model of another run, which is not there when tokens are made."""
    return re.sub(r"--init_model[ =]\{exp\}\S*", "", args)


def read_run(line, train_args, token_options):
    """Read a line of the list, to which the options of all runs come."""
    fields = [field.strip() for field in line.split("|")]
    if not 2 <= len(fields) <= 4:
        raise DataError(
            f"found {len(fields)} fields, expected two to four: name | train config | "
            "options of the training | options about tokens."
        )
    name, config, own_args, own_options = [*fields, "", ""][:4]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise DataError(
            f"the name of the run is {name!r}, expected letters, digits, '.', '_' and "
            "'-'."
        )
    is_script = config.endswith(".py")
    own_args = check_args(own_args, OF_SCRIPTS if is_script else RESERVED)
    own_options = parse_token_options(own_options)
    if is_script:
        try:
            text = Path(config).read_text(encoding="utf-8")
        except OSError as error:
            raise DataError(f"{config} cannot be read ({error.strerror}).") from error
        return Run(name, config, own_args, file_hash=hash_of(text))
    args = f"{train_args} {own_args}".strip()
    options = {**token_options, **own_options}
    # Imports torch, which a help text does not need.
    from espnet2_distilmos.mos.checkpoint import read_frontend_conf

    frontend = read_frontend_conf(config, without_other_runs(args))
    with open(config, encoding="utf-8") as file:
        file_hash = hash_of(yaml.safe_load(file))
    use_tokens = options.pop("use_tokens", "true")
    # The name of the tokens says what they are of, so that equal ones are shared and
    # unequal ones are not, whatever runs the list has.
    conf = {k: v for k, v in frontend.conf.items() if k not in TRAINING_ONLY}
    own = {k: v for k, v in options.items() if k not in FURTHER_FILES}
    key = [frontend.name, conf, frontend.init_model, own]
    if use_tokens == "false" and set(own) & set(FURTHER_SETS):
        key = [own]  # data alone, whatever reads it
    key = hash_of(key)
    tag = "ablation"
    if "num_clusters" in options:
        tag += f"_k{options['num_clusters']}"
    if "token_layers" in options:
        tag += f"_l{options['token_layers'].replace(',', '-')}"
    words = " ".join(f"--{option} {value}" for option, value in options.items())
    return Run(name, config, args, use_tokens, f"{tag}_{key}", words, file_hash)


def read_runs(path, train_args="", token_options=""):
    """Read the list; nothing of it is evaluated.

    Args:
        path: The list.
        train_args: Options of mos_train for all runs; those of a line come after.
        token_options: Options of mos.sh about tokens, which a line overrides.

    Returns:
        The runs by name, in the order of the list.

    Raises:
        DataError: A line is not as it should be, two have one name, there is none, or
            a configuration cannot be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}), expected a list of runs; give another "
            "--list."
        ) from error
    for_all = check_args(train_args), parse_token_options(token_options)
    runs = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            run = read_run(line, *for_all)
            if run.name in runs:
                raise DataError(
                    f"the name {run.name} was given before, expected a name for each "
                    "run; rename one."
                )
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
        runs[run.name] = run
    if not runs:
        raise DataError(
            f"{path} has no run, expected lines such as "
            "`lambda0 | conf/tuning/train_distilmos_lambda0.yaml`."
        )
    return runs


# The options


def fail(sentence):
    """End the script with a sentence and exit code 1."""
    sys.exit(f"mos_ablation.sh: {sentence}")


def log(sentence):
    """Print a sentence with the time."""
    print(time.strftime("%Y-%m-%dT%H:%M:%S (mos_ablation.sh)"), sentence, flush=True)


def read(path):
    """Return the text of a file, "" if there is none."""
    return path.read_text() if path.exists() else ""


def get_parser():
    parser = argparse.ArgumentParser(
        prog="mos_ablation.sh",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.error = fail
    add = parser.add_argument
    add("--list", required=True, help="the runs, see above")
    add("--seeds", default="0 1 2", help="train every run with these (0 1 2)")
    add("--folds", default="", help="train every run on these; none by default")
    add("--only", default="", help="names of the runs to train (all)")
    add(
        "--table",
        default="",
        help="write the table into this directory of EXPDIR/ablation_LIST, with the "
        "runs of --only and the seeds of --seeds alone (all that are done)",
    )
    add("--baseline", default="", help="is compared with (the table's first run)")
    add("--runs_nj", type=int, default=1, help="trainings at once, jobs of cmd.sh (1)")
    add("--stage", type=int, help="first: 1 data, 5 tokens, 7 training, 9 table")
    add("--stop_stage", type=int, default=9, help="last stage (9)")
    add("--metrics", default=METRICS, help="of the table")
    add("--columns", default="", help="of the table, a file, see `distilmos results`")
    add("--train_args", default="", help="options of every training")
    add("--expdir", default="exp", help="directory of experiments (exp)")
    add("--dumpdir", default="dump", help="directory of audio and tokens (dump)")
    for name in FOR_ALL:
        add(f"--{name}", default="", help="as in mos.sh, for lines that have none")
    return parser


def parse(argv):
    """Return the options of this script, and those of run.sh as {name: value}."""
    args, rest = get_parser().parse_known_args(argv)
    if len(rest) % 2 or not all(name.startswith("--") for name in rest[::2]):
        fail(f"'{shlex.join(rest)}' are not options with a value each.")
    options = {name[2:].replace("-", "_"): v for name, v in zip(rest[::2], rest[1::2])}
    for name in OF_A_RUN:
        if name in options:
            fail(f"--{name} differs from run to run; write it into the list.")
    for name in ("seeds", "folds", "only"):
        setattr(args, name, getattr(args, name).split())
    for seed in args.seeds:
        if not seed.isdigit():
            fail(f"--seeds has '{seed}', expected whole numbers.")
    if args.runs_nj < 1:
        fail(f"--runs_nj is {args.runs_nj}, expected at least 1.")
    return args, options


# The work


class Ablation:
    """The runs of a list, and the directory where they are trained.

    Args:
        args: Options of this script.
        options: Options of run.sh for all runs.

    Raises:
        DataError: The list cannot be used, or has not the runs that are asked for.
    """

    def __init__(self, args, options):
        self.args, self.options = args, options
        tokens = [(name, getattr(args, name)) for name in FOR_ALL]
        tokens = " ".join(f"--{name} {value}" for name, value in tokens if value)
        known = read_runs(args.list, args.train_args, tokens)
        chosen = args.only or list(known)
        for name in (*chosen, *args.baseline.split()):
            if name not in known:
                raise DataError(
                    f"{args.list} has no run {name}, expected some of "
                    f"{', '.join(known)} in --only and --baseline."
                )
        self.runs = [known[name] for name in chosen]
        self.in_table = self.runs if args.table else list(known.values())
        self.baseline = args.baseline or self.in_table[0].name
        self.folds = args.folds or [""]
        self.exp = Path(args.expdir, f"ablation_{Path(args.list).stem}")
        self.exp.mkdir(parents=True, exist_ok=True)
        self.settings = f"options: {shlex.join(f'{k}={v}' for k, v in options.items())}"
        self.processes, self.failed = set(), []
        # Held while a process starts: what ends them all must know of it.
        self.starting = threading.RLock()

    def folder(self, run, seed, fold):
        return self.exp / run.name / f"seed{seed}" / fold

    def seeds(self, run):
        seeded = not run.is_script or "{seed}" in run.args
        return self.args.seeds if seeded else ["0"]

    def start(self, words, fold, seed="0", log_file=None):
        """Run a command in a process group of its own; return the code."""
        values = {"fold": fold, "seed": seed, "exp": self.exp}
        values["dumpdir"] = Path(self.args.dumpdir, fold)
        for name, value in values.items():
            words = [word.replace(f"{{{name}}}", str(value)) for word in words]
        with self.starting:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                start_new_session=True,
            )
            self.processes.add(process)
        return process.wait()

    def recipe(self, first, last, run, fold, seed="0", log_file=None, **own):
        """Run stages of run.sh; return the code."""
        options = {**self.options, "stage": first, "stop_stage": last}
        for name in ("expdir", "dumpdir"):
            options[name] = Path(getattr(self.args, name), fold)
        if not run.is_script:
            options.update(train_config=run.config, train_args=run.args)
        options.update(own)
        words = [word for k, v in options.items() for word in (f"--{k}", str(v))]
        words = ["./run.sh", *words, *run.options.split()]
        return self.start(words, fold, seed, log_file)

    def stop(self, *_):
        """End all runs and this script, on a signal."""
        self.starting.acquire()  # for good: nothing starts any more
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        sentence = "mos_ablation.sh: stopped; the same command goes on from here."
        print(sentence, file=sys.stderr, flush=True)
        os._exit(130)

    def is_done(self, run, seed, fold):
        """Whether the run was trained and scored as it is asked for now."""
        folder = self.folder(run, seed, fold)
        found = read(folder / "done"), read(folder / "settings")
        return found == (self.settings, run.settings())

    def prepared(self, fold):
        return self.exp / f"prepared_{fold}".rstrip("_")

    def prepare_data(self, fold):
        """Stages 1 to 4 and 6, with the first run's configuration."""
        log(f"Data: stages 1 to 4 and 6 {fold}".rstrip())
        self.prepared(fold).unlink(missing_ok=True)
        trained = [run for run in self.runs if not run.is_script]
        run = (trained or self.runs)[0]._replace(options="")
        run = run._replace(args=without_other_runs(run.args))
        if self.recipe(1, 4, run, fold) or (
            trained and self.recipe(6, 6, run, fold, use_tokens="false")
        ):
            fail("the data cannot be prepared; see the lines above.")
        self.prepared(fold).write_text(self.settings)

    def make_tokens(self, fold):
        """Data of runs with sets of their own, and stage 5 once for equal tokens.

        Returns:
            The tags of what failed, each with the fold.
        """
        codes = {}
        for run in self.runs:
            needed = not all(self.is_done(run, s, fold) for s in self.seeds(run))
            tag = run.tokens_tag
            if needed and self.is_prepared_first(run) and tag not in codes:
                what = "Tokens" if run.use_tokens == "true" else "Data"
                log(f"{what} of {run.name}: {tag} {fold}".rstrip())
                stages = (1, 6) if run.has_sets else (5, 5)
                run = run._replace(args=without_other_runs(run.args))
                own = dict(tokens_tag=tag, use_tokens=run.use_tokens)
                codes[tag] = self.recipe(*stages, run, fold, **own)
        return {(tag, fold) for tag, code in codes.items() if code}

    @staticmethod
    def is_prepared_first(run):
        return run.use_tokens == "true" or run.has_sets

    def train(self, run, seed, fold, bad_tokens, first):
        """Stages 7 to 9 of one run; return why it failed, or None."""
        folder = self.folder(run, seed, fold)
        was = read(folder / "settings")
        if (folder / "checkpoint.pth").exists() and was != run.settings():
            return (
                f"{folder} was trained as '{was}', expected '{run.settings()}'; remove "
                "the directory, or rename the run in the list."
            )
        if self.is_prepared_first(run) and (run.tokens_tag, fold) in bad_tokens:
            return "its data or tokens could not be made (see above)."
        if (folder / "done").exists() and not run.is_script:
            first = 8  # trained; it was scored with other options or on other sets
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "settings").write_text(run.settings())
        last = min(self.args.stop_stage, 9)
        own = dict(mos_exp=folder, baselines="false")
        with open(folder / "run.log", "w") as file:
            where = (fold, seed, file)
            if run.is_script:
                own["inference_tag"] = "inference"
                words = [sys.executable, run.config, "--out", f"{folder}/inference"]
                code = self.start([*words, *run.args.split()], *where)
                if not code and last == 9:
                    code = self.recipe(9, 9, run, *where, **own)
            else:
                own.update(use_tokens=run.use_tokens, tokens_tag=run.tokens_tag)
                own["train_args"] = f"{run.args} --seed {seed}".strip()
                code = self.recipe(max(first, 7), last, run, *where, **own)
        if code:
            lines = read(folder / "run.log").splitlines()
            return f"see {folder}/run.log: {' '.join(lines[-1:])}"
        if last == 9:
            (folder / "done").write_text(self.settings)
        return None

    def train_and_report(self, run, seed, fold, *args):
        name, start = str(Path(run.name, f"seed{seed}", fold)), time.time()
        if self.is_done(run, seed, fold):
            log(f"{name} is done already")
            return
        log(f"{name}, log: {self.exp}/{name}/run.log")
        why_not = self.train(run, seed, fold, *args)
        if why_not:
            self.failed.append(name)
            log(f"{name} FAILED: {why_not}")
        else:
            log(f"{name}: done in {time.time() - start:.0f} s")

    def train_all(self, *args):
        """Train all runs; those that start from another's model come after it."""
        for later in (False, True):
            runs = [run for run in self.runs if ("{exp}" in run.args) == later]
            # A seed of every run first: a table that is stopped is of all.
            jobs = [
                (run, seed, fold)
                for seed in dict.fromkeys(["0", *self.args.seeds])
                for fold in self.folds
                for run in runs
                if seed in self.seeds(run)
            ]
            with ThreadPoolExecutor(self.args.runs_nj) as pool:
                found = [pool.submit(self.train_and_report, *j, *args) for j in jobs]
            for job in found:
                job.result()

    def table(self, command_line):
        """Write the table of the runs that are done; return the exit code."""
        lines = []
        for run in self.in_table:
            seeds = self.seeds(run)
            if not self.args.table:
                found = sorted((self.exp / run.name).glob("seed*"))
                seeds = [path.name.removeprefix("seed") for path in found]
            for seed in seeds:
                exps = {fold: self.folder(run, seed, fold) for fold in self.folds}
                missing = [e for e in exps.values() if not (e / "done").exists()]
                if missing:
                    log(f"Not in the table, as it is not done: {missing[0]}")
                    continue
                lines += [f"{run.name} {seed} {f} {exp}\n" for f, exp in exps.items()]
        if not lines:
            fail("no run is done, there is no table; see the sentences above.")
        out = self.exp / self.args.table
        out.mkdir(exist_ok=True)
        (out / "runs.txt").write_text("".join(lines))
        command = [sys.executable, "-m", "espnet2_distilmos.bin.results"]
        command += ["--list", f"{out}/runs.txt", "--output_dir", str(out)]
        command += ["--bootstrap", self.options.get("bootstrap", "1000")]
        command += ["--score_range", *self.options.get("score_range", "1 5").split()]
        command += ["--metrics", self.args.metrics, "--note", command_line]
        if self.args.columns:
            command += ["--columns", self.args.columns]
        if any(line.split()[0] == self.baseline for line in lines):
            command += ["--baseline", self.baseline]
        else:
            log(f"No seed of {self.baseline} is done: the table compares nothing")
        code = subprocess.run(command).returncode
        log(f"The table is in {out}/RESULTS.md")
        return code


def main(argv):
    args, options = parse(argv)
    try:
        ablation = Ablation(args, options)
    except DataError as error:
        fail(str(error))
    signal.signal(signal.SIGTERM, ablation.stop)
    signal.signal(signal.SIGINT, ablation.stop)
    bad_tokens, first = set(), args.stage
    for fold in ablation.folds:
        prepared = read(ablation.prepared(fold)) == ablation.settings
        first = args.stage or (5 if prepared else 1)
        stages = range(first, args.stop_stage + 1)
        if 1 in stages:
            ablation.prepare_data(fold)
        if 5 in stages:
            bad_tokens |= ablation.make_tokens(fold)
    if 7 in stages or 8 in stages:
        ablation.train_all(bad_tokens, first)
    code = 0
    if 9 in stages:
        code = ablation.table(f"Command: `scripts/mos_ablation.sh {shlex.join(argv)}`")
    if ablation.failed:
        failed = " ".join(ablation.failed)
        fail(f"failed: {failed}; the same command tries them again.")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
