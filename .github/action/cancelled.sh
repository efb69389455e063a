#!/usr/bin/env bash
# Tells a merge-bot that is still at work that its run was cancelled, and waits until it has said so in its comment. In
# `container:` jobs GitHub ends only the `docker exec` that started it, which passes no signal on.
set -euo pipefail
file=$RUNNER_TEMP/merge-bot.pid
[[ -f $file ]] || exit 0
process=$(<"$file")
rm -f "$file"

# Another process may have the number by now.
[[ $process =~ ^[0-9]+$ && -r /proc/$process/cmdline ]] || exit 0
mapfile -d '' words 2>/dev/null <"/proc/$process/cmdline" || exit 0
[[ ${#words[@]} -gt 1 && ${words[-1]} == action && ${words[-2]} =~ (^|/)(merge-)?bot$ ]] || exit 0

echo "merge-bot is told that the run was cancelled."
kill -TERM "$process" || exit 0
for _ in {1..60}; do
  [[ -d /proc/$process ]] || exit 0
  sleep 1
done
echo "::warning title=merge-bot::merge-bot did not end within a minute."
