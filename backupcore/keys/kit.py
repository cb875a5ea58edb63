"""The key kit: one text, to be printed and kept away, for the day when the backup server has burned down.

Here live its words and its shape, at most 80 columns wide. It says whom to believe (the signing key), how to check a
dump before anything beside it is believed, what opens sealed dumps, where the copies are, and how to begin. It holds
no passphrase and no credential.
"""

from __future__ import annotations

import hashlib
import textwrap
from dataclasses import dataclass
from typing import List, Sequence, Tuple

WIDTH = 80
SHEET = "\f"  # each private key begins a sheet

# Run in a dump's folder with signing.pub one above. The manifest is believed by its signature, SHA256SUMS and
# RESTORE.txt by the manifest, all other files by SHA256SUMS. A name that stands at the left edge of manifest.json
# after one blank is a name of its top level: nothing that a client says can look like it.
CHECKS = (
    "openssl pkeyutl -verify -pubin -inkey ../signing.pub -rawin \\\n"
    "    -in manifest.json -sigfile manifest.sig",
    "for f in sums:SHA256SUMS restore:RESTORE.txt; do\n"
    "    echo \"$(sed -n \"s/^ \\\"${f%:*}_sha256\\\": \\\"\\([0-9a-f]*\\)\\\".*/\\1/p\" \\\n"
    "        manifest.json)  ${f#*:}\"; done | sha256sum -c --strict -",
    "sha256sum -c --strict SHA256SUMS",
)  # fmt: skip
WHOSE = "grep -E '^ \"(server|client|source|dump|level|begun|signer)\":' manifest.json"


@dataclass(frozen=True)
class PrivatePart:
    """A private key as it stands in the kit. note: what a person must know of it."""

    name: str
    fingerprint: str
    pem: str
    note: str


@dataclass(frozen=True)
class Facts:
    """What the kit says. targets: (name, where: words to read, the options by which a machine without a
    configuration finds it: `--from ...`, none when there are none). older: (fingerprint, PEM) of keys that signed
    older dumps: those of a server that was lost and rebuilt."""

    server: str
    host: str
    made: str
    signing_fingerprint: str
    signing_pem: str
    targets: Sequence[Tuple[str, str, Sequence[str]]]
    keys: Sequence[PrivatePart]
    elsewhere: Sequence[str]  # names of recipients whose private key is not in this kit
    older: Sequence[Tuple[str, str]] = ()


def text(facts: Facts) -> str:
    """The kit."""
    sheets = [_first(facts)] + [_key(one) for one in facts.keys]
    return SHEET.join("\n".join(lines) + "\n" for lines in sheets)


def _first(facts: Facts) -> List[str]:
    # a bucket outlives a house that burns
    best = sorted(facts.targets, key=lambda one: not any(" s3://" in word for word in one[2]))
    first, _words, options = best[0] if best else ("TARGET", "", ())
    signers = [f"--signer {name}" for name in (facts.signing_fingerprint, *(name for name, _pem in facts.older))]
    restore = [*(options or ("--from s3://BUCKET/PREFIX",)), *signers]
    restore += ["--key key.pem"] if facts.keys else []
    return [
        "STOWAGE KEY KIT", "=" * WIDTH,
        f"backup server  {facts.host}",
        f"server id      {facts.server}",
        f"made           {facts.made}",
        "",
        *_fill("Keep it where neither the backup server nor the bucket is, on paper and as a file. Whoever holds it, "
               "knows the passphrases (which are not in it) and can read the copies, reads everything."),
        "", "1. WHOM TO BELIEVE", "-" * WIDTH,
        "This server's signing key, Ed25519. Save these three lines as signing.pub:",
        "",
        *facts.signing_pem.strip().split("\n"),
        "",
        "Its fingerprint, as `stowage rebuild` and manifest.json (\"signer\") show it:",
        f"    {facts.signing_fingerprint}",
        *_older(facts),
        "", "2. IS A DUMP WHOLE, AND THE SERVER'S OWN?", "-" * WIDTH,
        *_fill("In the folder of the dump, signing.pub in the folder above. All three must succeed before anything "
               "that lies in the bucket, RESTORE.txt too, is believed:"),
        "",
        *(f"    {line}" for command in CHECKS for line in command.split("\n")),
        "",
        "Then read whose dump it is: a true dump may have been put in another's place.",
        "",
        f"    {WHOSE}",
        "", "3. WHERE THE COPIES ARE", "-" * WIDTH,
        *_targets(facts),
        "", "4. HOW TO BEGIN", "-" * WIDTH,
        "Any Linux with Python 3.11 and the package stowage-backup will do. One thing at",
        "once, without any server:",
        "",
        *_command("stowage restore", [*restore, "--to DIR", "CLIENT:/PATH"]),
        "",
        "A new backup server: set it up with the playbook stowage.backup.site, then",
        "",
        *_command("stowage rebuild", [f"--from {first}", *signers]),
        "",
        "Without Stowage: RESTORE.txt beside each dump, after the checks of 2.",
        *_about_keys(facts),
    ]  # fmt: skip


def _older(facts: Facts) -> List[str]:
    lines = []
    for name, pem in facts.older:
        lines += ["", "Older dumps are signed by this one, of a server that was lost:", ""]
        lines += [*pem.strip().split("\n"), "", f"    {name}"]
    return lines


def _targets(facts: Facts) -> List[str]:
    if not facts.targets:
        return ["There is none: all dumps lie on the backup server's holding disk alone."]
    lines = []
    for name, words, _address in facts.targets:
        lines += textwrap.wrap(f"{name}: {words}", WIDTH, subsequent_indent="    ", break_on_hyphens=False)
    return [*lines, "The credentials are not here: keep them where you keep the passphrases."]


def _about_keys(facts: Facts) -> List[str]:
    lines = ["", "5. WHAT OPENS SEALED DUMPS", "-" * WIDTH]
    if not facts.keys and not facts.elsewhere:
        return [*lines, "Nothing is sealed: this server has no keys to seal for."]
    for number, one in enumerate(facts.keys, 2):
        lines.append(f"{one.name}: on sheet {number} of this kit")
    lines += [f"{name}: its private key is not in this kit" for name in facts.elsewhere]
    return lines


def _key(one: PrivatePart) -> List[str]:
    pem = one.pem.strip() + "\n"
    digest = hashlib.sha256(pem.encode("ascii")).hexdigest()
    return [
        f"STOWAGE KEY KIT: PRIVATE KEY {one.name}", "=" * WIDTH,
        f"fingerprint  {one.fingerprint}",
        *_fill(one.note),
        "Save it as key.pem. When it was typed in, `sha256sum key.pem` must give",
        f"    {digest}",
        "",
        *pem.rstrip("\n").split("\n"),
    ]  # fmt: skip


def _command(verb: str, options: Sequence[str]) -> List[str]:
    """A command over several lines, as a shell takes it."""
    lines = [f"  {verb}"]
    for option in options:
        if len(lines[-1]) + len(option) + 3 <= WIDTH:
            lines[-1] += f" {option}"
        else:
            lines[-1] += " \\"
            lines.append(f"    {option}")
    return lines


def _fill(words: str) -> List[str]:
    return textwrap.wrap(words, WIDTH, break_on_hyphens=False)
