"""Seal the lines of a ledger with digests when they are written, and find damage when they are read.

A line is a JSON object. Its last key, `sha256`, is the digest of the line's bytes before it. The key before
that, `after`, is the digest of the last line that its writer saw, and null in the first line. That line may
stand anywhere above, since Git merges the lines of two branches by union. Lines that earlier versions of this
project wrote have neither key; the digest of all their bytes serves instead. A person may set a damaged or
missing line aside: a line that begins with `#` is skipped, and lines below it may still refer to it.
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
# JSON does not escape these characters, but many programs end a line at them.
LINE_SEPARATORS = str.maketrans({character: f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"})


class DamagedLineError(ValueError):
    """A line is not what was written; the message says why, without the line's number."""


class AlteredLineError(DamagedLineError):
    """A line was altered, and was not only cut short."""


class MissingLineError(AlteredLineError):
    """A line is as it was written, but not the line that it was written after."""


class LineReader:
    """It opens the lines of a file one by one, from the first, and checks their digests."""

    def __init__(self) -> None:
        self.last_digest: str | None = None
        self._digests: set[str] = set()
        self._sealed: set[str] = set()
        self._num_unknown = 0  # This counts lines that were set aside and have no digest left.
        self._unsealed_numbers: list[int] = []

    def open_line(self, number: int, row: bytes) -> dict[str, Any] | None:
        """Return the line's object without its digests; None for a line that is set aside or a copy.

        Copies come from a merge of branches that both have the line; the first of them counts.
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
        """Raise `MissingLineError` unless the line with the digest `after` was read before.

        A line that was set aside and has no digest left may stand for one missing line.
        """
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
    """Return the line with its digests and line end. Characters that UTF-8 cannot encode are escaped."""
    text = json.dumps({**values, "after": after}, ensure_ascii=False).translate(LINE_SEPARATORS)
    body = text.removesuffix("}").encode("utf-8", "backslashreplace")
    return body + b', "sha256": "' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def format_remedy(file: Path, number: int, error: DamagedLineError) -> str:
    """Say what a person can do about a damaged line without losing a decision that Git does not have."""
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
    """Return shell commands that bring back the lines that Git has and keep those after them.

    `quoted` is the ledger and `damaged` the file to copy it to, both quoted for the shell.
    """
    return (
        f"cp {quoted} {damaged} && git checkout HEAD -- {quoted} && "
        f"tail -n +$(($(wc -l < {quoted}) + 1)) {damaged} >> {quoted}"
    )


def _parse(row: bytes) -> dict[str, Any]:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(row)  # It skips an incomplete last character.
    except UnicodeDecodeError as error:
        raise AlteredLineError(str(error)) from None
    try:
        values, end = json.JSONDecoder().raw_decode(text)
    except RecursionError:
        raise DamagedLineError("its JSON is nested too deeply") from None
    except ValueError as error:
        raise DamagedLineError(str(error)) from None
    if not isinstance(values, dict):
        raise DamagedLineError("it is not a JSON object")
    if end < len(text):
        raise AlteredLineError("more text follows its JSON")  # Two lines may have become one.
    return values


def _check_seal(seal: re.Match[bytes] | None, values: Mapping[str, Any]) -> str:
    """Return the digest that a line names; `AlteredLineError` where its content has another."""
    if seal is None or hashlib.sha256(seal[1]).hexdigest().encode() != seal[2]:
        raise AlteredLineError("it is not as it was written: its sha256 is not that of its content")
    if not isinstance(values.get("after", 0), str | None):
        raise AlteredLineError("its key after is neither a digest nor null")
    return seal[2].decode()
