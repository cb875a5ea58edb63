"""RESTORE.txt: the commands that open this very dump with sh, coreutils, grep, GNU tar, zstd or gzip, and openssl.

Here lives the text. Its commands stand in lines that begin with four blanks, in blocks that are pasted
whole; tests/integration/test_image_by_hand.py runs them as they are.
"""

from __future__ import annotations

from typing import Sequence

from .. import clock, ids, text
from . import layout
from .manifest import Manifest

TAR = "LC_ALL=C tar -xp%s --numeric-owner --xattrs --xattrs-include='*' --acls --selinux -C \"$DEST\" -f -"
_TOOL = {"zstd": "zstd", "gzip": "gzip", "none": ""}
# How bytes are got out of a dump's files, without and with a seal: used in the blocks below.
_PLAIN = {
    "check_keys": "",
    "get_part": 'cat "$part"', "get_table": 'cat "$table"',
    "check_frame": 'echo "$digest  $temporary/frame" | sha256sum -c --quiet -',
    "get_frame": 'cat "$temporary/frame"',
}  # fmt: skip
_SEALED = {
    "check_keys": """\
    for dump in {all_dumps}; do for part in "$dump"/image-*.enc; do
        [ ! -e "$part" ] || file_key "$dump" "${{part##*/}}" > "$opened/checked" ||
            {{ echo "$part: this key does not open it"; exit 1; }}
    done; done
""",
    "get_part": 'stored "$dump" "${part##*/}"', "get_table": 'stored "$dump" "${table##*/}"',
    "check_frame": """check_frame "$dump" "${image##*/}" "$part" "$number" "$stored" "$digest" "$flags" \\
                        "$temporary/frame\"""",
    "get_frame": 'open_frame "$dump" "${image##*/}" "$place" "$temporary/frame"',
}  # fmt: skip

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

_KEYS = """\
2. Open your private key, in the shell in which you go on. The dump is sealed for
{recipients}
   Set KEY to the file of one of these private keys (a protected one asks for its passphrase). Who has only the
   passphrase of a recipient of type passphrase finds its protected key here:
   grep -h '^-' keys*.tsv | cut -f 4 | base64 -d > key.der, and then KEY=key.der.
   The opened key lies in a folder of your own until this shell ends; while openssl works, the keys of single files
   (of this dump only) can be seen by root and by you in the list of processes.

    export LC_ALL=C; tab=$(printf '\\t'); : "${{KEY:=/root/operations.pem}}"
    opened=$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d); trap 'rm -rf "$opened"' EXIT
    openssl pkey -in "$KEY" -out "$opened/private" &&
        me=$(openssl pkey -in "$opened/private" -pubout -outform DER | sha256sum | cut -c 1-64) && echo "key $me"
    file_key() {{ # DUMP FILE: the file's key in hex, once it is the one that the manifest commits to
        cat "$1"/keys*.tsv | grep -F -- "$2$tab" | grep -F -- "$tab$me$tab" | cut -f 4 > "$opened/wrapped"
        while read -r wrapped; do
            printf '%s' "$wrapped" | base64 -d | openssl pkeyutl -decrypt -inkey "$opened/private" \\
                -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256 > "$opened/key" 2>/dev/null || continue
            sum=$({{ printf 'stowage seal 1 commitment\\n'; cat "$opened/key"; }} | sha256sum | cut -c 1-64)
            grep -qF -- "\\"$2\\": \\"$sum\\"" "$1/manifest.json" || continue
            od -An -v -tx1 "$opened/key" | tr -d ' \\n' && return 0
        done < "$opened/wrapped"
        return 1
    }}
    stored() {{ # DUMP FILE: its bytes without the seal; only after sha256sum -c
        case $2 in *.enc) ;; *) cat "$1/$2"; return ;; esac
        hex=$(file_key "$1" "$2") || {{ echo "$1/$2: this key does not open it" >&2; return 1; }}
        openssl enc -d -aes-256-ctr -K "$(echo "$hex" | cut -c 1-64)" -iv 0 -in "$1/$2" 2>"$opened/said"
    }}
    bytes() {{ # HEX: as bytes
        left=$1; while [ -n "$left" ]; do
            rest=${{left#??}}; printf "\\\\$(printf '%03o' "0x${{left%"$rest"}}")"; left=$rest
        done
    }}
    check_frame() {{ # DUMP FILE PART NUMBER LENGTH DIGEST FLAGS FRAME: is it what was sealed?
        case $2 in *.enc) ;; *) echo "$6  $8" | sha256sum -c --quiet -; return ;; esac
        hex=$(file_key "$1" "$2") || return 1
        name=${{1##*/}}; [ "$name" != . ] || name={dump}
        last=0; case $7 in *l*) last=1 ;; esac
        head=$(printf '%s' {prefix}/"$name" | sha256sum | cut -c 1-64)
        head=$head$(printf '70%08x%016x%016x%02x' "$3" "$4" "$5" "$last")
        {{ printf SWseal01; bytes "$head"; cat "$8"; }} |
            openssl dgst -sha256 -mac HMAC -macopt "hexkey:$(echo "$hex" | cut -c 65-128)" | grep -qF -- "$6" ||
            {{ echo "$1/$2: frame $4 FAILED, it is not what was sealed"; return 1; }}
    }}
    open_frame() {{ # DUMP FILE PLACE FRAME: its bytes without the seal
        case $2 in *.enc) ;; *) cat "$4"; return ;; esac
        hex=$(file_key "$1" "$2") || return 1
        {{ head -c "$(($3 % 16))" /dev/zero; cat "$4"; }} |
            openssl enc -d -aes-256-ctr -K "$(echo "$hex" | cut -c 1-64)" -iv "$(printf '%032x' "$(($3 / 16))")" |
            tail -c +"$(($3 % 16 + 1))"
    }}

"""

_ALL = """\
{everything}. Everything, {moment}, into an empty folder. Change /srv/restored, or set DEST before.
   The block stops when the folder is not empty{why}.

    ( set -eu
    : "${{DEST:=/srv/restored}}"
{find_dumps}    for dump in {all_dumps}; do ( cd "$dump" && sha256sum -c --quiet SHA256SUMS ); done
{check_keys}    mkdir -p "$DEST"
    [ -z "$(ls -A "$DEST")" ] || {{ echo "$DEST is not empty"; exit 1; }}
    for dump in {all_dumps}; do
        for part in "$dump"/image-*; do
            {get_part} | case $part in *.zst|*.zst.enc) zstd -dc ;; *.gz|*.gz.enc) gzip -dc ;; *) cat ;; esac
        done | {tar_all}
    done
    echo "restored to $DEST" )

"""

_SEGMENTS = """\
    : "${{UPTO:=99999999T999999Z}}"
    chain() {{ # DUMP: itself and what it is based on, with the time at which each was begun
        while [ -n "$1" ]; do
            [ -f "$1/manifest.json" ] || {{ echo "$1 is missing" >&2; return 1; }}
            echo "$(sed -n 's/^ "begun": "\\(.*\\)",$/\\1/p' "$1/manifest.json") $1"
            base=$(sed -n '/^ "base": {{$/,/^ }}/s/^  "dump": "\\(.*\\)",$/\\1/p' "$1/manifest.json")
            set -- "${{base:+${{1%/*}}/$base}}"
        done
    }}
    list=$(mktemp)
    for segment in {segments}; do
        newest=
        for dump in "$segment"/????????T??????Z-L?-????????; do
            begun=${{dump##*/}}; begun=${{begun%%-*}}
            first=$(printf '%s\\n%s\\n' "$begun" "$UPTO" | LC_ALL=C sort | head -n 1)
            if [ -f "$dump/manifest.json" ] && [ "$first" = "$begun" ]; then newest=$dump; fi
        done
        [ -n "$newest" ] || {{ echo "$segment has no dump: this is not all of the source"; exit 1; }}
        chain "$newest" >> "$list"
    done
    dumps=$(LC_ALL=C sort "$list" | cut -d ' ' -f 2-); rm -f "$list"
"""

_ONE = """\
{one}. One file. First find its name: names are written as below the source, without a slash before; a newline
   stands as \\x0a, a backslash as \\\\.

    : "${{WORD:=passwd}}"
    for dump in {newest_first}; do for table in "$dump"/index.tsv*; do
        echo "$dump"
        {get_table} | case $table in *.zst|*.zst.enc) zstd -dc ;; *.gz|*.gz.enc) gzip -dc ;; *) cat ;; esac |
            grep -F -- "$WORD" | cut -f 1-7
    done; done

   Then set FILE to that name. Only the frames that hold it are read, checked and unpacked, without -G, so that
   nothing else in DEST is touched.

    ( set -eu; export LC_ALL=C
    : "${{FILE:=etc/passwd}}" "${{DEST:=/srv/restored}}"
    tab=$(printf '\\t'); temporary=$(mktemp -d); trap 'rm -rf "$temporary"' EXIT
    unpack() {{ case $1 in *.zst|*.zst.enc) zstd -dc ;; *.gz|*.gz.enc) gzip -dc ;; *) cat ;; esac; }}
    for dump in {newest_first}; do
        ( cd "$dump" && grep -E '  (index|frames)[.]tsv' SHA256SUMS | sha256sum -c --quiet - )
        for table in "$dump"/index.tsv*; do
            {get_table} > "$temporary/table"
            unpack "$table" < "$temporary/table" | grep -F -- "$FILE$tab" > "$temporary/rows" || true
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
                {get_table} > "$temporary/table"
                unpack "$table" < "$temporary/table" > "$temporary/frames"
            done
            : > "$temporary/archive"; skip=
            while IFS=$tab read -r part number place stored offset bytes digest flags; do
                [ "$((offset + bytes))" -gt "$start" ] || continue
                [ "$offset" -lt "$((start + length))" ] || break
                : "${{skip:=$((start - offset))}}"
                for image in "$dump/image-$(printf %04d "$part")".*; do
                    tail -c +"$((place + 1))" "$image" | head -c "$stored" > "$temporary/frame"
                    {check_frame}
                    {get_frame} | unpack "$image" >> "$temporary/archive"
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

_INTERIM = """\
This is NO FULL. It was made while the source waited for its first full, and holds all folders, but only those files
that were changed since %(since)s: index.tsv* names the others, as "n" with "segment" in the column link. When
a folder ../../%(source)s with dumps lies beside ../../%(source)s.interim, these have all of the source: use them.

"""

_TAIL = """\
Files: image-* the archive in parts, GNU tar can read it; index.tsv* a line per entry; frames.tsv* a line per
frame; SHA256SUMS; keys*.tsv, in a sealed dump, the keys of its files, wrapped for each recipient; manifest.json what
this is, manifest.sig its Ed25519 signature. Columns and rules: docs/format.md of Stowage.
Not kept: sockets, inode flags, birth times.
"""


def restore_text(
    manifest: Manifest, begun: str, ended: str, bases: Sequence[str] = (), sealed_base: bool = False
) -> bytes:
    """RESTORE.txt of a dump; begun, ended: its times for people; bases: names of the dumps it needs, the full
    first, which lie beside it; sealed_base: one of them is sealed, even when this dump is not."""
    needed = ["../" + name for name in bases]
    oldest, newest = " ".join([*needed, "."]), " ".join([".", *reversed(needed)])
    seal = manifest.sealed
    sealed = seal is not None or sealed_base
    tools = [tool for tool in (_TOOL[manifest.codec], "openssl 3" if sealed else "") if tool]
    values = {
        "client": text.escape(manifest.client), "source": text.escape(manifest.source),
        "path": text.escape(manifest.path), "dump": manifest.dump, "begun": begun, "ended": ended,
        "level": "0, a full: nothing else is needed" if not bases else
        "%d, what changed since %s" % (manifest.level, bases[-1]),
        "chain": _chain(bases), "tool": "".join(", " + tool for tool in tools),
        "why": "" if not bases else ": in it, what later dumps say is gone gets deleted",
        "oldest_first": oldest, "all_dumps": oldest, "newest_first": newest, "tar_all": TAR % "G", "tar_one": TAR % "",
        "recipients": "".join("   - %s, fingerprint %s\n" % one for one in seal.recipients).rstrip("\n") if seal else
        "   - those that the keys*.tsv beside the sealed dumps name",
        "moment": "as it was at " + begun, "find_dumps": "",
        "prefix": layout.source_prefix(manifest.client, manifest.source, manifest.segment),
        "everything": 3 if sealed else 2, "one": 4 if sealed else 3,
    }  # fmt: skip
    name = ids.parse_segment(manifest.segment or "")
    if manifest.newer_ns:
        since = clock.iso(manifest.newer_ns)
        values["level"] = "none: an interim dump of files changed since %s, not of all" % since
        values["chain"] = _INTERIM % {"since": since, "source": values["source"]} + values["chain"]
        values["moment"] = "all that is in it, as it was at " + begun
    if name is not None:
        beside = ["../../%s.s%dof%d-%s" % (manifest.source, number, name.count, name.cut)
                  for number in range(1, name.count + 1)]  # fmt: skip
        values["segments"] = " ".join(beside)
        values["chain"] = _of_segment(manifest, name.rest) + values["chain"]
        values["level"] = values["level"].replace("nothing else is needed", "no other dump of this segment is needed")
        values.update(
            all_dumps="$dumps", find_dumps=_SEGMENTS.format(**values),
            moment="all segments, as their newest dumps have it (or those begun up to UPTO, a time as in their names)",
            why=": in it, what later dumps say is gone gets deleted",
        )  # fmt: skip
    ways = _SEALED if sealed else _PLAIN
    values.update(ways, check_keys=ways["check_keys"].format(**values))
    blocks = (_HEAD, _CHECK, *([_KEYS] if sealed else []), _ALL, _ONE, _TAIL)
    return "".join(block.format(**values) for block in blocks).encode("utf-8")


def _of_segment(manifest: Manifest, rest: bool) -> str:
    folders = "".join("  - %s\n" % text.escape(one) for one in manifest.folders)
    what = "It has all of the source but these folders" if rest else "It has these folders of the source"
    return (
        "This is a segment of the source. %s:\n%s"
        "The other segments lie beside it, in the folders ../../%s.s*%s; all of them, unpacked into one folder in the\n"
        "order of their begin, are the source.\n\n"
        % (what, folders, manifest.source, manifest.segment[manifest.segment.index("of") :])
    )


def _chain(bases: Sequence[str]) -> str:
    if not bases:
        return ""
    first = "It needs these dumps of the same source, in this order, in folders beside this one:\n"
    return first + "".join("  ../%s\n" % name for name in bases) + "  this one\n\n"
