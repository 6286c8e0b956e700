"""The actions that the audit log records, and the types of what they act on."""

from __future__ import annotations

from enum import StrEnum


class AuditAction(StrEnum):
    """What was done. The part before the dot is the type of the resource."""

    API_KEY_CREATED = "api_key.created"
    API_KEY_ROTATED = "api_key.rotated"
    API_KEY_REVOKED = "api_key.revoked"

    PERSON_REGISTERED = "person.registered"
    PERSON_INVITED = "person.invited"
    PERSON_CHANGED = "person.changed"
    PERSON_ROLE_CHANGED = "person.role_changed"
    PERSON_DISABLED = "person.disabled"
    PERSON_ENABLED = "person.enabled"
    PERSON_DELETED = "person.deleted"
    PASSWORD_CHANGED = "person.password_changed"
    PASSWORD_RESET_REQUESTED = "person.password_reset_requested"
    PASSWORD_RESET = "person.password_reset"
    EMAIL_VERIFIED = "person.email_verified"
    SECOND_FACTOR_ENABLED = "person.second_factor_enabled"
    SECOND_FACTOR_DISABLED = "person.second_factor_disabled"
    IDENTITY_LINKED = "person.identity_linked"
    RECOVERY_CODE_USED = "person.recovery_code_used"
    SIGN_IN_FAILED = "person.sign_in_failed"

    SIGNED_IN = "session.signed_in"
    SIGNED_OUT = "session.signed_out"
    SESSION_REVOKED = "session.revoked"
    REFRESH_TOKEN_REUSED = "session.refresh_token_reused"
    SIGNING_KEY_ROTATED = "signing_key.rotated"

    ORGANIZATION_CREATED = "organization.created"
    ORGANIZATION_CHANGED = "organization.changed"
    MEMBER_ADDED = "organization.member_added"
    MEMBER_ROLE_CHANGED = "organization.member_role_changed"
    MEMBER_REMOVED = "organization.member_removed"

    QUOTA_CHANGED = "organization.quota_changed"
    RATE_LIMIT_CHANGED = "organization.rate_limit_changed"
    WEIGHT_CHANGED = "organization.weight_changed"

    WEBHOOK_ENDPOINT_CREATED = "webhook_endpoint.created"
    WEBHOOK_ENDPOINT_CHANGED = "webhook_endpoint.changed"
    WEBHOOK_ENDPOINT_DELETED = "webhook_endpoint.deleted"
    WEBHOOK_ENDPOINT_SECRET_ROTATED = "webhook_endpoint.secret_rotated"
    WEBHOOK_SECRET_SHOWN = "webhook_secret.shown"
    WEBHOOK_SECRET_ROTATED = "webhook_secret.rotated"

    SCHEDULE_CREATED = "schedule.created"
    SCHEDULE_CHANGED = "schedule.changed"
    SCHEDULE_DELETED = "schedule.deleted"
    SCHEDULE_RUN = "schedule.run"

    QUEUE_PAUSED = "queue.paused"
    QUEUE_RESUMED = "queue.resumed"
    KIND_PAUSED = "kind.paused"
    KIND_RESUMED = "kind.resumed"

    TASK_CANCELLED = "task.cancelled"
    TASK_RETRIED = "task.retried"
    TASK_DELETED = "task.deleted"
    BATCH_CANCELLED = "batch.cancelled"
    WORKFLOW_CANCELLED = "workflow.cancelled"
    WORKFLOW_DELETED = "workflow.deleted"
    BULK_ACTION_SUBMITTED = "bulk_action.submitted"
    DELIVERY_REDELIVERED = "webhook_delivery.redelivered"

    FILE_DOWNLOADED = "file.downloaded"
    FILE_DELETED = "file.deleted"

    SECRETS_ROTATED = "secrets.rotated"

    @property
    def resource_type(self) -> str:
        """The type of the resource that the action is about."""
        return self.value.partition(".")[0]
