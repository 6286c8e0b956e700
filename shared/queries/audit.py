"""Statements on the audit log: its entries and the seals over them. Plain SQL, for psycopg and SQLAlchemy."""

from __future__ import annotations

from typing import Final

INSERT_ENTRY: Final = """
INSERT INTO audit_entries (id, actor_type, caller_id, person_id, api_key_id, action, resource_type, resource_id, organization_id,
    address, request_id, before, after)
VALUES (%(id)s, %(actor_type)s, %(caller_id)s, %(person_id)s, %(api_key_id)s, %(action)s, %(resource_type)s, %(resource_id)s,
    %(organization_id)s, %(address)s::text::inet, %(request_id)s, %(before)s::text::jsonb, %(after)s::text::jsonb)"""
"""Insert an entry, with the time of its transaction. `before` and `after` are JSON texts or NULL."""
