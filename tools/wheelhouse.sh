#!/usr/bin/env bash
# Makes a folder of wheels from which gpufleet can be installed where no package index is: `wheelhouse.sh FOLDER`.
# Run by `make wheelhouse`. The wheels are for this machine's kind and Python unless these say otherwise:
#   TARGET_PYTHON=3.12  TARGET_PLATFORM=manylinux_2_28_aarch64
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:?usage: tools/wheelhouse.sh FOLDER}
say() { printf 'wheelhouse: %s\n' "$*" >&2; }

unfinished=$folder.new
rm -rf "$unfinished"
mkdir -p "$unfinished"
say "building the wheel"
.venv/bin/python -m pip wheel -qq --disable-pip-version-check --no-deps --wheel-dir "$unfinished" .

options=(-qq --disable-pip-version-check --only-binary=:all:)
[ -z "${TARGET_PYTHON:-}" ] || options+=(--python-version "$TARGET_PYTHON")
[ -z "${TARGET_PLATFORM:-}" ] || options+=(--platform "$TARGET_PLATFORM")
say "downloading what it needs"
.venv/bin/python -m pip download "${options[@]}" --dest "$unfinished" "$(echo "$unfinished"/gpufleet-*.whl)[postgresql]"

rm -rf "$folder"
mv "$unfinished" "$folder"
say "$(find "$folder" -name '*.whl' | wc -l) wheels in $folder; give its path to Ansible as agent_wheelhouse"
