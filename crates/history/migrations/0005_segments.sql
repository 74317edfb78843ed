-- Rows stand in segments, in the order in which they came in. What nearly every row has a value of its own for is looked up segment by segment,
-- so that new rows go into indexes of one segment, which stay small, and not all over those of all rows.
CREATE TABLE segments (
  segment BIGINT NOT NULL PRIMARY KEY,
  attempts BIGINT NOT NULL,
  first_ms BIGINT NOT NULL,
  last_ms BIGINT NOT NULL
);
CREATE INDEX segments_by_time ON segments (last_ms, segment);

-- What is in the store already is one segment.
ALTER TABLE attempts ADD COLUMN segment BIGINT NOT NULL DEFAULT -1;
INSERT INTO segments SELECT -1, COUNT(*), MIN(started_ms), MAX(started_ms) FROM attempts HAVING COUNT(*) > 0;

DROP INDEX attempts_by_event;
CREATE INDEX attempts_by_event ON attempts (segment, project, event_id, started_ms);
DROP INDEX attempts_by_key;
CREATE INDEX attempts_by_key ON attempts (segment, project, event_key, started_ms);
DROP INDEX attempts_by_delivery;
CREATE INDEX attempts_by_delivery ON attempts (segment, project, delivery_id, started_ms);
DROP INDEX attempts_by_contact;
CREATE INDEX attempts_by_contact ON attempts (segment, project, contact_id, started_ms) WHERE contact_id IS NOT NULL;
DROP INDEX attempts_by_email;
CREATE INDEX attempts_by_email ON attempts (segment, project, lower(contact_email), started_ms) WHERE contact_email IS NOT NULL;
DROP INDEX attempts_by_phone;
CREATE INDEX attempts_by_phone ON attempts (segment, project, contact_phone, started_ms) WHERE contact_phone IS NOT NULL;
