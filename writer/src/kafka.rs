//! Settings of the Kafka client: the operator's properties, checked, and the writer's own, each with its reason.

use std::{collections::HashMap, path::Path};

use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, ConsumerContext, DefaultConsumerContext},
    error::KafkaResult,
};
use shared::config::Invalid;

const PROPERTIES: &str = "KAFKA_PROPERTIES_FILE";

/// The writer's own settings. Names and meaning: librdkafka, CONFIGURATION.md.
const OWN: [(&str, &str); 11] = [
    // The position lives in the view; the group's offsets are a hint for lag tools and are committed after it.
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    // A position outside the log is an operator's decision, never a silent jump.
    ("auto.offset.reset", "error"),
    ("isolation.level", "read_committed"),
    ("allow.auto.create.topics", "false"),
    ("check.crcs", "true"),
    // Bounds the memory of records that wait in the client (default 64 MiB).
    ("queued.max.messages.kbytes", "16384"),
    // A record larger than the limits of a fetch comes alone (KIP-74) if the client takes so large an answer; by default it
    // would ask for a record beyond 100 MB for ever. Nothing is allocated for this.
    ("receive.message.max.bytes", "2147483647"),
    // With a small queue the default of 1 s stalls the fetcher each time the queue was full.
    ("fetch.queue.backoff.ms", "10"),
    ("fetch.wait.max.ms", "100"),
    // A topic that does not exist yet is looked for this often.
    ("topic.metadata.refresh.interval.ms", "5000"),
];

/// Reads a `.properties` file as Kafka's own tools take it, in librdkafka's names.
///
/// Java's `sasl.jaas.config` with the PLAIN or SCRAM login module becomes `sasl.username` and `sasl.password`; a PEM trust
/// store becomes `ssl.ca.location`. Everything else must be a key that librdkafka has.
pub fn read_properties(path: &Path) -> Result<HashMap<String, String>, Invalid> {
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
pub fn client_settings(
    servers: Option<&str>,
    mut properties: HashMap<String, String>,
    optional: bool,
) -> Result<HashMap<String, String>, Invalid> {
    if let Some(servers) = servers.filter(|servers| !servers.is_empty()) {
        properties.insert("bootstrap.servers".to_owned(), servers.to_owned());
    }
    if !optional && !properties.contains_key("bootstrap.servers") {
        return Err(Invalid::new("KAFKA_BOOTSTRAP_SERVERS", "is required: host:port of one broker or more"));
    }
    Ok(properties)
}

/// Makes a consumer: the writer's own settings over the operator's.
pub fn consumer<C: ConsumerContext>(
    settings: &HashMap<String, String>,
    group: &str,
    context: C,
) -> KafkaResult<BaseConsumer<C>> {
    let mut config = ClientConfig::new();
    config.extend(settings.iter().map(|(key, value)| (key.clone(), value.clone())));
    for (key, value) in OWN {
        config.set(key, value);
    }
    // Partitions are assigned one by one, when their positions are claimed; the eager protocol would not allow it. With
    // `group.protocol=consumer` (KIP-848) the broker decides, cooperatively, and takes no strategy.
    if config.get("group.protocol") != Some("consumer") {
        config.set("partition.assignment.strategy", "cooperative-sticky");
    }
    config.set("group.id", group).set("client.id", "siteview-writer").create_with_context(context)
}

/// Makes the consumer that looks at the ends of the topic and follows heartbeats. It never joins the group, whose name it has
/// for the brokers' access rules; and it sees what the log holds, committed or not.
pub fn observer(settings: &HashMap<String, String>, group: &str) -> KafkaResult<BaseConsumer<DefaultConsumerContext>> {
    let mut config = ClientConfig::new();
    let of_members = |key: &str| key.starts_with("group.") || key.starts_with("partition.assignment");
    let settings = settings.iter().filter(|(key, _)| !of_members(key));
    config.extend(settings.map(|(key, value)| (key.clone(), value.clone())));
    for (key, value) in OWN {
        config.set(key, value);
    }
    config.set("isolation.level", "read_uncommitted").set("queued.max.messages.kbytes", "1024");
    config.set("group.id", group).set("client.id", "siteview-writer-ends").create()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<HashMap<String, String>, String> {
        let path = std::env::temp_dir().join(format!("writer-{}-{:x}", std::process::id(), text.len()));
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
