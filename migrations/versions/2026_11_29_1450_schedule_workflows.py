"""Let schedules submit workflows, and link a step only to files of its own organization."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def resolve_params(condition: str) -> str:
    """Return the function that resolves the params of a step; `condition` restricts the files that it links."""
    return f"""
CREATE OR REPLACE FUNCTION taskmill_resolve_params(step workflow_steps, item jsonb, OUT params jsonb, OUT files jsonb,
    OUT problem text) LANGUAGE plpgsql STABLE AS $$
DECLARE
    reference record;
    value jsonb;
BEGIN
    params := step.submission->'params';
    files := coalesce(step.submission->'files', '[]');
    FOR reference IN SELECT * FROM jsonb_to_recordset(step.refs) AS each (pointer text[], source text, path text[], written text)
    LOOP
        value := CASE WHEN reference.source = 'item' THEN item #> reference.path
            ELSE taskmill_find_step_value(step.workflow_id, reference.source, reference.path) END;
        IF value IS NULL THEN
            problem := format('There is no %s. It was to become the param %s.', reference.written,
                '/' || array_to_string(reference.pointer, '/'));
            RETURN;
        END IF;
        params := jsonb_set(params, reference.pointer, value, false);
        IF reference.path[array_upper(reference.path, 1)] = 'id' AND (reference.source = 'item' OR reference.path[1] = 'artifacts')
            AND pg_input_is_valid(value #>> '{{}}', 'uuid'){condition} THEN
            files := files || jsonb_build_array(value);
        END IF;
    END LOOP;
    IF octet_length(params::text) > 1048576 THEN
        problem := 'With the values of the steps before it, the params are larger than 1 MiB.';
    END IF;
END $$
"""  # noqa: S608 - constants of this module


OF_ORGANIZATION = """
            AND EXISTS (SELECT FROM files AS file WHERE file.id = (value #>> '{}')::uuid
                AND file.organization_id = (step.submission->>'organization_id')::uuid)"""


def upgrade() -> None:
    op.add_column("schedules", sa.Column("workflow", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.create_index(
        "ix_workflows_schedule",
        "workflows",
        ["schedule_id"],
        postgresql_where=sa.text("schedule_id IS NOT NULL AND finished_at IS NULL"),
    )
    op.execute(resolve_params(OF_ORGANIZATION))


def downgrade() -> None:
    op.execute(resolve_params(""))
    op.drop_index("ix_workflows_schedule", table_name="workflows")
    op.execute("DELETE FROM schedules WHERE workflow IS NOT NULL")
    op.drop_column("schedules", "workflow")
