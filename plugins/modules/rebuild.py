#!/usr/bin/python
# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: rebuild
short_description: Make the catalog of a lost backup server again from the images of a target
version_added: 0.1.0
description:
  - Runs on the backup server, after the role C(stowage.backup.backup_server) has set it up anew and before its first
    run.
  - The server becomes the one that was lost, with its identifier, its dumps and their numbers. A catalog that exists is
    merged, never overwritten, and a second time changes nothing. Nothing at the target is changed.
  - A server that trusts a signing key believes nothing that another one signed, unless O(signers) names it.
author:
  - Stowage contributors (@stowage-backup)
extends_documentation_fragment:
  - stowage.backup._attributes
  - stowage.backup._attributes.actiongroup_backup
  - stowage.backup._engine
attributes:
  check_mode:
    support: none
  diff_mode:
    support: none
  async:
    support: full
options:
  target:
    description: The target to read.
    type: str
    required: true
  signers:
    description:
      - Believe only what these keys have signed, by their fingerprints as in the key kit, 16 digits or more.
      - Without it, a server that trusts no key takes the one that signed everything at O(target).
    type: list
    elements: str
    default: []
  signer_keys:
    description: Files on the backup server with public signing keys from the key kit, where O(target) has none.
    type: list
    elements: path
    default: []
  private:
    description:
      - A private key in PEM, such as from a vault, that opens the file indexes of sealed dumps.
      - It reaches the engine on its standard input and is not kept.
      - Without it these dumps are known, but M(stowage.backup.catalog_info) does not find their files.
    type: str
  passphrase:
    description:
      - Opens O(private), or the protected keys on the backup server.
      - It reaches the engine on its standard input, never on a command line or in the environment.
    type: str
  witness:
    description: Another target. What it knows of newer dumps ends the rebuild before anything is changed.
    type: str
  last_run:
    description: The last run that you remember. A target that knows neither it nor a later one is refused.
    type: str
  server:
    description: Which server's dumps, where a target has those of several.
    type: str
seealso:
  - module: stowage.backup.key
  - module: stowage.backup.restore
"""

EXAMPLES = r"""
- name: Make the lost backup server again
  stowage.backup.rebuild:
    target: cloud
    signers: 3c852d8e2d8828be
    private: "{{ vault_stowage_escrow_key }}"
    passphrase: "{{ vault_stowage_passphrase }}"
"""

RETURN = r"""
rebuilt:
  description:
    - What was found, added and left alone, as C(stowage rebuild --json) gives it.
    - Compare the fingerprints in C(adopted) with the key kit.
  returned: success
  type: dict
status:
  description: V(ok), V(warn) or V(fail).
  returned: success
  type: str
  sample: ok
next:
  description: The commands to type next.
  returned: success
  type: list
  elements: str
  sample: [stowage check]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.stowage.backup.plugins.module_utils import _engine


def words_of(params):
    """The command line after `stowage`."""
    words = ["rebuild", "--from", params["target"]]
    for option, key in (("--signer", "signers"), ("--signer-key", "signer_keys")):
        for value in params[key]:
            words += [option, value]
    for option, key in (("--witness", "witness"), ("--last-run", "last_run"), ("--server", "server")):
        if params[key]:
            words += [option, params[key]]
    return words


def main():
    spec = _engine.argument_spec()
    spec.update(
        target={"type": "str", "required": True},
        signers={"type": "list", "elements": "str", "default": []},
        signer_keys={"type": "list", "elements": "path", "default": [], "no_log": False},
        private={"type": "str", "no_log": True},
        passphrase={"type": "str", "no_log": True},
        witness={"type": "str"},
        last_run={"type": "str"},
        server={"type": "str"},
    )
    module = AnsibleModule(argument_spec=spec, supports_check_mode=False)
    words, secret = _engine.secret_of(module.params)
    try:
        answer = _engine.call(module, words_of(module.params) + words, secret)
    except _engine.EngineError as error:
        _engine.fail(module, error)
    changed = bool(answer["added"] or answer["adopted"] or answer["taken"] or answer["indexes"]["fetched"])
    result = {"changed": changed, "rebuilt": answer, "status": answer["status"], "next": answer["next"]}
    if answer["status"] == "fail":
        module.fail_json(msg=told_of(answer), **result)
    module.exit_json(**result)


def told_of(answer):
    """The first failure in one line."""
    for one in answer["findings"]:
        if one["status"] == "FAIL":
            return ": ".join(word for word in (one["source"], one["message"]) if word)
    left = answer["left"] or [{"folder": answer["target"], "message": "something could not be read"}]
    return "%s: %s" % (left[0]["folder"], left[0]["message"])


if __name__ == "__main__":
    main()
