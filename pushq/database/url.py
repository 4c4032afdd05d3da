"""Database URLs as people have them, made fit for asyncpg.

asyncpg passes parameters that it does not know to the server, which refuses the connection. Hosting providers, libpq,
Prisma and SQLAlchemy put many such into the URLs that they hand out.
"""

from __future__ import annotations

import re
import ssl
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from pushq.errors import SettingsError

# What libpq, poolers and other drivers read from a URL, and what is neither asyncpg's nor the server's to know.
_NOT_OURS = frozenset(
    """
    channel_binding client_encoding connect_timeout fallback_application_name gssdelegation gssencmode keepalives
    keepalives_count keepalives_idle keepalives_interval load_balance_hosts max_protocol_version min_protocol_version
    replication require_auth requirepeer requiressl scram_client_key scram_server_key sslcertmode sslcompression
    sslcrldir sslkeylogfile sslsni tcp_user_timeout
    connection_limit pgbouncer pool_timeout prepared_statement_cache_size schema socket_timeout sslaccept
    statement_cache_size
    """.split()
)
_SCHEME = re.compile(r"postgres(ql)?(\+\w+)?")
_HOST = re.compile(r"(?:\[[^][]*\]|[^][:]*)(?::(?P<port>\d*))?")
_KEYWORD = re.compile(r"\s*(\w+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^'\\\s]|\\.)*))(?=\s|$)")


def normalise(url: str) -> str:
    """The same database in asyncpg's words. Takes URLs and libpq's `host=… dbname=…`.

    Raises SettingsError for what is neither; the sentence never shows a password.
    """
    parts = _split(url.strip())
    _check_hosts(_hosts(parts))
    if "@" in parts.path and "@" not in parts.netloc:
        raise _refusal("has an '@' after a '/': percent-encode '/' as %2F in passwords, or '@' as %40 in names")
    query = urlencode(_translate(_parameters(parts)), safe="/,")
    path = parts.path if parts.path != "/" else ""  # to asyncpg "/" is a database without a name
    return f"postgresql://{_authority(parts)}{path}" + (f"?{query}" if query else "")


def describe(url: str | None) -> str:
    """The database as a sentence's subject: its name and host, nothing of the rest."""
    if url is None:
        return "The database of the PG* variables"
    try:
        parts = urlsplit(normalise(url))
    except SettingsError:
        return "The database"
    query = dict(parse_qsl(parts.query))
    name = unquote(parts.path.lstrip("/")) or query.get("dbname") or query.get("database")
    host = unquote(_hosts(parts)) or query.get("host") or "the default host"
    return f"Database {name} at {host}" if name else f"The default database at {host}"


def _split(url: str) -> SplitResult:
    if "://" not in url.partition("=")[0]:
        url = _from_keywords(url)
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _refusal("has a bracket out of place: percent-encode it if it stands in a password") from None
    if not _SCHEME.fullmatch(parts.scheme):
        raise _refusal(f"must begin with postgresql://, not {parts.scheme}://")
    if parts.fragment:
        raise _refusal("has a '#': percent-encode it as %23")
    return parts


def _from_keywords(text: str) -> str:
    """libpq's other form, `host=… dbname=…`, as a URL."""
    words = list(_KEYWORD.finditer(text))
    if not words or "".join(word[0] for word in words) != text:
        raise _refusal("must look like postgresql://user:password@host:5432/database")
    given = {word[1]: re.sub(r"\\(.)", r"\1", word[2] or word[3] or "") for word in words}
    database = quote(given.pop("dbname", ""), safe="")
    return f"postgresql:///{database}?{urlencode(given)}"


def _hosts(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]


def _authority(parts: SplitResult) -> str:
    # asyncpg and libpq end the password at the first '@', people at the last.
    credentials, at, hosts = parts.netloc.rpartition("@")
    return credentials.replace("@", "%40") + at + hosts


def _check_hosts(hosts: str) -> None:
    for host in hosts.split(","):
        match = _HOST.fullmatch(host)
        if match is None or int(match["port"] or 5432) not in range(1, 65536):
            raise _refusal("has no port from 1 to 65535 after its host: percent-encode '/', '?' and ':' in passwords")


def _parameters(parts: SplitResult) -> dict[str, str]:
    try:
        return dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        raise _refusal("has a parameter without '=': percent-encode '?' as %3F in passwords") from None


def _translate(given: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in given.items() if name not in _NOT_OURS and value}
    if (address := kept.pop("hostaddr", None)) is not None:
        kept.setdefault("host", address)
    if (encrypt := kept.pop("ssl", None)) is not None:
        kept.setdefault("sslmode", {"true": "require", "false": "disable"}.get(encrypt, encrypt))
    if kept.get("sslrootcert") == "system":
        kept["sslrootcert"] = ssl.get_default_verify_paths().cafile or ""
        kept["sslmode"] = "verify-full"  # as libpq has it
    return kept


def _refusal(reason: str) -> SettingsError:
    return SettingsError(f"The database URL {reason}.")
