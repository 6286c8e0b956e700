"""The composition root of an API process: it builds the objects that live as long as the process, and opens and closes them.

Only `api/app.py` and `api/dependencies.py` import this module. Every object gets the objects that it uses as arguments.
"""

from __future__ import annotations

from functools import partial

from psycopg_pool import AsyncConnectionPool
from sqlalchemy.ext.asyncio import AsyncEngine

from api.auth.attempts import Attempts
from api.auth.authentication import Authenticator
from api.auth.passwords import Passwords
from api.auth.provider_sign_in import ProviderSignIn
from api.auth.registration import Registrations
from api.auth.sessions import Sessions
from api.auth.sign_in import SignIn
from api.auth.signing import TokenSigner
from api.batcher import HotPool
from api.following.task_actions import TaskActions
from api.following.task_reader import TaskReader
from api.following.waiters import Waiters
from api.hot_paths import HotPaths
from api.http.rate_limits import RateLimits
from api.http.sign_in_limits import SignInLimits
from api.limits.limit_reader import LimitReader
from api.queues.queue_reader import QueueReader
from api.queues.wait_estimates import WaitEstimates
from api.queues.waiting import WaitingReader
from api.readiness import ReadinessChecks
from api.streaming.event_feed import EventFeed
from api.streaming.stream_opener import StreamOpener
from api.streaming.streams import OpenStreams
from api.submitting.idempotency import IdempotencyKeys
from api.submitting.queue_bounds import QueueBounds
from api.submitting.submission_batcher import SubmissionBatcher
from api.submitting.submissions import Submissions
from api.webhooks.receiver_hosts import ReceiverHosts
from api.workflows.workflow_actions import WorkflowActions
from api.workflows.workflow_reader import WorkflowReader
from shared.database.connections import (
    BoundedConnection,
    hot_connection_arguments,
    limit_round_trips,
    make_async_engine,
)
from shared.settings import Settings
from shared.storage.object_store import ObjectStore
from shared.storage.open_store import open_object_store
from shared.stored_secrets import SecretCipher


class Services:
    """The long-lived objects of one API process. Building and opening them needs neither the database nor the broker."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.limits = RateLimits(settings)
        self.store: ObjectStore = open_object_store(settings.storage_url)
        self.engine: AsyncEngine = make_async_engine(settings, "api")
        self.reads: AsyncEngine = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self.cipher = SecretCipher(settings)
        self.signer = TokenSigner(settings, self.engine, self.cipher)
        self.authenticator = Authenticator(self.reads, self.signer)
        self.sessions = Sessions(settings, self.engine, self.signer)
        passwords, attempts = Passwords(settings), Attempts(self.reads)
        self.sign_in = SignIn(
            engine=self.engine,
            reads=self.reads,
            passwords=passwords,
            attempts=attempts,
            sessions=self.sessions,
            cipher=self.cipher,
        )
        self.registrations = Registrations(
            settings, engine=self.engine, passwords=passwords, attempts=attempts, sessions=self.sessions
        )
        self.provider_sign_in = ProviderSignIn(
            settings,
            engine=self.engine,
            reads=self.reads,
            sessions=self.sessions,
            registrations=self.registrations,
        )
        self.limit_reader = LimitReader(settings, self.engine, self.reads, self.limits)
        self.sign_in_limits = SignInLimits(settings)
        self.reader = TaskReader(settings, self.reads)
        self.waiters = Waiters(settings, self.reader)
        self.feed = EventFeed(settings)
        self.waiters.on_wake_up.append(self.feed.wake)
        self.streams = StreamOpener(settings, self.reads, self.reader, self.waiters, self.feed)
        self.open_streams = OpenStreams(settings)
        self.task_actions = TaskActions(self.engine, self.reader, self.waiters, self.store)
        self.readiness = ReadinessChecks(settings, self.reads, self.store)
        self.queues = QueueReader(self.engine, self.reads)
        self.waiting = WaitingReader(settings, self.reads, self.queues)
        self.wait_estimates = WaitEstimates(settings, self.reads, self.queues)
        self.queue_bounds = QueueBounds(settings, self.reads)
        self.receiver_hosts = ReceiverHosts()
        self._pool = _make_pool(settings)
        self._batcher = SubmissionBatcher(settings)
        self.idempotency_keys = IdempotencyKeys(self._pool, self.cipher)
        self.submissions = Submissions(
            pool=self._pool,
            reads=self.reads,
            reader=self.reader,
            batcher=self._batcher,
            queue_bounds=self.queue_bounds,
            keys=self.idempotency_keys,
            wait_estimates=self.wait_estimates,
            hosts=self.receiver_hosts,
            cipher=self.cipher,
            limits=self.limit_reader,
            mail_from=settings.mail_from,
        )
        self.workflows = WorkflowReader(self.reads)
        self.workflow_actions = WorkflowActions(
            engine=self.engine,
            pool=self._pool,
            reader=self.workflows,
            submissions=self.submissions,
            waiters=self.waiters,
            store=self.store,
            cipher=self.cipher,
        )
        self.hot_paths = HotPaths(
            authenticator=self.authenticator,
            limits=self.limits,
            limit_reader=self.limit_reader,
            submissions=self.submissions,
            reader=self.reader,
            waiters=self.waiters,
            wait_estimates=self.wait_estimates,
            max_body_bytes=settings.max_json_bytes,
        )

    async def open(self) -> None:
        """Open the connections that are kept, and begin to listen for wake-ups."""
        await self._pool.open(wait=False)
        self.waiters.start()

    async def close(self) -> None:
        """End every wait, commit what was submitted, and close every connection."""
        await self.waiters.close()
        await self._batcher.close()
        await self.reader.close()
        await self.authenticator.close()
        await self.provider_sign_in.close()
        await self.sign_in_limits.close()
        await self.readiness.close()
        await self.wait_estimates.close()
        await self.streams.close()
        await self.feed.close()
        self.receiver_hosts.close()
        await self._pool.close(timeout=2)
        await self.engine.dispose()


def _make_pool(settings: Settings) -> HotPool:
    return AsyncConnectionPool(
        settings.database_url,
        connection_class=BoundedConnection,
        configure=partial(limit_round_trips, timeout_seconds=settings.database_timeout_seconds),
        kwargs=hot_connection_arguments("api-submit", timeout_seconds=settings.database_timeout_seconds),
        min_size=0,
        max_size=settings.database_pool_size,
        timeout=settings.database_timeout_seconds,
        check=AsyncConnectionPool.check_connection,
        open=False,
    )
