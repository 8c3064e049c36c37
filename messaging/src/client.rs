//! How a client of librdkafka is made: the operator's settings, then the client's own, which win.

use std::collections::HashMap;

use rdkafka::ClientConfig;

/// Names and meaning of settings: librdkafka, CONFIGURATION.md. May hold secrets: never logged.
pub(crate) fn client(settings: &HashMap<String, String>, own: &[(&str, &str)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.extend(settings.iter().map(|(key, value)| (key.clone(), value.clone())));
    config.extend(own.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    config
}

/// The operator's settings for a client that is no member of a group: those of members would be refused or mean nothing.
pub(crate) fn without_membership(settings: &HashMap<String, String>) -> HashMap<String, String> {
    let of_members = |key: &str| key.starts_with("group.") || key.starts_with("partition.assignment");
    settings.iter().filter(|(key, _)| !of_members(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}
