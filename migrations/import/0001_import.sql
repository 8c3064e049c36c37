-- Contacts, and what is known of the jobs that made them.

create table contact (
    owner_id   text collate "C" not null,
    -- In lower case.
    email      text collate "C" not null,
    name       text,
    -- In E.164.
    phone      text,
    -- The row that spoke of the contact last: of one file the last line stands, whichever job of it comes first.
    import_id  uuid             not null,
    line       bigint           not null,
    -- The job of that import that changed it; null when the import found it as it was.
    job        integer,
    created_at timestamptz      not null default now(),
    updated_at timestamptz      not null default now(),
    primary key (owner_id, email)
) with (fillfactor = 90);

-- The ledger: a row says that the job is done, commits with what it did, and is what whoever comes second finds.
create table import_job (
    import_id uuid        not null,
    job       integer     not null,
    imported  bigint      not null,
    updated   bigint      not null,
    skipped   bigint      not null,
    failed    bigint      not null,
    done_at   timestamptz not null default now(),
    primary key (import_id, job)
);

-- What is wrong with rows, as the error file has it.
create table import_row_error (
    import_id uuid   not null,
    line      bigint not null,
    -- `email`, `name`, `phone`, or `row`.
    "column"  text   not null,
    code      text   not null,
    message   text   not null,
    -- The row as a line of CSV, its first 2000 characters.
    "row"     text   not null,
    primary key (import_id, line, "column")
);
