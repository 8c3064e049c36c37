-- How far back the change log is kept, for readers of the log: changes of `partition` with an offset below `"offset"` are
-- gone, even where a part still holds them. Without a row nothing is gone yet. A token below it has expired. It may go back
-- when an operator sets the position back.
create table change_floor (
    partition integer     primary key,
    "offset"  bigint      not null,
    -- When the floor came to be.
    at        timestamptz not null default now()
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

-- Where positions were at moments past. All changes below `next_offset` had been written by then, so once `at` is older than
-- the retention it is the floor. Written only where a position has moved; kept until it becomes the floor.
create table change_mark (
    partition   integer     not null,
    at          timestamptz not null,
    next_offset bigint      not null,
    primary key (partition, at)
);

-- A site that exists has its document. The sweep of markers relies on it: a batch that has read a marker which is swept
-- before the batch writes would otherwise revive the site without its document. It fails instead, and reads again.
alter table site_apps add constraint site_apps_told check (document is not null or deleted_at is not null);
