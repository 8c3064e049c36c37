//! Signals for Debezium: which rows shall be read again. Pure.
//!
//! Source: Debezium's reference, "Sending signals to a Debezium connector" and "Ad hoc incremental snapshots": a row of the
//! signal table with type `execute-snapshot`, whose data names the collections and, per collection, a condition in SQL.

use serde_json::{Value, json};

use super::{Table, source::quoted};

/// Keys of one signal at most, so that a repair shows progress.
const KEYS_MAX: usize = 500;

/// The data of the signals for these keys, each as long as the signal table takes, with the number of its keys.
pub fn snapshots(table: &Table, key: &str, keys: &[String], data_max: usize) -> Vec<(String, usize)> {
    let mut signals = Vec::new();
    let mut rest = keys;
    while !rest.is_empty() {
        let fits = |count: &usize| snapshot(table, key, &rest[..*count]).chars().count() <= data_max;
        // One key that does not fit is sent all the same: the table's own error then says what is wrong with it.
        let count = largest(rest.len().min(KEYS_MAX), fits).max(1);
        signals.push((snapshot(table, key, &rest[..count]), count));
        rest = &rest[count..];
    }
    signals
}

/// The largest number up to `max` for which it holds, 0 if it does not hold for 1.
fn largest(max: usize, holds: impl Fn(&usize) -> bool) -> usize {
    let (mut low, mut high) = (0, max);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if holds(&middle) { low = middle } else { high = middle - 1 }
    }
    low
}

fn snapshot(table: &Table, key: &str, keys: &[String]) -> String {
    let literals: Vec<String> = keys.iter().map(|key| format!("'{}'", key.replace('\'', "''"))).collect();
    // Names are regular expressions to Debezium; a dot that means any character finds the table too.
    let collection = table.to_string();
    // No cast: the literals take the column's type, so that the key's index serves.
    let filter = format!("{} in ({})", quoted(key), literals.join(","));
    let data: Value = json!({
        "type": "incremental",
        "data-collections": [&collection],
        "additional-conditions": [{"data-collection": &collection, "filter": filter}],
    });
    data.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_in_one_signal_and_each_signal_fits() {
        let table = Table { schema: "public".to_owned(), name: "meta_site".to_owned() };
        let keys: Vec<String> = (0..1234).map(|n| format!("00000000-0000-0000-0000-{n:012}")).collect();
        for data_max in [2048, 32 << 10] {
            let signals = snapshots(&table, "site_id", &keys, data_max);
            assert_eq!(signals.iter().map(|(_, count)| count).sum::<usize>(), keys.len());
            let all: String = signals.iter().map(|(data, _)| data.as_str()).collect();
            assert!(keys.iter().all(|key| all.contains(&format!("'{key}'"))));
            assert!(signals.iter().all(|(data, count)| data.len() <= data_max && *count <= KEYS_MAX));
        }
        assert_eq!(snapshots(&table, "site_id", &keys, 10).len(), keys.len(), "at least one key each");
    }

    #[test]
    fn a_key_is_a_literal_whatever_it_holds() {
        let table = Table { schema: "public".to_owned(), name: "meta_site".to_owned() };
        let signals = snapshots(&table, "site_id", &["o'neil".to_owned()], 2048);
        let data: Value = serde_json::from_str(&signals[0].0).expect("JSON");
        assert_eq!(data["additional-conditions"][0]["filter"], "\"site_id\" in ('o''neil')");
        assert_eq!(data["data-collections"][0], "public.meta_site");
    }
}
