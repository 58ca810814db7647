#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Makes the scorer that comes with the package, exp/box/box.onnx and calibration.npz: a
# ridge regression on layer 3 of Whisper-tiny, taught by Distill-MOS on degraded copies of
# speech and by the ratings of p835. espnet2_distilmos/box/README.md says what came out.
set -euo pipefail
cd "$(dirname "$0")/.."

speech=          # Speech of a free licence: a directory, a wav.scp or a table.csv:column.
copies=1         # Degraded copies of each file.
weight=3.3       # How much the copies count against the ratings.
penalty=30000    # Of the ridge regression.
install=false    # Copy the result into the package.

# shellcheck disable=SC2034  # parse_options.sh prints it
help_message="Usage: local/make_box.sh --speech DIR|wav.scp [--copies N] [--weight W] [--penalty P] [--install true]"
. utils/parse_options.sh
. ./path.sh
if [ -z "${speech}" ]; then
    echo "local/make_box.sh: --speech is missing; give a directory of speech." >&2
    exit 1
fi

# In data/, dump/ and exp/ of its own: another set of copies may be there.
./run.sh --fold only_p835 --labels linear --stop_stage 1
scripts/pseudo_label.sh --speech_dir "${speech}" --copies "${copies}" --pseudo_set box_speech \
    --teachers distillmos --target distillmos
python3 local/add_crops.py data/box_speech data/box
./run.sh --fold only_p835 --labels linear --further_sets "box:${weight}" \
    --dumpdir "dump/box" --expdir "exp/box" --tag box \
    --train_args "--frontend_conf num_layers=3 --head_conf layers=[3] --head_conf penalty=${penalty}"

about="box: the small scorer that comes with the package, for noise, codecs and other processing of speech; \
weak on TTS and voice conversion (SRCC .3), its scores span a part of 1 to 5 (see espnet2_distilmos/box/README.md)"
distilmos() {
    python3 -m espnet2_distilmos.bin.distilmos "$@"
}
# Ridge regression makes the scores' spread too small; the ratings say what it is.
mkdir -p exp/box/rated exp/box/scores
for file in wav.scp metric.scp; do
    cat dump/box/raw/{train_closed,dev_only}_p835/"${file}" > "exp/box/rated/${file}"
done
echo "1 5" > exp/box/rated/score_range
distilmos calibrate exp/box/mos_box/latest.pth --labels exp/box/rated --fit-scale linear --output exp/box/scale.json
distilmos export exp/box/mos_box/latest.pth exp/box/box.onnx --weights int8 --scale exp/box/scale.json --about "${about}"
# Two talkers are no sample of talkers: the intervals are about clips of theirs.
distilmos calibrate exp/box/box.onnx --labels dump/box/raw/test_p835 --cluster '(.+)' --train dump/box/raw/box
for set in test_p835 bvrnn/test yourtts/test vocal_separation/test; do
    distilmos predict "dump/box/raw/${set}/wav.scp" --model exp/box/box.onnx --output "exp/box/scores/${set%/*}.csv"
    distilmos score "dump/box/raw/${set}" "exp/box/scores/${set%/*}.csv"
done
if ${install}; then
    cp exp/box/box.onnx exp/box/calibration.npz "${MAIN_ROOT}/espnet2_distilmos/box/"
fi
