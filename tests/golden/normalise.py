"""Makes answers of an etcd gateway comparable: what differs from run to run becomes a placeholder.

Pure: text in, text out. The text stays JSON, its field order stays as received, and everything
that no rule names stays as it is: revisions, versions, counts, ids that the client chose.

Rules, in this order:
1. Values that the conversation knows (ids that the server chose, caught by an earlier step or read
   at the start) become "<name>" wherever a whole JSON string equals them.
2. Fields whose value the server makes up become "<field>", if they have the type that the protocol
   gives them: a decimal string for 64-bit fields, a bare number for the 32-bit `hash`. A field of
   the wrong type is left alone, so that a comparison shows it.
3. The remaining seconds of a lease ("TTL" followed by "grantedTTL") become "<remaining>", if they
   are at most the granted ones. A missing lease's "-1" stays.
4. A member named in words ("memberID:12 alarm:...") becomes memberID:<member_id>.
5. URLs with a loopback port become "http://<address>".
6. What Go's JSON, base64 and number parsers say about bad input becomes "<parse error>": the words
   are Go's, only the status and the code are the protocol's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

# 64-bit fields: a decimal string on the wire.
STRING_FIELDS = (
    "cluster_id",
    "member_id",
    "raft_term",
    "raftTerm",
    "raftIndex",
    "raftAppliedIndex",
    "dbSize",
    "dbSizeInUse",
    "leader",
    "remaining_bytes",
)
# Opaque bytes: base64 on the wire.
BYTES_FIELDS = ("blob",)
# 32-bit fields: a bare number on the wire.
NUMBER_FIELDS = ("hash",)

_STRING = re.compile(rf'"({"|".join(STRING_FIELDS)})":"\d+"')
_BYTES = re.compile(rf'"({"|".join(BYTES_FIELDS)})":"[A-Za-z0-9+/]+=*"')
_NUMBER = re.compile(rf'"({"|".join(NUMBER_FIELDS)})":\d+')
_REMAINING = re.compile(r'"TTL":"(\d+)","grantedTTL":"(\d+)"')
_ADDRESS = re.compile(r"http://(?:localhost|127\.0\.0\.1):\d+")
_MEMBER = re.compile(r"\bmemberID:\d+")
_MESSAGE = re.compile(r'"(error|message)":("(?:[^"\\]|\\.)*")')
_PARSER = re.compile(
    r"json: |invalid character |illegal base64 |unexpected EOF|unexpected end of JSON|"
    r"strconv\.|unknown value |bad value |bad input |EOF$|cannot unmarshal |proto: |"
    r"unknown field |parsing field |invalid JSON|syntax error"
)

PLACEHOLDER = re.compile(r"<[A-Za-z0-9_ ]+>")


def normalise(text: str, known: Mapping[str, str]) -> str:
    """The answer with placeholders. `known` maps a name to the value that the server chose."""
    for name, value in known.items():
        text = text.replace(json.dumps(value), f'"<{name}>"')
    text = _STRING.sub(r'"\1":"<\1>"', text)
    text = _BYTES.sub(r'"\1":"<\1>"', text)
    text = _NUMBER.sub(r'"\1":"<number \1>"', text)
    text = _REMAINING.sub(_remaining, text)
    text = _MEMBER.sub("memberID:<member_id>", text)
    text = _ADDRESS.sub("http://<address>", text)
    return _MESSAGE.sub(_message, text)


def fill_in(text: str, known: Mapping[str, str]) -> str:
    """A recorded request as it is sent: known placeholders replaced by this server's values."""
    for name, value in known.items():
        text = text.replace(f"<{name}>", value)
    return text


def _remaining(found: re.Match[str]) -> str:
    left, granted = int(found[1]), int(found[2])
    return f'"TTL":"<remaining>","grantedTTL":"{granted}"' if left <= granted else found[0]


def _message(found: re.Match[str]) -> str:
    if _PARSER.match(json.loads(found[2])):
        return f'"{found[1]}":"<parse error>"'
    return found[0]
