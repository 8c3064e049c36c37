//! The writer's own settings of the Kafka client, each with its reason; the operator's come from `messaging::settings`.

use std::collections::HashMap;

use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, ConsumerContext, DefaultConsumerContext},
    error::KafkaResult,
};

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
