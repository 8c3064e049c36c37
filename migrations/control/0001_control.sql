-- What stands beside the generations: which of them exist, which one is active, and what operators did.
create schema if not exists siteview;
create schema view;

create table siteview.generation (
    generation integer primary key check (generation > 0),
    state      text        not null check (state in ('building', 'ready', 'active', 'retired')),
    created_at timestamptz not null default now()
);

-- At most one generation is served.
create unique index generation_active on siteview.generation ((state)) where state = 'active';

create table siteview.audit (
    audit_id   bigint generated always as identity primary key,
    at         timestamptz not null default clock_timestamp(),
    actor      text        not null default session_user,
    action     text        not null,
    reason     text        not null,
    detail     jsonb       not null default '{}'
);

-- Points the plain views of schema `view` at one generation. The reader does not use these views (it names the schema of
-- the active generation, so that a promotion takes no lock that a replica's running queries could meet); they are for
-- people and for other tools.
create function siteview.point_view(generation integer) returns void language plpgsql as $$
declare
    name text;
begin
    foreach name in array array['site_apps', 'app_site', 'app_count', 'change', 'position'] loop
        execute format('drop view if exists view.%I', name);
        execute format('create view view.%I as select * from %I.%I', name, 'view_g' || generation, name);
    end loop;
end
$$;
