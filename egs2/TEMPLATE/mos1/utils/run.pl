#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Run a command, or an array of jobs, on this machine with one log file a job.

Usage: run.pl [options] [JOB=1:N] LOG COMMAND [ARGUMENT ...]

JOB in LOG and in the arguments becomes the job's number; nothing else of them is
interpreted. Of the options only --max-jobs-run is used; the others (--gpu, --mem,
--num-threads, --name, -l, ...) take one value and are for the cluster back-ends that
share this command line.
The name ends in .pl because Kaldi's does.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time

TAIL_LINES = 20


def parse(argv):
    """Split the command line.

    Returns:
        (max_jobs_run, job_name or None, list of job numbers, log, command)
    """
    max_jobs_run = os.cpu_count() or 1
    arguments = list(argv)
    while len(arguments) >= 2 and arguments[0].startswith("-"):
        name, value = arguments[0], arguments[1]
        if name.lstrip("-").replace("_", "-") == "max-jobs-run":
            max_jobs_run = max(1, int(value))
        arguments = arguments[2:]
    job_name, jobs = None, [1]
    if arguments:
        match = re.match(r"^([A-Za-z_]\w*)=(\d+)(?::(\d+))?$", arguments[0])
        if match is not None:
            job_name = match.group(1)
            first, last = int(match.group(2)), int(match.group(3) or match.group(2))
            if first < 1 or last < first:
                sys.exit(f"run.pl: {arguments[0]} is not a range of jobs such as 1:4.")
            jobs = list(range(first, last + 1))
            arguments = arguments[1:]
    if len(arguments) < 2:
        sys.exit(__doc__)
    if job_name is not None and len(jobs) > 1 and job_name not in arguments[0]:
        sys.exit(f"run.pl: the log {arguments[0]} needs {job_name} in its name.")
    return max_jobs_run, job_name, jobs, arguments[0], arguments[1:]


def now():
    return time.strftime("%a %b %d %H:%M:%S %Z %Y")


class Job:
    """One running command and its log."""

    def __init__(self, log, command):
        self.log = log
        self.start = time.time()
        os.makedirs(os.path.dirname(log) or ".", exist_ok=True)
        with open(log, "w", encoding="utf-8") as f:
            f.write(f"# {shlex.join(command)}\n# Started at {now()}\n#\n")
        with open(log, "ab") as f:
            # The same process group as this one, so that Ctrl-C ends all of them.
            self.process = subprocess.Popen(
                # Bash names a command that does not exist.
                ["bash", "-c", 'exec "$@"', "bash", *command],
                stdin=subprocess.DEVNULL,
                stdout=f,
                stderr=subprocess.STDOUT,
            )

    def finished(self):
        """Return None while running, else the exit code, with the log closed."""
        code = self.process.poll()
        if code is None:
            return None
        code = 128 - code if code < 0 else code
        seconds = round(time.time() - self.start)
        with open(self.log, "a", encoding="utf-8") as f:
            f.write(
                f"# Accounting: time={seconds} threads=1\n"
                f"# Ended (code {code}) at {now()}, elapsed time {seconds} seconds\n"
            )
        return code


def main(argv):
    max_jobs_run, job_name, jobs, log, command = parse(argv)
    running, failed = [], []

    # Noted only: a job that is just being started is not among the running ones yet.
    stopped_by = []
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda number, frame: stopped_by.append(number))

    waiting = list(jobs)
    while waiting or running:
        if stopped_by:
            for job in running:
                job.process.terminate()
            return 128 + stopped_by[0]
        while waiting and len(running) < max_jobs_run:
            number = str(waiting.pop(0))

            def fill(text):
                return text if job_name is None else text.replace(job_name, number)

            running.append(Job(fill(log), [fill(argument) for argument in command]))
        for job in list(running):
            code = job.finished()
            if code is not None:
                running.remove(job)
                if code != 0:
                    failed.append(job.log)
        if running:
            time.sleep(0.02)

    if failed:
        shown = log if job_name is None else log.replace(job_name, "*")
        print(
            f"run.pl: {len(failed)} / {len(jobs)} failed, log is in {shown}; "
            f"the end of {failed[0]}:",
            file=sys.stderr,
        )
        with open(failed[0], encoding="utf-8", errors="replace") as f:
            sys.stderr.writelines("    " + line for line in f.readlines()[-TAIL_LINES:])
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
