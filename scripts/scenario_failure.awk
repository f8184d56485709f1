# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# The output of molecule → one line: at which step a scenario failed, the task that did, on which host, and what it said; or which tasks
# changed something where nothing was to change. After a failure, molecule goes on with the steps that clean up.

/ > [a-z_]+\] Executing$/ && $4 !~ /^(cleanup|destroy)\]/ { step = $4; sub(/\]$/, "", step); task = where = said = "" }
/^TASK \[/ { task = $0; sub(/^TASK /, "", task); sub(/ \*+$/, "", task) }
/^[^ ]/ { inside = 0 }
/^(fatal|failed): \[/ { where = task " " $2; said = ""; inside = 1 }
inside && /^    (msg|stderr): / { said = said "; " substr($0, 5) }
/^\* \[.*\] => / { where = where " " substr($0, 3) }
END { print substr(step ": " where said, 1, 400) }
