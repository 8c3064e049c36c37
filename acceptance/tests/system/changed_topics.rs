//! A log that no longer is what the position was taken from: another topic of the same name, records removed by retention.
//! The partition stands under a name; nothing is applied, and nothing is jumped.

use std::time::Duration;

use acceptance::{Ends, Model, Record, Source, System, assert_equal, scenario};
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use crate::key_changes::rename;
use crate::states::{in_state, row};
use crate::{NOTICED_MAX, PARTITIONS, servers};

/// Records of the first topic, and of its namesake: more of them, so that every old offset exists in the new log too.
fn histories() -> (Vec<Record>, Vec<Record>) {
    let old = Source::new(61, PARTITIONS, 100).records(500);
    let mut new = Source::new(62, PARTITIONS, 100).records(2500);
    rename(&mut new, "new-");
    (old, new)
}

/// Every partition says that the topic is another one, and the view is what it was.
async fn stands_untouched(system: &System, positions: &Ends, model: &Model) -> Result<()> {
    for (partition, next_offset) in positions {
        let line = in_state(system, *partition, "topic-changed").await?;
        ensure!(line["next_offset"] == *next_offset, "partition {partition} stands where it was: {line}");
        ensure!(line["lag"].as_i64() > Some(0), "the old offset lies inside the new log: {line}");
    }
    let found = acceptance::differences(system, model, positions).await?;
    ensure!(found.is_empty(), "something of the new topic was applied:\n  {}", found.join("\n  "));
    Ok(())
}

/// Moves every partition to the new log's start; the view then holds both histories, whose sites differ.
async fn begin_anew(system: &System, old: &[Record], new: &[Record]) -> Result<()> {
    for partition in 0..PARTITIONS {
        let (partition, reason) = (partition.to_string(), "the connector was made anew");
        let unblock = system.refused(&["unblock", "--partition", &partition, "--reason", reason])?;
        ensure!(unblock.contains("topic-changed") && unblock.contains("position set"), "{unblock}");
        system.operate(&["position", "set", "--partition", &partition, "--to", "0", "--reason", reason])?;
    }
    assert_equal(system, &Model::of(&[old, new].concat())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_under_a_running_writer_is_not_mistaken_for_the_old_one() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let (old, new) = histories();
        system.topic().produce(&old)?;
        let mut writer = system.writer(&[])?;
        let (model, positions) = (Model::of(&old), system.topic().ends()?);
        assert_equal(system, &model).await?;

        system.topic().make_anew().await?;
        system.topic().produce(&new)?;
        stands_untouched(system, &positions, &model).await?;
        let why = writer.condition("partitions", false, NOTICED_MAX).await?;
        ensure!(why.contains("topic-changed"), "{why}");
        writer.kill()?;
        let mut again = system.writer(&[])?;
        again.condition("partitions", false, NOTICED_MAX).await?;
        stands_untouched(system, &positions, &model).await?;
        begin_anew(system, &old, &new).await?;
        again.condition("partitions", true, NOTICED_MAX).await?;
        ensure!(again.is_running(), "the writer stays");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_while_no_writer_runs_is_not_mistaken_for_the_old_one() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let (old, new) = histories();
        system.topic().produce(&old)?;
        let mut writer = system.writer(&[])?;
        let (model, positions) = (Model::of(&old), system.topic().ends()?);
        assert_equal(system, &model).await?;
        writer.kill()?;
        system.topic().make_anew().await?;
        system.topic().produce(&new)?;
        // Without any writer the verb sees it too.
        in_state(system, 0, "topic-changed").await?;
        let writer = system.writer(&[])?;
        let why = writer.condition("partitions", false, NOTICED_MAX).await?;
        ensure!(why.contains("topic-changed"), "{why}");
        stands_untouched(system, &positions, &model).await?;
        begin_anew(system, &old, &new).await
    })
    .await
}

/// A fetch that is under way at the broker is answered after `fetch.wait.max.ms`, 100 ms; a frozen writer sends no other.
const FETCHES_OVER: Duration = Duration::from_secs(1);
/// A session that outlasts the freeze.
const LONG_SESSION: [(&str, &str); 2] = [("session.timeout.ms", "60000"), ("heartbeat.interval.ms", "500")];
const P: i32 = 1;

#[tokio::test(flavor = "multi_thread")]
async fn retention_that_overtakes_a_running_writer_stops_the_partition_and_no_other() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let at = |lsn: u64| {
            (0..PARTITIONS).map(move |p| row(p, &format!("site-{p}"), lsn, lsn as i64, &format!("app-{lsn}")))
        };
        let first: Vec<Record> = at(1).collect();
        system.topic().produce(&first)?;
        let mut writer = system.writer_in_session(&[], &LONG_SESSION)?;
        assert_equal(system, &Model::of(&first)).await?;
        writer.signal(Signal::SIGSTOP)?;
        tokio::time::sleep(FETCHES_OVER).await;
        let more: Vec<Record> = (2..12).flat_map(at).collect();
        system.topic().produce(&more)?;
        system.topic().delete_before(P, 6).await?;
        writer.signal(Signal::SIGCONT)?;

        let line = in_state(system, P, "out-of-range").await?;
        ensure!(line["next_offset"] == 1, "{line}");
        let why = writer.condition("partitions", false, NOTICED_MAX).await?;
        ensure!(why.contains("out-of-range") && why.contains("the log holds 6 to 11"), "{why}");
        let mut positions = system.topic().ends()?;
        positions.insert(P, 1);
        for partition in [0, 2, 3] {
            in_state(system, partition, "caught-up").await?;
        }
        let others: Vec<Record> = more.iter().filter(|record| record.partition != P).cloned().collect();
        let model = Model::of(&[&first[..], &others].concat());
        let found = acceptance::differences(system, &model, &positions).await?;
        ensure!(found.is_empty(), "{}", found.join("\n  "));
        let warnings = writer.log()?.lines().filter(|line| line.contains("WARN") && line.contains("offset")).count();
        ensure!(warnings < 10, "{warnings} warnings");

        let set = |to| ["position", "set", "--partition", "1", "--to", to, "--reason", "these records are lost"];
        ensure!(system.refused(&set("5"))?.contains("6 to 11"), "not outside the log");
        system.operate(&set("6"))?;
        assert_equal(system, &Model::of(&[first, more].concat())).await?;
        writer.condition("partitions", true, NOTICED_MAX).await?;
        ensure!(writer.is_running(), "the writer stays");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_beyond_the_end_stands_and_goes_on_alone_when_the_log_reaches_it() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let at = |lsn: u64| row(P, "site", lsn, lsn as i64, &format!("app-{lsn}"));
        let (first, second): (Vec<Record>, Vec<Record>) = ((1..4).map(at).collect(), (4..8).map(at).collect());
        system.topic().produce(&first)?;
        let mut writer = system.writer(&[])?;
        assert_equal(system, &Model::of(&first)).await?;
        writer.kill()?;
        // A leader that lags behind shows an end before the position; so does one whose log was cut.
        let ahead = "update view_g1.position set next_offset = 5 where partition = 1";
        system.primary().await?.batch_execute(ahead).await?;
        let writer = system.writer(&[])?;
        let why = writer.condition("partitions", false, NOTICED_MAX).await?;
        ensure!(why.contains("out-of-range") && why.contains("the log holds 0 to 3"), "{why}");
        system.topic().produce(&second)?;
        writer.condition("partitions", true, NOTICED_MAX).await?;
        assert_equal(system, &Model::of(&[first, second].concat())).await
    })
    .await
}
