"""The roles to which rights are granted: for `pushq migrate --roles`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Roles:
    """Names. The name of the tenants' role stands in the schema as well, and no other."""

    producer: str = "pushq_producer"
    worker: str = "pushq_worker"
    observer: str = "pushq_observer"
    admin: str = "pushq_admin"
    tenant: str = "pushq_tenant"


ROLES = Roles()


def grants(roles: Roles = ROLES) -> str:
    """SQL that makes the missing roles, and grants each role what the role needs, and nothing else."""
    names = asdict(roles)
    literals = ", ".join("'" + name.replace("'", "''") + "'" for name in names.values())
    identifiers = {role: _identifier(name) for role, name in names.items()}
    text = (files("pushq.database") / "roles.sql").read_text(encoding="utf-8")
    return text.format(names=literals, **identifiers)


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
