-- Logins of the view's cluster, run by a superuser before `writer migrate`, once:
--   psql -v ON_ERROR_STOP=1 -v migrate_password=… -v writer_password=… -v reader_password=… -v replication_password=… -f deploy/postgres/view.sql
-- The group roles are made here, so that the login that migrates need not be allowed to make roles. All roles or none: one that is
-- there already may be somebody else's. A database can't be made in a transaction; should it alone fail, its line alone is run again.
begin;
create role siteview_owner nologin;
create role siteview_writer nologin;
create role siteview_reader nologin;
create role migrate login password :'migrate_password' in role siteview_owner;
create role writer login password :'writer_password' in role siteview_writer;
create role reader login password :'reader_password' in role siteview_reader;
create role replication login replication password :'replication_password';
commit;
create database siteview owner migrate;
