#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Train every run of a list with every seed by ./run.sh, and compare them in one table.

Data and statistics are made once, tokens once for all runs that need the same. What is
done is skipped; a run that fails leaves the others alone and is named at the end.
Options that are not listed here are those of run.sh, for every run. The result is
EXPDIR/ablation_LIST/RESULTS.md.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

METRICS = "utt_mos_srcc,utt_mos_lcc,utt_mos_mse,sys_mos_srcc,sys_mos_lcc,sys_mos_mse"
TOKEN_OPTIONS = ("num_clusters", "token_layers", "max_frames")
OF_A_RUN = ("train_config", "tag", "mos_exp", "tokens_tag", "use_tokens")


class Run(NamedTuple):
    """A line of what bin/ablation_runs.py prints."""

    name: str
    config: str
    train_args: str
    use_tokens: str
    tokens_tag: str
    options: str
    config_hash: str

    def settings(self):
        """What the run is, to be compared with the training that is there."""
        tokens = self.tokens_tag if self.use_tokens == "true" else "no tokens"
        return f"{self.config} ({self.config_hash}) | {self.train_args} | {tokens}"


def fail(sentence):
    sys.exit(f"mos_ablation.sh: {sentence}")


def log(sentence):
    print(time.strftime("%Y-%m-%dT%H:%M:%S (mos_ablation.sh)"), sentence, flush=True)


def read(path):
    """Return the text of a file, "" if there is none."""
    return path.read_text() if path.exists() else ""


def get_parser():
    parser = argparse.ArgumentParser(
        prog="mos_ablation.sh",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.error = fail
    add = parser.add_argument
    add("--list", required=True, help="'name | config | train args | token options'")
    add("--seeds", default="0 1 2", help="train every run with these")
    add("--only", default="", help="names of the runs to train; all if empty")
    add("--baseline", default="", help="is compared with; the first run if empty")
    add("--runs_nj", type=int, default=1, help="trainings at once (jobs of cmd.sh)")
    add("--stage", type=int, help="first: 1 data, 5 tokens, 7 training, 9 table")
    add("--stop_stage", type=int, default=9, help="last stage")
    add("--metrics", default=METRICS, help="of the table")
    add("--train_args", default="", help="options of every training")
    for name in TOKEN_OPTIONS:
        add(f"--{name}", default="", help="as in mos.sh, for lines that have none")
    add("--python", default="python3", help="Python interpreter")
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
    for seed in args.seeds.split():
        if not seed.isdigit():
            fail(f"--seeds has '{seed}', expected whole numbers.")
    if args.runs_nj < 1:
        fail(f"--runs_nj is {args.runs_nj}, expected at least 1.")
    return args, options


class Ablation:
    """The runs of a list, and the directory where they are trained.

    Args:
        args: Options of this script.
        options: Options of run.sh for all runs.
    """

    def __init__(self, args, options):
        self.args, self.options = args, options
        tokens = [(name, getattr(args, name)) for name in TOKEN_OPTIONS]
        tokens = " ".join(f"--{name} {value}" for name, value in tokens if value)
        self.runs = self.read_runs(
            f"--only={args.only}",
            f"--train_args={args.train_args}",
            f"--token_options={tokens}",
        )
        self.all_names = [run.name for run in self.read_runs()]
        self.baseline = args.baseline or self.all_names[0]
        if self.baseline not in self.all_names:
            fail(f"--baseline {self.baseline} is no run of {args.list}.")
        self.exp = Path(
            options.get("expdir", "exp"), f"ablation_{Path(args.list).stem}"
        )
        self.exp.mkdir(parents=True, exist_ok=True)
        self.settings = f"options: {shlex.join(f'{k}={v}' for k, v in options.items())}"
        self.processes, self.failed = set(), []

    def read_runs(self, *options):
        command = [self.args.python, "-m", "espnet2_distilmos.bin.ablation_runs"]
        command += [self.args.list, *options]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if result.returncode:
            sys.exit(1)  # it said why
        return [Run(*line.split("|")) for line in result.stdout.splitlines()]

    def recipe(self, first, last, run, log_file=None, **options):
        """Run stages of run.sh, in a process group of their own; return the code."""
        options = {
            **self.options,
            **dict(python=self.args.python, stage=first, stop_stage=last),
            **dict(train_config=run.config, train_args=run.train_args, **options),
        }
        words = [word for k, v in options.items() for word in (f"--{k}", str(v))]
        process = subprocess.Popen(
            ["./run.sh", *words, *run.options.split()],
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            start_new_session=True,
        )
        self.processes.add(process)
        return process.wait()

    def stop(self, *_):
        """End all runs and this script, on a signal."""
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        sentence = "mos_ablation.sh: stopped; the same command goes on from here."
        print(sentence, file=sys.stderr, flush=True)
        os._exit(130)

    def is_done(self, run, seed):
        """Whether the run was trained and scored as it is asked for now."""
        folder = self.exp / run.name / f"seed{seed}"
        found = read(folder / "done"), read(folder / "settings")
        return found == (self.settings, run.settings())

    def prepare_data(self):
        """Stages 1 to 4 and 6, with the first run's configuration."""
        log("Data: stages 1 to 4 and 6")
        (self.exp / "prepared").unlink(missing_ok=True)
        run = self.runs[0]._replace(options="")
        if self.recipe(1, 4, run) or self.recipe(6, 6, run, use_tokens="false"):
            fail("the data cannot be prepared; see the lines above.")
        (self.exp / "prepared").write_text(self.settings)

    def make_tokens(self, seeds):
        """Stage 5, once for runs with the same tokens; return the tags that failed."""
        codes = {}
        for run in self.runs:
            needed = not all(self.is_done(run, seed) for seed in seeds)
            if needed and run.use_tokens == "true" and run.tokens_tag not in codes:
                log(f"Tokens of {run.name}: {run.tokens_tag}")
                # Audio without labels is prepared and measured too.
                stages = (1, 6) if "--unlabelled_sets" in run.options else (5, 5)
                codes[run.tokens_tag] = self.recipe(
                    *stages, run, tokens_tag=run.tokens_tag
                )
        return {tag for tag, code in codes.items() if code}

    def train(self, run, seed, bad_tokens, first):
        """Stages 7 to 9 of one run; return why it failed, or None."""
        folder = self.exp / run.name / f"seed{seed}"
        was = read(folder / "settings")
        if (folder / "checkpoint.pth").exists() and was != run.settings():
            return (
                f"{folder} was trained as '{was}', expected '{run.settings()}'; remove "
                "the directory, or rename the run in the list."
            )
        if run.use_tokens == "true" and run.tokens_tag in bad_tokens:
            return "its tokens could not be made (see above)."
        if (folder / "done").exists():
            first = 8  # trained; it was scored with other options or on other sets
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "settings").write_text(run.settings())
        last = min(self.args.stop_stage, 9)
        args = f"{run.train_args} --seed {seed}".strip()
        own = dict(use_tokens=run.use_tokens, tokens_tag=run.tokens_tag)
        own.update(mos_exp=folder, baselines="false")
        with open(folder / "run.log", "w") as file:
            code = self.recipe(
                max(first, 7), last, run._replace(train_args=args), file, **own
            )
        if code:
            lines = read(folder / "run.log").splitlines()
            return f"see {folder}/run.log: {' '.join(lines[-1:])}"
        if last == 9:
            (folder / "done").write_text(self.settings)
        return None

    def train_and_report(self, run, seed, *args):
        name, start = f"{run.name}/seed{seed}", time.time()
        if self.is_done(run, seed):
            log(f"{name} is done already")
            return
        log(f"{name}, log: {self.exp}/{name}/run.log")
        why_not = self.train(run, seed, *args)
        if why_not:
            self.failed.append(name)
            log(f"{name} FAILED: {why_not}")
        else:
            log(f"{name}: done in {time.time() - start:.0f} s")

    def table(self, command_line):
        """Write the table of all runs that are done; return the exit code."""
        lines = [
            f"{name} {folder.name.removeprefix('seed')} {folder}\n"
            for name in self.all_names
            for folder in sorted((self.exp / name).glob("seed*"))
            if (folder / "done").exists()
        ]
        if not lines:
            fail("no run is done, there is no table; see the sentences above.")
        (self.exp / "runs.txt").write_text("".join(lines))
        command = [self.args.python, "-m", "espnet2_distilmos.bin.results"]
        command += ["--list", f"{self.exp}/runs.txt", "--output_dir", str(self.exp)]
        command += ["--bootstrap", self.options.get("bootstrap", "1000")]
        command += ["--score_range", *self.options.get("score_range", "1 5").split()]
        command += ["--metrics", self.args.metrics, "--note", command_line]
        if any(line.split()[0] == self.baseline for line in lines):
            command += ["--baseline", self.baseline]
        else:
            log(f"No seed of {self.baseline} is done: the table compares nothing")
        code = subprocess.run(command).returncode
        log(f"The table is in {self.exp}/RESULTS.md")
        return code


def main(argv):
    args, options = parse(argv)
    ablation = Ablation(args, options)
    signal.signal(signal.SIGTERM, ablation.stop)
    signal.signal(signal.SIGINT, ablation.stop)
    seeds = args.seeds.split()
    prepared = read(ablation.exp / "prepared") == ablation.settings
    first = args.stage or (5 if prepared else 1)
    stages = range(first, args.stop_stage + 1)
    if 1 in stages:
        ablation.prepare_data()
    bad_tokens = ablation.make_tokens(seeds) if 5 in stages else set()
    if 7 in stages or 8 in stages:
        with ThreadPoolExecutor(args.runs_nj) as pool:
            # A seed of every run first: a table that is stopped is of all.
            jobs = [
                pool.submit(ablation.train_and_report, run, seed, bad_tokens, first)
                for seed in seeds
                for run in ablation.runs
            ]
        for job in jobs:
            job.result()
    code = 0
    if 9 in stages:
        code = ablation.table(f"Command: `scripts/mos_ablation.sh {shlex.join(argv)}`")
    if ablation.failed:
        failed = " ".join(ablation.failed)
        fail(f"failed: {failed}; the same command tries them again.")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
