"""Statements on people, their invitations, one-use tokens and second factors, and on attempts to sign in."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Executable, Select, Text, cast, delete, exists, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert

from shared.tables.callers import callers, memberships, organizations, people
from shared.tables.sessions import (
    invitations,
    person_tokens,
    recovery_codes,
    second_factors,
    sessions,
    sign_in_attempts,
)

_PERSON = (
    people.c.id,
    people.c.email,
    people.c.email_key,
    people.c.name,
    people.c.platform_role,
    people.c.password_hash,
    people.c.security_version,
    people.c.created_at,
    people.c.email_verified_at,
    people.c.disabled_at,
)


def find_person(email_key: str) -> Select[Any]:
    """Return a person by the key of an address."""
    return select(*_PERSON).where(people.c.email_key == email_key)


def get_person(person_id: UUID) -> Select[Any]:
    """Return a person, with whether a second factor is on and when a session was last used."""
    return select(*_PERSON, _has_second_factor(), _last_seen_at()).where(people.c.id == person_id)


def lock_person(person_id: UUID) -> Select[Any]:
    """Return a person, and lock the row."""
    return select(*_PERSON).where(people.c.id == person_id).with_for_update(of=people)


def list_people(before_id: UUID | None, limit: int) -> Select[Any]:
    """List people, newest first."""
    found = select(*_PERSON, _has_second_factor(), _last_seen_at()).order_by(people.c.id.desc()).limit(limit)
    return found if before_id is None else found.where(people.c.id < before_id)


def list_memberships(person_ids: list[UUID]) -> Select[Any]:
    """List the memberships of people, the oldest of each first, with the name of the organization."""
    return (
        select(
            memberships.c.person_id,
            memberships.c.organization_id,
            organizations.c.name.label("organization_name"),
            memberships.c.role,
        )
        .join(organizations, organizations.c.id == memberships.c.organization_id)
        .where(memberships.c.person_id.in_(person_ids), organizations.c.disabled_at.is_(None))
        .order_by(memberships.c.person_id, memberships.c.created_at, memberships.c.organization_id)
    )


def _has_second_factor() -> ColumnElement[bool]:
    return (
        exists()
        .where(second_factors.c.person_id == people.c.id, second_factors.c.confirmed_at.is_not(None))
        .label("has_second_factor")
    )


def _last_seen_at() -> ColumnElement[Any]:
    return (
        select(func.max(sessions.c.last_used_at))
        .where(sessions.c.person_id == people.c.id)
        .scalar_subquery()
        .label("last_seen_at")
    )


def insert_person(values: dict[str, Any]) -> Executable:
    """Insert a person unless one has the address; return the id if it was inserted."""
    return upsert(people).values(**values).on_conflict_do_nothing(index_elements=["email_key"]).returning(people.c.id)


def change_person(person_id: UUID, values: dict[str, Any]) -> Executable:
    """Change columns of a person."""
    return update(people).where(people.c.id == person_id).values(**values)


def drop_unverified_password(person_id: UUID) -> Executable:
    """Delete the password of a person, unless the address is verified."""
    return (
        update(people).where(people.c.id == person_id, people.c.email_verified_at.is_(None)).values(password_hash=None)
    )


def verify_email(person_id: UUID) -> Executable:
    """Store that a person has the address, unless that is stored."""
    return (
        update(people)
        .where(people.c.id == person_id, people.c.email_verified_at.is_(None))
        .values(email_verified_at=func.now())
    )


def replace_password_hash(person_id: UUID, old: str, new: str) -> Executable:
    """Replace the hash of a password by one of the same password, unless it was changed meanwhile."""
    return update(people).where(people.c.id == person_id, people.c.password_hash == old).values(password_hash=new)


def lock_platform_admins() -> Executable:
    """Lock the changes of platform admins, until the transaction ends."""
    return select(func.pg_advisory_xact_lock(func.hashtext("taskmill platform admins")))


def has_another_platform_admin(person_id: UUID) -> Select[bool]:
    """Return whether a person other than this one is an enabled platform admin."""
    return select(
        exists().where(people.c.platform_role == "admin", people.c.disabled_at.is_(None), people.c.id != person_id)
    )


def delete_memberships(person_id: UUID) -> Executable:
    """Delete every membership of a person."""
    return delete(memberships).where(memberships.c.person_id == person_id)


def forget_names(person_id: UUID, name: str) -> Executable:
    """Replace the name of a person's callers, which own tasks that stay."""
    return update(callers).where(callers.c.person_id == person_id).values(name=name)


# Invitations


def insert_invitation(values: dict[str, Any], days: int) -> Executable:
    """Insert an invitation that is valid for so many days."""
    return insert(invitations).values(**values, expires_at=func.now() + timedelta(days=days)).returning(*invitations.c)


def store_invitation_token(invitation_id: UUID, sha256: bytes) -> Executable:
    """Store the digest of an invitation's token, if the invitation can be accepted still."""
    return (
        update(invitations)
        .where(
            invitations.c.id == invitation_id,
            invitations.c.accepted_at.is_(None),
            invitations.c.expires_at > func.now(),
        )
        .values(sha256=sha256)
        .returning(invitations.c.expires_at)
    )


def get_invitation(invitation_id: UUID) -> Select[Any]:
    """Return an invitation with the name of its organization."""
    return (
        select(*invitations.c, organizations.c.name.label("organization_name"))
        .join(organizations, organizations.c.id == invitations.c.organization_id)
        .where(invitations.c.id == invitation_id)
    )


def lock_invitation(sha256: bytes) -> Select[Any]:
    """Return an invitation that can be accepted, by its token, and lock it."""
    return (
        select(*invitations.c, organizations.c.name.label("organization_name"))
        .join(organizations, organizations.c.id == invitations.c.organization_id)
        .where(
            invitations.c.sha256 == sha256,
            invitations.c.accepted_at.is_(None),
            invitations.c.expires_at > func.now(),
            organizations.c.disabled_at.is_(None),
        )
        .with_for_update(of=invitations)
    )


def accept_invitation(invitation_id: UUID, person_id: UUID) -> Executable:
    """Store that an invitation was accepted by a person."""
    return (
        update(invitations)
        .where(invitations.c.id == invitation_id)
        .values(accepted_at=func.now(), accepted_by=person_id)
    )


def list_invitations(organization_id: UUID | None, before_id: UUID | None, limit: int) -> Select[Any]:
    """List invitations that can be accepted, of one organization or of all, newest first."""
    found = (
        select(*invitations.c, organizations.c.name.label("organization_name"))
        .join(organizations, organizations.c.id == invitations.c.organization_id)
        .where(invitations.c.accepted_at.is_(None), invitations.c.expires_at > func.now())
        .order_by(invitations.c.id.desc())
        .limit(limit)
    )
    if organization_id is not None:
        found = found.where(invitations.c.organization_id == organization_id)
    return found if before_id is None else found.where(invitations.c.id < before_id)


def delete_invitation(invitation_id: UUID, organization_id: UUID | None) -> Executable:
    """Delete an invitation that was not accepted, of one organization or of any. Return its organization."""
    condition = [invitations.c.id == invitation_id, invitations.c.accepted_at.is_(None)]
    if organization_id is not None:
        condition.append(invitations.c.organization_id == organization_id)
    return delete(invitations).where(*condition).returning(invitations.c.organization_id)


# One-use tokens


def insert_person_token(
    sha256: bytes, purpose: str, person_id: UUID, seconds: int, data: dict[str, Any] | None = None
) -> Executable:
    """Insert a token that is valid for so many seconds."""
    return insert(person_tokens).values(
        sha256=sha256,
        purpose=purpose,
        person_id=person_id,
        data=data,
        expires_at=func.now() + timedelta(seconds=seconds),
    )


def use_person_token(sha256: bytes, purpose: str) -> Executable:
    """Mark a valid token as used, and return its person and data."""
    return (
        update(person_tokens)
        .where(
            person_tokens.c.sha256 == sha256,
            person_tokens.c.purpose == purpose,
            person_tokens.c.used_at.is_(None),
            person_tokens.c.expires_at > func.now(),
        )
        .values(used_at=func.now())
        .returning(person_tokens.c.person_id, person_tokens.c.data)
    )


def count_challenge_try(sha256: bytes, most: int) -> Executable:
    """Count a try at a challenge, and return its person and data if it can still be answered."""
    return (
        update(person_tokens)
        .where(
            person_tokens.c.sha256 == sha256,
            person_tokens.c.purpose == "challenge",
            person_tokens.c.used_at.is_(None),
            person_tokens.c.expires_at > func.now(),
            person_tokens.c.tries < most,
        )
        .values(tries=person_tokens.c.tries + 1)
        .returning(person_tokens.c.person_id, person_tokens.c.data)
    )


def drop_person_tokens(person_id: UUID, *purposes: str) -> Executable:
    """Delete the tokens of a person for these purposes, so that none of them is accepted any more."""
    return delete(person_tokens).where(person_tokens.c.person_id == person_id, person_tokens.c.purpose.in_(purposes))


# Second factors


def find_second_factor(person_id: UUID) -> Select[Any]:
    """Return the second factor of a person, confirmed or not."""
    return select(second_factors).where(second_factors.c.person_id == person_id)


def put_second_factor(person_id: UUID, secret: str) -> Executable:
    """Store the secret of a second factor that is not confirmed yet, in place of another such one."""
    stored = upsert(second_factors).values(person_id=person_id, secret=secret)
    return stored.on_conflict_do_update(
        index_elements=["person_id"],
        set_={"secret": secret, "created_at": func.now(), "last_step": 0},
        where=second_factors.c.confirmed_at.is_(None),
    ).returning(second_factors.c.person_id)


def use_step(person_id: UUID, step: int) -> Executable:
    """Store the step of an accepted code, and confirm the factor. No row is returned if the step was used before."""
    return (
        update(second_factors)
        .where(second_factors.c.person_id == person_id, second_factors.c.last_step < step)
        .values(last_step=step, confirmed_at=func.coalesce(second_factors.c.confirmed_at, func.now()))
        .returning(second_factors.c.person_id)
    )


def delete_second_factor(person_id: UUID) -> Executable:
    """Delete the second factor of a person."""
    return delete(second_factors).where(second_factors.c.person_id == person_id)


def delete_recovery_codes(person_id: UUID) -> Executable:
    """Delete the recovery codes of a person."""
    return delete(recovery_codes).where(recovery_codes.c.person_id == person_id)


def insert_recovery_codes(person_id: UUID, digests: list[bytes]) -> Executable:
    """Insert recovery codes."""
    return insert(recovery_codes).values([{"person_id": person_id, "sha256": digest} for digest in digests])


def use_recovery_code(person_id: UUID, sha256: bytes) -> Executable:
    """Mark a recovery code as used. No row is returned if it is wrong or was used before."""
    return (
        update(recovery_codes)
        .where(
            recovery_codes.c.person_id == person_id,
            recovery_codes.c.sha256 == sha256,
            recovery_codes.c.used_at.is_(None),
        )
        .values(used_at=func.now())
        .returning(recovery_codes.c.person_id)
    )


# Attempts


def count_attempts(subjects: list[bytes], window_seconds: float) -> Executable:
    """Count one attempt for each subject, in a window that begins with its first attempt, and return the counts.

    `wait_seconds` is how long the window lasts still. Subjects are counted in the order of their bytes, so that two requests
    never wait for each other.
    """
    window = timedelta(seconds=window_seconds)
    rows = [{"subject": subject, "attempts": 1, "since": func.now()} for subject in sorted(subjects)]
    return (
        upsert(sign_in_attempts)
        .values(rows)
        .on_conflict_do_update(
            index_elements=["subject"],
            set_={
                "attempts": text(
                    "CASE WHEN sign_in_attempts.since < now() - make_interval(secs => :window) "
                    "THEN 1 ELSE sign_in_attempts.attempts + 1 END"
                ).bindparams(window=window_seconds),
                "since": text(
                    "CASE WHEN sign_in_attempts.since < now() - make_interval(secs => :window) "
                    "THEN now() ELSE sign_in_attempts.since END"
                ).bindparams(window=window_seconds),
            },
        )
        .returning(
            sign_in_attempts.c.subject,
            sign_in_attempts.c.attempts,
            func.extract("epoch", sign_in_attempts.c.since + window - func.now()).label("wait_seconds"),
        )
    )


def uncount_attempts(subjects: list[bytes]) -> Executable:
    """Subtract one attempt from each subject, because it succeeded."""
    locked = (
        select(sign_in_attempts.c.subject)
        .where(sign_in_attempts.c.subject.in_(subjects))
        .order_by(sign_in_attempts.c.subject)
        .with_for_update()
        .cte("locked")
    )
    return (
        update(sign_in_attempts)
        .where(sign_in_attempts.c.subject.in_(select(locked.c.subject)), sign_in_attempts.c.attempts > 0)
        .values(attempts=sign_in_attempts.c.attempts - 1)
    )


def forget_attempts(subjects: list[bytes]) -> Executable:
    """Delete the counts of subjects."""
    return delete(sign_in_attempts).where(sign_in_attempts.c.subject.in_(subjects))


# What is too old


def drop_old_person_tokens(limit: int) -> Executable:
    """Delete up to `limit` one-use tokens that expired a day ago."""
    old = select(person_tokens.c.sha256).where(person_tokens.c.expires_at < func.now() - timedelta(days=1)).limit(limit)
    return delete(person_tokens).where(person_tokens.c.sha256.in_(old))


def drop_old_invitations(limit: int) -> Executable:
    """Delete up to `limit` invitations that expired 30 days ago, accepted ones too."""
    old = select(invitations.c.id).where(invitations.c.expires_at < func.now() - timedelta(days=30)).limit(limit)
    return delete(invitations).where(invitations.c.id.in_(old))


def drop_old_attempts(limit: int) -> Executable:
    """Delete up to `limit` counts of attempts whose window ended."""
    old = (
        select(sign_in_attempts.c.subject).where(sign_in_attempts.c.since < func.now() - timedelta(days=1)).limit(limit)
    )
    return delete(sign_in_attempts).where(sign_in_attempts.c.subject.in_(old))


def submit_tasks(document: str) -> Executable:
    """Submit tasks of the platform, from the document of `shared.tasks.submission.submission_document`."""
    return select(func.taskmill_insert_tasks(cast(cast(document, Text), JSONB)))


def find_person_token(sha256: bytes) -> Select[Any]:
    """Return the person of a valid token, which stays valid."""
    return (
        select(people.c.id, people.c.email, people.c.email_key)
        .join(person_tokens, person_tokens.c.person_id == people.c.id)
        .where(
            person_tokens.c.sha256 == sha256,
            person_tokens.c.used_at.is_(None),
            person_tokens.c.expires_at > func.now(),
            people.c.disabled_at.is_(None),
        )
    )


def disable_person(person_id: UUID, *, is_disabled: bool) -> Executable:
    """Disable a person, or enable one."""
    return update(people).where(people.c.id == person_id).values(disabled_at=func.now() if is_disabled else None)


def forget_person(person_id: UUID) -> Executable:
    """Delete what is known of a person. The row stays, because it owns callers whose tasks stay."""
    return (
        update(people)
        .where(people.c.id == person_id)
        .values(
            email="",
            email_key=f"deleted {person_id}",
            name=None,
            password_hash=None,
            platform_role=None,
            email_verified_at=None,
            disabled_at=func.now(),
        )
    )
