-- Logins and database of the contacts, run by a superuser before `importer migrate`, once; on the view's primary or on a server of its own:
--   psql -v ON_ERROR_STOP=1 -v contacts_migrate_password=… -v importer_password=… -v jobs_password=… -f deploy/postgres/contacts.sql
-- Who migrates owns the tables; what the services may do with them is settled here, for tables that are yet to be made. All logins or none: one that is
-- there already may be somebody else's. Should something behind `commit` fail, all that stands behind it is run again.
begin;
create role contacts_migrate login password :'contacts_migrate_password';
create role importer login password :'importer_password';
create role jobs login password :'jobs_password';
commit;
create database contacts owner contacts_migrate;
revoke connect, temporary on database contacts from public;
grant connect on database contacts to importer, jobs;
\connect contacts
-- Nothing of the importer deletes; jobs reads what is wrong with rows.
alter default privileges for role contacts_migrate grant select, insert, update on tables to importer;
alter default privileges for role contacts_migrate grant select on tables to jobs;
