#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Makes the frame of a new recipe: egs2/TEMPLATE/mos1/setup.sh egs2/<corpus>/mos1
# cmd.sh, conf and local are copies to be edited, the rest are links. Nothing that is
# there already is overwritten.
set -euo pipefail

if [ $# -ne 1 ]; then
    echo "Usage: $0 egs2/<corpus>/mos1" >&2
    exit 2
fi
dir=$1
mkdir -p "${dir}"
if [ ! -d "${dir}/../../TEMPLATE/mos1" ]; then
    echo "$0: ${dir}/../../TEMPLATE/mos1 is not there; the recipe's directory is egs2/<corpus>/mos1." >&2
    exit 1
fi
for f in cmd.sh conf local; do
    if [ ! -e "${dir}/${f}" ]; then
        cp -r "${dir}/../../TEMPLATE/mos1/${f}" "${dir}/${f}"
    fi
done
for f in mos.sh path.sh db.sh pyscripts scripts utils; do
    if [ ! -e "${dir}/${f}" ]; then
        ln -s "../../TEMPLATE/mos1/${f}" "${dir}/${f}"
    fi
done
