"""The quick look at a copy: is all there, in its size, signed, and the dump that the catalog knows.

Here live manifest, signature, sizes, the small files, wrapped keys, and the checksums that a place keeps by itself;
what stands in parts and tables is read by full.py.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional

from ..errors import ImageDamaged, StowageError
from ..image import layout, recipients
from ..image.manifest import SIZE_LIMIT, Manifest, digest
from ..image.signing import LENGTH, verify
from .verdict import Verdict

STRAYS = 20  # that many of one dump are named


def check(
    copy: Any, verdict: Verdict, public_keys: Mapping[str, bytes], noted: Mapping[str, str]
) -> Optional[Manifest]:
    """The manifest of the copy, None when it is not there or not this dump's. What is wrong is in the verdict.

    noted: name -> hex SHA-256 of files of wrapped keys, as they were when the copy was made. Raises TargetRefused when
    the place cannot be asked, StowageError when no key here vouches for the signer.
    """
    sizes = copy.sizes()
    if layout.MANIFEST not in sizes:
        gone = "it is gone" if not sizes else f"{layout.MANIFEST} is missing"
        verdict.damaged(layout.MANIFEST, gone)
        return None
    manifest = _manifest(copy, verdict, public_keys)
    if manifest is None:
        return None
    for record in manifest.all_files():
        found = sizes.get(record.name)
        if found != record.size:
            has = "is missing" if found is None else f"has {found} bytes, not {record.size}"
            verdict.damaged(record.name, f"{record.name} {has}")
    for name, sha256 in ((layout.SUMS, manifest.sums_sha256), (layout.RESTORE, manifest.restore_sha256)):
        data = _small(copy, verdict, name, SIZE_LIMIT)
        if data is not None and _right(verdict, name, data, sha256):
            verdict.is_good(name, len(data), sha256)
    texts = _keys(copy, verdict, manifest, sizes, noted) if manifest.seal is not None else {}
    _strays(copy, verdict, manifest, sizes, texts)
    return manifest


def kept(copy: Any, verdict: Verdict, manifest: Manifest) -> None:
    """Compares what the place itself keeps of each file; how many it keeps nothing of is noted."""
    silent = 0
    for record in manifest.all_files():
        if record.name in verdict.damage:
            continue
        sha256 = copy.kept_sha256(record.name)
        silent += sha256 is None
        if sha256 is not None and sha256 != record.sha256:
            verdict.damaged(record.name, f"{record.name}: the place keeps another checksum than the manifest's")
    if silent:
        verdict.notes.append("sizes only: the place keeps no checksums of large files")


def _manifest(copy: Any, verdict: Verdict, public_keys: Mapping[str, bytes]) -> Optional[Manifest]:
    data = _small(copy, verdict, layout.MANIFEST, SIZE_LIMIT)
    if data is None or not _right(verdict, layout.MANIFEST, data, verdict.dump.manifest_sha256):
        return None
    # from here on it is the one that the catalog knows, whatever the signature file has become
    manifest = Manifest.from_bytes(data)
    dump = verdict.dump
    if manifest.prefix != layout.dump_prefix(dump.client, dump.source, dump.id, dump.segment or None):
        verdict.is_wrong(f"{layout.MANIFEST} is that of {manifest.prefix}")
        return None
    verdict.is_good(layout.MANIFEST, len(data), dump.manifest_sha256)
    if manifest.signer not in public_keys:
        raise StowageError(
            f"{manifest.prefix} was signed by {manifest.signer[:16]}, whose key is not trusted here",
            "put that server's signing.pub into the folder of the keys as NAME.pub",
        )
    signature = _small(copy, verdict, layout.SIGNATURE, LENGTH)
    if signature is not None:
        try:
            verify(data, signature, {manifest.signer: public_keys[manifest.signer]})
            verdict.is_good(layout.SIGNATURE, len(signature), digest(signature))
        except ImageDamaged:
            verdict.damaged(layout.SIGNATURE, f"{layout.SIGNATURE} does not fit")
    return manifest


def _small(copy: Any, verdict: Verdict, name: str, limit: int) -> Optional[bytes]:
    try:
        data = copy.small(name, limit)
    except ImageDamaged as error:
        verdict.damaged(name, error.message)
        return None
    verdict.bytes += len(data)
    return data


def _right(verdict: Verdict, name: str, data: bytes, sha256: str) -> bool:
    if digest(data) == sha256:
        return True
    verdict.damaged(name, f"{name} is not what was signed")
    return False


def _keys(
    copy: Any, verdict: Verdict, manifest: Manifest, sizes: Mapping[str, int], noted: Mapping[str, str]
) -> Dict[str, bytes]:
    """Each sealed file must have its key wrapped for every recipient; whether it opens shows only a private key.

    Returns the files of wrapped keys by their names."""
    numbered = sorted((layout.parse_keys_name(name) or 0, name) for name in sizes)
    names = [name for number, name in numbered if number]
    texts: Dict[str, bytes] = {}
    for name in names:
        # a place may hold as many as it likes: all of them together are no larger than one may be
        data = _small(copy, verdict, name, recipients.SIZE_LIMIT - sum(map(len, texts.values())))
        if data is not None:
            texts[name] = data
            if noted.get(name) not in (None, digest(data)):
                verdict.damaged(name, f"{name} is not what it was when this copy was made")
            elif name in noted:
                verdict.is_good(name, len(data), digest(data))
    for name in sorted(set(noted) - set(names)):
        verdict.damaged(name, f"{name} is missing")
    seal = manifest.sealed
    there = {(line.file, line.type, line.fingerprint) for line in recipients.read_keys(texts.values())}
    wanted = {(file, kind, fingerprint) for file in seal.commitments for kind, fingerprint in seal.recipients}
    missing = sorted(wanted - there)
    if missing:
        file, kind, fingerprint = missing[0]
        told = f"{layout.keys_name()} has no key of {file} for the {kind} recipient {fingerprint[:16]}"
        verdict.damaged(layout.keys_name(), told)
    return texts


def _strays(copy: Any, verdict: Verdict, manifest: Manifest, sizes: Mapping[str, int], texts: Mapping[str, bytes]):
    """What nobody put there but somebody else: no restore reads it, and a person should know that it is there."""
    known = {record.name for record in manifest.all_files()}
    known |= {layout.MANIFEST, layout.SIGNATURE, layout.SUMS, layout.RESTORE, *texts}
    for name in sorted({*sizes, *copy.others()} - known):
        if len(verdict.strays) == STRAYS:
            break
        if manifest.seal is None or layout.parse_keys_name(name) is None:  # else it could not be read, and that is told
            verdict.strays[name] = "it is no part of the dump"
    for name, data in texts.items():
        why = None if name == layout.keys_name() else recipients.stranger(data, manifest.sealed.commitments)
        if why is not None:
            verdict.strays[name] = f"no rewrap has made it: {why}"
