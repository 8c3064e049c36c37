//! The operator's settings of the Kafka client, checked: every service that links Kafka takes them the same way.
//!
//! Goes in: `KAFKA_BOOTSTRAP_SERVERS` and the file of `KAFKA_PROPERTIES_FILE`, as the service's configuration has read them.
//! Comes out: [`Settings`], in librdkafka's names, from which clients are made with settings of their own on top.

use std::{collections::HashMap, path::Path};

use rdkafka::ClientConfig;
use shared::config::Invalid;

const PROPERTIES: &str = "KAFKA_PROPERTIES_FILE";

/// Settings of a Kafka client by librdkafka's names. May hold secrets: never logged.
pub type Settings = HashMap<String, String>;

/// Reads a `.properties` file as Kafka's own tools take it, in librdkafka's names.
///
/// Java's `sasl.jaas.config` with the PLAIN or SCRAM login module becomes `sasl.username` and `sasl.password`; a PEM trust
/// store becomes `ssl.ca.location`. Everything else must be a key that librdkafka has.
pub fn read_properties(path: &Path) -> Result<Settings, Invalid> {
    let invalid = |why: String| Invalid::new(PROPERTIES, format!("{}: {why}", path.display()));
    let file = std::fs::File::open(path).map_err(|error| invalid(error.to_string()))?;
    let mut properties = java_properties::read(file).map_err(|error| invalid(error.to_string()))?;
    if let Some(jaas) = properties.remove("sasl.jaas.config") {
        for (key, option) in [("sasl.username", "username"), ("sasl.password", "password")] {
            let value =
                jaas_option(&jaas, option).ok_or_else(|| invalid(format!("sasl.jaas.config has no {option}")))?;
            properties.insert(key.to_owned(), value);
        }
    }
    if properties.get("ssl.truststore.type").is_some_and(|kind| kind.eq_ignore_ascii_case("PEM")) {
        properties.remove("ssl.truststore.type");
        if let Some(location) = properties.remove("ssl.truststore.location") {
            properties.insert("ssl.ca.location".to_owned(), location);
        }
    }
    for (key, value) in &properties {
        let mut config = ClientConfig::new();
        config.set(key, value);
        // librdkafka knows its keys; its errors name the key, and never show the value of a secret one.
        if let Err(error) = config.create_native_config() {
            return Err(invalid(format!("{key}: {error}")));
        }
    }
    Ok(properties)
}

fn jaas_option(jaas: &str, name: &str) -> Option<String> {
    let start = jaas.find(&format!("{name}=\""))? + name.len() + 2;
    let end = jaas[start..].find('"')?;
    Some(jaas[start..start + end].to_owned())
}

/// The operator's settings; the brokers must be named, here or there, unless the verb does without Kafka.
pub fn client_settings(servers: Option<&str>, mut properties: Settings, optional: bool) -> Result<Settings, Invalid> {
    if let Some(servers) = servers.filter(|servers| !servers.is_empty()) {
        properties.insert("bootstrap.servers".to_owned(), servers.to_owned());
    }
    if !optional && !properties.contains_key("bootstrap.servers") {
        return Err(Invalid::new("KAFKA_BOOTSTRAP_SERVERS", "is required: host:port of one broker or more"));
    }
    Ok(properties)
}

/// A client's configuration: the operator's settings, then the client's `own`, which win.
pub fn client(settings: &Settings, own: &[(&str, &str)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.extend(settings.iter().map(|(key, value)| (key.clone(), value.clone())));
    config.extend(own.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, String> {
        let path = std::env::temp_dir().join(format!("messaging-{}-{:x}", std::process::id(), text.len()));
        std::fs::write(&path, text).expect("written");
        let read = read_properties(&path).map_err(|error| error.to_string());
        std::fs::remove_file(&path).expect("removed");
        read
    }

    #[test]
    fn properties_of_kafkas_own_tools_are_understood() {
        let text = "security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\nssl.truststore.type=PEM\n\
                    ssl.truststore.location=/etc/ca.pem\nsession.timeout.ms=9000\nsasl.jaas.config=\
                    org.apache.kafka.common.security.scram.ScramLoginModule required username=\"u\" password=\"p=1\";\n";
        let read = read(text).expect("valid");
        let get = |key| read.get(key).map(String::as_str);
        assert_eq!((get("sasl.username"), get("sasl.password")), (Some("u"), Some("p=1")));
        assert_eq!((get("ssl.ca.location"), get("session.timeout.ms")), (Some("/etc/ca.pem"), Some("9000")));
    }

    #[test]
    fn an_unknown_property_is_an_error_that_names_it() {
        assert!(read("no.such.setting=1\n").expect_err("refused").contains("no.such.setting"));
        assert!(read("session.timeout.ms=never\n").expect_err("refused").contains("session.timeout.ms"));
    }
}
