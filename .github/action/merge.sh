#!/usr/bin/env bash
# Becomes merge-bot, and leaves word of which process that is. GitHub tells of a cancelled run by a signal to this
# process, which bash would not pass on; in a container none arrives, and cancelled.sh sends it.
set -euo pipefail
echo "$$" >"$RUNNER_TEMP/merge-bot.pid"
exec "$MERGE_BOT" action
