"""The formats of strings that a grammar can say, as patterns. They allow no more than RFC 3339, 4122, 5322 and 3986."""

from __future__ import annotations

_DATE = (
    r"(?:000[1-9]|00[1-9]\d|0[1-9]\d{2}|[1-9]\d{3})-"
    r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8]))"
)
_LEAP_DAY = r"(?:\d{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)-02-29"
_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d{2}|[1-9]?\d)"
_HOST = r"(?:[a-zA-Z\d](?:[a-zA-Z\d-]{0,30}[a-zA-Z\d])?\.){1,4}[a-zA-Z]{2,12}"

FORMATS = {
    name: f"^(?:{regex})$"
    for name, regex in {
        "date": f"{_DATE}|{_LEAP_DAY}",
        "time": _TIME,
        "date-time": f"(?:{_DATE}|{_LEAP_DAY})T{_TIME}",
        "uuid": r"[\da-fA-F]{8}-(?:[\da-fA-F]{4}-){3}[\da-fA-F]{12}",
        "ipv4": rf"(?:{_BYTE}\.){{3}}{_BYTE}",
        "email": rf"[\w+-]{{1,15}}(?:\.[\w+-]{{1,15}}){{0,3}}@{_HOST}",
        "uri": rf"https?://{_HOST}(?:/[\w.~-]{{1,32}}){{0,8}}/?",
    }.items()
}
"""email: without quoted names; uri: of a web page, without a query."""
