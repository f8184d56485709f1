# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# The output of molecule → one line: at which step a scenario failed, the task that did, on which host, and what it said; or which tasks
# changed something where nothing was to change. After a failure, molecule goes on with the steps that clean up.

/ > [a-z_]+\] Executing$/ { cleaning = $4 ~ /^(cleanup|destroy)\]/ }
/ > [a-z_]+\] Executing$/ && !cleaning { step = $4; sub(/\]$/, "", step); task = where = said = "" }
/^TASK \[/ { task = $0; sub(/^TASK /, "", task); sub(/ \*+$/, "", task) }
/^[^ ]/ { inside = told = 0 }
/^(fatal|failed): \[/ && !cleaning { where = task " on " $2; sub(/:$/, "", where); said = ""; inside = 1 }
# Values of more than one line are indented further.
inside && /^    [^ ]/ { told = /^    (msg|stderr): /; if (told) said = said ";" }
told { line = $0; sub(/^ +/, "", line); said = said " " line }
/^\* \[.*\] => / { where = where " " substr($0, 3) }
END { print substr(step ": " where said, 1, 400) }
