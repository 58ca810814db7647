#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# To be sourced (by path.sh) for paths of extra tools. Nothing is needed so far; ESPnet's
# path.sh sources a file of this name, so a recipe stays the same in both.
