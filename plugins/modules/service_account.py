#!/usr/bin/python
# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Manage system accounts for services."""

from __future__ import annotations

DOCUMENTATION = r"""
module: service_account
short_description: System accounts that services run as and nobody can log in with
version_added: 0.1.0
author: PortFence contributors (@portfence)
description:
  - Creates system accounts without login, with a locked password and a UID of their own, so that a UID stands for one service.
  - Takes the whole list of a host in one call.
  - Reports every mistake in the list, and every account that it refuses, in one message before anything is changed.
  - Never turns an account that somebody can log in with into a service account, and never deletes one. An existing account
    is accepted as it is when its shell is C(nologin) or C(false) and no password fits it, as with those of packages.
  - Uses the tools of the host, C(useradd), C(usermod), C(userdel), C(groupadd) and C(groupdel).
notes:
  - The UID and the primary group of an existing account are never changed, because its files would keep the old ones. Asking
    for others than it has is an error.
  - Accounts of a directory service such as LDAP are accepted when they meet the same conditions, as far as the name service
    shows them. They can't be changed or deleted here.
  - Hosts have room for about 800 accounts that don't bring their own UID (C(SYS_UID_MIN) to C(SYS_UID_MAX) in
    C(/etc/login.defs)). Where it doesn't suffice, the module says so before it creates the first.
extends_documentation_fragment:
  - portfence.egress.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  accounts:
    description: The accounts. Each name once.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - The name of the account.
          - A letter or C(_) first, then letters, digits, C(_), C(.), C(-); 32 characters at most. Some distributions accept
            lower case only.
        type: str
        required: true
      uid:
        description:
          - Its UID, the same on every host and after it was deleted and created again.
          - Any that is free from 1 to 4294967294, except 65534 and 65535.
          - By default the host chooses one of those for system accounts.
          - With O(state=absent), the account is deleted only if it has this UID.
        type: int
      group:
        description:
          - Its primary group, created as a system group when missing.
          - By default the account gets a group of its own, with its name.
        type: str
      home:
        description:
          - Its home directory, an absolute path.
          - By default a new account gets V(/nonexistent), and that of an existing one is left as it is.
          - Changing it for an existing account moves no files, and is refused while processes run as the account.
        type: str
      create_home:
        description:
          - Whether to create O(accounts[].home), empty and owned by the account, when the account is created.
          - The directory of an existing account is left alone, and so is a home that is there already.
          - Refused where another account than root could lead the path elsewhere. All directories and symbolic links on it that
            are there have to belong to root, and root alone may write to the directories. So a home below C(/tmp), or inside the home
            of another account, has to be created first.
        type: bool
        default: false
      comment:
        description: What the account is for. By default that of an existing account is left as it is.
        type: str
  state:
    description:
      - V(present) creates the accounts that are missing.
      - V(absent) deletes those that exist, each with the group of its name if nobody else is in it. It is refused
        while processes run as the account.
    type: str
    choices: [present, absent]
    default: present
  force:
    description:
      - With O(state=absent), delete an account even while processes run as it.
      - The processes are not ended. They run on with a UID that has no name any more, and that the host may give to another account.
    type: bool
    default: false
  remove_home:
    description:
      - With O(state=absent), delete the home directory and the mail spool too.
      - Refused where the home directory belongs to another UID or holds the home of another account, or where another account
        than root could lead the path elsewhere, as with O(accounts[].create_home).
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Two services, one of them with the same UID everywhere and a home directory
  portfence.egress.service_account:
    accounts:
      - name: myapp
      - name: otel
        uid: 480
        home: /var/lib/otel
        create_home: true
        comment: OpenTelemetry collector

- name: A service that is gone
  portfence.egress.service_account:
    accounts:
      - name: legacy
    state: absent
"""

RETURN = r"""
accounts:
  description: The accounts of the list that exist afterwards, in the order of the list.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The name.
      type: str
      sample: myapp
    uid:
      description: The UID. In check mode V(null) for an account to be created whose UID the host will choose.
      type: int
      sample: 480
    gid:
      description: The GID of its primary group. In check mode V(null) where the group is to be created.
      type: int
      sample: 480
    group:
      description: The name of its primary group, V(null) when the GID has no name.
      type: str
      sample: myapp
    home:
      description: The home directory in its entry, whether it exists or not.
      type: str
      sample: /nonexistent
    shell:
      description: The shell in its entry.
      type: str
      sample: /usr/sbin/nologin
    created:
      description: Whether this run created it, or in check mode would.
      type: bool
      sample: true
created:
  description: Names of the accounts that were created, or in check mode would be.
  returned: success
  type: list
  elements: str
  sample: [myapp]
modified:
  description: Names of the existing accounts whose comment or home was changed, or in check mode would be.
  returned: success
  type: list
  elements: str
  sample: []
removed:
  description: Names of the accounts that were deleted, or in check mode would be.
  returned: success
  type: list
  elements: str
  sample: []
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.portfence.egress.plugins.module_utils._accounts import Wanted
from ansible_collections.portfence.egress.plugins.module_utils._accounts_host import converge
from ansible_collections.portfence.egress.plugins.module_utils._host import Host
from ansible_collections.portfence.egress.plugins.module_utils._module import leave, run_module


def run(module: AnsibleModule) -> None:
    """Make the accounts exist or go, and report. Raises PortFenceError."""
    params = module.params
    wanted = [Wanted(path=f"accounts[{index}]", **item) for index, item in enumerate(params["accounts"])]
    leave(
        module,
        **converge(
            Host(),
            wanted,
            present=params["state"] == "present",
            force=params["force"],
            remove_home=params["remove_home"],
            check_mode=module.check_mode,
        )
    )


def main() -> None:
    """Entry point."""
    account = {
        "name": {"type": "str", "required": True},
        "uid": {"type": "int"},
        "group": {"type": "str"},
        "home": {"type": "str"},
        "create_home": {"type": "bool", "default": False},
        "comment": {"type": "str"},
    }
    module = AnsibleModule(
        argument_spec={
            "accounts": {"type": "list", "elements": "dict", "required": True, "options": account},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "force": {"type": "bool", "default": False},
            "remove_home": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    run_module(module, run)


if __name__ == "__main__":
    main()
