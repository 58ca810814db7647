#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# How jobs are run:
#     ${train_cmd}  jobs on the CPU
#     ${cuda_cmd}   jobs on a GPU (or training on the CPU with --ngpu 0)
#     ${decode_cmd} inference on the CPU
# A command takes "[options] JOB=1:N LOG COMMAND". The options that differ from cluster
# to cluster (partition, queue) go into conf/slurm.conf, conf/queue.conf or conf/pbs.conf,
# as ESPnet's TEMPLATE has them. slurm.pl, queue.pl, pbs.pl and ssh.pl come with Kaldi:
# tools/link_espnet.sh links them.

# Select the back-end: local | slurm | sge | pbs | ssh
cmd_backend=${cmd_backend:-local}

case "${cmd_backend}" in
    local)
        export train_cmd="run.pl"
        export cuda_cmd="run.pl"
        export decode_cmd="run.pl" ;;
    slurm)
        export train_cmd="slurm.pl"
        export cuda_cmd="slurm.pl"
        export decode_cmd="slurm.pl" ;;
    sge)
        export train_cmd="queue.pl"
        export cuda_cmd="queue.pl"
        export decode_cmd="queue.pl" ;;
    pbs)
        export train_cmd="pbs.pl"
        export cuda_cmd="pbs.pl"
        export decode_cmd="pbs.pl" ;;
    ssh)
        export train_cmd="ssh.pl"
        export cuda_cmd="ssh.pl"
        export decode_cmd="ssh.pl" ;;
    *)
        echo "cmd_backend=${cmd_backend} is not local, slurm, sge, pbs or ssh; correct cmd.sh." >&2
        exit 1 ;;
esac
