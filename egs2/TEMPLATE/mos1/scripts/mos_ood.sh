#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# mos.sh with test sets of other recipes. All options of mos.sh, and:
#   --ood "CORPUS/SET ..."  more test sets; "all" is all that --known_ood names
#   --all_models true|false after stage 9, score every model that was trained in EXPDIR, if
#                           there are several, on every test set, into one table:
#                           EXPDIR/RESULTS.md
# Sets that are not there are left out with a sentence.
set -euo pipefail

ood=
known_ood=
all_models=true
# Those options of mos.sh that matter here, with their defaults.
stage=1
stop_stage=10000
skip_data_prep=false
skip_eval=false
skip_bad=false
test_sets=
expdir=exp
dumpdir=dump
python=python3
inference_config=
inference_args=
inference_tag=
inference_model=valid.sys_srcc.best.pth
score_range="1 5"
bootstrap=1000

run_args=$(scripts/utils/print_args.sh "$0" "$@")
mos_args=()
while [ $# -gt 1 ]; do # an option and its value
    name=${1#--}
    name=${name//-/_}
    case "${name}" in
        ood|known_ood|all_models|test_sets)
            printf -v "${name}" '%s' "$2"
            shift 2
            continue ;;
        stage|stop_stage|skip_data_prep|skip_eval|skip_bad|expdir|dumpdir|python|inference_config|inference_args|inference_tag|inference_model|score_range|bootstrap)
            printf -v "${name}" '%s' "$2" ;;
    esac
    mos_args+=("$1" "$2")
    shift 2
done
if [ $# -gt 0 ]; then # --help, or what mos.sh refuses with a sentence
    exec ./mos.sh "${mos_args[@]}" "$@"
fi
if [ "${ood}" = all ]; then ood=${known_ood}; fi

. ./path.sh
prepare=false
if ! ${skip_data_prep} && [ "${stage}" -le 1 ] && [ "${stop_stage}" -ge 1 ]; then
    prepare=true
fi
# shellcheck disable=SC2086  # several names
test_sets=$(scripts/utils/prepare_test_sets.sh --prepare "${prepare}" --skip_bad "${skip_bad}" ${test_sets} ${ood})

./mos.sh "${mos_args[@]}" --test_sets "${test_sets}"

if ! ${all_models} || ${skip_eval} || [ "${stop_stage}" -lt 9 ]; then
    exit 0
fi
if [ -z "${inference_tag}" ]; then
    inference_tag="inference"
    [ -z "${inference_config}" ] || inference_tag=$(basename "${inference_config}" .yaml)
    suffix=$(sed -e 's/--/_/g' -e 's/[ |=/]//g' <<< "${inference_args}")
    inference_tag+="${suffix}_${inference_model%.pth}"
fi
rows=()
models=0
failed=
for model in "${expdir}"/mos_*/"${inference_model}"; do
    mos_exp=$(dirname "${model}")
    [ -s "${mos_exp}/config.yaml" ] || continue
    model_rows=()
    missing=
    for dset in ${test_sets}; do
        predicted="${mos_exp}/${inference_tag}/${dset}/metric.scp"
        model_rows+=(--score "$(basename "${mos_exp}")" "${dset}" "${dumpdir}/raw/${dset}" "${predicted}")
        if [ ! "${predicted}" -nt "${model}" ] || [ ! "${predicted}" -nt "${dumpdir}/raw/${dset}/wav.scp" ]; then
            missing+=" ${dset}"
        fi
    done
    if [ -n "${missing}" ]; then
        if ! ./mos.sh "${mos_args[@]}" --stage 8 --stop_stage 8 --mos_exp "${mos_exp}" \
            --inference_tag "${inference_tag}" --test_sets "${missing# }"; then
            failed+=" ${mos_exp}"
            continue
        fi
    fi
    rows+=("${model_rows[@]}")
    models=$((models + 1))
done
if [ "${models}" -gt 1 ]; then # the table of a single model is that of stage 9
    # shellcheck disable=SC2086  # score_range is two numbers
    "${python}" -m espnet2_distilmos.bin.mos_scoring "${rows[@]}" --score_range ${score_range} \
        --output_dir "${expdir}" --bootstrap "${bootstrap}" --command "${run_args}"
fi
if [ -n "${failed}" ]; then
    echo "$0: left out of the table, as their inference failed (see above):${failed}" >&2
    exit 1
fi
