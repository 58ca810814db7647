#!/usr/bin/env bash
# Makes the frame of a recipe: egs2/TEMPLATE/mos1/setup.sh egs2/<corpus>/mos1
set -euo pipefail

if [ "$#" -ne 1 ]; then
    echo "Usage: $0 <target-dir>" >&2
    exit 2
fi
dir=$1
mkdir -p "${dir}"
if [ ! -d "${dir}/../../TEMPLATE/mos1" ]; then
    echo "Error: ${dir}/../../TEMPLATE/mos1 is not there; the target is egs2/<corpus>/mos1." >&2
    exit 1
fi
for f in cmd.sh conf local; do
    cp -r "${dir}/../../TEMPLATE/asr1/${f}" "${dir}"
done
for f in path.sh db.sh scripts pyscripts steps utils; do
    ln -sfn "../../TEMPLATE/asr1/${f}" "${dir}/${f}"
done
ln -sfn ../../TEMPLATE/mos1/mos.sh "${dir}/mos.sh"
