#!/usr/bin/env bash
# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Sourced by the other scripts: a plain PATH, the cache, and where this checkout keeps its things in it.

set -euo pipefail

# System tools only. Version managers put wrappers in front of python3 that test accounts cannot run.
# In scripts/with-podman, its podman before others.
export PATH=${PORTFENCE_PODMAN_RUN:+$PORTFENCE_PODMAN_RUN/bin:}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL=C.UTF-8

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cache=${PORTFENCE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/portfence}
mkdir -p "$cache"

say() { printf '%s\n' "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

# 12 hexadecimal digits that change when any of the given files changes.
files_hash() { cat -- "$@" | sha256sum | cut -c1-12; }

# Names in a list file: one a line, comments and blank lines left out.
list_entries() { sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' -- "$@"; }

# A system Python that ansible-core 2.19 runs on and that every account may execute.
system_python() {
    local candidate path
    for candidate in python3 python3.13 python3.12 python3.11; do
        path=$(command -v "$candidate") || continue
        if "$path" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; then
            printf '%s\n' "$path"
            return
        fi
    done
    die "no Python 3.11, 3.12 or 3.13 in $PATH (ansible-core 2.19 needs one): install the Debian package python3"
}

# Where the virtual environment called $1 (demo or test) belongs; a change of its pins or of Python moves it.
venv_path() {
    local python
    python=$(system_python)
    printf '%s/venv-%s-%s-py%s\n' "$cache" "$1" "$(files_hash "$repo/requirements/$1.txt")" \
        "$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
}

# A folder that Ansible can use as a collections path, with this checkout in it under its name.
collections_path() {
    local tree
    tree=$cache/tree-$(printf '%s' "$repo" | sha256sum | cut -c1-12)
    mkdir -p "$tree/ansible_collections/portfence"
    ln -sfnT "$repo" "$tree/ansible_collections/portfence/egress"
    printf '%s\n' "$tree"
}

# Copies what git has or would take of this checkout, and nothing else, to the folder $1.
copy_checkout() {
    mkdir -p "$1"
    (cd "$repo" && git ls-files -z --cached --others --exclude-standard --deduplicate | while IFS= read -rd '' file; do
        [[ ! -e $file ]] || printf '%s\0' "$file"
    done | tar --create --null --files-from -) | tar --extract --directory "$1"
}
