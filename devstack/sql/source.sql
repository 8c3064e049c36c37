-- The source: one row per MetaSite, as the platform keeps it, and the table by which Debezium takes signals.
create table public.meta_site (
    site_id        uuid primary key,
    owner_id       uuid    not null,
    version        bigint  not null,
    name           text,
    display_url    text,
    published      boolean,
    premium        boolean,
    locale         text,
    created_at     timestamptz,
    updated_at     timestamptz,
    installed_apps jsonb   not null default '[]',
    document       jsonb
);

create table public.debezium_signal (
    id   varchar(64) primary key,
    type varchar(32) not null,
    -- Debezium's own example has varchar(2048); text takes a signal with hundreds of keys.
    data text
);
