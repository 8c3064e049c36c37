//! `writer migrate`: several at once, and by a login that may not make roles.

use std::collections::BTreeSet;
use std::path::Path;

use acceptance::{Model, Outcome, Source, System, assert_equal};
use anyhow::{Context, Result, ensure};
use devstack::{Endpoints, Part, eventually, postgres};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::{NOTICED_MAX, PARTITIONS, servers};

const AT_ONCE: usize = 4;
/// Migrations that have begun and can't go on.
const HELD_UP: &str = "
    select count(*) from pg_stat_activity where datname = current_database()
        and application_name = 'siteview-migrate' and wait_event_type = 'Lock'";

#[tokio::test(flavor = "multi_thread")]
async fn migrations_started_at_once_all_succeed_and_each_is_applied_once() -> Result<()> {
    let system = System::new(&servers()?, PARTITIONS).await?;
    let body = async {
        system.topic().create().await?;
        system.create_database().await?;
        // A schema of this name that may yet come holds up whoever would make it, so that all four meet.
        let (primary, watch) = (system.primary().await?, system.primary().await?);
        primary.batch_execute("begin; create schema siteview").await?;
        let started = system.start_verbs_of_owner(&["migrate"], AT_ONCE)?;
        let held_up = async || {
            let held_up: i64 = watch.query_one(HELD_UP, &[]).await.ok()?.get(0);
            (held_up == AT_ONCE as i64).then_some(())
        };
        eventually("all migrations wait", NOTICED_MAX, held_up).await?;
        primary.batch_execute("rollback").await?;
        let outcomes = started.ended()?;
        let applied = outcomes.iter().map(applied).collect::<Result<Vec<_>>>()?;
        let applied: Vec<String> = applied.into_iter().flatten().collect();
        ensure!(applied.iter().collect::<BTreeSet<_>>().len() == applied.len(), "twice: {applied:?}");
        ensure!(applied.len() == recorded(&watch).await?, "{applied:?}");

        system.let_logins_in().await?;
        is_usable(&system).await
    };
    let outcome = body.await;
    system.end(outcome)
}

/// On a cluster of its own: roles belong to a whole cluster, and elsewhere they are there already.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_make_roles_is_told_the_sql_and_grants_are_made_once_it_was_run() -> Result<()> {
    let without_roles = devstack::shared(&[Part::Postgres])?;
    let endpoints = Endpoints { kafka: servers()?.kafka, ..without_roles };
    let system = System::new(&endpoints, PARTITIONS).await?;
    let body = async {
        system.topic().create().await?;
        system.create_database().await?;
        let (primary, owner) = (system.primary().await?, system.owner_login().await?);
        let migrate = || system.verb_of_owner(&["migrate"], &[("DATABASE_URL", &owner)]);

        let first = migrate()?;
        ensure!(applied(&first)?.len() == recorded(&primary).await?, "{first:?}");
        let asked = statements_asked_for(&first);
        for role in ["siteview_owner", "siteview_writer", "siteview_reader"] {
            ensure!(asked.contains(&format!("create role {role} nologin;")), "{role}: {}", first.said);
        }
        ensure!(applied(&migrate()?)?.is_empty() && statements_asked_for(&migrate()?) == asked, "and again");
        let reader = postgres::client(&system.reader_url_of_primary()).await?;
        let denied = reader.batch_execute("select from view_g1.site_apps").await.err().context("nobody was let in")?;
        ensure!(denied.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{denied:?}");

        primary.batch_execute(&asked.concat()).await?;
        let last = migrate()?;
        ensure!(applied(&last)?.is_empty() && statements_asked_for(&last).is_empty(), "{last:?}");
        system.let_logins_in().await?;
        is_usable(&system).await
    };
    let outcome = body.await;
    system.end(outcome)
}

/// What a migration says it has applied.
fn applied(outcome: &Outcome) -> Result<Vec<String>> {
    ensure!(outcome.code == Some(0), "{outcome:?}");
    let names = outcome.answer["applied"].as_array().with_context(|| format!("{outcome:?}"))?;
    Ok(names.iter().map(|name| name.as_str().unwrap_or_default().to_owned()).collect())
}

/// The statements that somebody else is to run.
fn statements_asked_for(outcome: &Outcome) -> Vec<String> {
    let statement = |line: &str| {
        let (_, statement) = line.split_once("superuser run: ")?;
        Some(format!("{};", statement.split_once(';')?.0))
    };
    outcome.said.lines().filter_map(statement).collect()
}

/// How many migrations the database says it has: all there are, each once and whole.
async fn recorded(client: &Client) -> Result<usize> {
    let mut all = 0;
    for (schema, folder) in [("siteview", "control"), ("view_g1", "generation")] {
        let statement = format!("select version from {schema}._sqlx_migrations where success order by version");
        let rows = client.query(&statement, &[]).await?;
        let found: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        let written = migrations_of(folder)?;
        ensure!(found == written, "{schema} has {found:?} of {written:?}");
        all += found.len();
    }
    Ok(all)
}

/// Numbers of the files in the workspace, in their order.
fn migrations_of(folder: &str) -> Result<Vec<i64>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations").join(folder);
    let number = |entry: std::io::Result<std::fs::DirEntry>| {
        let name = entry?.file_name().into_string().unwrap_or_default();
        let (number, _) = name.split_once('_').with_context(|| name.clone())?;
        Ok(number.parse()?)
    };
    let mut numbers = std::fs::read_dir(folder)?.map(number).collect::<Result<Vec<i64>>>()?;
    numbers.sort_unstable();
    Ok(numbers)
}

/// Writers write and readers read, with their own logins.
async fn is_usable(system: &System) -> Result<()> {
    let records = Source::new(15, PARTITIONS, 50).records(300);
    system.topic().produce(&records)?;
    let (mut writer, mut reader) = (system.writer(&[])?, system.reader(&[])?);
    writer.ready().await?;
    let model = Model::of(&records);
    assert_equal(system, &model).await?;
    reader.ready().await?;
    let site_id = model.sites.keys().next().context("a site is there")?;
    reqwest::get(format!("{}/v1/sites/{site_id}/installed-apps", reader.url())).await?.error_for_status()?;
    Ok(())
}
