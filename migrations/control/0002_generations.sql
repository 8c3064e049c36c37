-- What a generation is besides its state: its mapping, when it was served, and what a comparison with the active one said.

-- Numbers are given once: positions that clients hold, and consumer groups, carry them.
create sequence siteview.generation_number as integer;
select setval('siteview.generation_number', coalesce((select max(generation) from siteview.generation), 1));

alter table siteview.generation
    -- Text of the projection file it was created with; null: its writers map as they are configured.
    add column projection     text,
    -- Rises with each switch; the greatest is the active generation's. Null: never served.
    add column activation     bigint unique,
    -- The highest number that had been active when this one became so: higher ones are unknown to clients.
    add column newest_served  integer,
    -- Whether it became active by a rollback: a second rollback then changes nothing.
    add column rolled_back    boolean not null default false,
    add column deactivated_at timestamptz;

update siteview.generation set activation = 1, newest_served = generation where state = 'active';

-- Each comparison of a generation with the one that was active.
create table siteview.verification (
    verification_id bigint generated always as identity primary key,
    generation      integer     not null references siteview.generation on delete cascade,
    against         integer     not null references siteview.generation on delete cascade,
    at              timestamptz not null default clock_timestamp(),
    clean           boolean     not null,
    -- `{"compared","differing","undecided","positions":{"<partition>":[<of generation>,<of against>]}}` as it ended.
    detail          jsonb       not null
);

create index verification_generation on siteview.verification (generation, against, verification_id);

-- Makes a building generation ready once it has reached these ends, one for each partition of the topic. For writers, who
-- may not change `siteview.generation` otherwise. True when it has become ready by this call.
create function siteview.mark_ready(number integer, of_topic text, partitions integer[], ends bigint[]) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    reached integer;
begin
    execute format('select count(*) from unnest($2, $3) e ("partition", high) join %I.position p using (partition)
                    where p.topic = $1 and p.next_offset >= e.high', 'view_g' || number)
        into reached using of_topic, partitions, ends;
    if cardinality(partitions) = 0 or reached < cardinality(partitions) then
        return false;
    end if;
    update siteview.generation set state = 'ready' where generation = number and state = 'building';
    if found then
        insert into siteview.audit (action, reason, detail)
        values ('generation ready', 'caught up', jsonb_build_object('generation', number, 'ends', to_jsonb(ends)));
    end if;
    return found;
end
$$;
revoke execute on function siteview.mark_ready from public;
