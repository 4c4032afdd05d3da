"""The thin edge to PostgreSQL: the only importer of asyncpg at run time."""
