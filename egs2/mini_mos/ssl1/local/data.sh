#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Stage 1 of ssl1: write data/{train,dev} from speech without labels. --speech_dir is any
# folder of it; --corpora names freely licensed sets, which are downloaded:
#   speechocean762 CC BY 4.0, 6 h; English by speakers of Mandarin
#   ljspeech       public domain, 24 h; one reader
#   librispeech    CC BY 4.0; its parts are --librispeech_parts
#   asterisk       CC BY-SA 3.0 (Russian CC BY 3.0), 2 h at 8 kHz; from Debian's packages
# The other options are those of local/prepare_speech.py: local/data.sh --help.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "local/data.sh: $*" >&2
    exit 1
}
python=python3
corpora=
downloads=downloads
librispeech_parts="dev-clean train-clean-100"
openslr=https://www.openslr.org/resources
arguments=()
while [ $# -gt 0 ]; do
    case "$1" in
        --python|--corpora|--downloads|--librispeech_parts)
            [ $# -gt 1 ] || fail "option $1 needs a value."
            printf -v "${1#--}" '%s' "$2"
            shift 2 ;;
        *)
            arguments+=("$1")
            shift ;;
    esac
done
# shellcheck source=/dev/null
. ./path.sh

# unpack URL FILE FOLDER: download an archive and unpack it, once
unpack() {
    [ ! -e "$3/.done" ] || return 0
    scripts/utils/download.sh "$1" "${downloads}/$2"
    mkdir -p "$3"
    tar -C "$3" -xf "${downloads}/$2" || fail "${downloads}/$2 cannot be unpacked; remove it and run this again."
    touch "$3/.done"
    rm "${downloads}/$2"
}
# unpack_debian FOLDER PACKAGE ...: the files of Debian's packages; nothing is installed
unpack_debian() {
    local folder=$1 package
    shift
    [ ! -e "${folder}/.done" ] || return 0
    if ! command -v apt-get > /dev/null || ! command -v dpkg-deb > /dev/null; then
        fail "asterisk is taken from Debian's packages and this system has no apt-get; unpack $* yourself and give their folder as --speech_dir."
    fi
    mkdir -p "${folder}/packages"
    (cd "${folder}/packages" && apt-get download -qq "$@") || \
        fail "apt-get cannot download $*; run 'apt-get update' and this again."
    for package in "${folder}/packages"/*.deb; do
        dpkg-deb -x "${package}" "${folder}"
    done
    rm -r "${folder}/packages"
    touch "${folder}/.done"
}

named=()
for corpus in ${corpora}; do
    folder="${downloads}/${corpus}"
    case "${corpus}" in
        speechocean762) unpack "${openslr}/101/speechocean762.tar.gz" "${corpus}.tar.gz" "${folder}" ;;
        ljspeech) unpack https://data.keithito.com/data/speech/LJSpeech-1.1.tar.bz2 "${corpus}.tar.bz2" "${folder}" ;;
        librispeech)
            for part in ${librispeech_parts}; do
                unpack "${openslr}/12/${part}.tar.gz" "${part}.tar.gz" "${folder}/${part}"
            done ;;
        asterisk) unpack_debian "${folder}" asterisk-core-sounds-{en,es,fr,it,ru}-wav ;;
        *) fail "--corpora has ${corpus}, expected some of speechocean762 ljspeech librispeech asterisk; another folder is --speech_dir." ;;
    esac
    named+=("${corpus}=${folder}")
done
if [ ${#named[@]} -gt 0 ]; then arguments+=(--corpora "${named[@]}"); fi

"${python}" local/prepare_speech.py "${arguments[@]}"
