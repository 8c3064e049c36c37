-- Since when a partition stands; and what it waits for while it runs (a key change for the delete of its old key).
alter table position
    add column blocked_since timestamptz,
    add column waits_for     text,
    add column waits_since   timestamptz;

-- Kept by the table, so that no statement that blocks a partition can forget it; one that finds it blocked at the same place
-- leaves the moment as it was.
create function stamp_blocked_since() returns trigger language plpgsql as $$
begin
    new.blocked_since := case when new.blocked_state is not null then now() end;
    return new;
end
$$;

create trigger position_blocked_since before update on position for each row
    when (new.blocked_state is distinct from old.blocked_state or new.blocked_offset is distinct from old.blocked_offset)
    execute function stamp_blocked_since();
