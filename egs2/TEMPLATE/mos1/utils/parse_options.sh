#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# To be sourced: turns "--name value" on the command line into name=value, for
# variables that the calling script has set before. "--some-name" and "--some_name"
# are the same. "--help" prints ${help_message}. "--config FILE" sources FILE first, so
# that the command line wins over it. What is left in "$@" are positional arguments.

_parse_options_fail() {
    echo "${0##*/}: $1; '$0 --help' lists the options." >&2
    exit 1
}

# shellcheck disable=SC2034  # the variable is read by the calling script
for _argument in "$@"; do
    if [ "${_config_is_next:-false}" = true ]; then
        [ -r "${_argument}" ] || _parse_options_fail "--config ${_argument} cannot be read"
        # shellcheck source=/dev/null
        . "${_argument}"
    fi
    [ "${_argument}" = --config ] && _config_is_next=true || _config_is_next=false
done

while [ $# -gt 0 ]; do
    case "$1" in
        --help|-h)
            printf '%s\n' "${help_message:-No help is written for $0.}"
            exit 0 ;;
        --config)
            shift; [ $# -gt 0 ] || _parse_options_fail "--config needs a file"
            shift ;;
        --*=*)
            _parse_options_fail "write '${1%%=*} ${1#*=}' with a space, not '$1'" ;;
        --?*)
            _name="${1#--}"; _name="${_name//-/_}"
            if ! [[ "${_name}" =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] || [ -z "${!_name+set}" ]; then
                _parse_options_fail "there is no option $1"
            fi
            [ $# -gt 1 ] || _parse_options_fail "option $1 needs a value"
            case "${!_name}" in
                true|false)
                    case "$2" in
                        true|false) ;;
                        *) _parse_options_fail "option $1 is true or false, not '$2'" ;;
                    esac ;;
            esac
            printf -v "${_name}" '%s' "$2"
            shift 2 ;;
        *) break ;;
    esac
done
unset _argument _config_is_next _name
true
