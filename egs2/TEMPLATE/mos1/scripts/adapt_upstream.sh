#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Adapts an upstream to audio without labels, before anything is trained on labels: it
# learns its own tokens of frames that are masked. Run it in a recipe's directory, after
# stages 1 to 4. What is done is skipped; a training that was killed goes on.
set -euo pipefail

fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

adapt_config=        # Configuration of the adaptation, such as conf/tuning/adapt_wavlm.yaml.
adapt_args=          # Options that override it.
adapt_sets=train     # Sets whose audio is adapted to; CORPUS/SET is a set of egs2/CORPUS. Labels are not read.
valid_set=dev        # Set for the validation loss.
adapt_exp=           # Directory of the adaptation; made from the above if empty.
min_wav_duration=0.1 # Shortest utterance, seconds.
max_wav_duration=30  # Longest utterance, seconds.
num_clusters=200     # Centroids a codebook.
token_layers=all     # Layers with a codebook: all, or a list such as 1,3,5.
max_frames=100000    # Frames that the codebooks are fitted to.
dumpdir=dump         # As in mos.sh.
expdir=exp           # As in mos.sh.
ngpu=1               # Number of GPUs a node; 0 is the CPU.
num_nodes=1          # Number of nodes.
nj=8                 # Number of parallel jobs.
train_threads=1      # CPU threads of the training.
python=python3       # Python interpreter.
skip_bad=false       # Go on without bad utterances instead of stopping.

# shellcheck disable=SC2034  # parse_options.sh prints it
help_message="Usage: $0 --adapt_config F [--adapt_sets \"train somos/train\"] [--name value ...]

Options and their defaults:
$(sed -n '/^adapt_config=/,/^skip_bad=/s/^\([a-z_]*\)=\([^ #]*\) *# \(.*\)$/  --\1 (\2) \3/p' "$0")"
. utils/parse_options.sh
[ $# -eq 0 ] || fail "'$*' is not an option; '$0 --help' lists the options."
[ -r "${adapt_config}" ] || fail "--adapt_config '${adapt_config}' cannot be read; give a configuration such as conf/tuning/adapt_wavlm.yaml."
if [ -z "${adapt_exp}" ]; then
    name="${adapt_sets//\//-}$(sed -e 's/--/_/g' -e 's/[ |=/]//g' <<< "${adapt_args}")"
    adapt_exp="${expdir}/$(basename "${adapt_config}" .yaml)_${name// /+}"
fi

# Sets that no training on labels has formatted yet
missing=
for dset in ${adapt_sets}; do
    [ -s "${dumpdir}/raw/${dset}/wav.scp" ] || missing+="${missing:+ }${dset}"
done
if [ -n "${missing}" ]; then
    # shellcheck disable=SC2086  # several names
    [ "$(scripts/utils/prepare_test_sets.sh --skip_bad "${skip_bad}" ${missing})" = "${missing}" ] \
        || fail "--adapt_sets names a set that cannot be prepared; see the sentence above."
    ./mos.sh --skip_train true --stage 2 --stop_stage 2 --test_sets "${missing}" --nj "${nj}" \
        --dumpdir "${dumpdir}" --expdir "${expdir}" --python "${python}" --skip_bad "${skip_bad}"
fi
# join PART SET ...: the audio of the sets as one
join() {
    local dir="${adapt_exp}/data/$1" name dset
    mkdir -p "${dir}"
    for name in wav.scp utt2num_samples; do
        for dset in "${@:2}"; do
            [ -s "${dumpdir}/raw/${dset}/${name}" ] \
                || fail "${dumpdir}/raw/${dset}/${name} is missing or empty; run stages 1 to 4 of ./run.sh first."
            cat "${dumpdir}/raw/${dset}/${name}"
        done | sort -u -k1,1 > "${dir}/.${name}"
        cmp -s "${dir}/.${name}" "${dir}/${name}" || cp "${dir}/.${name}" "${dir}/${name}"
    done
}
# shellcheck disable=SC2086  # several names
join train ${adapt_sets}
join valid "${valid_set}"
scripts/pretrain_upstream.sh --train_scp "${adapt_exp}/data/train/wav.scp" --valid_scp "${adapt_exp}/data/valid/wav.scp" \
    --exp "${adapt_exp}" --train_config "${adapt_config}" --train_args "${adapt_args}" --tokens_args "${adapt_args}" \
    --token_layers "${token_layers}" --num_clusters "${num_clusters}" --max_frames "${max_frames}" \
    --min_wav_duration "${min_wav_duration}" --max_wav_duration "${max_wav_duration}" \
    --ngpu "${ngpu}" --num_nodes "${num_nodes}" --nj "${nj}" --train_threads "${train_threads}" --python "${python}"

model="--init_model ${adapt_exp}/valid.loss.best.pth"
fingerprint=$(sed -n 's/.*"upstream_fingerprint": *"\([^"]*\)".*/\1/p' "${adapt_exp}/tokens/tokens.json")
cat << EOM
To train on labels from it:
    ./run.sh --stage 5 --train_args "${model}"
To do so with the tokens of the upstream as it was pretrained (${dumpdir}/tokens/TAG, of a stage 5
without these --train_args):
    ./run.sh --stage 7 --tokens_tag TAG --train_args "${model} --token_source ${fingerprint}"
EOM
