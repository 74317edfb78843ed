-- What lists are narrowed down by besides stands in the indexes, too, so that rows that are not wanted need not be looked at.
DROP INDEX attempts_by_webhook;
CREATE INDEX attempts_by_webhook ON attempts (project, webhook, started_ms, outcome, status, event_type);
DROP INDEX attempts_by_type;
CREATE INDEX attempts_by_type ON attempts (project, event_type, started_ms, outcome, status);
DROP INDEX attempts_by_status;
CREATE INDEX attempts_by_status ON attempts (project, (status / 100), started_ms, status) WHERE status IS NOT NULL;

-- What is looked for most: what went wrong at a webhook. There may be millions of others.
CREATE INDEX attempts_by_trouble ON attempts (project, webhook, outcome, started_ms) WHERE outcome <> 'delivered';
