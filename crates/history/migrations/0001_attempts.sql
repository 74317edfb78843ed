-- One row per attempt. The key is the attempt's place in the topic, so that a record read twice is the same row.
CREATE TABLE attempts (
  record_partition BIGINT NOT NULL,
  record_offset BIGINT NOT NULL,
  record_index BIGINT NOT NULL,
  project TEXT NOT NULL,
  delivery_id TEXT NOT NULL,
  run BIGINT NOT NULL,
  attempt BIGINT NOT NULL,
  ended BIGINT NOT NULL,
  stray BIGINT NOT NULL,
  event_source TEXT NOT NULL,
  event_id TEXT NOT NULL,
  event_type TEXT NOT NULL,
  event_key TEXT NOT NULL,
  contact_id TEXT,
  contact_email TEXT,
  contact_phone TEXT,
  webhook TEXT NOT NULL,
  webhook_uid TEXT NOT NULL,
  outcome TEXT NOT NULL,
  status BIGINT,
  error_class TEXT,
  error_detail TEXT,
  started_ms BIGINT NOT NULL,
  duration_ms BIGINT NOT NULL,
  due_ms BIGINT,
  url TEXT,
  endpoint TEXT,
  request TEXT,
  response TEXT,
  PRIMARY KEY (record_partition, record_offset, record_index)
);
CREATE INDEX attempts_by_time ON attempts (project, started_ms);
CREATE INDEX attempts_by_webhook ON attempts (project, webhook, started_ms);
CREATE INDEX attempts_by_type ON attempts (project, event_type, started_ms);
CREATE INDEX attempts_by_endpoint ON attempts (project, endpoint, started_ms);
CREATE INDEX attempts_by_number ON attempts (project, attempt, started_ms) WHERE attempt > 1;
CREATE INDEX attempts_by_outcome ON attempts (project, outcome, started_ms);
CREATE INDEX attempts_by_failure ON attempts (project, error_class, started_ms) WHERE error_class IS NOT NULL;
CREATE INDEX attempts_by_status ON attempts (project, (status / 100), started_ms) WHERE status IS NOT NULL;
CREATE INDEX attempts_by_event ON attempts (project, event_id, started_ms);
CREATE INDEX attempts_by_key ON attempts (project, event_key, started_ms);
CREATE INDEX attempts_by_delivery ON attempts (project, delivery_id, started_ms);
CREATE INDEX attempts_by_contact ON attempts (project, contact_id, started_ms) WHERE contact_id IS NOT NULL;
CREATE INDEX attempts_by_email ON attempts (project, contact_email, started_ms) WHERE contact_email IS NOT NULL;
CREATE INDEX attempts_by_phone ON attempts (project, contact_phone, started_ms) WHERE contact_phone IS NOT NULL;
CREATE INDEX attempts_by_age ON attempts (started_ms);

-- How each run of a delivery stands: what its last attempt said.
CREATE TABLE deliveries (
  delivery_id TEXT NOT NULL,
  run BIGINT NOT NULL,
  project TEXT NOT NULL,
  event_source TEXT NOT NULL,
  event_id TEXT NOT NULL,
  event_type TEXT NOT NULL,
  event_key TEXT NOT NULL,
  contact_id TEXT,
  contact_email TEXT,
  contact_phone TEXT,
  webhook TEXT NOT NULL,
  webhook_uid TEXT NOT NULL,
  outcome TEXT NOT NULL,
  attempts BIGINT NOT NULL,
  status BIGINT,
  error_class TEXT,
  first_ms BIGINT NOT NULL,
  last_ms BIGINT NOT NULL,
  due_ms BIGINT,
  record_partition BIGINT NOT NULL,
  record_offset BIGINT NOT NULL,
  record_index BIGINT NOT NULL,
  PRIMARY KEY (delivery_id, run)
);
CREATE INDEX deliveries_by_age ON deliveries (last_ms);

-- How far each partition of a topic is in the store, and who reads it. Rows move in the same transaction.
CREATE TABLE offsets (
  topic TEXT NOT NULL,
  record_partition BIGINT NOT NULL,
  next_offset BIGINT,
  claim_epoch BIGINT NOT NULL,
  epoch BIGINT NOT NULL,
  owner TEXT NOT NULL,
  lease_until_ms BIGINT NOT NULL,
  kept_from_offset BIGINT,
  kept_from_ms BIGINT,
  missed BIGINT NOT NULL,
  PRIMARY KEY (topic, record_partition)
);

-- Who is there to read.
CREATE TABLE workers (
  worker TEXT NOT NULL PRIMARY KEY,
  seen_until_ms BIGINT NOT NULL
);
