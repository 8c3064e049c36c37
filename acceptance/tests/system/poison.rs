//! Poison in the stream: each bad record is one dead letter, whole, and its neighbours do not notice. The brake ends a stream
//! of nothing else. Without a place for dead letters nothing is left out.

mod corpus;

use std::collections::BTreeMap;
use std::sync::Arc;

use acceptance::{Model, RawRecord, Record, Service, Site, Source, System, assert_equal, scenario};
use anyhow::{Context, Result, ensure};
use devstack::eventually;

use self::corpus::{Expected, FORBIDDEN_VERSION, Poison, corpus, id_of};
use crate::{NOTICED_MAX, PARTITIONS, servers};

/// Good records between two bad ones.
const GAP: usize = 25;
/// Headers that a dead letter has beside its record's own, in their order.
const ADDED: [&str; 8] = [
    "kafka_dlt-original-topic",
    "kafka_dlt-original-partition",
    "kafka_dlt-original-offset",
    "kafka_dlt-original-timestamp",
    "kafka_dlt-consumer-group",
    "kafka_dlt-exception-message",
    "dlq-reason",
    "dlq-redrive-count",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_record_is_one_dead_letter_and_its_neighbours_are_written() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let poison = corpus(PARTITIONS);
        let good = Source::new(31, PARTITIONS, 300).records(poison.len() * GAP);
        let forbid = format!("alter table view_g1.site_apps add check (version <> {FORBIDDEN_VERSION})");
        system.primary().await?.batch_execute(&forbid).await?;
        system.topic().produce_raw(&mixed(&good, &poison))?;
        let mut writer = system.writer(&[])?;
        writer.ready().await?;
        assert_equal(system, &model(good, &poison)).await?;

        let source = system.topic().read()?;
        let letters = system.dead_letter_topic().read()?;
        let dead: Vec<(&Poison, &str)> = poison.iter().filter_map(|poison| Some((poison, reason(poison)?))).collect();
        ensure!(letters.len() == dead.len(), "{} dead letters, expected {}", letters.len(), dead.len());
        for (poison, reason) in &dead {
            is_whole(system, &source, &letters, poison, reason).with_context(|| poison.name)?;
        }
        is_made_like_its_source(system).await?;
        counted(&writer, system, source.len(), &dead).await?;
        let (status, _) = writer.stop().await?;
        ensure!(status.success(), "the writer ended with {status}");
        Ok(())
    })
    .await
}

/// One bad record after so many good ones.
fn mixed(good: &[Record], poison: &[Poison]) -> Vec<RawRecord> {
    let mut mixed = Vec::new();
    for (good, poison) in good.chunks(GAP).zip(poison) {
        mixed.extend(good.iter().map(RawRecord::from));
        mixed.push(poison.record.clone());
    }
    mixed.extend(good.iter().skip(poison.len() * GAP).map(RawRecord::from));
    mixed
}

fn model(mut good: Vec<Record>, poison: &[Poison]) -> Model {
    for (number, poison) in poison.iter().enumerate().filter(|(_, poison)| poison.expected == Expected::Applied) {
        let after = Some(Arc::new(Site { version: 1, apps_version: 1, apps: BTreeMap::new() }));
        let (key, value, headers) = (String::new(), None, Vec::new());
        let partition = poison.record.partition;
        good.push(Record { partition, key, value, headers, site_id: id_of(number), after });
    }
    Model::of(&good)
}

fn reason(poison: &Poison) -> Option<&'static str> {
    match poison.expected {
        Expected::Dead(reason) => Some(reason),
        Expected::Applied | Expected::Skipped => None,
    }
}

/// Its dead letter is the only one, has every byte of the record, and says what the contract promises.
fn is_whole(system: &System, source: &[RawRecord], letters: &[RawRecord], poison: &Poison, reason: &str) -> Result<()> {
    let is_it = |record: &&RawRecord| (&record.key, &record.value) == (&poison.record.key, &poison.record.value);
    let mut origins = source.iter().filter(is_it).filter(|record| record.headers == poison.record.headers);
    let origin = origins.next().context("it is in the source topic")?;
    ensure!(origins.next().is_none(), "the corpus has it twice");
    let (partition, offset) = (origin.partition.to_string(), origin.offset.to_string());
    let of_it = |letter: &&RawRecord| {
        let header = |name| letter.header(name);
        header(ADDED[1]) == Some(partition.as_str()) && header(ADDED[2]) == Some(offset.as_str())
    };
    let found: Vec<&RawRecord> = letters.iter().filter(of_it).collect();
    let [letter] = found.as_slice() else {
        anyhow::bail!("{} dead letters", found.len());
    };
    ensure!(letter.partition == origin.partition, "stands in partition {}", letter.partition);
    ensure!(letter.key == origin.key, "another key");
    ensure!(letter.value == origin.value, "another value");
    let own = letter.headers.get(..origin.headers.len()).context("headers are missing")?;
    ensure!(own == origin.headers, "other headers: {own:?}");
    let added: Vec<&str> = letter.headers[origin.headers.len()..].iter().map(|(name, _)| name.as_str()).collect();
    ensure!(added == ADDED, "added {added:?}");
    let timestamp = origin.timestamp_ms.to_string();
    let message = letter.header(ADDED[5]).unwrap_or_default();
    let expected =
        [system.topic().name(), &partition, &offset, &timestamp, system.writer_group(), message, reason, "0"];
    for (name, expected) in ADDED.iter().zip(expected) {
        ensure!(letter.header(name) == Some(expected), "{name} is {:?}, expected {expected:?}", letter.header(name));
    }
    let limit = match (reason, poison.name) {
        ("too-large", _) => "WRITER_VALUE_MAX_BYTES",
        ("too-many-apps", _) => "WRITER_SITE_APPS_MAX",
        (_, name) if name.starts_with("deep") => "nested deeper than 1000",
        _ => "",
    };
    ensure!(!message.is_empty() && message.contains(limit), "the message is {message:?}");
    Ok(())
}

async fn is_made_like_its_source(system: &System) -> Result<()> {
    let (source, letters) = (system.topic(), system.dead_letter_topic());
    ensure!(letters.partitions_found()? == source.partitions_found()?, "another number of partitions");
    let bytes_max = source.setting("max.message.bytes").await?;
    for (key, expected) in
        [("max.message.bytes", bytes_max.as_str()), ("retention.ms", "-1"), ("cleanup.policy", "delete")]
    {
        let found = letters.setting(key).await?;
        ensure!(found == expected, "{key} is {found}, expected {expected}");
    }
    Ok(())
}

/// Every record has one outcome; every reason its number.
async fn counted(writer: &Service, system: &System, records: usize, dead: &[(&Poison, &str)]) -> Result<()> {
    let topic = ("topic", system.topic().name());
    let sum = writer.metric_sum("writer_records_total", &[topic]).await?;
    ensure!(sum == records as f64, "{sum} outcomes of {records} records");
    let letters = writer.metric_sum("writer_records_total", &[topic, ("outcome", "dead_lettered")]).await?;
    ensure!(letters == dead.len() as f64, "{letters} outcomes `dead_lettered`");
    let skipped = writer.metric_sum("writer_records_total", &[topic, ("outcome", "skipped")]).await?;
    ensure!(skipped == 2.0, "{skipped} outcomes `skipped`");
    let mut reasons: BTreeMap<&str, u32> = BTreeMap::new();
    dead.iter().for_each(|(_, reason)| *reasons.entry(reason).or_default() += 1);
    ensure!(reasons.len() == 12, "the corpus has every reason: {reasons:?}");
    for (reason, expected) in reasons {
        let found = writer.metric("writer_dead_letters_total", &[("reason", reason)]).await?;
        ensure!(found == Some(f64::from(expected)), "{reason}: {found:?}, expected {expected}");
    }
    Ok(())
}

fn garbage(partition: i32, number: usize) -> RawRecord {
    let value = Some(format!("garbage {number}").into_bytes());
    RawRecord { partition, offset: 0, key: Some(b"k".to_vec()), value, headers: Vec::new(), timestamp_ms: 0 }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_brake_stops_a_topic_of_garbage_and_a_restart_does_not_release_it() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        // Partition 0: garbage alone; 1: every second record; 2 and 3: one here and there, within the limits.
        let good = Source::new(32, PARTITIONS, 400).records(1200);
        let snapshot: Vec<&Record> = good.iter().take(400).collect();
        let mut records: Vec<RawRecord> = (0..300).map(|number| garbage(0, number)).collect();
        for (number, record) in snapshot.iter().filter(|record| record.partition != 0).enumerate() {
            records.push(RawRecord::from(*record));
            if record.partition == 1 || number % 40 == 0 {
                records.push(garbage(record.partition, number));
            }
        }
        system.topic().produce_raw(&records)?;
        let brake = [
            ("WRITER_BRAKE_PERCENT", "10"),
            ("WRITER_BRAKE_WINDOW_RECORDS", "200"),
            ("WRITER_BRAKE_RUN_RECORDS", "20"),
        ];
        let mut writer = system.writer(&brake)?;
        // 19 in a row, and 20 of 200 records; the next one is refused, and the partition stands at it.
        let stands = [(0, 19_i64), (1, 41)];
        let expected = BTreeMap::from([(0, 19_usize), (1, 20)]);
        braked(system, &writer, &stands).await?;
        ensure!(letters_of(system, &[0, 1])? == expected, "{:?}", letters_of(system, &[0, 1])?);
        let (status, _) = writer.stop().await?;
        ensure!(status.success(), "a braked writer ends in order: {status}");
        let again = system.writer(&brake)?;
        braked(system, &again, &stands).await?;
        ensure!(letters_of(system, &[0, 1])? == expected, "a restart lets more through");
        Ok(())
    })
    .await
}

/// Waits until these partitions are braked at these offsets, in every place where an operator looks, and the others are done.
async fn braked(system: &System, writer: &Service, stands: &[(i32, i64)]) -> Result<()> {
    let states = async || {
        let lines = system.writer_position().ok()?;
        let fits = |(partition, line): (&i32, &serde_json::Value)| match stands.iter().find(|(of, _)| of == partition) {
            Some((_, offset)) => line["state"] == "braked" && line["next_offset"] == *offset,
            None => line["state"] == "caught-up",
        };
        (lines.len() == PARTITIONS as usize && lines.iter().all(fits)).then_some(())
    };
    let reached = eventually("two partitions are braked, the others caught up", NOTICED_MAX, states).await;
    reached.with_context(|| format!("{:#?}", system.writer_position()))?;
    let said = async || {
        let partitions = writer.conditions().await.ok()?.remove("partitions")?;
        let says = |(partition, offset): &(i32, i64)| {
            partitions.detail.contains(&format!("partition {partition} at offset {offset}: braked"))
        };
        (!partitions.holds && stands.iter().all(says)).then_some(())
    };
    let said = eventually("/readyz names the braked partitions", NOTICED_MAX, said).await;
    said.with_context(|| format!("{:?}", writer.log()))?;
    for (partition, _) in stands {
        let blocked = writer.metric("writer_blocked", &[("partition", &partition.to_string())]).await?;
        ensure!(blocked == Some(1.0), "writer_blocked of {partition} is {blocked:?}");
    }
    Ok(())
}

fn letters_of(system: &System, partitions: &[i32]) -> Result<BTreeMap<i32, usize>> {
    let mut count = BTreeMap::new();
    for letter in system.dead_letter_topic().read()? {
        if partitions.contains(&letter.partition) {
            *count.entry(letter.partition).or_default() += 1;
        }
    }
    Ok(count)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_place_for_dead_letters_the_partition_waits_and_goes_on_by_itself() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        // Too small for any letter; later large enough for one without its value.
        let letters = system.dead_letter_topic();
        letters.create_with(&[("max.message.bytes", "100")]).await?;
        let good = Source::new(33, PARTITIONS, 300).records(300);
        let mut large = garbage(1, 0);
        // No compression makes it small.
        large.value = Some((0..12_000).map(|_| rand::random()).collect());
        let poison = [garbage(1, 1), large.clone(), garbage(1, 2)];
        system.topic().produce_raw(&poison)?;
        let records: Vec<RawRecord> = good.iter().map(RawRecord::from).collect();
        system.topic().produce_raw(&records)?;

        let mut writer = system.writer(&[])?;
        let waiting = async || {
            let lines = system.writer_position().ok()?;
            let fits = |(partition, line): (&i32, &serde_json::Value)| match partition {
                1 => line["state"] == "blocked" && line["next_offset"] == 0 && says(line, letters.name()),
                _ => line["state"] == "caught-up",
            };
            lines.iter().all(fits).then_some(())
        };
        let seen = eventually("partition 1 waits, the others are caught up", NOTICED_MAX, waiting).await;
        seen.with_context(|| format!("{:#?}", system.writer_position()))?;
        let detail = writer.condition("partitions", false, NOTICED_MAX).await?;
        ensure!(detail.contains("partition 1") && detail.contains(letters.name()), "/readyz says {detail}");
        let failures = writer.metric("writer_dead_letter_failures_total", &[]).await?;
        ensure!(failures >= Some(1.0), "writer_dead_letter_failures_total is {failures:?}");
        ensure!(letters.read()?.is_empty(), "the topic takes nothing");

        letters.set("max.message.bytes", "2000").await?;
        assert_equal(system, &Model::of(&good)).await?;
        writer.condition("partitions", true, NOTICED_MAX).await?;
        // One that is sent a second time, without its value, comes behind the others.
        let mut found = letters.read()?;
        found.sort_by_key(|letter| letter.header("kafka_dlt-original-offset").map(str::to_owned));
        ensure!(found.len() == poison.len(), "{} dead letters of {}", found.len(), poison.len());
        for (letter, record) in found.iter().zip(&poison) {
            let whole = record.value != large.value;
            let headers = &letter.headers;
            ensure!(letter.key == record.key && letter.value == record.value.clone().filter(|_| whole), "{headers:?}");
            ensure!(letter.header("dlq-value-bytes") == (!whole).then_some("12000"), "{headers:?}");
            ensure!(letter.header("dlq-value-sha256").map(str::len) == (!whole).then_some(64), "{headers:?}");
        }
        let (status, _) = writer.stop().await?;
        ensure!(status.success(), "the writer ended with {status}");
        Ok(())
    })
    .await
}

fn says(line: &serde_json::Value, part: &str) -> bool {
    line["reason"].as_str().is_some_and(|reason| reason.contains(part))
}
