"""Add people, their memberships in organizations, and the roles and restrictions of API keys.

`api_keys.role` keeps its meaning, so that processes of the version before run beside this one, and nobody's reach changes:
`operator` and `admin` reach every organization, which are the platform roles. The role in the organization of the key is in
`organization_role`, and is that of `role` where it is null.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("organizations", sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "people",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("email_key", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("password_hash", sa.Text(), nullable=True),
        sa.Column("platform_role", sa.Text(), nullable=True),
        sa.Column("security_version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("email_verified_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("platform_role IN ('operator', 'admin')", name=op.f("ck_people_known_platform_role")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_people")),
        sa.UniqueConstraint("email_key", name=op.f("uq_people_email_key")),
    )
    op.create_table(
        "memberships",
        sa.Column("person_id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("role IN ('viewer', 'client', 'operator', 'admin')", name=op.f("ck_memberships_known_role")),
        sa.ForeignKeyConstraint(
            ["person_id"], ["people.id"], name=op.f("fk_memberships_person_id_people"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name=op.f("fk_memberships_organization_id_organizations")
        ),
        sa.PrimaryKeyConstraint("person_id", "organization_id", name=op.f("pk_memberships")),
    )
    op.create_index("ix_memberships_organization_id", "memberships", ["organization_id"])
    op.add_column("callers", sa.Column("person_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(op.f("fk_callers_person_id_people"), "callers", "people", ["person_id"], ["id"])
    op.create_index(
        "ix_callers_person_id",
        "callers",
        ["person_id", "organization_id"],
        unique=True,
        postgresql_where=sa.text("person_id IS NOT NULL"),
    )
    op.add_column("api_keys", sa.Column("organization_role", sa.Text(), nullable=True))
    op.create_check_constraint(
        op.f("ck_api_keys_known_organization_role"),
        "api_keys",
        "organization_role IN ('viewer', 'client', 'operator', 'admin')",
    )
    op.add_column("api_keys", sa.Column("last_used_network", postgresql.CIDR(), nullable=True))
    op.add_column("api_keys", sa.Column("networks", postgresql.ARRAY(postgresql.CIDR()), nullable=True))
    op.add_column("api_keys", sa.Column("created_by", sa.Uuid(), nullable=True))
    op.create_foreign_key(op.f("fk_api_keys_created_by_callers"), "api_keys", "callers", ["created_by"], ["id"])
    op.add_column("api_keys", sa.Column("replaces_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(op.f("fk_api_keys_replaces_id_api_keys"), "api_keys", "api_keys", ["replaces_id"], ["id"])
    op.create_index("ix_api_keys_caller_id", "api_keys", ["caller_id"])


def downgrade() -> None:
    op.drop_index("ix_api_keys_caller_id", table_name="api_keys")
    op.drop_constraint(op.f("fk_api_keys_replaces_id_api_keys"), "api_keys", type_="foreignkey")
    op.drop_column("api_keys", "replaces_id")
    op.drop_constraint(op.f("fk_api_keys_created_by_callers"), "api_keys", type_="foreignkey")
    op.drop_column("api_keys", "created_by")
    op.drop_column("api_keys", "networks")
    op.drop_column("api_keys", "last_used_network")
    op.drop_constraint(op.f("ck_api_keys_known_organization_role"), "api_keys", type_="check")
    op.drop_column("api_keys", "organization_role")
    op.drop_index("ix_callers_person_id", table_name="callers")
    op.drop_constraint(op.f("fk_callers_person_id_people"), "callers", type_="foreignkey")
    op.drop_column("callers", "person_id")
    op.drop_index("ix_memberships_organization_id", table_name="memberships")
    op.drop_table("memberships")
    op.drop_table("people")
    op.drop_column("organizations", "disabled_at")
