"""The metadata that every table belongs to, the pattern of the names of constraints, and a type that SQLAlchemy lacks."""

from __future__ import annotations

from typing import Any

from sqlalchemy import MetaData
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.types import UserDefinedType


class TransactionId(UserDefinedType[str]):
    """The id of a transaction, which never repeats: `xid8` in Postgres."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """Return the name of the type in Postgres."""
        return "xid8"


# So that Alembic can compare the column with the database.
ischema_names["xid8"] = TransactionId

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
