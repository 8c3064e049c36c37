//! The records of a real Debezium, in three value forms, end in the same view, whatever the batches.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    reading::{Cuts, Sabotage, read},
    source::Rows,
    topic::{Record, RecordHeaders, Topic},
    truth,
    view::View,
};

const SAMPLES: [(&str, &str); 3] = [
    ("a-envelope-schema", include_str!("../samples/a-envelope-schema.ndjson")),
    ("b-envelope-plain", include_str!("../samples/b-envelope-plain.ndjson")),
    ("c-unwrap-rewrite", include_str!("../samples/c-unwrap-rewrite.ndjson")),
];

#[derive(Deserialize)]
struct Line {
    partition: usize,
    offset: i64,
    key: String,
    value: Option<String>,
    headers: Vec<(String, String)>,
}

fn topic(lines: &str) -> Topic {
    let mut topic = Topic { partitions: Vec::new(), rows: Rows::new() };
    for line in lines.lines() {
        let line: Line = serde_json::from_str(line).expect("a captured record");
        let partitions = topic.partitions.len().max(line.partition + 1);
        topic.partitions.resize(partitions, Vec::new());
        topic.partitions[line.partition].push(Record {
            offset: line.offset,
            key: line.key.into_bytes(),
            value: line.value.map(String::into_bytes),
            headers: RecordHeaders(line.headers.into_iter().map(|(name, value)| (name, value.into_bytes())).collect()),
        });
    }
    topic
}

/// What is the same in all value forms: documents, markers, and how many sites have an app. Partitions and positions are not.
fn visible(view: &View) -> Value {
    let document = |text: &Option<String>| -> Value {
        serde_json::from_str(text.as_deref().unwrap_or("null")).expect("a document")
    };
    let mut site_counts = serde_json::Map::new();
    for ((app_id, _), sites) in &view.app_count {
        let before = site_counts.get(app_id).and_then(Value::as_i64).unwrap_or(0);
        site_counts.insert(app_id.clone(), json!(before + sites));
    }
    let sites = view.site_apps.iter().filter(|(_, row)| row.is_alive()).map(|(_, row)| document(&row.document));
    let deleted = view.site_apps.iter().filter(|(_, row)| !row.is_alive()).map(|(site_id, _)| site_id.as_str());
    json!({
        "sites": sites.collect::<Vec<_>>(),
        "deleted": deleted.collect::<Vec<_>>(),
        "memberships": view.app_site.len(),
        "site_counts": site_counts,
    })
}

#[test]
fn captured_records_of_every_form_end_in_the_tables_of_their_scenario() {
    for (name, lines) in SAMPLES {
        let topic = topic(lines);
        let batches_of_one = read(&topic, Cuts::Every(1), Sabotage::Nothing).expect(name).view;
        insta::with_settings!({ snapshot_path => "../samples", prepend_module_to_snapshot => false }, {
            insta::assert_json_snapshot!("view", visible(&batches_of_one), name);
        });
        for records in [1, 2, 3, 7, usize::MAX] {
            let read = read(&topic, Cuts::Every(records), Sabotage::Nothing).expect(name);
            assert!(read.incomplete.is_empty(), "{name}: incomplete rows at {:?}", read.incomplete);
            assert_eq!(read.view.site_apps, batches_of_one.site_apps, "{name} in batches of {records}");
            assert_eq!(visible(&read.view), visible(&batches_of_one), "{name} in batches of {records}");
            truth::changes(&read.view).expect(name);
        }
    }
}
