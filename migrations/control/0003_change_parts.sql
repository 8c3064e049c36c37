-- Parts of the change log. Its table `change` is partitioned by the moment of writing; parts are made ahead of time and
-- dropped whole. The writer's login reads and writes rows and nothing else, so what it needs of DDL are these two functions,
-- which run as the owner of the schemas, under a fixed search path, on the tables of one generation only.

-- The parts of a generation's change log, without the default part; `upper` is excluded.
create function siteview.change_parts(generation integer, out part text, out lower timestamptz, out upper timestamptz)
returns setof record language sql stable
set search_path = pg_catalog, pg_temp as $$
    select c.relname::text,
           (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''([^'']+)''\)'))[1]::timestamptz,
           (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''([^'']+)''\)'))[1]::timestamptz
    from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = to_regclass(format('%I.change', 'view_g' || generation))
      and pg_get_expr(c.relpartbound, c.oid) <> 'DEFAULT'
    order by 2
$$;

-- Makes parts of this width, aligned to multiples of it, until they reach `ahead` into the future; gives how many.
--
-- A part is made beside the log and attached: that takes no lock which stops a batch (SHARE UPDATE EXCLUSIVE on `change`;
-- ACCESS EXCLUSIVE on the default part, which batches touch only while parts are missing). Postgres refuses a part whose
-- rows lie in the default part already; such a stretch stays there, and its rows are removed one by one when they expire.
-- `lock_timeout` is the caller's; an attempt that meets a lock leaves nothing behind.
create function siteview.change_parts_make(generation integer, width interval, ahead interval) returns integer
language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
    schema_name text := 'view_g' || generation;
    seconds     double precision := extract(epoch from width);
    lower       timestamptz;
    upper       timestamptz;
    name        text;
    made        integer := 0;
begin
    if seconds < 1 or ahead > width * 100 then
        raise exception 'parts of % for % ahead are out of range', width, ahead using errcode = 'invalid_parameter_value';
    end if;
    select greatest(max(p.upper), to_timestamp(floor(extract(epoch from now()) / seconds) * seconds))
        into lower from siteview.change_parts(generation) p;
    while lower < now() + ahead loop
        upper := to_timestamp((floor(extract(epoch from lower) / seconds) + 1) * seconds);
        name := 'change_' || to_char(lower at time zone 'UTC', 'YYYYMMDD"t"HH24MISS') || 'z';
        begin
            execute format('create table %I.%I (like %I.change including defaults including constraints including storage)',
                schema_name, name, schema_name);
            execute format('alter table %I.change attach partition %I.%I for values from (%L) to (%L)',
                schema_name, schema_name, name, lower, upper);
            made := made + 1;
        exception when check_violation then
            -- The default part has rows of this stretch.
        end;
        lower := upper;
    end loop;
    return made;
end
$$;

-- Drops the parts that hold nothing written at or after `before`, and raises the floor over what they held, so that no reader
-- takes what is missing for what never was; gives how many. Wants ACCESS EXCLUSIVE on `change` for each; the rest is a few
-- look-ups.
create function siteview.change_parts_drop(generation integer, before timestamptz) returns integer
language plpgsql security definer
set search_path = pg_catalog, pg_temp as $$
declare
    expired text;
    dropped integer := 0;
begin
    for expired in select p.part from siteview.change_parts(generation) p where p.upper <= before loop
        execute format('insert into %1$I.change_floor as f (partition, "offset")
            select p.partition, newest."offset" + 1
            from (select distinct partition from %1$I.position) p
            cross join lateral (select c."offset" from %1$I.%2$I c where c.partition = p.partition
                                order by c."offset" desc limit 1) newest
            on conflict (partition) do update set "offset" = excluded."offset", at = now()
            where f."offset" < excluded."offset"', 'view_g' || generation, expired);
        execute format('drop table %I.%I', 'view_g' || generation, expired);
        dropped := dropped + 1;
    end loop;
    return dropped;
end
$$;

-- `migrations/grants.sql` lets the writer's role in.
revoke execute on function siteview.change_parts_make(integer, interval, interval) from public;
revoke execute on function siteview.change_parts_drop(integer, timestamptz) from public;
