//! The view is built anew beside the one that is served, compared, switched to and back, while clients read and the source
//! changes, and while verbs and writers are killed.

use std::time::Duration;

use acceptance::{Live, Model, Outcome, Source, System, assert_equal_in, rising, scenario};
use anyhow::{Result, ensure};
use devstack::eventually;
use serde_json::{Value, json};

use crate::{NOTICED_MAX, PARTITIONS, servers};

const SITES: usize = 800;
const RECORDS: usize = 6_000;
/// Until a generation must have caught up, with a writer that is killed meanwhile.
const READY_MAX: Duration = Duration::from_secs(120);
/// What a writer that runs must notice of a verb.
const ACTS_MAX: Duration = Duration::from_secs(10);
/// Small batches, so that a kill meets every step; partitions of a rebuild drift apart.
const SLOW: [(&str, &str); 2] = [("WRITER_BATCH_RECORDS_MAX", "60"), ("WRITER_KEY_CHANGE_WAIT", "10m")];

/// What `generation list` says of each: number, state, lag.
fn list(system: &System) -> Result<Vec<(i32, String, Option<i64>)>> {
    let outcome = done(system.verb_of_owner(&["generation", "list"], &[])?)?;
    let lines = outcome.as_array().cloned().unwrap_or_default();
    let line = |line: &Value| {
        let number = line["generation"].as_i64().unwrap_or_default() as i32;
        (number, line["state"].as_str().unwrap_or_default().to_owned(), line["lag"].as_i64())
    };
    Ok(lines.iter().map(line).collect())
}

fn states(system: &System) -> Result<Vec<(i32, String)>> {
    Ok(list(system)?.into_iter().map(|(number, state, _)| (number, state)).collect())
}

fn done(outcome: Outcome) -> Result<Value> {
    ensure!(outcome.code == Some(0), "a verb ended with {:?}: {} {}", outcome.code, outcome.answer, outcome.said);
    Ok(outcome.answer)
}

fn refused(outcome: &Outcome, because: &str) -> Result<()> {
    ensure!(outcome.code == Some(3) && outcome.said.contains(because), "not refused because {because}: {outcome:?}");
    Ok(())
}

async fn is_state(system: &System, number: i32, state: &str, deadline: Duration) -> Result<()> {
    let is = async || states(system).ok()?.contains(&(number, state.to_owned())).then_some(());
    eventually(&format!("generation {number} is {state}"), deadline, is).await
}

fn create(system: &System, env: &[(&str, &str)]) -> Result<i32> {
    let answer = done(system.verb_of_owner(&["generation", "create"], env)?)?;
    Ok(answer["generation"].as_i64().unwrap_or_default() as i32)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rebuild_under_traffic_and_kills_fails_no_read_and_no_answer_goes_back() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let mut source = Source::new(31, PARTITIONS, SITES);
        let mut records = [rising(PARTITIONS, 1), source.records(RECORDS)].concat();
        system.topic().produce(&records)?;
        let mut first = system.writer(&[SLOW[1], ("WRITER_GENERATION", "1")])?;
        first.ready().await?;
        system.drained().await?;
        system.replica_caught_up().await?;
        let mut reader = system.reader(&[])?;
        reader.ready().await?;
        let mut live = Live::start(system, &[&reader], source, 1, None);
        live.follow(1).await?;

        let created = done(system.verb_under_kills(&["generation", "create"]).await?)?;
        let second = created["generation"].as_i64().unwrap_or_default() as i32;
        let begun = [(1, "active".to_owned()), (second, "building".to_owned())];
        ensure!(states(system)? == begun, "killed calls of create leave something: {:?}", states(system)?);
        let number = second.to_string();
        let promote = ["generation", "promote", number.as_str(), "--reason", "rebuilt"];
        refused(&system.verb_of_owner(&promote, &[])?, "not ready")?;
        let _writer = fed_under_kills(system, second).await?;
        refused(&system.verb_of_owner(&promote, &[])?, "not compared")?;
        let verified = done(system.verb_under_kills(&["generation", "verify", &number]).await?)?;
        ensure!(verified["clean"] == true && verified["compared"].as_u64() > Some(500), "{verified}");

        let rollback = ["generation", "rollback", "--reason", "to see that it works"];
        for (verb, active) in [(&promote[..], second), (&rollback, 1), (&promote, second)] {
            let answer = done(system.verb_under_kills(verb).await?)?;
            ensure!(answer["generation"] == active && answer.get("records_behind").is_none(), "{answer}");
            live.follow(active).await?;
        }
        done(system.verb_under_kills(&["generation", "drop", "1", "--reason", "no way back"]).await?)?;
        ensure!(first.ended().await?.code() == Some(1), "a writer ends when its generation is dropped");
        live.follow(second).await?;
        let (produced, answers) = live.stop().await?;
        ensure!(answers > 1000, "{answers} answers are no traffic");
        records.extend(produced);
        ensure!(states(system)? == [(second, "active".to_owned())], "{:?}", states(system)?);
        assert_equal_in(second, system, &Model::of(&records)).await
    })
    .await
}

/// Feeds a generation until it is ready, with a writer that is killed twice on the way.
async fn fed_under_kills(system: &System, generation: i32) -> Result<acceptance::Service> {
    let (primary, number) = (system.primary().await?, generation.to_string());
    let env = [SLOW[0], SLOW[1], ("WRITER_GENERATION", number.as_str())];
    let properties = [("group.instance.id", "rebuild")];
    let mut done = 0;
    for _ in 0..2 {
        let mut writer = system.writer_in_session(&env, &properties)?;
        let further = async || {
            let positions = system.positions_in(generation, &primary).await.ok()?;
            let sum: i64 = positions.values().map(|row| row.next_offset).sum();
            (sum > done + 500).then_some(sum)
        };
        done = eventually("the rebuild is under way", NOTICED_MAX, further).await?;
        writer.kill()?;
    }
    let writer = system.writer_in_session(&env, &properties)?;
    is_state(system, generation, "ready", READY_MAX).await?;
    Ok(writer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_holds_nothing_that_a_batch_under_way_needs() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let number = create(system, &[])?.to_string();
        let (batch, watch) = (system.primary().await?, system.primary().await?);
        // As a writer does it: positions first, then rows.
        batch.batch_execute(&format!("begin; select from view_g{number}.position for no key update")).await?;
        let drop = ["generation", "drop", number.as_str(), "--reason", "not needed"];
        let drop = system.start_verbs_of_owner(&drop, 1)?;
        let waiting = "select from pg_locks where not granted and database = \
                       (select oid from pg_database where datname = current_database())";
        let waits = async || watch.query_opt(waiting, &[]).await.ok()?.map(|_| ());
        eventually("the drop waits for the batch", NOTICED_MAX, waits).await?;
        batch.batch_execute(&format!("select from view_g{number}.site_apps; commit")).await?;
        drop.ended()?.into_iter().try_for_each(|outcome| done(outcome).map(|_| ()))?;
        ensure!(states(system)? == [(1, "active".to_owned())], "{:?}", states(system)?);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_mapping_differs_and_is_served_by_force_only() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let mut source = Source::new(32, PARTITIONS, 100);
        system.topic().produce(&[rising(PARTITIONS, 1), source.records(600)].concat())?;
        let _first = system.writer(&[("WRITER_GENERATION", "1")])?;
        system.drained().await?;
        let mapping = "[site]\nid = '/site_id'\nversion = '/version'\napps = '/installed_apps'\n\
                       [app]\nid = '/appDefId'\ninstance = '/instanceId'\nversion = '/version'\nextra = ['unprojected']\n";
        let projection = system.file("other.toml", mapping)?;
        let second = create(system, &[("WRITER_PROJECTION", &projection)])?;
        let number = second.to_string();

        let contrary = system.file("contrary.toml", &mapping.replace("['unprojected']", "[]"))?;
        let mut refused_writer = system.writer(&[("WRITER_GENERATION", &number), ("WRITER_PROJECTION", &contrary)])?;
        ensure!(refused_writer.ended().await?.code() == Some(2), "two mappings in one generation");
        ensure!(refused_writer.log()?.contains("WRITER_PROJECTION"), "{}", refused_writer.log()?);

        let _second = system.writer(&[("WRITER_GENERATION", &number)])?;
        is_state(system, second, "ready", READY_MAX).await?;
        let verified = system.verb_of_owner(&["generation", "verify", &number], &[])?;
        ensure!(verified.code == Some(3), "{verified:?}");
        let report = &verified.answer;
        let counted = report["differing"].as_u64() > Some(5) && report["undecided"] == 0 && report["miscounted"] == 0;
        ensure!(counted && report["same_projection"] == false && report["clean"] == false, "{report}");
        ensure!(report["sites"].as_array().is_some_and(|sites| sites.contains(&json!("rising-0"))), "{report}");
        refused(&system.verb_of_owner(&["generation", "promote", &number, "--reason", "x"], &[])?, "differs")?;
        done(system.verb_of_owner(&["generation", "promote", &number, "--force", "--reason", "the new form"], &[])?)?;
        let mut reader = system.reader(&[])?;
        reader.ready().await?;
        let url = format!("{}/v1/sites/rising-0/installed-apps", reader.url());
        let expected = json!([{"app_id": "rising", "version": "1.0", "unprojected": true}]);
        let served = async || {
            let body: Value = reqwest::get(&url).await.ok()?.json().await.ok()?;
            (body["apps"] == expected).then_some(())
        };
        eventually("the new form is served", NOTICED_MAX, served).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_without_a_generation_feeds_the_reserve_until_nobody_feeds_what_is_served() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let mut source = Source::new(33, PARTITIONS, 100);
        system.topic().produce(&source.records(400))?;
        let mut default = system.writer(&[SLOW[1]])?;
        system.drained().await?;
        let second = create(system, &[])?;
        let mut special = system.writer(&[SLOW[1], ("WRITER_GENERATION", &second.to_string())])?;
        is_state(system, second, "ready", READY_MAX).await?;
        done(system.verb_of_owner(&["generation", "promote", &second.to_string(), "--force", "--reason", "x"], &[])?)?;
        // Longer than it takes to notice that nobody feeds the active one.
        tokio::time::sleep(ACTS_MAX).await;
        system.topic().produce(&source.records(100))?;
        system.drained_in(second).await?;
        system.drained_in(1).await?;

        special.kill()?;
        system.topic().produce(&source.records(100))?;
        system.drained_in(second).await?;
        ensure!(
            default.is_running() && default.log()?.contains("nobody fed the active generation"),
            "it has moved over"
        );
        // What came before it moved may stand in both.
        system.topic().produce(&source.records(100))?;
        system.drained_in(second).await?;
        let retired = list(system)?.into_iter().find(|(number, ..)| *number == 1);
        ensure!(retired.is_some_and(|(_, state, lag)| state == "retired" && lag > Some(0)), "its lag is shown");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writers_login_makes_switches_and_drops_no_generation() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let second = create(system, &[])?.to_string();
        let url = system.writer_url();
        let login = [("DATABASE_URL", url.as_str())];
        for verb in [
            &["generation", "create"][..],
            &["generation", "promote", &second, "--force", "--reason", "x"],
            &["generation", "rollback", "--reason", "x"],
            &["generation", "drop", &second, "--reason", "x"],
        ] {
            let outcome = system.verb_of_owner(verb, &login)?;
            ensure!(outcome.code == Some(1) && outcome.said.contains("ran `writer migrate`"), "{verb:?}: {outcome:?}");
        }
        let client = devstack::postgres::client(&url).await?;
        for statement in [
            "update siteview.generation set state = 'retired'",
            "drop schema view_g1 cascade",
            "create schema view_g9",
            "select siteview.point_view(2)",
            "delete from siteview.audit",
            "truncate view_g1.site_apps",
        ] {
            ensure!(client.batch_execute(statement).await.is_err(), "a writer's login may: {statement}");
        }
        done(system.verb_of_owner(&["generation", "list"], &login)?)?;
        Ok(())
    })
    .await
}
