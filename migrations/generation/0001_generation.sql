-- The tables of one generation. Names are unqualified: the migration runs with `search_path` set to the generation's
-- schema (`view_g<N>`), and each generation keeps its own record of applied migrations there.

-- One row per site: the finished document, or the marker of a deleted site.
create table site_apps (
    site_id               text collate "C" primary key,
    -- The MetaSite version at which the apps last changed; null when unmapped.
    version               bigint,
    -- Where the record that wrote this row came from.
    partition             integer     not null,
    "offset"              bigint      not null,
    -- The finished JSON text that the reader sends. A marker keeps the last one: a key change may need its apps.
    document              text,
    -- Strong tag of `document` without quotes: a function of its bytes alone. Starts with the hash of the apps.
    etag                  text        not null,
    -- `lsn/<n>` or `binlog/<server_id>/<file>/<pos>/<row>`; null when the record named none. Compared by the writer only.
    source_position       text,
    source_epoch          integer     not null,
    -- Set while the last record of this key was a delete: its tombstone, in this partition, then says nothing new.
    last_delete_partition integer,
    written_at            timestamptz not null default now(),
    deleted_at            timestamptz
) with (fillfactor = 85);

create index site_apps_deleted on site_apps (deleted_at) where deleted_at is not null;

-- Membership only: an upgrade of an app does not touch it. `instance_id` is empty when the source names none.
create table app_site (
    app_id      text collate "C" not null,
    site_id     text collate "C" not null,
    instance_id text collate "C" not null,
    primary key (app_id, site_id, instance_id)
);

create index app_site_instance on app_site (instance_id) where instance_id <> '';

-- Sites that have the app, counted per partition of the source so that writers do not meet in one row.
create table app_count (
    app_id    text collate "C" not null,
    partition integer          not null,
    sites     bigint           not null,
    primary key (app_id, partition)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

-- The change log. `event` is the finished JSON text of the change; (partition, offset, ordinal) is its order.
create table change (
    partition  integer          not null,
    "offset"   bigint           not null,
    ordinal    integer          not null,
    site_id    text collate "C" not null,
    app_ids    text[]           not null,
    event      text             not null,
    written_at timestamptz      not null default now(),
    primary key (partition, "offset", ordinal, written_at)
) partition by range (written_at);

create table change_default partition of change default;

-- How far the view is, per partition of the source; committed together with the rows.
create table position (
    topic          text        not null,
    partition      integer     not null,
    next_offset    bigint      not null,
    -- Raised by each writer that takes the partition; a batch commits only under the epoch it was taken with.
    epoch          bigint      not null,
    -- Changes up to this moment are certainly contained; null until the end of the partition was reached once.
    as_of          timestamptz,
    -- Raised by an operator when the source's positions went back (new slot, restored database).
    source_epoch   integer     not null default 0,
    owner          text        not null,
    -- The record that the partition stands at, and why, while it is blocked.
    blocked_offset bigint,
    blocked_reason text,
    updated_at     timestamptz not null default now(),
    primary key (topic, partition)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);
