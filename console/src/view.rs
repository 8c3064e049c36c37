//! What services say of the view: its generations, and the replicas that readers ask. Pure: read off their metrics, and off the lag
//! of the consumer groups, one of which feeds each generation.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    lag::Cause,
    observe::{GENERATION, REPLICA_GENERATION, REPLICA_HEALTHY, REPLICA_LAG},
    snapshot::{Group, Service},
};

/// A generation of a view.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Generation {
    /// Its number.
    pub generation: String,
    /// The consumer group that feeds it; names the view too.
    pub group: String,
    /// `building`, `ready`, `active`, `retired`.
    pub state: String,
    /// The writers that say so. Where they disagree, one has not seen the others' database for a while.
    pub told_by: Vec<String>,
    /// Members of the group; none: nobody feeds it.
    pub members: usize,
    /// Records that it lacks; `None` where the group is not shown.
    pub lag_records: Option<i64>,
    /// As of the group.
    pub lag_seconds: Option<f64>,
    /// Why it lacks any.
    pub cause: Option<Cause>,
}

/// A replica, as one reader sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Replica {
    /// The reader.
    pub reader: String,
    /// The replica's name there.
    pub replica: String,
    /// It can be asked.
    pub healthy: bool,
    /// The generation that it serves.
    pub generation: Option<f64>,
    /// For how long it has lacked something, at most; the last that was known while it is not healthy.
    pub lag_seconds: Option<f64>,
}

/// All generations that writers tell of, by group, the state that each is in.
pub fn generations(services: &[Service], groups: &[Group]) -> Vec<Generation> {
    let mut told = BTreeMap::<(String, String, String), Vec<String>>::new();
    for service in services {
        for (labels, _) in series(service, GENERATION).filter(|(_, value)| *value > 0.0) {
            let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
            told.entry((label("group"), label("generation"), label("state"))).or_default().push(service.name.clone());
        }
    }
    let row = |((group, generation, state), told_by): ((String, String, String), Vec<String>)| {
        let fed = groups.iter().find(|found| found.name == group);
        Generation {
            members: fed.map_or(0, |fed| fed.members.len()),
            lag_records: fed.map(|fed| fed.lag_records),
            lag_seconds: fed.and_then(|fed| fed.lag_seconds),
            cause: fed.map(|fed| fed.cause),
            generation,
            group,
            state,
            told_by,
        }
    };
    told.into_iter().map(row).collect()
}

/// All replicas of all readers.
pub fn replicas(services: &[Service]) -> Vec<Replica> {
    services.iter().flat_map(of_reader).collect()
}

fn of_reader(service: &Service) -> Vec<Replica> {
    let by_replica = |metric: &'static str| {
        let named = |(labels, value): (BTreeMap<String, String>, f64)| Some((labels.get("replica")?.clone(), value));
        series(service, metric).filter_map(named).collect::<BTreeMap<String, f64>>()
    };
    let (generation, lag) = (by_replica(REPLICA_GENERATION), by_replica(REPLICA_LAG));
    let row = |(replica, healthy): (String, f64)| Replica {
        reader: service.name.clone(),
        healthy: healthy > 0.0,
        generation: generation.get(&replica).copied(),
        lag_seconds: lag.get(&replica).copied(),
        replica,
    };
    by_replica(REPLICA_HEALTHY).into_iter().map(row).collect()
}

/// The series of a metric: labels and value.
fn series<'a>(service: &'a Service, metric: &'a str) -> impl Iterator<Item = (BTreeMap<String, String>, f64)> + 'a {
    let of = move |(name, value): (&'a String, &f64)| Some((labels(name.strip_prefix(metric)?)?, *value));
    service.metrics.iter().filter_map(of)
}

/// `{name="value",…}` of the Prometheus text format; `None` when it is another metric, or cannot be read.
fn labels(text: &str) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    let mut rest = text.strip_prefix('{')?.strip_suffix('}')?;
    while !rest.is_empty() {
        let (name, quoted) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        let end = loop {
            match characters.next()? {
                (end, '"') => break end,
                (_, '\\') => value.push(match characters.next()?.1 {
                    'n' => '\n',
                    escaped => escaped,
                }),
                (_, other) => value.push(other),
            }
        };
        labels.insert(name.to_owned(), value);
        let behind = &quoted[end + 1..];
        rest = behind.strip_prefix(',').unwrap_or(behind);
    }
    Some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, metrics: &[(&str, f64)]) -> Service {
        let metrics = metrics.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        Service { name: name.to_owned(), ready: Some(true), detail: Vec::new(), metrics }
    }

    #[test]
    fn a_generation_is_told_by_writers_and_fed_by_its_group() {
        let group = Group {
            name: "w-g2".to_owned(),
            state: "stable",
            members: vec!["m".to_owned()],
            takes_commands: false,
            lag_records: 7,
            lag_seconds: Some(1.5),
            next_record_at: None,
            cause: Cause::Slow,
            partitions: Vec::new(),
        };
        let active = "writer_generation{generation=\"2\",group=\"w-g2\",state=\"active\"}";
        let one = service(
            "one",
            &[(active, 1.0), ("writer_generation{generation=\"1\",group=\"w-g1\",state=\"retired\"}", 1.0)],
        );
        let two = service(
            "two",
            &[(active, 1.0), ("writer_generation{generation=\"2\",group=\"w-g2\",state=\"ready\"}", 0.0)],
        );
        let told = generations(&[one, two, service("reader", &[("writer_generation_other{}", 1.0)])], &[group]);
        let brief: Vec<_> = told
            .iter()
            .map(|of| {
                (
                    of.generation.as_str(),
                    of.state.as_str(),
                    of.told_by.join(","),
                    of.members,
                    of.lag_records,
                    of.lag_seconds,
                )
            })
            .collect();
        assert_eq!(
            brief,
            [
                ("1", "retired", "one".to_owned(), 0, None, None),
                ("2", "active", "one,two".to_owned(), 1, Some(7), Some(1.5))
            ]
        );
    }

    #[test]
    fn replicas_are_those_of_each_reader() {
        let metrics = [
            ("reader_replica_healthy{replica=\"a:1\"}", 1.0),
            ("reader_replica_healthy{replica=\"b:1\"}", 0.0),
            ("reader_replica_lag_seconds{replica=\"a:1\"}", 0.25),
            ("reader_replica_generation{replica=\"a:1\"}", 2.0),
        ];
        let told = replicas(&[service("reader", &metrics), service("writer", &[])]);
        let row = |replica: &str, healthy, generation, lag_seconds| Replica {
            reader: "reader".to_owned(),
            replica: replica.to_owned(),
            healthy,
            generation,
            lag_seconds,
        };
        assert_eq!(told, [row("a:1", true, Some(2.0), Some(0.25)), row("b:1", false, None, None)]);
    }

    #[test]
    fn labels_are_read_as_they_are_written() {
        let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        assert_eq!(labels(r#"{a="x",b="y z"}"#), Some(pairs(&[("a", "x"), ("b", "y z")])));
        assert_eq!(labels(r#"{a="q\"u,\\o\nt"}"#), Some(pairs(&[("a", "q\"u,\\o\nt")])));
        assert_eq!(labels("{}"), Some(pairs(&[])));
        for text in ["", "_total{a=\"b\"}", "{a=\"b}", "{a}"] {
            assert_eq!(labels(text), None, "{text}");
        }
    }
}
