//! A record that may not be left out stops its partition where it is, in every place where an operator looks: a truncate
//! under the policy `on_truncate = "block"`.

use acceptance::{Model, RawRecord, Record, Service, Source, System, scenario};
use anyhow::{Result, ensure};
use devstack::eventually;

use crate::{NOTICED_MAX, PARTITIONS, servers};

const BAD: i32 = 1;

/// The demo's mapping, and the other policy.
const PROJECTION: &str = r#"
[site]
id = "/site_id"
version = "/version"
apps = "/installed_apps"

[app]
id = "/appDefId"
instance = "/instanceId"
version = "/version"
status = "/status"
not_installed = ["UNINSTALLED"]
extra = ["permissions"]

[source]
on_truncate = "block"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_that_may_not_be_left_out_blocks_its_partition_visibly_and_no_other() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let mut source = Source::new(12, PARTITIONS, 200);
        let (before, after) = (source.records(600), without_key_changes(source.records(600)));
        system.topic().produce(&before)?;
        let offset = system.topic().ends()?[&BAD];
        let truncate = br#"{"op":"t","before":null,"after":null,"source":{"lsn":7}}"#.to_vec();
        let (key, headers) = (None, Vec::new());
        let bad = RawRecord { partition: BAD, offset: 0, key, value: Some(truncate), headers, timestamp_ms: 0 };
        system.topic().produce_raw(&[bad])?;
        system.topic().produce(&after)?;
        let stored: Vec<Record> =
            [before, after.into_iter().filter(|record| record.partition != BAD).collect()].concat();
        let model = Model::of(&stored);

        let projection = system.file("projection.toml", PROJECTION)?;
        let env = [("WRITER_KEY_CHANGE_WAIT", "10m"), ("WRITER_PROJECTION", projection.as_str())];
        let mut writer = system.writer(&env)?;
        stands(system, &writer, offset, &model).await?;
        let (status, _) = writer.stop().await?;
        ensure!(status.success(), "a blocked writer ends in order: {status}");
        let mut again = system.writer(&env)?;
        stands(system, &again, offset, &model).await?;
        ensure!(again.is_running(), "the writer stays");
        Ok(())
    })
    .await
}

/// What follows the bad record in its partition stays away; so must whatever waits for it in another.
fn without_key_changes(records: Vec<Record>) -> Vec<Record> {
    let first = records.iter().position(|record| !record.headers.is_empty());
    let count = first.unwrap_or(records.len());
    records.into_iter().take(count).collect()
}

/// Checks every place, and that the view holds what precedes the record and the other partitions whole.
async fn stands(system: &System, writer: &Service, offset: i64, model: &Model) -> Result<()> {
    let (partition, at) = (BAD.to_string(), offset.to_string());
    let detail = writer.condition("partitions", false, NOTICED_MAX).await?;
    for part in [&format!("partition {partition}"), &at, &"truncate".to_owned()] {
        ensure!(detail.contains(part), "/readyz does not say {part:?}: {detail}");
    }
    ensure!(!writer.is_ready().await, "/readyz is 503");
    let labels = [("topic", system.topic().name()), ("partition", &partition)];
    let blocked = writer.metric("writer_blocked", &labels).await?;
    ensure!(blocked == Some(1.0), "writer_blocked is {blocked:?}");
    let log = writer.log()?;
    let tells = |line: &str| {
        let line = without_colours(line);
        ["ERROR", system.topic().name(), &format!("partition={partition}"), &format!("offset={at}")]
            .iter()
            .all(|part| line.contains(part))
    };
    ensure!(log.lines().any(tells), "no line of the log names topic, partition and offset");

    let mut ends = system.topic().ends()?;
    ends.insert(BAD, offset);
    let reached = async || {
        let lines = system.writer_position().ok()?;
        let state = |(partition, line): (&i32, &serde_json::Value)| {
            let expected = if *partition == BAD { "blocked" } else { "caught-up" };
            line["state"] == expected && line["next_offset"] == ends[partition]
        };
        lines.iter().all(state).then_some(())
    };
    let outcome =
        eventually("`writer position` says blocked, and caught-up for the others", NOTICED_MAX, reached).await;
    outcome.map_err(|error| error.context(format!("{:#?}", system.writer_position())))?;
    let found = acceptance::differences(system, model, &ends).await?;
    ensure!(found.is_empty(), "{found:#?}");
    Ok(())
}

fn without_colours(line: &str) -> String {
    let mut plain = String::new();
    let mut rest = line;
    while let Some(start) = rest.find('\u{1b}') {
        plain.push_str(&rest[..start]);
        let end = rest[start..].find('m').map_or(rest.len(), |end| start + end + 1);
        rest = &rest[end..];
    }
    plain + rest
}
