//! Rows as CloudEvents 1.0 in Kafka, binary content mode. Pure.
//!
//! Binary, because the row holds its event as finished JSON: the value is those bytes untouched, the very ones that the change
//! feed tells, and a consumer that knows nothing of CloudEvents reads them as they are. What tells events apart and apart from
//! each other is in headers, which routers and filters read without parsing. (CloudEvents, Kafka protocol binding, 3.2)

use jiff::Timestamp;
use messaging::transaction::Output;

use crate::store::change_log::ChangeRow;

/// A change of one site's apps; data as the change feed's.
const CHANGED: &str = "siteview.installed-apps.changed";
/// The log goes on in another generation: who keeps a copy reads it anew. Data `{"generation":2,"previous":1}`.
const GENERATION_CHANGED: &str = "siteview.installed-apps.generation-changed";
/// Of all events; source and id together are unique (CloudEvents 1.0, 3.1.1).
const SOURCE: &str = "/siteview/installed-apps";

/// The event of a change: key site id; id `<topic>/<partition>/<offset>/<ordinal>` of the record that it came from, the same
/// however often it is read.
pub(super) fn changed(to: &str, of: &str, row: ChangeRow) -> Output {
    let id = format!("{of}/{}/{}/{}", row.partition, row.place.offset, row.place.ordinal);
    let subject = row.site_id.clone();
    let output = Output::new(to, row.site_id, row.event);
    attributes(output, CHANGED, &id).header("ce_subject", subject).header("ce_time", time(row.written_micros))
}

/// Tells one partition of the topic that the log goes on in another generation, behind `records` records of the source. Without
/// a key: it is about all sites.
pub(super) fn generation_changed(
    to: &str,
    of: &str,
    partition: i32,
    (previous, generation): (i32, i32),
    records: i64,
) -> Output {
    let value = serde_json::json!({"generation": generation, "previous": previous}).to_string();
    let output = Output { key: None, partition: Some(partition), ..Output::new(to, "", value) };
    attributes(output, GENERATION_CHANGED, &format!("{of}/generation/{generation}/{records}/{partition}"))
}

fn attributes(output: Output, kind: &'static str, id: &str) -> Output {
    output
        .header("content-type", "application/json")
        .header("ce_specversion", "1.0")
        .header("ce_type", kind)
        .header("ce_source", SOURCE)
        .header("ce_id", id.to_owned())
}

fn time(micros: i64) -> String {
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::change_log::Place;

    #[test]
    fn a_change_is_a_cloud_event_with_its_bytes_untouched() {
        let row = ChangeRow {
            partition: 3,
            place: Place { offset: 1207, ordinal: 0 },
            written_micros: 1_700_000_000_123_456,
            site_id: "site-1".to_owned(),
            event: "{\"site_id\": \"site-1\"}".to_owned(),
        };
        let output = changed("installed-apps.changed", "metasite.public.meta_site", row);
        let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.expect("bytes")).into_owned();
        let header = |header: &messaging::transaction::Header| (header.key.clone(), text(header.value.as_deref()));
        let headers: Vec<(String, String)> = output.headers.iter().map(header).collect();
        let expected = [
            ("content-type", "application/json"),
            ("ce_specversion", "1.0"),
            ("ce_type", "siteview.installed-apps.changed"),
            ("ce_source", "/siteview/installed-apps"),
            ("ce_id", "metasite.public.meta_site/3/1207/0"),
            ("ce_subject", "site-1"),
            ("ce_time", "2023-11-14T22:13:20.123456Z"),
        ];
        assert_eq!(headers, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert_eq!((text(output.key.as_deref()), output.partition), ("site-1".to_owned(), None));
        assert_eq!(text(output.value.as_deref()), "{\"site_id\": \"site-1\"}");
    }

    #[test]
    fn another_generation_is_told_without_a_key() {
        let output = generation_changed("to", "of", 2, (1, 4), 77);
        assert_eq!((output.key, output.partition), (None, Some(2)));
        assert_eq!(output.value.as_deref(), Some(&b"{\"generation\":4,\"previous\":1}"[..]));
    }
}
