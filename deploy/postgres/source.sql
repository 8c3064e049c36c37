-- What Debezium needs in the source's database, run by a superuser in it:
--   psql -1 -v ON_ERROR_STOP=1 -v debezium_password=… -v verify_password=… -f deploy/postgres/source.sql
-- The table is called public.meta_site here; another one's name stands in its place, three times.
-- The publication is made here and not by the connector, whose login would have to own the tables for that.
create role debezium login replication password :'debezium_password';
grant usage on schema public to debezium;
grant select on public.meta_site, public.debezium_signal to debezium;
-- The watermarks of incremental snapshots.
grant insert, update, delete on public.debezium_signal to debezium;
create publication metasite for table public.meta_site, public.debezium_signal;

-- For `writer verify`: compares with the table, and asks Debezium for rows by a signal.
create role siteview_verify login password :'verify_password';
grant usage on schema public to siteview_verify;
grant select on public.meta_site to siteview_verify;
grant insert on public.debezium_signal to siteview_verify;
