"""RESTORE.txt: the commands that open this very dump with sh, coreutils, GNU tar and zstd or gzip.

Here lives the text. Its commands stand in lines that begin with four blanks, in blocks that are pasted
whole; tests/integration/test_image_by_hand.py runs them as they are.
"""

from __future__ import annotations

from typing import Sequence

from .. import text
from .manifest import Manifest

TAR = "LC_ALL=C tar -xp%s --numeric-owner --xattrs --xattrs-include='*' --acls --selinux -C \"$DEST\" -f -"
_TOOL = {"zstd": "zstd", "gzip": "gzip", "none": ""}

_HEAD = """\
This folder is a dump made by Stowage. Everything in it can be read without Stowage, by the commands below.

client   {client}
source   {source}, {path}
dump     {dump}
begun    {begun}, ended {ended}
level    {level}

{chain}What is needed: a shell, coreutils, GNU tar 1.29 or newer{tool}; root, or owners and devices cannot be kept.
Commands stand in blocks that begin with four blanks; paste a whole block into a shell in this very folder.

Do not believe this file when others can write where it lies. Check first, with the public key from your own
papers (never with one that lies beside this file), that manifest.json is signed, and that it names the
SHA-256 of SHA256SUMS and of this file: docs/format.md of Stowage, "By hand", has the commands.
If the client may have been hostile, work in a throw-away system or a chroot: tar follows links.
"""

_CHECK = """
1. Are the files whole?

    for dump in {oldest_first}; do
        echo "$dump"; ( cd "$dump" && sha256sum -c SHA256SUMS ) || echo "DAMAGED OR MISSING: $dump"
    done

"""

_ALL = """\
2. Everything, as it was at {begun}, into an empty folder. Change /srv/restored, or set DEST before.
   The block stops when the folder is not empty{why}.

    ( set -eu
    : "${{DEST:=/srv/restored}}"
    for dump in {oldest_first}; do ( cd "$dump" && sha256sum -c --quiet SHA256SUMS ); done
    mkdir -p "$DEST"
    [ -z "$(ls -A "$DEST")" ] || {{ echo "$DEST is not empty"; exit 1; }}
    for dump in {oldest_first}; do
        for part in "$dump"/image-*; do
            case $part in *.zst) zstd -dc "$part" ;; *.gz) gzip -dc "$part" ;; *) cat "$part" ;; esac
        done | {tar_all}
    done
    echo "restored to $DEST" )

"""

_ONE = """\
3. One file. First find its name: names are written as below the source, without a slash before; a newline
   stands as \\x0a, a backslash as \\\\.

    : "${{WORD:=passwd}}"
    for dump in {newest_first}; do for table in "$dump"/index.tsv*; do
        echo "$dump"
        case $table in *.zst) zstd -dc "$table" ;; *.gz) gzip -dc "$table" ;; *) cat "$table" ;; esac |
            grep -F -- "$WORD" | cut -f 1-7
    done; done

   Then set FILE to that name. Only the frames that hold it are read, checked and unpacked, without -G, so that
   nothing else in DEST is touched.

    ( set -eu; export LC_ALL=C
    : "${{FILE:=etc/passwd}}" "${{DEST:=/srv/restored}}"
    tab=$(printf '\\t'); temporary=$(mktemp -d); trap 'rm -rf "$temporary"' EXIT
    unpack() {{ case $1 in *.zst) zstd -dc ;; *.gz) gzip -dc ;; *) cat ;; esac; }}
    for dump in {newest_first}; do
        ( cd "$dump" && grep -E '  (index|frames)[.]tsv' SHA256SUMS | sha256sum -c --quiet - )
        for table in "$dump"/index.tsv*; do
            unpack "$table" < "$table" | grep -F -- "$FILE$tab" > "$temporary/rows" || true
        done
        gone=
        while IFS=$tab read -r path kind mode uid gid size mtime ctime inode link digest start length flags; do
            [ "$path" = "$FILE" ] || continue
            case $kind in
                -) gone=1; continue ;;
                n) printf '%s\\n' "$FILE was not dumped in $dump: $link"; continue ;;
                h) printf '%s\\n' "$FILE is a hard link: set FILE='$link' instead"; exit 1 ;;
            esac
            for table in "$dump"/frames.tsv*; do
                unpack "$table" < "$table" > "$temporary/frames"
            done
            : > "$temporary/archive"; skip=
            while IFS=$tab read -r part number place stored offset bytes digest flags; do
                [ "$((offset + bytes))" -gt "$start" ] || continue
                [ "$offset" -lt "$((start + length))" ] || break
                : "${{skip:=$((start - offset))}}"
                for image in "$dump/image-$(printf %04d "$part")".*; do
                    tail -c +"$((place + 1))" "$image" | head -c "$stored" > "$temporary/frame"
                    echo "$digest  $temporary/frame" | sha256sum -c --quiet -
                    unpack "$image" < "$temporary/frame" >> "$temporary/archive"
                done
            done < "$temporary/frames"
            mkdir -p "$DEST"
            {{ tail -c +"$((skip + 1))" "$temporary/archive" | head -c "$length"; head -c 1024 /dev/zero; }} |
                {tar_one}
            printf '%s\\n' "restored $FILE of $dump to $DEST"; exit 0
        done < "$temporary/rows"
        [ -z "$gone" ] || {{ printf '%s\\n' "$FILE was gone at the time of $dump"; exit 1; }}
    done
    printf '%s\\n' "$FILE is in none of these dumps"; exit 1 )

"""

_TAIL = """\
Files: image-* the archive in parts, GNU tar can read it; index.tsv* a line per entry; frames.tsv* a line per
frame; SHA256SUMS; manifest.json what this is, manifest.sig its Ed25519 signature. Columns and rules:
docs/format.md of Stowage. Not kept: sockets, inode flags, birth times.
"""


def restore_text(manifest: Manifest, begun: str, ended: str, bases: Sequence[str] = ()) -> bytes:
    """RESTORE.txt of a dump; begun, ended: its times for people; bases: names of the dumps it needs, the full
    first, which lie beside it."""
    needed = ["../" + name for name in bases]
    oldest, newest = " ".join([*needed, "."]), " ".join([".", *reversed(needed)])
    tool = _TOOL[manifest.codec]
    values = {
        "client": text.escape(manifest.client), "source": text.escape(manifest.source),
        "path": text.escape(manifest.path), "dump": manifest.dump, "begun": begun, "ended": ended,
        "level": "0, a full: nothing else is needed" if not bases else
        "%d, what changed since %s" % (manifest.level, bases[-1]),
        "chain": _chain(bases), "tool": ", " + tool if tool else "",
        "why": "" if not bases else ": in it, what later dumps say is gone gets deleted",
        "oldest_first": oldest, "newest_first": newest, "tar_all": TAR % "G", "tar_one": TAR % "",
    }  # fmt: skip
    return "".join(block.format(**values) for block in (_HEAD, _CHECK, _ALL, _ONE, _TAIL)).encode("utf-8")


def _chain(bases: Sequence[str]) -> str:
    if not bases:
        return ""
    first = "It needs these dumps of the same source, in this order, in folders beside this one:\n"
    return first + "".join("  ../%s\n" % name for name in bases) + "  this one\n\n"
