-- One row per event, in the order in which they came into the store: `seq` rises in the order in which transactions become visible, so that
-- nothing comes in behind somebody who reads on from the last one seen. The long column is the last: who only counts does not read it.
CREATE TABLE activities (
  seq BIGINT NOT NULL PRIMARY KEY,
  record_partition BIGINT NOT NULL,
  record_offset BIGINT NOT NULL,
  project TEXT NOT NULL,
  event_source TEXT NOT NULL,
  event_id TEXT NOT NULL,
  event_type TEXT NOT NULL,
  event_key TEXT NOT NULL,
  event_time TEXT,
  accepted_ms BIGINT NOT NULL,
  contact_id TEXT,
  contact_email TEXT,
  contact_phone TEXT,
  email_lower TEXT,
  status TEXT,
  subject TEXT,
  data_schema TEXT,
  data_content_type TEXT,
  extensions TEXT,
  data_form BIGINT NOT NULL,
  data_bytes BIGINT NOT NULL,
  data TEXT
);
CREATE UNIQUE INDEX activities_once ON activities (project, event_source, event_id);
CREATE INDEX activities_by_order ON activities (project, seq);
CREATE INDEX activities_by_email ON activities (project, email_lower, seq) WHERE email_lower IS NOT NULL;
CREATE INDEX activities_by_status ON activities (project, status, seq) WHERE status IS NOT NULL;
CREATE INDEX activities_by_type ON activities (project, event_type, seq);
CREATE INDEX activities_by_age ON activities (accepted_ms);

-- Where in that order events of each hour stand: the first and the last of them.
CREATE TABLE activity_hours (
  hour_ms BIGINT NOT NULL PRIMARY KEY,
  first_seq BIGINT NOT NULL,
  last_seq BIGINT NOT NULL
);

-- The last `seq` given. Whoever gives some holds this row until the transaction is over, so that they become visible in their order.
-- `began_ms` is when the first was given: another store, even one made anew, has another.
CREATE TABLE sequences (
  name TEXT NOT NULL PRIMARY KEY,
  last BIGINT NOT NULL,
  began_ms BIGINT NOT NULL
);

-- E-mail addresses are the same in capital and small letters.
DROP INDEX attempts_by_email;
CREATE INDEX attempts_by_email ON attempts (project, lower(contact_email), started_ms) WHERE contact_email IS NOT NULL;
