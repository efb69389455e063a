#!/usr/bin/env bash
# Looks for a merge-bot of the wanted version: our container image has one, and so has a job in which the action ran
# before. Where there is none, it names the cache for installing one.
set -euo pipefail
cd "$GITHUB_ACTION_PATH"

if [[ ${RUNNER_OS:-Linux} != Linux ]]; then
  echo "::error title=merge-bot::The action runs on Linux, and this runner has $RUNNER_OS. Use runs-on: ubuntu-24.04."
  exit 2
fi

own=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' bot/__init__.py)
wanted=${VERSION:-$own}

for found in "$(command -v merge-bot || true)" "$RUNNER_TEMP/merge-bot/bin/merge-bot"; do
  [[ -x $found ]] || continue
  if [[ $("$found" --version </dev/null 2>/dev/null) == "merge-bot, version $wanted" ]]; then
    echo "merge-bot is here already: $found"
    echo "merge-bot=$found" >>"$GITHUB_OUTPUT"
    exit
  fi
done

# A GPU means another build of torch, whatever the rest.
device=$([[ -e /proc/driver/nvidia/version ]] && echo gpu || echo cpu)
key=$({ cat constraints.txt pyproject.toml && echo "$device $wanted ${PYTHON:-}"; } | sha256sum | cut -c 1-16)
echo "cache-key=merge-bot-$key" >>"$GITHUB_OUTPUT"
