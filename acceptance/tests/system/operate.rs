//! Operators' verbs: durable, idempotent, in the audit table, and felt by running writers.

use std::process::Stdio;
use std::time::Duration;

use acceptance::{Model, Record, Service, Source, System, assert_equal, scenario};
use anyhow::{Context, Result, ensure};
use devstack::eventually;
use serde_json::Value;

use crate::states::{audit, in_state, row, truncate};
use crate::{NOTICED_MAX, PARTITIONS, servers};

/// The partition that is operated on.
const P: i32 = 1;

/// Runs `writer VERB --partition 1 … --reason REASON --json`.
fn on_p(system: &System, verb: &[&str], arguments: &[&str], reason: &str) -> Result<Value> {
    system.operate(&[verb, &["--partition", "1"], arguments, &["--reason", reason]].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_is_set_under_a_running_writer() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let records = Source::new(51, PARTITIONS, 120).records(800);
        system.topic().produce(&records)?;
        let writer = system.writer(&[])?;
        assert_equal(system, &Model::of(&records)).await?;
        let (end, before) = (system.topic().ends()?[&P], system.positions(&system.primary().await?).await?);
        let applied = decided(&writer, system).await?;

        let line = on_p(system, &["position", "set"], &["--to", "0"], "apply it again")?;
        ensure!(line["next_offset"] == 0 && line["partition"] == P && line["generation"] == 1, "{line}");
        ensure!(line["state"] == "running" && line["high_watermark"] == end, "{line}");
        // Every record of the partition is read and decided once more, and no other.
        let again = async || (decided(&writer, system).await.ok()? == applied + end as f64).then_some(());
        eventually("the running writer goes on from the new position", NOTICED_MAX, again).await?;
        assert_equal(system, &Model::of(&records)).await?;
        let after = system.positions(&system.primary().await?).await?;
        ensure!(after[&P].epoch > before[&P].epoch && after[&0] == before[&0], "{before:?} {after:?}");

        // At its place already: nothing happens, not even to the epoch.
        let end_text = end.to_string();
        for _ in 0..2 {
            let line = on_p(system, &["position", "set"], &["--to", &end_text], "stay")?;
            ensure!(line["next_offset"] == end && line["epoch"] == after[&P].epoch, "{line}");
        }
        let rows = audit(system).await?;
        let [(action, reason, detail)] = &rows[..] else { anyhow::bail!("one change, one row: {rows:?}") };
        ensure!(action == "position set" && reason == "apply it again", "{rows:?}");
        ensure!(detail["generation"] == 1 && detail["topic"] == system.topic().name(), "{detail}");
        ensure!(detail["before"]["1"]["next_offset"] == end && detail["after"]["1"]["next_offset"] == 0, "{detail}");
        Ok(())
    })
    .await
}

/// Records of partition [`P`] that a writer has decided on.
async fn decided(writer: &Service, system: &System) -> Result<f64> {
    let mut sum = 0.0;
    for outcome in ["applied", "unchanged", "stale", "skipped"] {
        let labels = [("topic", system.topic().name()), ("partition", "1"), ("outcome", outcome)];
        sum += writer.metric("writer_records_total", &labels).await?.unwrap_or_default();
    }
    Ok(sum)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_partition_is_tried_again_and_skipped_under_a_running_writer() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let (before, after) = (vec![row(P, "before", 10, 1, "app-a")], vec![row(P, "after", 30, 1, "app-b")]);
        system.topic().produce(&[&before[..], &[truncate(P, 20)], &after].concat())?;
        let blocking = blocking_projection(system)?;
        let env = [("WRITER_PROJECTION", blocking.as_str())];
        let mut writer = system.writer(&env)?;
        let stands = in_state(system, P, "blocked").await?;
        ensure!(stands["next_offset"] == 1 && stands["reason"].is_string() && stands["since"].is_string(), "{stands}");

        ensure!(
            system.refused(&["unblock", "--partition", "0", "--reason", "x"])?.contains("partition 0 does not stand")
        );
        for offset in ["0", "1", "9"] {
            let said = system.refused(&["unblock", "--partition", "1", "--skip-to", offset, "--reason", "x"])?;
            ensure!(said.contains("stands at offset 1") && said.contains("ends at 3"), "{said}");
        }
        let line = on_p(system, &["unblock"], &[], "try it again")?;
        ensure!(line["state"] == "running" && line["next_offset"] == 1, "{line}");
        // Tried again, it blocks again: claimed under a newer epoch.
        let again = async || {
            let line = system.writer_position().ok()?.remove(&P)?;
            (line["state"] == "blocked" && line["epoch"].as_i64() > stands["epoch"].as_i64().map(|e| e + 1))
                .then_some(())
        };
        eventually("the record is tried again", NOTICED_MAX, again).await?;
        let why = writer.condition("partitions", false, NOTICED_MAX).await?;
        ensure!(why.contains("partition 1 at offset 1"), "{why}");

        // A writer that dies forgets nothing of it: a verb acts on the next one too.
        writer.kill()?;
        let mut writer = system.writer(&env)?;
        in_state(system, P, "blocked").await?;
        for _ in 0..2 {
            let line = on_p(system, &["unblock"], &["--skip-to", "2"], "the table was not truncated")?;
            ensure!(line["state"] != "blocked" && line["next_offset"].as_i64() >= Some(2), "{line}");
            assert_equal(system, &Model::of(&[&before[..], &after].concat())).await?;
        }
        writer.condition("partitions", true, NOTICED_MAX).await?;
        ensure!(writer.is_running(), "the writer stays");
        let actions: Vec<(String, String)> =
            audit(system).await?.into_iter().map(|(action, why, _)| (action, why)).collect();
        let expected = [("unblock", "try it again"), ("unblock", "the table was not truncated")];
        ensure!(actions.iter().map(|(a, w)| (a.as_str(), w.as_str())).eq(expected), "{actions:?}");
        Ok(())
    })
    .await
}

/// The default projection, with a truncate that blocks.
fn blocking_projection(system: &System) -> Result<String> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../writer/projection.toml");
    let text = std::fs::read_to_string(default)?;
    let (given, wanted) = ("on_truncate = \"dead-letter\"", "on_truncate = \"block\"");
    ensure!(text.contains(given), "the default projection has {given}");
    let path = system.folder().join("projection.toml");
    std::fs::write(&path, text.replace(given, wanted))?;
    Ok(path.display().to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_braked_partition_stays_so_over_restarts_until_it_is_unblocked() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let first = [row(P, "first", 10, 1, "app-a")];
        system.topic().produce(&first)?;
        let mut writer = system.writer(&[])?;
        assert_equal(system, &Model::of(&first)).await?;
        // As the writer itself does it; the running one loses its claim by the epoch.
        let brake = "update view_g1.position set epoch = epoch + 1, blocked_state = 'braked', blocked_offset = 1,
                     blocked_reason = 'too many dead letters' where partition = 1";
        system.primary().await?.batch_execute(brake).await?;
        for _ in 0..2 {
            let why = writer.condition("partitions", false, NOTICED_MAX).await?;
            ensure!(why.contains("braked") && why.contains("too many dead letters"), "{why}");
            writer.kill()?;
            writer = system.writer(&[])?;
        }
        let second = [row(P, "second", 20, 1, "app-b")];
        system.topic().produce(&second)?;
        writer.condition("partitions", false, NOTICED_MAX).await?;
        ensure!(in_state(system, P, "braked").await?["next_offset"] == 1, "nothing is applied");
        on_p(system, &["unblock"], &[], "the deploy is repaired")?;
        assert_equal(system, &Model::of(&[first, second].concat())).await?;
        writer.condition("partitions", true, NOTICED_MAX).await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raised_source_epoch_lets_lower_source_positions_count_at_once() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let raise = ["source-epoch", "raise", "--reason", "the slot is new"];
        ensure!(
            system.refused(&raise)?.contains(system.topic().name()),
            "without a position there is nothing to raise"
        );
        let at = |lsn, version, app: &str| {
            (0..PARTITIONS).map(|p| row(p, &format!("site-{p}"), lsn, version, app)).collect::<Vec<Record>>()
        };
        let (first, stale, counts) = (at(5000, 1, "app-a"), at(10, 2, "app-b"), at(11, 3, "app-c"));
        system.topic().produce(&first)?;
        let _writer = system.writer(&[])?;
        assert_equal(system, &Model::of(&first)).await?;
        system.topic().produce(&stale)?;
        assert_equal(system, &Model::of(&first)).await?;

        for _ in 0..2 {
            ensure!(system.operate(&raise)?["source_epoch"] == 1, "raised once, and not again before a record came");
        }
        // What comes from now on counts, although the writer may not have heard of it yet.
        system.topic().produce(&counts)?;
        assert_equal(system, &Model::of(&counts)).await?;
        let rows = audit(system).await?;
        ensure!(rows.len() == 1 && rows[0].0 == "source-epoch raise", "{rows:?}");
        ensure!(
            rows[0].2["before"]["3"]["source_epoch"] == 0 && rows[0].2["after"]["3"]["source_epoch"] == 1,
            "{rows:?}"
        );
        ensure!(system.operate(&raise)?["source_epoch"] == 2, "records have come; it is another raise");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_is_refused_by_name() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        system.topic().produce(&[row(P, "one", 10, 1, "app-a")])?;
        let set = |partition, to| ["position", "set", "--partition", partition, "--to", to, "--reason", "x"];
        for (said, parts) in [
            (system.refused(&set("9", "0"))?, ["--partition 9", "0 to 3"]),
            (system.refused(&set("1", "2"))?, ["--to 2", "0 to 1"]),
            (system.refused(&set("1", "-1"))?, ["--to", "-1"]),
            (system.refused(&["unblock", "--partition", "9", "--reason", "x"])?, ["--partition 9", "0 to 3"]),
            (system.refused(&["unblock", "--partition", "1", "--reason", "x"])?, ["partition 1", "does not stand"]),
            (system.refused(&["position", "set", "--partition", "1", "--to", "0"])?, ["--reason", "required"]),
            (system.refused(&["unblock", "--partition", "1"])?, ["--reason", "required"]),
            (system.refused(&["source-epoch", "raise"])?, ["--reason", "required"]),
        ] {
            ensure!(parts.iter().all(|part| said.contains(part)), "{parts:?} are not in: {said}");
        }
        let mut elsewhere = system.writer_command(&set("0", "0"), &[("WRITER_TOPIC", "no.such.topic")])?;
        let output = elsewhere.output()?;
        let said = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(2) && said.contains("no.such.topic does not exist"), "{said}");
        ensure!(audit(system).await?.is_empty(), "a refusal changes nothing");

        // Before any writer came, a partition can be given its start.
        ensure!(on_p(system, &["position", "set"], &["--to", "1"], "not the old ones")?["next_offset"] == 1, "set");
        let _writer = system.writer(&[])?;
        in_state(system, P, "caught-up").await?;
        let after = [row(P, "two", 20, 1, "app-a")];
        system.topic().produce(&after)?;
        assert_equal(system, &Model::of(&after)).await
    })
    .await
}

/// Steps by which the moment of the kill moves through a verb's life.
const KILL_STEP: Duration = Duration::from_millis(8);
const KILLS: u32 = 30;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_verb_has_happened_with_its_audit_row_or_not_at_all() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let records = [row(P, "one", 10, 1, "app-a"), row(P, "two", 20, 1, "app-a")];
        system.topic().produce(&records)?;
        on_p(system, &["position", "set"], &["--to", "0"], "begin")?;
        let (mut done, mut killed) = (1, 0);
        for number in 0..KILLS {
            let to = i64::from((number + 1) % 2);
            let to_text = to.to_string();
            let set = ["position", "set", "--partition", "1", "--to", &to_text, "--reason", "killed or not"];
            let mut verb = system.writer_command(&set, &[])?.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
            // Not a wait for anything: the kill falls into another moment each time.
            tokio::time::sleep(KILL_STEP * number).await;
            verb.kill()?;
            killed += u32::from(!verb.wait()?.success());
            // The same call again ends what was begun, once.
            let line = system.operate(&set)?;
            done += 1;
            ensure!(line["next_offset"] == to, "{line}");
            let rows = audit(system).await?;
            // Nobody else claims, so each change raised the epoch once; the first made the row with epoch 0.
            ensure!(line["epoch"] == rows.len() - 1 && rows.len() == done, "{line} {rows:#?}");
        }
        ensure!(killed > 0, "no verb was killed in time");
        let writer = system.writer(&[])?;
        let _ends = system.drained().await.context("the writer goes on from there")?;
        writer.condition("partitions", true, NOTICED_MAX).await?;
        Ok(())
    })
    .await
}
