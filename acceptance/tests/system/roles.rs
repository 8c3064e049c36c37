//! What readers may not do: their role changes nothing, and their sessions would not even where a role could.

use acceptance::scenario;
use anyhow::{Context, Result, ensure};
use devstack::postgres;
use serde_json::{Value, json};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::{PARTITIONS, servers};

/// Each table, and a column that may be set (one that Postgres generates is refused for that, whoever asks).
const TABLES: &str = "
    select format('%I.%I', n.nspname, c.relname), (
        select format('%I', attname) from pg_attribute
        where attrelid = c.oid and attnum > 0 and not attisdropped and attidentity = '' and attgenerated = ''
        order by attnum limit 1)
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname in ('siteview', 'view_g1') and c.relkind in ('r', 'p') order by 1";
/// Functions that do more than their caller may, and that readers may call.
const LENT_RIGHTS: &str = "
    select p.oid::regprocedure::text from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where n.nspname in ('siteview', 'view', 'view_g1') and p.prosecdef
        and has_function_privilege('siteview_reader', p.oid, 'execute')";
/// In the place of the table stands a view of it, whose documents tell what the session that reads them may do.
const DOCUMENTS_TELL_THE_SESSION: &str = r#"
    insert into view_g1.site_apps (site_id, partition, "offset", document, etag, source_epoch)
        values ('session', 0, 0, '', '0-', 0);
    do $do$ declare
        told text := $$json_build_object('by_default', current_setting('default_transaction_read_only'),
                                         'now', current_setting('transaction_read_only'))::text as document$$;
        columns text;
    begin
        select string_agg(case attname when 'document' then told else quote_ident(attname) end, ', ' order by attnum)
            into columns from pg_attribute
            where attrelid = 'view_g1.site_apps'::regclass and attnum > 0 and not attisdropped;
        alter table view_g1.site_apps rename to stored;
        execute format('create view view_g1.site_apps as select %s from view_g1.stored', columns);
        grant select on view_g1.site_apps to siteview_reader;
    end $do$"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_readers_role_reads_every_table_and_changes_none() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let primary = system.primary().await?;
        let reader = postgres::client(&system.reader_url_of_primary()).await?;
        reader.batch_execute("set role siteview_reader").await?;
        let tables = primary.query(TABLES, &[]).await?;
        let tables: Vec<(&str, &str)> = tables.iter().map(|row| (row.get(0), row.get(1))).collect();
        for known in ["siteview.audit", "siteview.generation", "view_g1.app_site", "view_g1.site_apps"] {
            ensure!(tables.iter().any(|(table, _)| *table == known), "{known} is not among {tables:?}");
        }
        for (table, column) in tables {
            reader.batch_execute(&format!("select from {table} limit 1")).await.context(table.to_owned())?;
            refused(&reader, &format!("insert into {table} default values")).await?;
            refused(&reader, &format!("update {table} set {column} = {column}")).await?;
            refused(&reader, &format!("delete from {table}")).await?;
            refused(&reader, &format!("truncate {table}")).await?;
        }
        for schema in ["siteview", "view", "view_g1"] {
            refused(&reader, &format!("create table {schema}.of_a_reader ()")).await?;
        }
        let lent = primary.query(LENT_RIGHTS, &[]).await?;
        let lent: Vec<&str> = lent.iter().map(|row| row.get(0)).collect();
        ensure!(lent.is_empty(), "readers may call {lent:?}");
        Ok(())
    })
    .await
}

async fn refused(reader: &Client, statement: &str) -> Result<()> {
    let error = reader.batch_execute(statement).await.err().with_context(|| format!("{statement} is allowed"))?;
    ensure!(error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{statement}: {error:?}");
    Ok(())
}

/// On the primary, where its login's sessions could write if their role let them.
#[tokio::test(flavor = "multi_thread")]
async fn every_session_of_a_reader_is_read_only() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        system.primary().await?.batch_execute(DOCUMENTS_TELL_THE_SESSION).await?;
        let url = system.reader_url_of_primary();
        let mut reader = system.reader(&[("READER_DATABASE_URLS", &url)])?;
        reader.ready().await?;
        let told = reqwest::get(format!("{}/v1/sites/session/installed-apps", reader.url())).await?;
        let told: Value = told.error_for_status()?.json().await?;
        ensure!(told == json!({"by_default": "on", "now": "on"}), "the reader's session says {told}");

        let login = postgres::client(&url).await?;
        let by_login: String = login.query_one("show default_transaction_read_only", &[]).await?.get(0);
        ensure!(by_login == "off", "it is the reader that asks for it, not the login");
        Ok(())
    })
    .await
}
