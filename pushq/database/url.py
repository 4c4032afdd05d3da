"""Makes the database URLs that people have fit for asyncpg.

asyncpg passes unknown parameters to the server, which then refuses the connection. Hosting providers, poolers and other
drivers put many such parameters into URLs. So parameters that libpq or asyncpg knows are kept, and the rest is left out
and named.
"""

from __future__ import annotations

import difflib
import getpass
import ipaddress
import os
import re
import ssl
from collections.abc import Mapping
from configparser import Error as NotAServiceFile
from configparser import RawConfigParser
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from pushq.errors import SettingsError

_WHERE = frozenset(
    """
    database dbname gsslib host hostaddr krbsrvname passfile password port service servicefile ssl sslcert sslcrl sslkey
    sslmode sslnegotiation sslpassword sslrootcert ssl_max_protocol_version ssl_min_protocol_version
    target_session_attrs user
    """.split()
)
"""Parameters that say where to connect, as whom and how safely. A misspelt name is refused."""
_SETTINGS = frozenset(
    """
    application_name idle_in_transaction_session_timeout idle_session_timeout lock_timeout options role search_path
    statement_timeout timezone work_mem
    """.split()
)
"""Settings of the server that URLs may hold. Other settings go into `options`."""
_OF_NO_EFFECT = frozenset(
    """
    client_encoding connect_timeout fallback_application_name gssdelegation keepalives keepalives_count keepalives_idle
    keepalives_interval load_balance_hosts max_protocol_version min_protocol_version replication sslcompression
    sslkeylogfile sslsni tcp_user_timeout
    """.split()
)
"""Parameters of libpq, left out without a word: asyncpg has a way of its own, or pushq needs none."""
_WISHES = {"channel_binding": "require", "gssencmode": "require"}
"""Parameters of libpq. Only the value given here asks for more than asyncpg can do."""

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_MEANT = {
    "ssl": {"1": "require", "on": "require", "true": "require", "yes": "require", "0": "disable", "false": "disable"}
    | {"no": "disable", "off": "disable", "no-verify": "require"},
    "sslmode": {"no-verify": "require"},
}
"""Other drivers' words for modes of TLS."""

_PASTED = re.compile(r"^(?:psql\s+|(?:export\s+|set\s+)?[A-Za-z_]\w*\s*=\s*)(?=['\"]?[\w:+]+://)")
_SCHEME = re.compile(r"postgres(ql)?(\+\w+)?")
_HOST = re.compile(r"(?P<host>\[[^][]*\]|[^][:]*)(?::(?P<port>\d*))?")
_KEYWORD = re.compile(r"\s*(\w+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|((?:[^'\\\s]|\\.)*))(?=\s|$)")
_ADO = re.compile(
    r";\s*(host|server|port|database|dbname|user ?(id|name)?|uid|password|pwd|ssl ?mode)\s*=", re.IGNORECASE
)
_SOCKET_WITH_PORT = re.compile(r"(/.*):(\d+)")
_ENVIRONMENT = {
    "PGHOST": "host", "PGHOSTADDR": "hostaddr", "PGPORT": "port", "PGDATABASE": "dbname", "PGUSER": "user",
    "PGOPTIONS": "options", "PGSERVICE": "service",
}  # fmt: skip
"""Variables of libpq that say where to connect. asyncpg reads the rest of libpq's variables."""


def normalise(url: str) -> str:
    """Rewrites a URL, or libpq's `host=… dbname=…`, as a URL for asyncpg.

    Raises SettingsError for anything else, in a sentence that never shows a password.
    """
    parts = _split(url)
    return _joined(parts, _parameters(parts))


def destination(url: str | None) -> str:
    """The URL for asyncpg to connect to. None: made from libpq's variables. Reads service files.

    Raises SettingsError like normalise, and for a missing service or file.
    """
    parts = _split(url or "postgresql://")
    given = _parameters(parts) if url else _environment()
    if service := given.pop("service", None):
        given = _service(service, given.get("servicefile") or os.environ.get("PGSERVICEFILE")) | given
    given.pop("servicefile", None)
    _check_files(given)
    _check_user(parts, given)
    return _joined(parts, given)


def left_out(url: str | None) -> tuple[str, ...]:
    """Parameters of a URL that libpq and asyncpg do not know, or that ask for more than asyncpg can do."""
    if url is None:
        return ()
    given = _parameters(_split(url))
    return tuple(sorted(name for name in given if not _is_kept(name) and not _has_no_effect(name, given[name])))


def describe(url: str | None) -> str:
    """The database as the subject of a sentence: only name and host."""
    if url is None:
        return "The database of the PG* variables" if _is_told_by_variables() else "The default database"
    try:
        parts = urlsplit(normalise(url))
    except SettingsError:
        return "The database"
    query = dict(parse_qsl(parts.query))
    name = unquote(parts.path.lstrip("/")) or query.get("dbname") or query.get("database")
    host = unquote(_hosts(parts)) or query.get("host")
    if service := query.get("service"):
        return f"Database {name} of service {service}" if name else f"The database of service {service}"
    host = host or "the default host"
    return f"Database {name} at {host}" if name else f"The default database at {host}"


def blame(url: str | None) -> str:
    """The subject of a sentence about a trouble. Without a URL and variables, says that no database is set."""
    if url is not None or _is_told_by_variables():
        return describe(url)
    return "No database is set: give PUSHQ_DATABASE_URL. libpq's default, a local socket or localhost:5432,"


# Forms ---------------------------------------------------------------------------------------------------------------


def _split(url: str) -> SplitResult:
    url = _PASTED.sub("", url.strip(), count=1).strip()
    if url[:1] in ("'", '"') and url[-1:] == url[:1]:
        url = url[1:-1].strip()
    url = url.removeprefix("jdbc:")
    if "://" not in url.partition("=")[0]:
        url = _from_keywords(url)
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _refusal(
            "has a bracket out of place: percent-encode it in a password, and write an IPv6 address as [::1]"
        ) from None
    if not _SCHEME.fullmatch(parts.scheme):
        raise _refusal(f"must begin with postgresql://, not {parts.scheme}://")
    if parts.fragment:
        raise _refusal("has a '#': percent-encode it as %23")
    _check_hosts(_hosts(parts))
    if "@" in parts.path and "@" not in parts.netloc:
        raise _refusal("has an '@' after a '/': percent-encode '/' as %2F in passwords, or '@' as %40 in names")
    return parts


def _from_keywords(text: str) -> str:
    """libpq's other form, `host=… dbname=…`, as a URL."""
    if _ADO.search(text):
        raise _refusal("has the form of ADO.NET, 'Host=…;Port=…'; write postgresql://user:password@host:5432/database")
    words = list(_KEYWORD.finditer(text))
    if not words or "".join(word[0] for word in words) != text:
        raise _refusal("must look like postgresql://user:password@host:5432/database")
    given = {word[1]: re.sub(r"\\(.)", r"\1", word[2] or word[3] or "") for word in words}
    database = quote(given.pop("dbname", ""), safe="")
    return f"postgresql:///{database}?{urlencode(given)}"


def _hosts(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]


def _check_hosts(hosts: str) -> None:
    for host in hosts.split(","):
        if not host and "," in hosts:
            raise _refusal("has a comma and no host beside it")
        if _is_ipv6(host) or _is_ipv6(host.rpartition(":")[0]):
            raise _refusal("has an IPv6 address without brackets; write it as [::1] or [::1]:5432")
        match = _HOST.fullmatch(host)
        if match is None or int(match["port"] or 5432) not in range(1, 65536):
            raise _refusal("has no port from 1 to 65535 after its host: percent-encode '/', '?' and ':' in passwords")


def _joined(parts: SplitResult, given: Mapping[str, str]) -> str:
    kept = _translate({name: value for name, value in given.items() if value and _is_kept(name)})
    netloc, path = _authority(parts), parts.path if parts.path != "/" else ""  # asyncpg would read "/" as an empty name
    # In libpq a parameter wins over the part before the '?'. In asyncpg the part before the '?' wins.
    if database := kept.pop("dbname", None) or kept.pop("database", None):
        path = "/" + quote(database, safe="")
    if not kept.keys().isdisjoint({"host", "hostaddr", "port"}):
        kept = _hosts_and_ports(parts) | kept
        kept |= _places(kept.pop("hostaddr", "") or kept.get("host", ""), kept.get("port", ""))
        netloc = netloc[: netloc.rfind("@") + 1]
    query = urlencode(kept, safe="/,[]:")
    return f"postgresql://{netloc}{path}" + (f"?{query}" if query else "")


def _hosts_and_ports(parts: SplitResult) -> dict[str, str]:
    """The hosts before the '?', as parameters."""
    matches = [match for host in _hosts(parts).split(",") if host and (match := _HOST.fullmatch(host))]
    hosts, ports = [unquote(match["host"]).strip("[]") for match in matches], [match["port"] or "" for match in matches]
    return ({"host": ",".join(hosts)} if hosts else {}) | ({"port": ",".join(ports)} if any(ports) else {})


def _authority(parts: SplitResult) -> str:
    # asyncpg and libpq end the password at the first '@', people at the last.
    credentials, at, hosts = parts.netloc.rpartition("@")
    return credentials.replace("@", "%40") + at + hosts


# Parameters ----------------------------------------------------------------------------------------------------------


def _parameters(parts: SplitResult) -> dict[str, str]:
    try:
        given = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        raise _refusal("has a parameter without '=': percent-encode '?' as %3F in passwords") from None
    for name in given:
        _refuse_misspelt(name)
    if given.get("requiressl") == "1":  # libpq's, from before modes
        given.setdefault("sslmode", "require")
    return given


def _refuse_misspelt(name: str) -> None:
    if name in _OF_NO_EFFECT or _is_kept(name):
        return
    if meant := difflib.get_close_matches(name.lower(), _WHERE, n=1, cutoff=0.85):
        raise _refusal(f"has a parameter {name!r}; did you mean {meant[0]!r}?")


def _is_kept(name: str) -> bool:
    return name in _WHERE or name in _SETTINGS or "." in name  # a dot: a setting of an extension, or a custom setting


def _has_no_effect(name: str, value: str) -> bool:
    return name in _OF_NO_EFFECT or name == "requiressl" or (name in _WISHES and value != _WISHES[name])


def _translate(kept: dict[str, str]) -> dict[str, str]:
    if (encrypt := kept.pop("ssl", None)) is not None:
        kept.setdefault("sslmode", _MEANT["ssl"].get(encrypt.lower(), encrypt))
    if (mode := kept.get("sslmode")) is not None:
        kept["sslmode"] = _MEANT["sslmode"].get(mode.lower(), mode.lower())
    if kept.get("sslrootcert") == "system":
        kept["sslrootcert"] = ssl.get_default_verify_paths().cafile or ""
        kept["sslmode"] = "verify-full"  # as libpq has it
    if kept.get("sslmode", "prefer") not in _SSL_MODES:
        raise _refusal(f"has sslmode={kept['sslmode']}, which is none of {', '.join(_SSL_MODES)}")
    if "hostaddr" in kept and kept.get("sslmode") == "verify-full":
        raise _refusal(
            "has hostaddr and sslmode=verify-full, of which asyncpg cannot do both; give the host's name alone"
        )
    return kept


def _places(host: str, port: str) -> dict[str, str]:
    """Hosts and ports for asyncpg: IPv6 in brackets, a socket's folder without a port, one port for each host."""
    hosts, ports = (text.split(",") if text else [] for text in (host, port))
    if not all(hosts):
        raise _refusal("has a comma and no host beside it")
    for number, one in enumerate(hosts):
        if match := _SOCKET_WITH_PORT.fullmatch(one):
            hosts[number], ports = match[1], ports or [match[2]] * len(hosts)
        elif _is_ipv6(one):
            hosts[number] = f"[{one}]"
    if any(one and not (one.isdecimal() and 1 <= int(one) <= 65535) for one in ports):
        raise _refusal(f"has port={port}, which is no port from 1 to 65535")
    if len(ports) == 1:
        ports *= len(hosts) or 1
    if hosts and ports and len(hosts) != len(ports):
        raise _refusal(f"has {len(ports)} ports for {len(hosts)} hosts; give one for all, or one each")
    places = {"host": ",".join(hosts), "port": ",".join(one or "5432" for one in ports)}
    return {name: value for name, value in places.items() if value}


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


# Environment and files -----------------------------------------------------------------------------------------------


def _environment() -> dict[str, str]:
    given = {name: os.environ[variable] for variable, name in _ENVIRONMENT.items() if os.environ.get(variable)}
    if given.keys().isdisjoint({"host", "hostaddr"}):
        given.pop("port", None)  # asyncpg reads PGPORT itself, and alone knows how many default hosts there are
    return given


def _is_told_by_variables() -> bool:
    return any(os.environ.get(variable) for variable in _ENVIRONMENT)


def _service(name: str, named: str | None) -> dict[str, str]:
    """The parameters of a service. Raises SettingsError if no service file has the service."""
    own, folder = named or "~/.pg_service.conf", os.environ.get("PGSYSCONFDIR")
    files = [Path(own).expanduser(), *([Path(folder) / "pg_service.conf"] if folder else [])]
    for path in files:
        if (given := _section(path, name)) is not None:
            return {key: value for key, value in given.items() if key != "service"}
    raise _refusal(f"names service {name!r}, which is not in {' or '.join(map(str, files))}")


def _section(path: Path, name: str) -> dict[str, str] | None:
    parser = RawConfigParser(delimiters=("=",), comment_prefixes=("#",), strict=False)
    try:
        parser.read_string(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, NotAServiceFile):
        raise _refusal(f"names a service, and the file {path} cannot be read") from None
    return dict(parser[name]) if parser.has_section(name) else None


def _check_files(given: Mapping[str, str]) -> None:
    for name in ("sslrootcert", "sslcert", "sslkey", "sslcrl"):
        path = given.get(name)
        if path and path != "system" and not Path(path).is_file():
            raise _refusal(f"has {name}={path}, which is no file")


def _check_user(parts: SplitResult, given: Mapping[str, str]) -> None:
    """Raises SettingsError if no user is named, and this process's user has an id and no name, as in a container."""
    if parts.username or given.get("user") or os.environ.get("PGUSER"):
        return
    try:
        getpass.getuser()
    except (KeyError, OSError):
        raise _refusal(
            f"names no user, and the process's user id {os.getuid()} has no name; write postgresql://USER@…"
        ) from None


def _refusal(reason: str) -> SettingsError:
    return SettingsError(f"The database URL {reason}" + ("" if reason.endswith("?") else "."))
