#!/usr/bin/python
# Copyright: (c) 2026, Stowage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: key
short_description: Make, prove, revoke and renew the keys that dumps are sealed for
version_added: 0.1.0
description:
  - Runs on the backup server. Dumps of policies that encrypt are sealed for every active key, so that each of them
    opens them alone.
  - A key is active once its private half was shown. Pairs that are made here are proven when they are made.
  - Without O(name), O(rewrap) and O(kit) it only tells which keys there are.
author:
  - Stowage contributors (@stowage-backup)
extends_documentation_fragment:
  - stowage.backup._attributes
  - stowage.backup._attributes.actiongroup_backup
  - stowage.backup._engine
attributes:
  check_mode:
    support: partial
    details:
      - What O(rewrap) and O(kit) would do is not told in advance; they are left out.
  diff_mode:
    support: none
  async:
    support: full
options:
  name:
    description:
      - The keys that must be there, usually V(operations) for every day and V(escrow) for a safe.
      - With O(public) it is one.
    type: list
    elements: str
    default: []
  state:
    description:
      - V(present) makes what is missing, or takes O(public).
      - V(revoked) lets no new dump be sealed for them, for good. What was sealed for them they still open.
    type: str
    choices: [present, revoked]
    default: present
  type:
    description:
      - Of a key that is made.
      - V(rsa) is a pair whose private half lies on the backup server until it is moved away.
      - The private half of V(passphrase) lies protected in every dump, so that knowing the passphrase is enough.
    type: str
    choices: [rsa, passphrase]
    default: rsa
  passphrase:
    description:
      - Protects the private keys that are made, 12 bytes or more; opens O(private) and the keys on the server.
      - It reaches the engine on its standard input, never on a command line or in the environment.
    type: str
  protect:
    description:
      - Whether private keys that are made need a passphrase.
      - V(false) lets restores and drills work when nobody is there to type; whoever reads the file then opens dumps.
    type: bool
    default: true
  public:
    description: A public key in PEM that was made elsewhere, RSA of 3072 bits or more.
    type: str
  private:
    description:
      - The private half in PEM, such as from a vault, to prove O(public) or to open dumps for O(rewrap).
      - It reaches the engine on its standard input and is not kept.
    type: str
  rewrap:
    description: Whether to let every active key open the dumps that are there, too. It only adds files.
    type: bool
    default: false
  targets:
    description: O(rewrap) only at these targets, or V(holding).
    type: list
    elements: str
    default: []
  clients:
    description: O(rewrap) only for dumps of these clients.
    type: list
    elements: str
    default: []
  kit:
    description:
      - A new file on the backup server for the key kit, which is what a person needs when that server has burned down.
      - The folder must be one that the user C(stowage) can write. A file that is there is left as it is.
    type: path
seealso:
  - module: stowage.backup.run
  - module: stowage.backup.restore
"""

EXAMPLES = r"""
- name: Have a pair for every day and one for the safe
  stowage.backup.key:
    name: [operations, escrow]
    passphrase: "{{ vault_stowage_passphrase }}"
    kit: /var/lib/stowage/key-kit.txt

- name: Take the auditor's public key, proven by its private half from the vault
  stowage.backup.key:
    name: auditor
    public: "{{ lookup('ansible.builtin.file', 'auditor.pub') }}"
    private: "{{ vault_auditor_key }}"

- name: Let the new key open older dumps too
  stowage.backup.key:
    rewrap: true
    passphrase: "{{ vault_stowage_passphrase }}"

- name: Seal nothing more for a key that was stolen
  stowage.backup.key:
    name: operations
    state: revoked
"""

RETURN = r"""
keys:
  description:
    - All keys, with public halves in PEM and where the private ones are, as C(stowage key list --json) gives it.
  returned: success
  type: list
  elements: dict
signing:
  description: The fingerprint of the signing key and its public half in PEM, to compare with the key kit.
  returned: success
  type: dict
rewrapped:
  description: What was added where, as C(stowage key rewrap --json) gives it.
  returned: with O(rewrap), not in check mode
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
  sample: [stowage key kit]
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.stowage.backup.plugins.module_utils import _engine


class Keys:
    """The keys of one engine, and what this task does to them."""

    def __init__(self, module):
        self.module = module
        self.params = module.params
        self.changed = False
        self.listed = self.ask(["list"])

    def ask(self, words, secret=None):
        """What `stowage key …` answers; secret goes to its standard input."""
        return _engine.call(self.module, ["key"] + words, secret)

    def known(self):
        """name -> key"""
        return {one["name"]: one for one in self.listed["keys"]}

    def do(self, words, secret=None):
        """Changes something, and looks again."""
        answer = self.ask(words, secret)
        self.changed = self.changed or bool(answer.get("changed"))
        if words[0] not in ("kit", "rewrap"):
            self.listed = self.ask(["list"])
        return answer

    def given(self, with_key=True):
        """(options, standard input) that hand over the passphrase and the private key."""
        words, lines = [], b""
        if self.params["passphrase"] is not None:
            words += ["--passphrase-file", "-"]
            lines += self.params["passphrase"].encode("utf-8") + b"\n"
        if with_key and self.params["private"] is not None:
            words += ["--key", "-"]
            lines += self.params["private"].strip().encode("utf-8") + b"\n"
        return words, lines or None

    def present(self, names):
        """Makes what is missing; takes and proves a public key."""
        public, known = self.params["public"], self.known()
        if public is None:
            missing = [name for name in names if name not in known]
            if not missing:
                return
            if self.module.check_mode:
                self.changed = True
                return
            words, secret = self.given(with_key=False)
            words += ["--type", self.params["type"]] if self.params["protect"] else ["--no-passphrase"]
            self.do(["generate"] + words + [word for name in missing for word in ("--only", name)], secret)
            return
        (name,) = names
        if name in known and "".join(known[name]["public"].split()) != "".join(public.split()):
            raise _engine.EngineError("request", "there is another key %s already" % name, "give it another name")
        if name not in known:
            if self.module.check_mode:
                self.changed = True
                return
            self.do(["add", name, "-"], public.strip().encode("utf-8") + b"\n")
        one = self.known()[name]
        if self.params["private"] is not None and one["proven"] is None and one["state"] == "active":
            if self.module.check_mode:
                self.changed = True
                return
            words, secret = self.given()
            self.do(["prove", name] + words, secret)

    def revoked(self, names):
        """Seals nothing more for them."""
        for name in names:
            one = self.known().get(name)
            if one is not None and one["state"] == "revoked":
                continue
            if self.module.check_mode and one is not None:
                self.changed = True
                continue
            self.do(["revoke", name])

    def rewrap(self):
        """Renews what is wrapped."""
        words, secret = self.given()
        for option, names in (("--target", self.params["targets"]), ("--client", self.params["clients"])):
            words += [word for name in names for word in (option, name)]
        return self.do(["rewrap"] + words, secret)


def spec():
    """The options."""
    found = _engine.argument_spec()
    found.update(
        name={"type": "list", "elements": "str", "default": []},
        state={"type": "str", "choices": ["present", "revoked"], "default": "present"},
        type={"type": "str", "choices": ["rsa", "passphrase"], "default": "rsa"},
        passphrase={"type": "str", "no_log": True},
        protect={"type": "bool", "default": True},
        public={"type": "str"},
        private={"type": "str", "no_log": True},
        rewrap={"type": "bool", "default": False},
        targets={"type": "list", "elements": "str", "default": []},
        clients={"type": "list", "elements": "str", "default": []},
        kit={"type": "path"},
    )
    return found


def check(module):
    """What contradicts itself."""
    params = module.params
    if params["public"] is not None and (len(params["name"]) != 1 or params["state"] != "present"):
        module.fail_json(msg="public goes with one name and state=present")
    if not params["protect"] and params["type"] == "passphrase":
        module.fail_json(msg="a key of type passphrase has one: protect=false contradicts it")
    if params["passphrase"] is not None and ("\n" in params["passphrase"] or not params["passphrase"]):
        module.fail_json(msg="a passphrase is one line, and not empty")


def main():
    module = AnsibleModule(argument_spec=spec(), supports_check_mode=True)
    check(module)
    params = module.params
    rewrapped = None
    try:
        keys = Keys(module)
        names = list(dict.fromkeys(params["name"]))
        if params["state"] == "present":
            keys.present(names)
        else:
            keys.revoked(names)
        if params["rewrap"] and not module.check_mode:
            rewrapped = keys.rewrap()
        if params["kit"] and not module.check_mode and not os.path.lexists(params["kit"]):
            keys.do(["kit", "--out", params["kit"]])
    except _engine.EngineError as error:
        _engine.fail(module, error)
    last = rewrapped or keys.listed
    result = {
        "changed": keys.changed, "keys": keys.listed["keys"], "signing": keys.listed["signing"],
        "status": last["status"], "next": last["next"],
    }  # fmt: skip
    if rewrapped is not None:
        result["rewrapped"] = rewrapped
        if rewrapped["status"] == "fail":
            module.fail_json(msg=told_of(rewrapped), **result)
    module.exit_json(**result)


def told_of(rewrapped):
    """The first dump whose keys could not be renewed, in one line."""
    failed = rewrapped.get("failed") or [{}]
    return "the keys of %d dumps were not renewed, first %s at %s: %s" % (
        len(failed), failed[0].get("dump", "?"), failed[0].get("place", "?"), failed[0].get("message", "?"),
    )  # fmt: skip


if __name__ == "__main__":
    main()
