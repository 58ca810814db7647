#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# To be sourced by local/data.sh: where each corpus lies on this machine, here or in the
# environment. "downloads" is a directory beside the recipe, and what its owner lets
# anybody fetch is downloaded there; an empty value means that the user gives the path.
# shellcheck disable=SC2034  # local/data.sh reads them

BVCC=${BVCC:-}                 # main of main.tar.gz, zenodo.org/records/6572573, after its scripts
VMC22_OOD=${VMC22_OOD:-}       # ood of ood.tar.gz, zenodo.org/records/6572573, after its scripts
SOMOS=${SOMOS:-downloads}
NISQA=${NISQA:-downloads}
TMHINT_QI=${TMHINT_QI:-}       # what TMHINTQI.zip was unpacked to, github.com/yuwchen/InQSS
SINGMOS=${SINGMOS:-}           # folder of DATA, VoiceMOS Challenge 2024 track 2
URGENT24=${URGENT24:-downloads}
TENCENT=${TENCENT:-}           # TencentCorups of github.com/ConferencingSpeech/ConferencingSpeech2022
PSTN=${PSTN:-downloads}
BC23=${BC23:-}                 # audio of track 1, VoiceMOS Challenge 2023
SVCC23=${SVCC23:-}             # audio of track 2, VoiceMOS Challenge 2023
VMC23=${VMC23:-}               # folder of track1, track2, track3, VoiceMOS Challenge 2023

P835=${P835:-}                 # p835_reference_conditions of github.com/microsoft/P.808
BVRNN=${BVRNN:-}               # mushra_results_dataset of github.com/BenjSta/bernoulli-var-speech-codec
YOURTTS=${YOURTTS:-}           # github.com/Edresson/YourTTS, in it its branch gh-pages as a folder of that name
VOCAL_SEPARATION=${VOCAL_SEPARATION:-} # github.com/CVSSP/perceptual-study-source-separation
SPEECH=${SPEECH:-}             # any folder of speech without ratings, to train on besides; its files may lie in sub-folders
WHISPER_TINY=${WHISPER_TINY:-} # openai/whisper-tiny as a local directory; empty asks the hub
