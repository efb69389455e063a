#!/usr/bin/env bash
# Installs merge-bot by uv into an environment of its own: this checkout with its exact versions, or a release.
# uv takes the build of torch that suits the machine: on one without a GPU no CUDA is downloaded.
set -euo pipefail
cd "$GITHUB_ACTION_PATH"
own=$PWD
environment=$RUNNER_TEMP/merge-bot

stop() {
  echo "::error title=merge-bot::$1"
  exit 2
}

# The values are not shown: whatever they hold would be read as a command by the runner.
[[ -z ${VERSION:-} || $VERSION =~ ^[0-9][0-9A-Za-z.+!]*$ ]] || stop "The input version must be a release such as 1.2.3."
[[ ${PYTHON:-} =~ ^3\.[0-9]{1,2}(\.[0-9]{1,2})?$ ]] || stop "The input python must be a version such as 3.12."

wanted=("${own}[github]" --constraint "$own/constraints.txt" --build-constraint "$own/constraints.txt")
[[ -z ${VERSION:-} ]] || wanted=("adapter-merge-bot[github]==$VERSION")

uv venv --quiet --clear --python "$PYTHON" "$environment"
uv pip install --python "$environment/bin/python" --torch-backend "${UV_TORCH_BACKEND:-auto}" "${wanted[@]}"
"$environment/bin/merge-bot" --version
echo "merge-bot=$environment/bin/merge-bot" >>"$GITHUB_OUTPUT"
