# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# To be sourced by a run.sh with options of its own beside those of mos.sh.
# shellcheck shell=bash

# take_options "NAME ..." "$@": --NAME VALUE sets the variable NAME; all other words are
# added to the array options.
take_options() {
    local names=" $1 "
    shift
    while [ $# -gt 0 ]; do
        if [[ "$1" == --* ]] && [[ "${names}" == *" ${1#--} "* ]]; then
            [ $# -gt 1 ] || { echo "${0##*/}: option $1 needs a value." >&2; exit 1; }
            printf -v "${1#--}" '%s' "$2"
            shift 2
        else
            options+=("$1")
            shift
        fi
    done
}
