-- Submit the webhooks and the emails of ended tasks, and the webhooks of batches whose last task is among them.
CREATE OR REPLACE FUNCTION taskmill_submit_webhooks_of_ends(ended uuid[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    task record;
    batch record;
    delivery uuid;
    document json;
BEGIN
    -- Receivers are locked before everything else, in one order, so that no two transactions wait for each other.
    PERFORM pg_advisory_xact_lock(hashtextextended(receiver.id::text, 0)) FROM (
        SELECT DISTINCT delivery.receiver_id AS id
        FROM unnest(ended) AS one (id) JOIN tasks AS subject ON subject.id = ANY (ARRAY[one.id])
        JOIN task_payloads AS payload ON payload.task_id = ANY (ARRAY[one.id])
        JOIN webhook_deliveries AS delivery ON delivery.id = ANY (ARRAY[(payload.params->>'delivery_id')::uuid])
        WHERE subject.kind = 'webhooks.deliver' AND subject.status <> 'succeeded' ORDER BY 1) AS receiver;
    FOR task IN
        SELECT subject.id, subject.kind, subject.status, subject.organization_id, subject.tags, follow_up.webhook_url,
            follow_up.webhook_secret, follow_up.notify
        FROM unnest(ended) AS one (id) JOIN tasks AS subject ON subject.id = ANY (ARRAY[one.id])
        LEFT JOIN task_follow_ups AS follow_up ON follow_up.task_id = ANY (ARRAY[one.id])
        ORDER BY subject.id
    LOOP
        IF task.kind = 'webhooks.deliver' THEN
            IF task.status <> 'succeeded' THEN
                PERFORM taskmill_abandon_delivery((SELECT (payload.params->>'delivery_id')::uuid
                    FROM task_payloads AS payload WHERE payload.task_id = task.id));
            END IF;
            CONTINUE;
        END IF;
        document := NULL;
        IF task.webhook_url IS NOT NULL OR EXISTS (SELECT FROM webhook_endpoints AS endpoint
            WHERE endpoint.organization_id = task.organization_id AND endpoint.enabled
                AND ('task.' || task.status) = ANY (endpoint.event_types))
        THEN
            document := taskmill_task_document(task.id);
            PERFORM taskmill_submit_webhooks(
                task.organization_id, 'task.' || task.status, task.id, task.kind, task.tags, document);
        END IF;
        IF task.webhook_url IS NOT NULL THEN
            INSERT INTO webhook_deliveries
                (id, organization_id, task_id, event_type, data, url, secret, receiver_id, give_up_at)
            VALUES (uuidv7(), task.organization_id, task.id, 'task.' || task.status, document, task.webhook_url,
                task.webhook_secret,
                md5(task.organization_id || substring(task.webhook_url FROM '^[a-z]+://[^/]*'))::uuid,
                now() + interval '3 days')
            RETURNING id INTO delivery;
            PERFORM taskmill_start_delivery(delivery);
        END IF;
        IF task.notify->'on' ? task.status THEN
            PERFORM taskmill_submit_notice(task.id, task.notify->'submission');
        END IF;
    END LOOP;
    FOR batch IN
        SELECT DISTINCT subject.batch_id AS id, subject.organization_id
        FROM unnest(ended) AS one (id) JOIN tasks AS subject ON subject.id = ANY (ARRAY[one.id])
        WHERE subject.batch_id IS NOT NULL AND EXISTS (SELECT FROM webhook_endpoints AS endpoint
            WHERE endpoint.organization_id = subject.organization_id AND endpoint.enabled
                AND 'batch.finished' = ANY (endpoint.event_types))
        ORDER BY 1
    LOOP
        -- Of two transactions that end the last two tasks of a batch, the second sees the end of the first.
        PERFORM pg_advisory_xact_lock(hashtextextended(batch.id::text, 0));
        IF NOT EXISTS (SELECT FROM tasks AS other WHERE other.batch_id = batch.id AND other.finished_at IS NULL) THEN
            PERFORM taskmill_submit_webhooks(
                batch.organization_id, 'batch.finished', NULL, NULL, NULL, taskmill_batch_document(batch.id));
        END IF;
    END LOOP;
END $$
