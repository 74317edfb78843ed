
-- Which index leads to less: SQLite knows nothing of that by itself, and reading all of them to find out takes long. What counts is the order: an
-- event, a delivery or a contact has few attempts, a webhook more, and of an outcome, or a class of status, there may be nearly all.
ANALYZE workers;
DELETE FROM sqlite_stat1 WHERE tbl = 'attempts';
INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
  ('attempts', 'sqlite_autoindex_attempts_1', '10000000 1000000 1 1'),
  ('attempts', 'attempts_by_time', '10000000 10000000 1'),
  ('attempts', 'attempts_by_webhook', '10000000 10000000 100000 1 1 1 1'),
  ('attempts', 'attempts_by_trouble', '500000 500000 5000 2000 1'),
  ('attempts', 'attempts_by_type', '10000000 10000000 500000 1 1 1'),
  ('attempts', 'attempts_by_endpoint', '10000000 10000000 100000 1'),
  ('attempts', 'attempts_by_number', '500000 500000 50000 1'),
  ('attempts', 'attempts_by_outcome', '10000000 10000000 2000000 1'),
  ('attempts', 'attempts_by_failure', '500000 500000 50000 1'),
  ('attempts', 'attempts_by_status', '10000000 10000000 3000000 1 1'),
  ('attempts', 'attempts_by_event', '10000000 10000000 5 1'),
  ('attempts', 'attempts_by_key', '10000000 10000000 500 1'),
  ('attempts', 'attempts_by_delivery', '10000000 10000000 2 1'),
  ('attempts', 'attempts_by_contact', '10000000 10000000 400 1'),
  ('attempts', 'attempts_by_email', '10000000 10000000 400 1'),
  ('attempts', 'attempts_by_phone', '10000000 10000000 400 1'),
  ('attempts', 'attempts_by_age', '10000000 1');
-- For this connection, too.
ANALYZE sqlite_schema;
