"""The lines of a ledger in its file: how a line is sealed with digests, and how damage to it is found.

A line is a JSON object. Its last key, `sha256`, is the digest of the line's bytes before it; the key before
that, `after`, is the digest of the last line that its writer saw, null for the first. That one may stand
anywhere above it, since Git merges the lines of two branches by union. Lines of earlier versions have neither
key, and count by the digest of their bytes. A line that begins with `#` is damaged or missing, and a person
has set it aside: it is skipped, and lines below may still refer to it.
"""

import codecs
import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SEAL = re.compile(rb'(.*), "sha256": "([0-9a-f]{64})"\}', re.DOTALL)
SEAL_KEYS = {"after", "sha256"}
SET_ASIDE = b"#"
WHITESPACE = b" \t\r\n"
# JSON leaves them as they are, but many programs end a line at them.
LINE_SEPARATORS = str.maketrans({character: f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"})


class DamagedLineError(ValueError):
    """A line is not what was written; the message says why, without the line's number."""


class AlteredLineError(DamagedLineError):
    """A line was altered, and was not only cut short."""


class MissingLineError(AlteredLineError):
    """A line is as it was written, but not the line that it was written after."""


class LineReader:
    """Opens lines one by one, from the first, and checks their digests."""

    def __init__(self) -> None:
        self.last_digest: str | None = None
        self._digests: set[str] = set()
        self._sealed: set[str] = set()
        self._num_unknown = 0  # lines that are set aside and of which no digest is left
        self._unsealed_numbers: list[int] = []

    def open_line(self, number: int, row: bytes) -> dict[str, Any] | None:
        """The line's object without its digests. None for a line that is set aside or a copy of one above.

        A copy comes from a merge of branches that both have it; the decision counts where it stands first.
        """
        row = row.rstrip(WHITESPACE)
        if row.startswith(SET_ASIDE):
            recorded = SEAL.search(row)
            if recorded is None:
                self._num_unknown += 1
            else:
                self._digests.add(recorded[2].decode())
            return None
        values = _parse(row)
        seal = SEAL.fullmatch(row)
        if seal is None and SEAL_KEYS.isdisjoint(values):
            digest = hashlib.sha256(row).hexdigest()
            self._unsealed_numbers.append(number)
        else:
            digest = _check_seal(seal, values)
            if digest in self._sealed:
                return None
            self._check_order(values["after"])
            self._sealed.add(digest)
        self._digests.add(digest)
        self.last_digest = digest
        return {key: value for key, value in values.items() if key not in SEAL_KEYS}

    def _check_order(self, after: str | None) -> None:
        if after is None or after in self._digests:
            return
        if self._num_unknown:
            self._num_unknown -= 1
            self._digests.add(after)
            return
        last = self._unsealed_numbers[-1:]
        altered = f", or line {last[0]}, which has no digest of its own, was altered" if last else ""
        raise MissingLineError(
            f"it was written after a line that no longer stands above it: that was removed or moved{altered}"
        )


def seal_line(values: Mapping[str, Any], after: str | None) -> bytes:
    """The line with its digests and its end. What UTF-8 cannot encode is escaped."""
    text = json.dumps({**values, "after": after}, ensure_ascii=False).translate(LINE_SEPARATORS)
    body = text.removesuffix("}").encode("utf-8", "backslashreplace")
    return body + b', "sha256": "' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def format_remedy(file: Path, number: int, error: DamagedLineError) -> str:
    """What a person can do about a damaged line. No decision is lost that is not in Git."""
    quoted, damaged = shlex.quote(str(file)), shlex.quote(f"{file}.damaged")
    if isinstance(error, MissingLineError):
        return (
            f"put back the line that git diff HEAD -- {quoted} shows; where Git does not have it, mark its "
            f"place: sed -i '{number}i# a line is missing' {quoted}"
        )
    return (
        f"where Git does not have the line, set it aside: sed -i '{number}s/^/#/' {quoted}; "
        f"where it does, restore it with: {format_restore_command(quoted, damaged)}"
    )


def format_restore_command(quoted: str, damaged: str) -> str:
    """Bring back the lines that Git has, keep those that came after them, and keep a copy of the file."""
    return (
        f"cp {quoted} {damaged} && git checkout HEAD -- {quoted} && "
        f"tail -n +$(($(wc -l < {quoted}) + 1)) {damaged} >> {quoted}"
    )


def _parse(row: bytes) -> dict[str, Any]:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(row)  # leaves out half of a last character
    except UnicodeDecodeError as error:
        raise AlteredLineError(str(error)) from None
    try:
        values, end = json.JSONDecoder().raw_decode(text)
    except RecursionError:
        raise DamagedLineError("its JSON is nested without end") from None
    except ValueError as error:
        raise DamagedLineError(str(error)) from None
    if not isinstance(values, dict):
        raise DamagedLineError("it is not a JSON object")
    if end < len(text):
        raise AlteredLineError("more text follows its JSON")  # two lines, for example
    return values


def _check_seal(seal: re.Match[bytes] | None, values: Mapping[str, Any]) -> str:
    """The digest of a line; `AlteredLineError` where its content has another."""
    if seal is None or hashlib.sha256(seal[1]).hexdigest().encode() != seal[2]:
        raise AlteredLineError("it is not as it was written: its sha256 is not that of its content")
    if not isinstance(values.get("after", 0), str | None):
        raise AlteredLineError("its key after is neither a digest nor null")
    return seal[2].decode()
