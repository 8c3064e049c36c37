//! Dead letters given back: each once, whatever happens on the way.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rdkafka::{
    Message as _,
    message::{Header, Headers as _, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use serde_json::{Value, json};

use crate::stage::{Buried, Console, DEADLINE, Stage, text};

const KINDS: usize = 5;
const LETTERS: usize = 10_000;
const RATE: u64 = 500;

fn letter(number: usize) -> Buried {
    let kind = number % KINDS;
    Buried {
        partition: i32::try_from(number % 3).expect("small"),
        offset: i64::try_from(number / 3).expect("small"),
        key: format!("key-{}", number % 100),
        value: format!("order-{number}"),
        reason: ["late", "away", "odd", "twice", "torn"][kind].to_owned(),
        message: format!("order {number} is not to be had"),
        redrive_count: None,
    }
}

/// The kinds of the test's topic, when all letters are seen: fingerprint by reason.
async fn kinds(console: &Console, topic: &str, letters: usize) -> Result<BTreeMap<String, String>> {
    let holds = |all: &Value| {
        let of = all.as_array()?.iter().find(|of| of["topic"] == topic)?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let kinds = of["kinds"].as_array()?.iter();
        let kinds =
            kinds.map(|kind| Some((text(&kind["reason"])?, text(&kind["fingerprint"])?))).collect::<Option<_>>();
        kinds.filter(|_| of["letters"] == letters)
    };
    console.until("all letters are seen", "/v1/dead-letters", holds).await
}

async fn begin(console: &Console, topic: &str, fingerprint: &str, rate: u64) -> Result<String> {
    let body = json!({"topic": topic, "fingerprint": fingerprint, "rate": rate, "reason": "it is mended", "confirm": fingerprint});
    let (status, begun) = console.post_json("/v1/redrives", &body).await?;
    ensure!(status == 202, "{status} {begun}");
    Ok(begun["id"].as_str().context("an id")?.to_owned())
}

fn row(all: &Value, id: &str) -> Option<Value> {
    all.as_array()?.iter().find(|row| row["id"] == id).cloned()
}

/// Waits until a redrive has ended here in this state.
async fn until_state(console: &Console, id: &str, state: &str) -> Result<Value> {
    let holds = |all: &Value| row(all, id).filter(|row| row["state"] == state && row["works_here"] == false);
    console.until(&format!("the redrive is {state}"), "/v1/redrives", holds).await
}

async fn until_moved(console: &Console, id: &str, moved: u64) -> Result<u64> {
    let holds = |all: &Value| row(all, id)?["counts"]["moved"].as_u64().filter(|done| *done >= moved);
    console.until("letters are moved", "/v1/redrives", holds).await
}

async fn change(console: &Console, id: &str, verb: &str, confirm: &str) -> Result<u16> {
    let body = json!({"reason": "a test", "confirm": confirm});
    Ok(console.post_json(&format!("/v1/redrives/{id}/{verb}"), &body).await?.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_letters_go_back_at_a_rate_through_stops_and_kills_and_none_is_lost_or_doubled() -> Result<()> {
    let stage = Stage::new(3).await?;
    let letters: Vec<Buried> = (0..LETTERS).map(letter).collect();
    stage.bury(&letters).await?;
    let dead = stage.dead_letter_topic();
    let console = stage.console(&[]).await?;
    let kinds = kinds(&console, &dead, LETTERS).await?;
    ensure!(kinds.len() == KINDS && kinds.values().collect::<BTreeSet<_>>().len() == KINDS, "{kinds:?}");
    let late = &kinds["late"];
    let of_kind = LETTERS / KINDS;

    let (status, counted) =
        console.post_json("/v1/redrives", &json!({"topic": dead, "fingerprint": late, "dry_run": true})).await?;
    ensure!(status == 200 && counted["counts"]["moved"] == of_kind, "{counted}");
    ensure!(stage.committed_records().await?.is_empty(), "a dry run moves nothing");

    // At a rate; stopped.
    let began = Instant::now();
    let id = begin(&console, &dead, late, RATE).await?;
    until_moved(&console, &id, 200).await?;
    ensure!(change(&console, &id, "stop", "something else").await? == 400, "it wants the kind's name");
    ensure!(change(&console, &id, "stop", late).await? == 202);
    let stopped = until_state(&console, &id, "stopped").await?["counts"]["moved"].as_u64().context("a count")?;
    let allowed = RATE as f64 * (began.elapsed() + Duration::from_secs(1)).as_secs_f64() + 100.0;
    ensure!(stopped < of_kind as u64 && (stopped as f64) <= allowed, "{stopped} in {:?}", began.elapsed());
    ensure!(stage.committed_records().await?.len() as u64 == stopped, "what is counted is what is there");

    // Continued; killed in the middle; continued by another console.
    ensure!(change(&console, &id, "continue", late).await? == 202);
    until_moved(&console, &id, stopped + 200).await?;
    console.kill()?;
    let console = stage.console(&[]).await?;
    let interrupted = until_state(&console, &id, "running").await?;
    ensure!(interrupted["counts"]["moved"].as_u64() < Some(of_kind as u64), "it was in the middle: {interrupted}");
    ensure!(change(&console, &id, "stop", late).await? == 202, "nobody works on it, and it can be stopped");
    ensure!(until_state(&console, &id, "stopped").await?["counts"] == interrupted["counts"]);
    ensure!(change(&console, &id, "continue", late).await? == 202);
    let done = until_state(&console, &id, "done").await?;
    ensure!(change(&console, &id, "stop", late).await? == 409, "it is done");
    ensure!(done["counts"]["moved"] == of_kind && done["counts"]["moved_before"] == 0, "{done}");

    taken_over(&stage, &console, &dead, &kinds["away"]).await?;

    // Once more, and then the other kinds.
    let again = begin(&console, &dead, late, 100_000).await?;
    let done = until_state(&console, &again, "done").await?;
    ensure!(done["counts"]["moved"] == 0 && done["counts"]["moved_before"] == of_kind, "{done}");
    for fingerprint in kinds.values().filter(|fingerprint| *fingerprint != late) {
        let id = begin(&console, &dead, fingerprint, 100_000).await?;
        until_state(&console, &id, "done").await?;
    }
    all_went_back_once(&stage, &letters).await?;
    let given_back = |all: &Value| {
        all.as_array()?.iter().find(|of| of["topic"] == dead)?["redriven"]
            .as_u64()
            .filter(|count| *count == LETTERS as u64)
    };
    console.until("the page says so", "/v1/dead-letters", given_back).await?;
    Ok(())
}

/// A second console takes a redrive over while the first is at it, and the command line stops it there: each ends, and does nothing more.
/// Then another one of the same letters, which the first console stops.
async fn taken_over(stage: &Stage, first: &Console, topic: &str, fingerprint: &str) -> Result<()> {
    let second = stage.console(&[]).await?;
    let id = begin(first, topic, fingerprint, 50).await?;
    let before = until_moved(first, &id, 20).await?;
    until_moved(&second, &id, 20).await?;
    ensure!(change(&second, &id, "continue", fingerprint).await? == 202);
    let ended = |all: &Value| row(all, &id)?["failure"].as_str().map(str::to_owned);
    let failure = first.until("the first has ended", "/v1/redrives", ended).await?;
    ensure!(failure.contains("another worker has taken over"), "{failure}");
    until_moved(&second, &id, before + 20).await?;
    let (stopped, code) = stage.verb(&["dead-letters", "stop", &id, "--reason", "too fast"]).await?;
    ensure!(code == 0 && stopped["state"] == "stopped", "{code} {stopped}");
    let told = until_state(&second, &id, "stopped").await?;
    ensure!(told["counts"] == stopped["counts"], "nothing is moved behind a stop: {told} {stopped}");
    ensure!(told["failure"].is_null(), "somebody wanted it: {told}");

    // What is stopped already takes nothing from who works on the same letters, and neither does who was taken over by that.
    let other = begin(&second, topic, fingerprint, 50).await?;
    until_moved(&second, &other, 20).await?;
    ensure!(stage.verb(&["dead-letters", "stop", &id, "--reason", "once more"]).await?.1 == 0);
    let moved = until_moved(&second, &other, 20).await?;
    until_moved(&second, &other, moved + 20).await?;
    ensure!(change(first, &other, "stop", fingerprint).await? == 202, "by another console");
    until_state(&second, &other, "stopped").await.map(drop)
}

async fn all_went_back_once(stage: &Stage, letters: &[Buried]) -> Result<()> {
    let records = stage.committed_records().await?;
    let mut expected: Vec<_> = letters.iter().map(|of| (of.value.clone(), of.key.clone(), of.partition)).collect();
    let key = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    let mut found: Vec<_> = records.iter().map(|of| (text(of), key(of.key()), of.partition())).collect();
    expected.sort();
    found.sort();
    ensure!(found.len() == expected.len(), "{} of {}", found.len(), expected.len());
    ensure!(found == expected, "others than those that were buried");
    for record in &records {
        let headers = record.headers().context("headers")?;
        let all: Vec<_> = headers.iter().map(|header| (header.key, header.value)).collect();
        ensure!(all == [("own", Some(&b"1"[..])), ("dlq-redrive-count", Some(b"1"))], "{all:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_letter_goes_back_and_what_came_back_too_often_does_not() -> Result<()> {
    let stage = Stage::new(1).await?;
    let with_count = |number: usize, count: &str| Buried {
        partition: 0,
        offset: number as i64,
        reason: "away".to_owned(),
        redrive_count: Some(count.to_owned()),
        ..letter(number)
    };
    stage.bury(&[with_count(0, "2"), with_count(1, "3"), with_count(2, "0")]).await?;
    let (dead, console) = (stage.dead_letter_topic(), stage.console(&[]).await?);
    let away = kinds(&console, &dead, 3).await?["away"].clone();
    let one = json!({"topic": dead, "partition": 0, "offset": 2, "reason": "try", "confirm": "0@2"});
    let (status, begun) = console.post_json("/v1/redrives", &one).await?;
    ensure!(status == 202, "{begun}");
    until_state(&console, begun["id"].as_str().context("an id")?, "done").await?;
    ensure!(stage.committed_records().await?.iter().map(text).collect::<Vec<_>>() == ["order-2"]);

    let (shown, _) =
        stage.verb(&["dead-letters", "show", "--topic", &dead, "--fingerprint", &away, "--limit", "2"]).await?;
    let values = shown.as_array().context("letters")?.iter().map(|letter| letter["value"]["text"].clone());
    ensure!(values.collect::<Vec<_>>() == ["order-0", "order-1"], "{shown}");
    let all = ["dead-letters", "redrive", "--topic", &dead, "--fingerprint", &away, "--reason", "all"];
    let (counted, _) = stage.verb(&[&all[..], &["--dry-run"]].concat()).await?;
    ensure!(counted["counts"]["moved"] == 1 && counted["counts"]["guarded"] == 1, "{counted}");
    let done = stage.verb(&all).await?;
    let id = done.0["id"].as_str().context("an id")?;
    let again = stage.verb(&["dead-letters", "continue", id, "--reason", "x"]).await?;
    ensure!(again.1 == 2, "it is done: {again:?}");
    let counts = &done.0["counts"];
    ensure!(done.1 == 0 && done.0["state"] == "done", "{done:?}");
    ensure!(counts["moved"] == 1 && counts["moved_before"] == 1 && counts["guarded"] == 1, "{counts}");
    let records = stage.committed_records().await?;
    ensure!(records.iter().map(text).collect::<Vec<_>>() == ["order-2", "order-0"]);
    let count = records[1].headers().context("headers")?.iter().find(|header| header.key == "dlq-redrive-count");
    ensure!(count.and_then(|count| count.value) == Some(&b"3"[..]));

    for (body, expected) in [
        (json!({"topic": dead, "partition": 0, "offset": 2, "reason": "x", "confirm": "0@1"}), 400),
        (json!({"topic": dead, "partition": 0, "offset": 2, "reason": " ", "confirm": "0@2"}), 400),
        (json!({"topic": dead, "partition": 0, "offset": 99, "reason": "x", "confirm": "0@99"}), 409),
        (json!({"topic": stage.topic, "fingerprint": "f", "reason": "x", "confirm": "f"}), 409),
        (json!({"topic": dead, "reason": "x", "confirm": ""}), 400),
    ] {
        let (status, problem) = console.post_json("/v1/redrives", &body).await?;
        ensure!(status == expected, "{body}: {status} {problem}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_letter_goes_back_as_edited_and_what_was_before_is_kept() -> Result<()> {
    let stage = Stage::new(1).await?;
    stage.bury(&[Buried { partition: 0, ..letter(0) }, Buried { partition: 0, offset: 1, ..letter(1) }]).await?;
    let (dead, console) = (stage.dead_letter_topic(), stage.console(&[]).await?);
    kinds(&console, &dead, 2).await?;
    let editable = console.get(&format!("/v1/dead-letters/{dead}/0/0")).await?;
    let expected = json!({"key": {"text": "key-0"}, "value": {"text": "order-0"}, "headers": [["own", {"text": "1"}]]});
    ensure!(editable == json!({"edit": expected, "left_out": {}}), "{editable}");
    let with = |edit: Value| json!({"topic": dead, "partition": 0, "offset": 0, "edit": edit, "reason": "a typo", "confirm": "0@0"});
    for (edit, expected) in [(expected, 409), (json!({"value": {"text": "•••"}}), 400), (json!({"offset": 3}), 400)]
    {
        let (status, problem) = console.post_json("/v1/redrives", &with(edit)).await?;
        ensure!(status == expected, "{status} {problem}");
    }
    let edit = json!({"key": {"text": "key-0"}, "value": {"text": "order-7"}, "headers": [["own", {"text": "2"}], ["new", "none"]]});
    let (status, begun) = console.post_json("/v1/redrives", &with(edit)).await?;
    ensure!(status == 202 && begun["edit"].is_null(), "contents are shown redacted alone: {begun}");
    let id = begun["id"].as_str().context("an id")?;
    let done = until_state(&console, id, "done").await?;
    ensure!(done["edited"] == json!(["value", "headers"]) && done["edit"].is_null(), "{done}");
    let records = stage.committed_records().await?;
    ensure!(
        records.len() == 1 && text(&records[0]) == "order-7" && records[0].key() == Some(&b"key-0"[..]),
        "{records:?}"
    );
    let headers: Vec<_> =
        records[0].headers().context("headers")?.iter().map(|header| (header.key, header.value)).collect();
    let own = [("own", Some(&b"2"[..])), ("new", None)];
    let marks = [("dlq-redrive-count", Some(&b"1"[..])), ("dlq-edited", Some(id.as_bytes()))];
    ensure!(headers == [own, marks].concat(), "{headers:?}");
    let difference = console.get(&format!("/v1/redrives/{id}/difference")).await?;
    ensure!(
        difference["parts"]["value"] == json!({"before": {"text": "order-0"}, "after": {"text": "order-7"}}),
        "{difference}"
    );
    ensure!(difference["reason"] == "a typo" && difference["offset"] == 0 && difference["parts"]["key"].is_null());

    // It went back, edited or not: it does not go once more.
    let again = json!({"topic": dead, "partition": 0, "offset": 0, "reason": "x", "confirm": "0@0"});
    let (_, begun) = console.post_json("/v1/redrives", &again).await?;
    let done = until_state(&console, begun["id"].as_str().context("an id")?, "done").await?;
    ensure!(done["counts"]["moved_before"] == 1 && stage.committed_records().await?.len() == 1, "{done}");
    by_command_line(&stage, &dead).await
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_somebody_chose_go_back_and_those_between_them_do_not() -> Result<()> {
    let stage = Stage::new(3).await?;
    stage.bury(&(0..12).map(letter).collect::<Vec<_>>()).await?;
    let (dead, console) = (stage.dead_letter_topic(), stage.console(&[]).await?);
    kinds(&console, &dead, 12).await?;
    let with = |letters: Value, confirm: &str| json!({"topic": dead, "letters": letters, "reason": "these", "confirm": confirm});
    for (body, expected) in [
        (with(json!([]), "0 letters"), 400),
        (with(json!([[0, 0], [0, 99]]), "2 letters"), 409),
        (with(json!([[0, 0], [7, 0]]), "2 letters"), 409),
        (with(json!([[0, 0], [2, 1]]), "3 letters"), 400),
        (
            json!({"topic": dead, "letters": [[0, 0], [2, 1]], "edit": {"key": "none"}, "reason": "x", "confirm": "2 letters"}),
            409,
        ),
    ] {
        let (status, problem) = console.post_json("/v1/redrives", &body).await?;
        ensure!(status == expected, "{body}: {status} {problem}");
    }
    // Of two kinds and partitions; one is named twice.
    let places = json!([[0, 3], [2, 1], [0, 0], [0, 3]]);
    let (status, begun) = console.post_json("/v1/redrives", &with(places, "3 letters")).await?;
    ensure!(status == 202, "{begun}");
    let done = until_state(&console, begun["id"].as_str().context("an id")?, "done").await?;
    ensure!(done["counts"]["moved"] == 3 && done["selection"]["letters"] == json!([[0, 0], [0, 3], [2, 1]]), "{done}");
    let values =
        async || -> Result<BTreeSet<String>> { Ok(stage.committed_records().await?.iter().map(text).collect()) };
    let set = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<BTreeSet<_>>();
    ensure!(values().await? == set(&["order-0", "order-9", "order-5"]), "{:?}", values().await?);
    let by_verb = ["dead-letters", "redrive", "--topic", &dead, "--letter", "1@0", "--letter", "0@0", "--reason", "x"];
    let (done, code) = stage.verb(&by_verb).await?;
    ensure!(code == 0 && done["counts"]["moved"] == 1 && done["counts"]["moved_before"] == 1, "{done}");
    ensure!(values().await? == set(&["order-0", "order-9", "order-5", "order-1"]));
    Ok(())
}

async fn by_command_line(stage: &Stage, dead: &str) -> Result<()> {
    let place = ["--topic", dead, "--partition", "0", "--offset", "1"];
    let (mut edit, code) = stage.verb(&[&["dead-letters", "edit"][..], &place].concat()).await?;
    ensure!(code == 0 && edit["value"]["text"] == "order-1", "{edit}");
    edit["key"] = json!({"text": "another"});
    let file = stage.file("edit.json", &edit.to_string())?.display().to_string();
    let redrive = ["dead-letters", "redrive", "--edit", &file, "--reason", "another key"];
    let (done, code) = stage.verb(&[&redrive[..], &place].concat()).await?;
    ensure!(code == 0 && done["edited"] == json!(["key"]), "{done}");
    let id = done["id"].as_str().context("an id")?;
    let (redrives, code) = stage.verb(&["redrives"]).await?;
    ensure!(code == 0 && row(&redrives, id).is_some_and(|row| row["state"] == "done"), "{redrives}");
    let (difference, _) = stage.verb(&["dead-letters", "difference", id]).await?;
    ensure!(difference["parts"]["key"] == json!({"before": "key-1", "after": "another"}), "{difference}");
    ensure!(stage.committed_records().await?[1].key() == Some(&b"another"[..]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_write_dead_letters_cannot_have_records_put_into_other_topics() -> Result<()> {
    let (stage, other) = (Stage::new(1).await?, Stage::new(1).await?);
    stage.bury(&[letter(0)]).await?;
    // A letter of another topic, put where it does not belong.
    let all = [
        ("kafka_dlt-original-topic", other.topic.as_str()),
        ("kafka_dlt-original-partition", "0"),
        ("kafka_dlt-original-offset", "0"),
        ("kafka_dlt-consumer-group", &stage.group),
        ("kafka_dlt-exception-message", "order 7 is not to be had"),
        ("dlq-reason", "late"),
    ];
    let headers = all
        .iter()
        .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(*value) }));
    let producer: FutureProducer = stage.client().create()?;
    let dead = stage.dead_letter_topic();
    let record = FutureRecord::to(&dead).key("k").payload("forged").headers(headers);
    producer.send(record, DEADLINE).await.map_err(|(error, _)| error)?;
    let console = stage.console(&[]).await?;
    let late = kinds(&console, &dead, 1).await?["late"].clone();
    let id = begin(&console, &dead, &late, 1000).await?;
    ensure!(until_state(&console, &id, "done").await?["counts"]["moved"] == 1);
    ensure!(stage.committed_records().await?.iter().map(text).collect::<Vec<_>>() == ["order-0"]);
    ensure!(other.committed_records().await?.is_empty());
    Ok(())
}
