
-- As before for all indexes: which one leads to less.
INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
  ('attempts', 'attempts_by_event', '10000000 40000 40000 2 1'),
  ('attempts', 'attempts_by_key', '10000000 40000 40000 20 1'),
  ('attempts', 'attempts_by_delivery', '10000000 40000 40000 2 1'),
  ('attempts', 'attempts_by_contact', '10000000 40000 40000 20 1'),
  ('attempts', 'attempts_by_email', '10000000 40000 40000 20 1'),
  ('attempts', 'attempts_by_phone', '10000000 40000 40000 20 1');
ANALYZE sqlite_schema;
