-- Run after each migration; `{schema}` is a generation's schema. Grants are made to the group roles that exist.
grant usage on schema siteview, view, {schema} to siteview_writer, siteview_reader;
grant select on all tables in schema siteview, view, {schema} to siteview_writer, siteview_reader;
grant insert, update, delete on all tables in schema {schema} to siteview_writer;
grant insert on siteview.audit to siteview_writer;
-- Earlier versions granted it: whoever feeds a generation does not decide which one is served.
revoke update on siteview.generation from siteview_writer;
grant execute on function siteview.mark_ready to siteview_writer;
grant insert on siteview.verification to siteview_writer;
grant execute on function siteview.change_parts_make(integer, interval, interval) to siteview_writer;
grant execute on function siteview.change_parts_drop(integer, timestamptz) to siteview_writer;
